"""A stack of folders is copied as the one tree that it is, by overlayfs' rules."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from reflayer import copy_tree  # by any method
from reflayer.copy import CopyError, remove_tree, worker
from reflayer.walk.overlay import WHITEOUT_MODE, Marks
from reflayer.walk.stack import Stack
from tests.archive.tars import as_nobody
from tests.exchange import exchange
from tests.file_systems import mounted, require_native, require_root
from tests.trees import assert_same, facts


@pytest.fixture(autouse=True)
def _by_root() -> None:
    require_root()


@pytest.fixture(params=["in C", "in Python"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The part in C takes part, or does not."""
    if request.param == "in C":
        require_native()
    else:
        monkeypatch.setattr(worker, "_clone_names", None)


class Layers:
    """Layers in a folder, the topmost first: ``3``, ``2`` and ``1``."""

    def __init__(self, place: Path, *names: str) -> None:
        """Make them. A name ends with ``/`` for a folder, ``!`` for an opaque one, ``-`` for a
        whiteout; a file has its layer's name as its content."""
        self.place = place
        self.paths = [place / layer for layer in ("3", "2", "1")]
        for path in self.paths:
            path.mkdir()
        for name in names:
            path = place / name.rstrip("/!-")
            if name.endswith(("/", "!")):
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith("!"):
                os.setxattr(path, "trusted.overlay.opaque", b"y")
            elif name.endswith("-"):
                os.mknod(path, WHITEOUT_MODE)
            elif not name.endswith("/"):
                path.write_text(name[0])

    def copied(self) -> dict[str, str]:
        """What a copy of them has: the content of each file, and "/" for each folder."""
        dst = self.place / "dst"
        report = copy_tree(self.paths, dst)
        found = {
            str(path.relative_to(dst)): "/" if path.is_dir() else path.read_text()
            for path in dst.rglob("*")
        }
        assert sum(report.entries.values()) == len(found) + 1
        return found


@pytest.mark.usefixtures("way")
class TestRules:
    """The union, rule by rule."""

    def test_a_name_is_that_of_the_topmost_layer_that_has_it(self, base: Path) -> None:
        layers = Layers(base, "1/a", "1/b", "1/c", "2/a", "2/b", "3/a", "3/new")
        assert layers.copied() == {"a": "3", "b": "2", "c": "1", "new": "3"}

    def test_folders_of_one_name_are_one(self, base: Path) -> None:
        layers = Layers(base, "1/f/g/a", "2/f/b", "2/f/g/a", "3/f/g/c", "3/f/empty/", "1/f/h/")
        assert layers.copied() == {
            "f": "/",
            "f/b": "2",
            "f/g": "/",
            "f/g/a": "2",
            "f/g/c": "3",
            "f/empty": "/",
            "f/h": "/",
        }

    def test_a_whiteout_hides_its_name_below(self, base: Path) -> None:
        layers = Layers(base, "1/a", "1/f/b", "1/f/c/d", "1/g/a", "2/a-", "2/f/c-", "3/g-")
        assert layers.copied() == {"f": "/", "f/b": "1"}

    def test_a_whiteout_that_hides_nothing_is_nothing(self, base: Path) -> None:
        layers = Layers(base, "1/a", "2/b-", "3/new/c-", "3/new/d", "3/new/deep/e-")
        assert layers.copied() == {"a": "1", "new": "/", "new/d": "3", "new/deep": "/"}

    def test_what_was_deleted_may_be_there_again(self, base: Path) -> None:
        layers = Layers(base, "1/a", "1/f/old", "2/a-", "2/f-", "3/a", "3/f/new")
        assert layers.copied() == {"a": "3", "f": "/", "f/new": "3"}

    def test_an_opaque_folder_hides_all_below(self, base: Path) -> None:
        layers = Layers(base, "1/f/a", "1/f/g/b", "2/f!", "2/f/c", "2/f/g/d", "3/f/g/e")
        assert layers.copied() == {"f": "/", "f/c": "2", "f/g": "/", "f/g/d": "2", "f/g/e": "3"}

    def test_an_opaque_root_hides_all_below(self, base: Path) -> None:
        layers = Layers(base, "1/a", "2/b", "3/c")
        os.setxattr(layers.paths[1], "user.overlay.opaque", b"y")
        assert layers.copied() == {"b": "2", "c": "3"}
        os.setxattr(layers.paths[0], "trusted.overlay.opaque", b"y")
        remove_tree(base / "dst")
        assert layers.copied() == {"c": "3"}

    def test_a_file_replaces_a_folder_and_a_folder_a_file(self, base: Path) -> None:
        layers = Layers(base, "1/a/low", "2/a", "1/b", "2/b/mid", "1/c/low", "2/c", "3/c/top")
        assert layers.copied() == {"a": "2", "b": "/", "b/mid": "2", "c": "/", "c/top": "3"}

    def test_a_folder_ends_at_a_whiteout_below(self, base: Path) -> None:
        layers = Layers(base, "1/f/low", "2/f-", "3/f/top")
        assert layers.copied() == {"f": "/", "f/top": "3"}

    def test_few_names_above_hide_among_many(self, base: Path) -> None:
        low = [f"1/f/{number}" for number in range(2000)]
        folders = [f"1/f/d{number}/low" for number in range(200)]
        gone = [*(f"2/f/{number}-" for number in range(0, 2000, 50)), "2/f/d7-", "2/f/d9"]
        changed = [*(f"3/f/{number}" for number in range(25, 2000, 50)), "3/f/d1/top", "2/f/d1/mid"]
        expected = {f"f/{number}": "1" for number in range(2000) if number % 50}
        expected |= {f"f/{number}": "3" for number in range(25, 2000, 50)}
        for number in range(200):
            expected |= {f"f/d{number}": "/", f"f/d{number}/low": "1"}
        for name in ("f/d7", "f/d7/low", "f/d9/low"):
            del expected[name]
        expected |= {"f/d1/top": "3", "f/d1/mid": "2", "f/d9": "2", "f": "/"}
        assert Layers(base, *low, *folders, *gone, *changed).copied() == expected

    def test_many_names_above_hide_as_few_do(self, base: Path) -> None:
        changed = [f"{layer}/f/{number}" for layer in (1, 2) for number in range(700)]
        gone = [f"3/f/{number}-" for number in range(600)]
        expected = {"f": "/", "f/g": "/"}
        expected |= {f"f/{number}": "2" for number in range(600, 700)}
        assert Layers(base, *changed, *gone, "1/f/g/").copied() == expected


@pytest.mark.usefixtures("way")
def test_a_folder_has_the_metadata_of_the_topmost_layer(place: Path) -> None:
    layers = Layers(place, "1/f/a", "2/f/b", "3/f/c", "1/mode/", "2/mode/x")
    for number, layer in enumerate(layers.paths):
        for path in (layer, layer / "f"):
            os.setxattr(path, f"user.of{number}", b"value")
            os.chown(path, number, number + 10)
            os.chmod(path, 0o2700 + number)
            os.utime(path, ns=(number + 1, number + 2))
    os.chmod(layers.paths[1] / "mode", 0)

    copy_tree(layers.paths, place / "dst")

    expected, found = facts(layers.paths[0]), facts(place / "dst")
    for name in (b".", b"f"):
        assert_same({name: expected[name]}, {name: found[name]})
    assert found[b"mode"].mode == 0


@pytest.mark.usefixtures("way")
def test_names_of_one_inode_stay_together_but_for_those_that_are_hidden(place: Path) -> None:
    layers = Layers(place, "1/f/a", "2/f/b", "2/f/gone-")
    for layer, name in (("1", "f/a"), ("2", "f/b")):
        for twin in ("twin", "f/twin", "f/gone", "g"):
            with suppress(FileExistsError):
                os.link(place / layer / name, place / layer / twin)
    os.link(place / "1/f/a", place / "1/other")
    copy_tree(layers.paths, place / "dst")

    found = facts(place / "dst")
    assert {path: (fact.twin, fact.links) for path, fact in found.items() if fact.links} == {
        **dict.fromkeys((b"f/b", b"f/twin", b"g", b"twin"), (b"f/b", 4)),
        **dict.fromkeys((b"f/a", b"other"), (b"f/a", 2)),
    }


@pytest.mark.usefixtures("way")
def test_what_the_tree_has_of_overlay_comes_out_of_its_escape(place: Path) -> None:
    layers = Layers(place, "1/f/a", "3/f/file", "3/f/inner/", "3/f/device", "3/only/device")
    fd = os.open(layers.paths[0], os.O_RDONLY)
    marks = Marks(fd)
    os.close(fd)
    for name in ("f/file", "f/inner", "f"):
        os.setxattr(layers.paths[0] / name, "trusted.overlay.overlay.opaque", b"n")
        os.setxattr(layers.paths[0] / name, "user.overlay.origin", b"none of the tree's")
        os.setxattr(layers.paths[0] / name, "user.name", b"value")
    marks.set_implied(bytes(layers.paths[0] / "only"))
    for name in ("f/device", "only/device"):
        file = layers.paths[0] / name
        os.truncate(file, 0)
        marks.set_device(bytes(file))
        os.chown(file, 3, 4)
        os.chmod(file, 0o4620)
        os.setxattr(file, "trusted.name", b"value")
        os.utime(file, ns=(7, 8))
    os.link(layers.paths[0] / "f/device", layers.paths[0] / "twin")

    report = copy_tree(layers.paths, place / "dst")

    found = facts(place / "dst")
    for path in (b"f/file", b"f/inner", b"f"):
        assert found[path].xattrs == {"trusted.overlay.opaque": b"n", "user.name": b"value"}
    assert found[b"only"].xattrs == {}
    for path in (b"f/device", b"only/device"):
        told = found[path]
        assert (told.type, told.device, told.mode) == (stat.S_IFCHR, 0, 0o4620)
        assert (told.owner, told.mtime, told.xattrs) == ((3, 4), 8, {"trusted.name": b"value"})
    assert found[b"twin"].twin == b"f/device"
    assert (report.entries["char"], report.entries["hardlink"]) == (2, 1)


@pytest.mark.usefixtures("way")
def test_in_the_lowest_layer_of_a_stack_all_is_what_it_is(place: Path) -> None:
    layers = Layers(place, "1/f/device-", "1/device-", "1/g!", "1/g/a", "2/f/new")
    os.setxattr(place / "1/f", "user.overlay.reflayer.implied", b"y")
    top, mid, low = (bytes(path) for path in layers.paths)

    copy_tree(Stack((top, mid), low), place / "dst")
    copy_tree(low, place / "one")

    expected, found = facts(place / "1"), facts(place / "dst")
    assert_same(expected, facts(place / "one"))
    assert found.keys() == {*expected, b"f/new"}
    for path in (b"f/device", b"device", b"g", b"g/a"):
        assert_same({path: expected[path]}, {path: found[path]})


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", ["gone", "f/gone", "only/deep/gone"])
def test_a_whiteout_in_the_lowest_layer_of_plain_folders_is_an_error(base: Path, name: str) -> None:
    layers = Layers(base, f"1/{name}-", "2/f/a", "3/f/b")
    reason = re.escape(f"{base}/1/{name}: copy: a whiteout in the lowest layer")
    for source in (layers.paths, layers.paths[-1:]):
        with pytest.raises(CopyError, match=reason):
            copy_tree(source, base / "dst")
        assert not (base / "dst").exists()


def test_what_can_be_no_stack_is_refused(base: Path) -> None:
    layers = Layers(base, "1/file", "2/a")
    with pytest.raises(ValueError, match="at least one layer"):
        copy_tree([], base / "dst")
    with pytest.raises(ValueError, match="one folder"):
        copy_tree(layers.paths, base / "dst", method="tar")
    for wrong, reason in ((base / "none", "No such file"), (base / "1/file", "not a folder")):
        for source in ([wrong, *layers.paths], [*layers.paths, wrong]):
            with pytest.raises(CopyError, match=reason) as caught:
                copy_tree(source, base / "dst")
            assert caught.value.path == str(wrong)
    for layer in layers.paths:
        (layer / "in").mkdir()
        with pytest.raises(CopyError, match="inside the source"):
            copy_tree(layers.paths, layer / "in/dst")
    assert not (base / "dst").exists()


@pytest.mark.parametrize("feature", ["redirect", "metacopy"])
@pytest.mark.parametrize("name", ["f", "f/file", "only/file", "only"])
def test_what_overlayfs_only_points_at_is_an_error(base: Path, feature: str, name: str) -> None:
    layers = Layers(base, "1/f/file", "2/f/file", "2/only/file")
    os.setxattr(base / "2" / name, f"trusted.overlay.{feature}", b"")
    with pytest.raises(CopyError, match=f"feature {feature}") as caught:
        copy_tree(layers.paths, base / "dst")
    assert caught.value.path == f"{base}/2/{name}"


def test_a_device_that_is_left_out_shows_nothing_from_below(base: Path) -> None:
    layers = Layers(base, "1/f/null", "2/f/a")
    os.mknod(base / "2/f/null", stat.S_IFCHR, os.makedev(1, 3))
    base.chmod(0o755)

    def do() -> dict[str, int]:
        return dict(copy_tree(layers.paths, "dst", ownership="ignore").skipped)

    skipped = as_nobody(base, do)

    assert skipped["device"] == 1
    assert os.listdir(base / "dst/f") == ["a"]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("layer", ["3", "1"])
def test_what_is_mounted_in_a_layer_stays_out_unless_it_is_crossed(base: Path, layer: str) -> None:
    layers = Layers(base, "1/f/low", "2/f/mid", "3/f/top", "3/other")
    point = base / layer / "f"
    subprocess.run(["mount", "-t", "tmpfs", "none", point], check=True)
    try:
        (point / "inside").touch()
        report = copy_tree(layers.paths, base / "dst")
        crossed = copy_tree(layers.paths, base / "all", cross_mounts=True)
    finally:
        subprocess.run(["umount", point], check=True)
    assert (report.skipped, crossed.skipped) == ({"mount": 1}, {})
    left, shown = ([], "top") if layer == "3" else (["mid", "top"], "low")
    assert sorted(os.listdir(base / "dst/f")) == left
    assert sorted(os.listdir(base / "all/f")) == sorted({"inside", "low", "mid", "top"} - {shown})


def test_an_error_of_the_room_names_the_destination(base: Path) -> None:
    layers = Layers(base, "1/f/large", "3/f/a")
    (base / "1/f/large").write_bytes(os.urandom(8 << 20))
    with mounted("tmpfs", base / "small", 1 << 20) as small:
        with pytest.raises(CopyError, match="No space left") as caught:
            copy_tree(layers.paths, small / "dst")
        assert caught.value.path == f"{small}/dst/f/large"
        assert not (small / "dst").exists()


def test_an_error_of_a_layer_names_the_path_in_it(base: Path) -> None:
    layers = Layers(base, "1/f/low", "2/f/g/shut", "3/f/g/top", "3/f/shut")
    for path in (base, *layers.paths):
        path.chmod(0o755)
    for name in ("1/f", "2/f/g/shut", "2/f/g", "3/f/shut"):
        (base / name).chmod(0)

        def do() -> None:
            copy_tree(layers.paths, "dst", ownership="ignore")

        with pytest.raises(CopyError, match="Permission denied") as caught:
            as_nobody(base, do)
        assert caught.value.path == str(base / name)
        (base / name).chmod(0o755)


def _chain(folder: Path, names: list[str], *, beside: str, every: int) -> None:
    """Folders in one another, of which each so many have another folder and a file in it."""
    folder.mkdir()
    fd = os.open(folder, os.O_RDONLY)
    for level, name in enumerate(names):
        if not level % every:
            os.mkdir(beside, dir_fd=fd)
            os.close(os.open(f"{beside}/file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        os.mkdir(name, dir_fd=fd)
        above, fd = fd, os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(above)
    os.close(fd)


@pytest.mark.usefixtures("at_once", "way")
def test_layers_of_any_depth_are_one_tree(place_on: Callable[[str], Path]) -> None:
    place = place_on("xfs")
    names = [str(level % 7) * (1 + level % 40) for level in range(1500)]
    _chain(place / "3", names, beside="top", every=100)
    _chain(place / "2", names[:700], beside="mid", every=90)
    _chain(place / "1", [*names[:1200], *["other"] * 200], beside="low", every=70)
    layers = [place / layer for layer in "321"]
    expected = facts(layers[2]) | facts(layers[1]) | facts(layers[0])

    report = copy_tree(layers, place / "dst", workers=3)

    assert_same(expected, facts(place / "dst"))
    assert sum(report.entries.values()) == len(expected)


@pytest.mark.usefixtures("at_once")
def test_a_wide_folder_of_several_layers_is_shared(place_on: Callable[[str], Path]) -> None:
    place = place_on("tmpfs")
    expected: dict[int, list[str]] = {}
    for layer, first in (("1", 0), ("2", 3000), ("3", 6000)):
        (place / layer / "wide").mkdir(parents=True)
        for number in range(first, first + 6000):
            path = place / layer / f"wide/{'n' * 200}{number}"
            if number % 3:
                path.touch()
            else:
                (path / layer).mkdir(parents=True)
                expected.setdefault(number, []).append(layer)
    for _ in range(5):
        report = copy_tree([place / layer for layer in "321"], place / "dst", workers=4)
        assert len(os.listdir(place / "dst/wide")) == 12000
        for number, inner in expected.items():
            assert sorted(os.listdir(place / f"dst/wide/{'n' * 200}{number}")) == inner
        folders = 2 + len(expected) + sum(map(len, expected.values()))
        assert report.entries == {"file": 8000, "directory": folders}
        remove_tree(place / "dst")


def test_hidden_names_cost_no_more_the_more_there_are(tmp_path: Path) -> None:
    with mounted("tmpfs", tmp_path, 4 << 30) as place:
        took = [_seconds_to_hide(place, count) for count in (12_500, 100_000)]
    assert took[1] < 2.5 * 8 * took[0], took


def _seconds_to_hide(place: Path, count: int) -> float:
    here = place / str(count)
    for layer in ("1", "2"):
        (here / layer / "wide").mkdir(parents=True)
    for number in range(count):
        os.mknod(here / f"1/wide/file {number}")
        if number % 2:
            os.mknod(here / f"2/wide/file {number}", WHITEOUT_MODE)
    started = time.process_time()
    report = copy_tree([here / "2", here / "1"], here / "dst", workers=1)
    took = time.process_time() - started
    assert report.entries == {"file": count // 2, "directory": 2}
    return took


@pytest.mark.usefixtures("at_once")
def test_a_hundred_layers_need_no_more_descriptors_than_roots(base: Path) -> None:
    layers = [base / str(number) for number in range(100)]
    for number, layer in enumerate(layers):
        (layer / "/".join(f"d{level}" for level in range(80))).mkdir(parents=True)
        (layer / f"d0/d1/{number}").mkdir()
        (layer / f"d0/d1/{number}/file").touch()
    code = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
from reflayer import copy_tree
from reflayer.workers import pool
pool._ALONE = -1
print(sum(copy_tree(sys.argv[2:], sys.argv[1], workers=3).entries.values()))
"""
    command = [sys.executable, "-c", code, str(base / "dst"), *map(str, layers)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert int(told) == 1 + 80 + 200 == len(facts(base / "dst"))


@pytest.fixture
def swapped(base: Path) -> Path:
    """Layers whose folder ``folder`` is swapped for a link to what is outside, in the lower one."""
    for layer in ("2", "1"):
        for folder in range(10):
            (base / layer / f"folder/{folder}/inner").mkdir(parents=True)
            for file in range(10):
                (base / layer / f"folder/{folder}/{layer}{file}").write_bytes(b"known")
                (base / layer / f"folder/{folder}/inner/{layer}{file}").write_bytes(b"known")
    for folder in range(10):
        (base / f"outside/{folder}/inner").mkdir(parents=True)
        (base / f"outside/{folder}/inner/secret").write_bytes(b"secret")
        (base / f"outside/{folder}/secret").write_bytes(b"secret")
    return base


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("layer", ["1", "2"])
@pytest.mark.parametrize("name", ["folder", "folder/5", "folder/5/inner"])
def test_a_layer_that_is_swapped_for_a_link_leads_nowhere(
    swapped: Path, layer: str, name: str
) -> None:
    (swapped / "link").symlink_to(swapped / "outside" / name.removeprefix("folder").lstrip("/"))
    stop = threading.Event()
    one, other = swapped / layer / name, swapped / "link"

    def swap() -> None:
        while not stop.is_set():
            with suppress(OSError):
                exchange(one, other)
                time.sleep(0)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        until = time.monotonic() + 1
        while time.monotonic() < until:
            with suppress(CopyError):
                copy_tree([swapped / "2", swapped / "1"], swapped / "dst", workers=3)
                for path in (swapped / "dst").rglob("*"):
                    assert path.is_symlink() or path.is_dir() or path.read_bytes() == b"known"
                remove_tree(swapped / "dst")
            assert not (swapped / "dst").exists()
    finally:
        stop.set()
        thread.join()
