"""Images that are kept warm: a container is there at once, and nothing else is changed by that."""

from __future__ import annotations

import errno
import json
import os
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from reflayer import Store
from reflayer.errors import LayerError, OperationError
from reflayer.workers.lock import locked
from tests.archive.tars import entry, folder, tar
from tests.driver.layers import wait_until
from tests.file_systems import mounted, require_root
from tests.store.stores import BASE, MORE, assert_clean, image, layers_in, reflayer
from tests.trees import assert_same, facts

_DISK = 64 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own, that shares no blocks."""
    with mounted("ext4", tmp_path, _DISK) as place:
        yield place


def _noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def _counts(store: Store) -> list[tuple[int, int]]:
    return [(one.count, one.ready) for one in store.spares()]


def _spares(root: Path) -> list[Path]:
    return [path for path in (root / "layers").glob("spares/*/*/*.*") if path.is_dir()]


def _filled(root: Path) -> None:
    with locked(str(root / "layers/spares.lock"), shared=True):
        pass


def test_a_container_of_a_warm_image_is_what_another_is(base: Path, root: Path) -> None:
    store = Store(root)
    made = image(base / "image", BASE, MORE)
    cold = store.create(made)
    store.warm(made, 2)
    assert _counts(store) == [(2, 2)]
    assert [one.image for one in store.spares()] == [made]
    inodes = {path.stat().st_ino for path in _spares(root)}
    taken = store.create(made)
    assert os.stat(taken.path).st_ino in inodes
    assert_same(facts(Path(cold.path), atime=False), facts(Path(taken.path), atime=False))
    assert list(store.changes(taken.id)) == []
    Path(taken.path, "etc/new").write_text("changed")
    assert [one.path for one in store.changes(taken.id)] == ["/etc", "/etc/new"]
    committed = store.commit(taken.name, "changed")
    again = store.create(committed.image.id)
    assert_same(
        facts(Path(taken.path) / "etc", atime=False), facts(Path(again.path) / "etc", atime=False)
    )
    _filled(root)
    assert _counts(store) == [(2, 2)]
    assert_clean(root)


def test_an_image_that_is_not_there_is_fetched_and_made_ready_behind(
    base: Path, root: Path
) -> None:
    store = Store(root)
    store.warm(image(base / "image", BASE), 3, wait=False)
    wait_until(lambda: _counts(store) == [(3, 3)])
    assert store.containers() == []
    store.warm(store.images()[0].id, 0)
    assert store.spares() == []
    _filled(root)
    assert_clean(root)


def test_spares_go_with_their_image(base: Path, root: Path) -> None:
    store = Store(root)
    upper, lower = image(base / "upper", BASE, MORE), image(base / "lower", BASE)
    store.warm(upper, 1)
    store.warm(lower, 1)
    store.remove_image(lower)  # its layer stays below the other one
    assert [one.image for one in store.spares()] == [upper]
    assert len(_spares(root)) == 1
    store.remove_image(upper)
    assert store.spares() == []
    assert _spares(root) == []
    _filled(root)
    assert layers_in(root) == set()
    assert_clean(root)


def test_those_of_an_image_that_goes_with_its_last_container_go_too(base: Path, root: Path) -> None:
    store = Store(root)
    made = image(base / "image", BASE)
    web = store.create(made)
    store.warm(made, 1)
    store.remove_image(made, force=True)
    store.remove_container(web.name)
    assert store.spares() == []
    assert _spares(root) == []


@pytest.mark.usefixtures("undisturbed")
def test_a_container_that_is_recycled_is_the_next_one(base: Path, root: Path) -> None:
    require_root()
    store = Store(root)
    made = image(base / "image", BASE, MORE)
    store.pull(made)
    time.sleep(0.02)  # the image is older than its containers
    fresh, web = store.create(made), store.create(made)
    (Path(web.path) / "etc/new").write_text("changed")
    (Path(web.path) / "etc").chmod(0o700)
    inode = os.stat(web.path).st_ino
    warnings: list[str] = []
    assert store.remove_container(web.name, recycle=True, warn=warnings.append) == web
    assert warnings == []
    assert not os.path.exists(web.path)
    assert _counts(store) == [(0, 1)]
    again = store.create(made)
    assert os.stat(again.path).st_ino == inode
    assert list(store.changes(again.id)) == []
    assert_same(facts(Path(fresh.path), atime=False), facts(Path(again.path), atime=False))
    fd = os.open(f"{again.path}/etc", os.O_RDONLY)
    store.remove_container(again.name, recycle=True, warn=warnings.append)
    os.close(fd)
    assert [line.split(":")[0] for line in warnings] == [f"{again.name} was deleted, not recycled"]
    assert _counts(store) == [(0, 0)]
    assert_clean(root)


@pytest.mark.usefixtures("undisturbed")
def test_behind_it_is_recycled_where_spares_are_wanted(base: Path, root: Path) -> None:
    require_root()
    store = Store(root)
    made = image(base / "image", BASE, MORE)
    store.pull(made)
    time.sleep(0.02)
    fresh, web = store.create(made), store.create(made)
    (Path(web.path) / "etc/new").write_text("changed")
    inode = os.stat(web.path).st_ino
    with locked(str(root / "layers/spares.lock")):
        store.warm(made, 1, wait=False)
        store.remove_container(web.name, recycle=True, wait=False)
    store.warm(made, 1)
    again = store.create(made)
    assert os.stat(again.path).st_ino == inode
    assert_same(facts(Path(fresh.path), atime=False), facts(Path(again.path), atime=False))
    store.warm(made, 0)
    _filled(root)
    store.prune()
    assert_clean(root)


def test_df_tells_what_they_take_and_give_back(base: Path, root: Path) -> None:
    store = Store(root)
    made = image(base / "image", tar(folder("d"), entry("d/large", _noise(4_000_000))))
    store.pull(made)
    before = store.usage()
    store.warm(made, 3)
    usage = store.usage()
    assert [(one.image, one.ready) for one in usage.spares] == [(made, 3)]
    assert usage.spares[0].space.size == 3 * 4_000_000
    assert usage.spares[0].space.inodes == 9
    assert usage.total.own >= before.total.own + usage.spares[0].space.own - 100_000
    assert usage.images[0].gives_back >= usage.spares[0].space.own
    assert abs(usage.spares[0].space.own - store.spares()[0].bytes) < 100_000
    assert before.spares == ()


def test_what_is_made_needs_no_room_that_spares_have(disk: Path) -> None:
    root = disk / "store"
    store = Store(root)
    small, large = (
        image(disk.parent / f"image-{size}", tar(entry("noise", _noise(size << 20))))
        for size in (3, 8)
    )
    store.warm(small, 7)
    taken = len(_spares(root))
    assert taken == 7
    for number in range(3):
        store.create(large, name=f"box-{number}")
    _filled(root)
    assert [one.name for one in store.containers()] == ["box-2", "box-1", "box-0"]
    assert len(_spares(root)) < 7
    assert_clean(root)


def test_where_there_is_no_room_they_are_refused_and_nothing_else_is(
    disk: Path,
) -> None:
    store = Store(disk / "store")
    made = image(disk.parent / "image", tar(entry("noise", _noise(10 << 20))))
    with pytest.raises(OperationError, match="10 % of the disk"):
        store.warm(made, 8)
    free = os.statvfs(disk)
    assert free.f_bavail * 10 >= free.f_blocks
    store.create(made, name="box")
    assert _counts(store)[0][0] == 8
    store.keep_free(0)
    with pytest.raises(OperationError) as failed:
        store.warm(made, 8)
    assert failed.value.errno == errno.ENOSPC
    store.create(made, name="other", pull="never")
    assert_clean(disk / "store")


def test_a_user_may_use_all_of_a_disk_while_they_are_made(disk: Path) -> None:
    store = Store(disk / "store")
    made = image(disk.parent / "image", tar(*(entry(f"{n}", _noise(100_000)) for n in range(20))))
    store.warm(made, 8, wait=False)
    for number in range(15):
        store.create(made, name=f"box-{number}")
    _filled(disk / "store")
    assert len(store.containers()) == 15
    assert_clean(disk / "store")


def test_an_image_that_goes_while_it_is_made_warm(base: Path, root: Path) -> None:
    store = Store(root)
    made = image(base / "image", BASE)
    store.pull(made)
    gone: list[object] = []

    def remove(stage: str, _done: int, _total: int | None) -> None:
        if stage == "spares" and not gone:
            gone.append(store.remove_image(made))

    with suppress(LayerError):
        store.warm(made, 5, progress=remove)
    assert gone
    assert _spares(root) == []
    assert layers_in(root) == set()


def test_the_command_waits_lists_and_ends(base: Path, root: Path) -> None:
    made = image(base / "image", BASE)
    done = reflayer(root, "warm")
    assert (done.returncode, done.stdout) == (0, "IMAGE   COUNT   READY   SIZE\n")
    assert not root.exists()
    done = reflayer(root, "warm", "--count", "2", made)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (told,) = json.loads(reflayer(root, "warm", "--json").stdout)
    assert told.pop("bytes") >= 0
    assert told == {"image": made, "count": 2, "ready": 2}
    assert reflayer(root, "warm").stdout.count("\n") == 2
    done = reflayer(root, "df")
    assert "READY OF" in done.stdout
    assert reflayer(root, "create", made).returncode == 0
    done = reflayer(root, "warm", "--count", "0", made)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert json.loads(reflayer(root, "warm", "--json").stdout) == []
    assert reflayer(root, "warm", "--count", "1").returncode == 2
    assert reflayer(root, "warm", "--keep-free", "5").returncode == 0
    assert os.readlink(root / "layers/keep-free") == "5"


@pytest.mark.usefixtures("undisturbed")
def test_the_command_recycles_a_container_or_tells_why_not(base: Path, root: Path) -> None:
    require_root()
    made = image(base / "image", BASE)
    assert reflayer(root, "pull", made).returncode == 0
    time.sleep(0.02)
    for name in ("web", "db"):
        assert reflayer(root, "create", "--name", name, made).returncode == 0
    inode = os.stat(Store(root).container("web").path).st_ino
    done = reflayer(root, "rm", "--recycle", "web")
    assert (done.stdout, done.stderr, done.returncode) == ("web\n", "", 0)
    again = reflayer(root, "create", "--name", "again", made).stdout.rstrip("\n")
    assert os.stat(again).st_ino == inode
    fd = os.open(again, os.O_RDONLY)
    done = reflayer(root, "rm", "--recycle", "again", "db")
    os.close(fd)
    assert (done.stdout, done.returncode) == ("again\ndb\n", 0)
    assert "again was deleted, not recycled: " in done.stderr
    assert "a process has it open" in done.stderr
    assert "db was deleted" not in done.stderr
