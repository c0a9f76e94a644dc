"""Images as stacks: each layer a difference on the one below, unpacked once, and shared."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from reflayer import Store
from reflayer.driver import Driver
from reflayer.errors import ArchiveError, StoreError
from tests.archive.tars import entry, folder, tar
from tests.cli.processes import PROGRAM
from tests.file_systems import kinds, require, require_root
from tests.images.layouts import Layout
from tests.store.stores import (
    BASE,
    MORE,
    MOST,
    assert_clean,
    image,
    layers_in,
    lower_in,
    names_in,
    reflayer,
)
from tests.trees import assert_same, facts

STACKING = [kind for kind in ("ext4", "xfs") if kind in kinds()]
"""Where clones are copies or reflinks, so that layers are differences."""


@pytest.fixture(params=STACKING)
def base(request: pytest.FixtureRequest, place_on: Callable[[str], Path]) -> Path:
    return place_on(request.param)


def ten_layers(salt: str = "") -> list[bytes]:
    """Each adds, changes, deletes, replaces and links what those below have."""
    lowest = tar(
        folder("./", mode=0o750),
        folder("kept", mtime=7),
        entry("kept/file", b"kept" * 3000),
        folder("gone"),
        entry("gone/file", b"gone"),
        folder("replaced", mode=0o700),
        entry("replaced/old", b"old"),
        entry("target", b"target" * 500, mode=0o4755),
        entry("deleted-1", b"x"),
    )
    return [lowest, *(_upper(number, salt) for number in range(1, 10))]


def _upper(number: int, salt: str) -> bytes:
    return tar(
        entry(f"kept/file-{number}", f"{salt}{number}".encode() * 1000),
        entry("kept/file", f"changed by {number}".encode()),
        entry(f".wh.deleted-{number}"),
        entry(f"deleted-{number + 1}", b"x"),
        folder("replaced", mode=0o700 + number),
        entry("replaced/.wh..wh..opq"),
        entry(f"replaced/new-{number}", b"new"),
        entry(f"link-{number}", kind="link", target="target", mode=0o4755),
        *([entry(".wh.gone")] if number == 3 else []),
        *([entry("gone", kind="symlink", target="kept")] if number == 5 else []),
    )


def _stages() -> tuple[dict[str, tuple[int, int | None]], Callable[..., None]]:
    told: dict[str, tuple[int, int | None]] = {}

    def progress(stage: str, done: int, total: int | None) -> None:
        assert done >= told.get(stage, (0, 0))[0]
        told[stage] = done, total

    return told, progress


def test_ten_layers_are_ten_layers_and_a_container_is_what_umoci_unpacks(base: Path) -> None:
    require_root()
    require("umoci")
    made = image(base / "image", *ten_layers())
    root = base / "store"
    container = Store(root).create(made)
    assert len(layers_in(root)) == 11
    assert len(lower_in(root)) == 9
    assert names_in(root / "layers/dir") - set(lower_in(root).values()) == {container.id}
    command = ["umoci", "unpack", "--keep-dirlinks", "--image", made[4:], str(base / "bundle")]
    subprocess.run(command, check=True, capture_output=True)
    assert_same(
        facts(Path(container.path), atime=False), facts(base / "bundle/rootfs", atime=False)
    )
    assert_clean(root)


def test_images_with_a_common_base_unpack_and_keep_it_once(base: Path) -> None:
    common = tar(entry("large", random.Random(1).randbytes(4 << 20)))
    layout = Layout(base / "image")
    layout.index(one=layout.image(common, BASE, MORE), two=layout.image(common, BASE, MOST))
    store = Store(base / "store")
    store.create(f"oci:{layout.folder}:one", name="one")
    told, progress = _stages()
    store.create(f"oci:{layout.folder}:two", name="two", progress=progress)
    done, total = told["unpack"]
    assert done == total
    assert done < 1000
    assert len(layers_in(base / "store")) == 2 + 4
    usage = store.usage()
    assert all(one.space.shared > 4 << 20 for one in usage.images)
    for name in ("one", "two"):
        store.remove_container(name)
    usage = store.usage()
    assert usage.total.own + usage.total.shared < 2.3 * (4 << 20)  # a blob, and a layer
    assert all(one.gives_back < 1 << 20 for one in usage.images)
    store.remove_image(f"oci:{layout.folder}:one")
    assert store.usage().images[0].gives_back > 4 << 20
    assert names_in(store.create(f"oci:{layout.folder}:two").path) == {"large", "bin", "etc"}
    assert_clean(base / "store")


def test_an_image_that_is_the_base_of_another_is_there_already(base: Path) -> None:
    layout = Layout(base / "image")
    layers = ten_layers()
    layout.index(low=layout.image(*layers[:4]), high=layout.image(*layers))
    store = Store(base / "store")
    store.create(f"oci:{layout.folder}:high")
    told, progress = _stages()
    low = store.create(f"oci:{layout.folder}:low", progress=progress)
    assert "unpack" not in told
    assert (Path(low.path) / "kept/file").read_bytes() == b"changed by 3"
    store.remove_container(store.containers()[-1].name)
    store.remove_image(f"oci:{layout.folder}:high")
    assert len(layers_in(base / "store")) == 4 + 1
    assert_clean(base / "store")
    store.remove_container(low.name)
    store.remove_image(f"oci:{layout.folder}:low")
    assert layers_in(base / "store") == set()


def test_processes_that_pull_images_with_a_common_base_at_once_make_it_once(base: Path) -> None:
    layout = Layout(base / "image")
    layers = ten_layers()
    tags = {f"t{at}": layout.image(*layers[:5], *ten_layers(f"{at}")[5:]) for at in range(4)}
    layout.index(**tags, low=layout.image(*layers[:3]))
    for turn in range(3):
        root = base / f"store-{turn}"
        started = [
            subprocess.Popen(
                [
                    *PROGRAM,
                    "--root",
                    root,
                    "--quiet",
                    "create",
                    "--name",
                    tag,
                    f"oci:{layout.folder}:{tag}",
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for tag in [*tags, "low"]
        ]
        ended = [(process.communicate(timeout=120)[1], process.returncode) for process in started]
        assert ended == [("", 0)] * 5
        assert len(layers_in(root)) == 5 + 5 + 4 * 5
        trees = [facts(Path(one.path), atime=False) for one in Store(root).containers()]
        assert len({len(tree) for tree in trees}) == 2
        assert_clean(root)


def test_a_damaged_layer_ends_the_others_and_nothing_is_left(base: Path) -> None:
    layers = ten_layers()
    for at in (0, 4, 9):
        layout = Layout(base / f"image-{at}")
        damaged = [*layers[:at], layers[at][:-700], *layers[at + 1 :]]
        layout.index(latest=layout.image(*damaged))
        store = Store(base / "store")
        threads = threading.active_count()
        with pytest.raises(ArchiveError, match="layer sha256:"):
            store.create(f"oci:{layout.folder}:latest")
        assert threading.active_count() == threads
        assert layers_in(base / "store") == set()
        assert_clean(base / "store")


def test_the_first_layers_stay_for_who_has_them_when_a_later_one_is_damaged(base: Path) -> None:
    layers = ten_layers()
    layout = Layout(base / "image")
    layout.index(low=layout.image(*layers[:3]), high=layout.image(*layers[:6], b"damaged" * 999))
    store = Store(base / "store")
    store.pull(f"oci:{layout.folder}:low")
    with pytest.raises(ArchiveError):
        store.pull(f"oci:{layout.folder}:high")
    assert len(layers_in(base / "store")) == 3
    assert_clean(base / "store")


def test_what_progress_raises_ends_an_unpacking(base: Path) -> None:
    class EnoughError(Exception):
        pass

    def progress(stage: str, done: int, total: int | None) -> None:
        if stage == "unpack" and total and done > total // 2:
            raise EnoughError

    store = Store(base / "store")
    threads = threading.active_count()
    with pytest.raises(EnoughError):
        store.create(image(base / "image", *ten_layers()), progress=progress)
    assert threading.active_count() == threads
    assert layers_in(base / "store") == set()
    assert_clean(base / "store")


def test_a_layer_that_lacks_something_is_in_no_stack_that_is_to_lack_nothing(base: Path) -> None:
    layout = Layout(base / "image")
    layers = ten_layers()
    layout.index(low=layout.image(*layers[:3]), high=layout.image(*layers))
    low, high = (f"oci:{layout.folder}:{tag}" for tag in ("low", "high"))
    root = base / "store"
    Store(root).create(low, name="low")
    with closing(sqlite3.connect(root / "reflayer.db")) as db, db:
        db.execute("""UPDATE layers SET skipped = '{"device": 1}' WHERE parent NOTNULL""")
    with pytest.raises(StoreError, match="1 device"):
        Store(root, ownership="keep").create(low)
    made = Store(root, ownership="keep").create(high, name="high")
    assert_same(facts(Path(made.path)), facts(Path(Store(base / "other").create(high).path)))
    assert len(layers_in(root)) == 3 + 1 + 2  # what is above is whole
    Store(root, ownership="ignore").create(low)
    assert_clean(root)


_FIRST_SCHEMA = """
ALTER TABLE layers RENAME TO newer;
CREATE TABLE layers (
    id TEXT PRIMARY KEY,      -- the folder's name in the driver's home
    size INTEGER NOT NULL,    -- bytes of what was unpacked
    skipped TEXT NOT NULL     -- how many things ownership="ignore" left out, by kind, as JSON
);
INSERT INTO layers SELECT id, size, skipped FROM newer;
DROP TABLE newer;
PRAGMA user_version = 1;
"""


def _as_before(root: Path) -> None:
    """Make a store what version 1 of the schema had; its layers are whole."""
    with closing(sqlite3.connect(root / "reflayer.db")) as db:
        assert db.execute("SELECT 1 FROM layers WHERE parent NOTNULL").fetchone() is None
        db.executescript(_FIRST_SCHEMA)


@pytest.fixture
def old(base: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A store of the first schema with an image of five layers, one whole folder; and a layout."""
    layout = Layout(base / "image")
    layers = ten_layers()
    layout.index(low=layout.image(*layers[:5]), high=layout.image(*layers))
    root = base / "store"
    with monkeypatch.context() as patch:
        patch.setattr(Driver, "keeps_differences", False)
        Store(root).create(f"oci:{layout.folder}:low", name="old")
    _as_before(root)
    return root, layout.folder


def _version(root: Path) -> int:
    with closing(sqlite3.connect(root / "reflayer.db")) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0])


def test_an_old_store_is_upgraded_by_the_first_that_writes(old: tuple[Path, Path]) -> None:
    root, layout = old
    for command in (("ps",), ("images",), ("df",), ("diff", "old"), ("path", "old")):
        done = reflayer(root, *command)
        assert (done.returncode, done.stderr) == (0, "")
    assert _version(root) == 1
    told, progress = _stages()
    Store(root).create(f"oci:{layout}:low", progress=progress)
    assert list(told) == ["clone"]
    assert _version(root) == 4
    assert len(Store(root).containers()) == 2
    assert_clean(root)


def test_layers_of_an_old_store_are_the_lowest_of_new_stacks(old: tuple[Path, Path]) -> None:
    root, layout = old
    whole = layers_in(root)
    container = Store(root).create(f"oci:{layout}:high")
    assert len(layers_in(root)) == len(whole) + 5 + 1
    assert set(lower_in(root).values()) & whole
    other = Store(layout.parent / "other").create(f"oci:{layout}:high")
    assert_same(facts(Path(container.path)), facts(Path(other.path)))
    store = Store(root)
    store.remove_container("old")
    store.remove_image(f"oci:{layout}:low")
    assert len(layers_in(root)) == 1 + 5 + 1
    assert_clean(root)


def test_several_that_upgrade_an_old_store_at_once_upgrade_it_once(old: tuple[Path, Path]) -> None:
    root, layout = old
    command = [*PROGRAM, "--root", str(root), "create", f"oci:{layout}:high"]
    started = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(4)]
    assert [process.wait(timeout=120) for process in started] == [0] * 4
    assert _version(root) == 4
    assert_clean(root)


def test_an_upgrade_that_is_cut_off_has_not_happened(
    old: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, layout = old
    broken = "ALTER TABLE layers ADD COLUMN parent TEXT; SELECT nothing FROM nowhere"
    with monkeypatch.context() as patch:
        patch.setattr("reflayer.store.database._UPGRADE", broken)
        with pytest.raises(StoreError):
            Store(root).create(f"oci:{layout}:low")
    assert _version(root) == 1
    Store(root).create(f"oci:{layout}:low")
    assert_clean(root)


def test_a_layer_that_was_deleted_from_outside_takes_those_above_along(base: Path) -> None:
    made = image(base / "image", *ten_layers())
    root = base / "store"
    store = Store(root)
    whole = facts(Path(store.create(made, name="first").path), atime=False)
    lower = lower_in(root)
    (bottom,) = set(lower.values()) - set(lower)
    second = next(layer for layer, below in lower.items() if below == bottom)
    subprocess.run(["rm", "-r", str(root / "layers/differences" / second)], check=True)
    assert_same(facts(Path(store.create(made).path), atime=False), whole)
    assert len(layers_in(root)) == 12
    assert_clean(root)


def test_what_was_not_recorded_is_made_again(base: Path) -> None:
    made = image(base / "image", *ten_layers())
    root = base / "store"
    store = Store(root)
    whole = facts(Path(store.create(made, name="first").path), atime=False)
    with closing(sqlite3.connect(root / "reflayer.db")) as db, db:
        (lowest,) = db.execute("SELECT id FROM layers WHERE parent ISNULL").fetchone()
        db.execute("DELETE FROM layers WHERE id NOT IN (?)", (lowest,))
    assert_same(facts(Path(store.create(made).path), atime=False), whole)
    assert_clean(root)


def test_layers_that_became_whole_need_none_below(base: Path) -> None:
    made = image(base / "image", *ten_layers())
    root = base / "store"
    store = Store(root)
    whole = facts(Path(store.create(made, name="first").path), atime=False)
    done = reflayer(root, "doctor", "--make-whole", str(root / "layers"))
    assert done.returncode == 0, done.stderr
    assert lower_in(root) == {}
    assert_same(facts(Path(store.create(made).path), atime=False), whole)
    store.prune()
    assert len(layers_in(root)) == 1 + 2
    assert_clean(root)


def test_a_folder_that_was_taken_in_is_the_lowest_of_what_is_committed(base: Path) -> None:
    source = base / "rootfs"
    subprocess.run(["mkdir", "-p", source / "run/deep"], check=True)
    (source / "file").write_bytes(b"content" * 10000)
    listener = f"import socket; socket.socket(socket.AF_UNIX).bind('{source}/run/deep/socket')"
    subprocess.run([sys.executable, "-c", listener], check=True)
    os.utime(source / "run/deep", (5, 5))
    store = Store(base / "store")
    container = Path(store.create(f"rootfs:{source}", name="web").path)
    (container / "new").write_text("new")
    store.commit("web", "made")
    assert len(lower_in(base / "store")) == 2
    path = Path(store.create("made", name="again").path)
    assert names_in(path) == {"run", "file", "new"}
    assert names_in(path / "run/deep") == set()
    assert (path / "run/deep").stat().st_mtime == 5
    store.save("made", f"oci:{base}/out:made")
    other = Store(base / "other").create(f"oci:{base}/out:made")
    assert_same(facts(path, atime=False), facts(Path(other.path), atime=False))
    for name in ("web", "again"):
        store.remove_container(name)
    store.remove_image(f"rootfs:{source}")
    assert len(layers_in(base / "store")) == 3
    assert_clean(base / "store")
    store.remove_image("made")
    assert layers_in(base / "store") == set()


def test_a_commit_adds_one_difference_and_is_what_the_container_was(base: Path) -> None:
    store = Store(base / "store")
    container = Path(store.create(image(base / "image", *ten_layers()), name="web").path)
    before = layers_in(base / "store")
    (container / "kept/file").write_text("changed")
    (container / "link-3").unlink()
    subprocess.run(["rm", "-r", container / "replaced"], check=True)
    (container / "replaced").symlink_to("kept")
    store.commit("web", "made")
    (new,) = layers_in(base / "store") - before
    upper = base / "store/layers/differences" / new / "upper"
    assert {"kept", "link-3", "replaced"} <= names_in(upper)
    assert "target" not in names_in(upper)
    again = store.create("made")
    assert_same(facts(Path(again.path), atime=False), facts(container, atime=False))
    assert list(store.changes(again.name)) == []
    assert_clean(base / "store")


def test_where_clones_are_snapshots_layers_are_whole(place_on: Callable[[str], Path]) -> None:
    require_root()
    place = place_on("btrfs")
    made = image(place / "image", *ten_layers())
    container = Store(place / "store").create(made)
    assert len(layers_in(place / "store")) == 2
    other = Store(place_on("ext4") / "store").create(made)
    assert_same(facts(Path(container.path), atime=False), facts(Path(other.path), atime=False))
    assert_clean(place / "store")


def test_killed_at_any_moment_the_next_gets_all(base: Path) -> None:
    dice = random.Random(9)
    layout = Layout(base / "image")
    common = [tar(*(entry(f"{at}-{n}", b"x" * n) for n in range(300))) for at in range(10)]
    layout.index(**{f"t{at}": layout.image(*common, *ten_layers(str(at))[:3]) for at in range(2)})
    names = [f"oci:{layout.folder}:t{at}" for at in range(2)]
    root = base / "store"
    started = time.monotonic()
    assert reflayer(root, "create", names[0]).returncode == 0
    longest = time.monotonic() - started
    whole = len(facts(Path(Store(root).containers()[0].path), atime=False))
    for turn in range(6):
        store = Store(root)
        for container in store.containers():
            store.remove_container(container.name)
        for one in store.images():
            store.remove_image(one.id, force=True)
        started_now = [
            subprocess.Popen(
                [*PROGRAM, "--root", root, "create", name],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            for name in names
        ]
        time.sleep(dice.uniform(0.1, longest))
        started_now[turn % 2].kill()
        for process in started_now:
            _, errors = process.communicate(timeout=120)
            assert process.returncode in (0, -9), errors
        for name in names:
            made = Store(root).create(name)
            assert len(facts(Path(made.path), atime=False)) == whole
        assert_clean(root)
