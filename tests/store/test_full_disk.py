"""A full disk in the middle of each step: one clear line, a clean store, and then it goes on."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from reflayer import ReflayerError, Store
from tests.archive.tars import entry, tar
from tests.driver.layers import wait_until
from tests.file_systems import fill_up, mounted
from tests.store.stores import BASE, assert_clean, image, layers_in, open_to_all, reflayer

_DISK = 48 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own, that shares no blocks."""
    with mounted("ext4", tmp_path, _DISK) as place:
        yield place


def _text(size: int) -> bytes:
    """Data that compresses well."""
    return (b"all work and no play makes jack a dull boy\n" * (size // 43 + 1))[:size]


def _noise(size: int) -> bytes:
    """Data that does not compress."""
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize(
    ("step", "layer"),
    [
        ("fetch", tar(entry("noise", _noise(_DISK)))),
        ("unpack", tar(entry("text", _text(2 * _DISK)))),
        ("clone", tar(entry("text", _text(3 * _DISK // 5)))),
    ],
    ids=["fetch", "unpack", "clone"],
)
def test_a_step_that_fills_the_disk_fails_and_leaves_nothing(
    base: Path, disk: Path, step: str, layer: bytes
) -> None:
    root = disk / "store"
    done = reflayer(root, "create", image(base / "image", layer))
    assert done.returncode == 1
    assert done.stdout == ""
    assert "No space left on device: reflayer df tells what takes room" in done.stderr
    assert done.stderr.count("\n") == 1
    if step != "fetch":
        assert "/layers/" in done.stderr
    assert layers_in(root) == set()
    assert Store(root).images() == []
    assert_clean(root)
    done = reflayer(root, "create", image(base / "small", BASE))
    assert done.returncode == 0, done.stderr
    assert_clean(root)


@pytest.mark.parametrize("stage", ["fetch", "unpack", "clone"])
def test_a_disk_that_others_fill_meanwhile_leaves_nothing_either(
    base: Path, disk: Path, stage: str
) -> None:
    """Filled at the end of a stage, so that what follows fails: to write a blob, to record."""
    root = disk / "store"
    made = image(base / "image", BASE, tar(entry("noise", _noise(1 << 20))))
    filled = False

    def fill(at: str, done: int, total: int | None) -> None:
        nonlocal filled
        if at == stage and (total is None or done == total) and not filled:
            filled = True
            fill_up(disk)

    with pytest.raises(ReflayerError) as failed:
        Store(root).create(made, progress=fill)
    assert "\n" not in str(failed.value)
    assert layers_in(root) == set() or stage == "clone"
    subprocess.run(["rm", "-rf", str(disk / "full"), str(disk / "names")], check=True)
    store = Store(root)
    container = store.create(made)
    assert [one.name for one in store.containers()] == [container.name]
    assert len(layers_in(root)) == 2 + 1
    assert_clean(root)


def test_a_commit_that_fills_the_disk_leaves_nothing(base: Path, disk: Path) -> None:
    root = disk / "store"
    store = Store(root)
    container = store.create(image(base / "small", BASE), name="web")
    (Path(container.path) / "noise").write_bytes(_noise(_DISK // 2))
    before = store.images()
    done = reflayer(root, "commit", "web", "new")
    assert (done.returncode, done.stdout) == (1, "")
    assert "No space left on device" in done.stderr
    assert done.stderr.count("\n") == 1
    assert store.images() == before
    assert_clean(root)
    (Path(container.path) / "noise").unlink()
    assert reflayer(root, "commit", "web", "new").returncode == 0
    assert_clean(root)


def test_a_save_that_fills_the_disk_leaves_nothing(base: Path, disk: Path) -> None:
    root = base / "store"
    store = Store(root)
    name = image(base / "image", tar(entry("noise", _noise(_DISK))))
    store.create(name)
    for place in (f"docker-archive:{disk}/out.tar", f"oci:{disk}/out:x"):
        done = reflayer(root, "save", name, place)
        assert (done.returncode, done.stdout) == (1, "")
        assert "No space left on device" in done.stderr
        assert done.stderr.count("\n") == 1
        assert not [path for path in disk.rglob("*") if path.stat().st_size > 1 << 20]
    assert_clean(root)


def free(place: Path) -> int:
    """How many bytes of a file system are free."""
    status = os.statvfs(place)
    return status.f_bfree * status.f_frsize


@pytest.mark.parametrize("user", ["root", "ordinary"])
@pytest.mark.parametrize(
    ("kind", "only_inodes"),
    [
        *((kind, False) for kind in ("xfs", "btrfs", "ext4", "tmpfs")),
        ("ext4", True),
        ("tmpfs", True),
    ],
)
def test_a_full_disk_can_be_looked_at_and_cleared(
    tmp_path: Path, kind: str, user: str, only_inodes: bool
) -> None:
    small = {"xfs": 320 << 20, "btrfs": 128 << 20}.get(kind, _DISK)
    with mounted(kind, tmp_path, small) as place:
        open_to_all(tmp_path)
        place.chmod(0o777)
        root = place / "store"
        made = image(tmp_path / "image", BASE, tar(entry("noise", _noise(1 << 20))))
        other = image(tmp_path / "other", BASE, tar(entry("noise", _noise(1 << 19))))
        ignore = "--ownership=ignore"

        def run(*arguments: str) -> str:
            done = reflayer(root, *arguments, ordinary=user == "ordinary")
            assert (done.returncode, done.stderr) == (0, ""), arguments
            return done.stdout

        for name, source in (("one", made), ("two", made), ("three", other)):
            path = run("create", ignore, "--name", name, source).rstrip("\n")
            (Path(path) / "more").write_bytes(_noise(1 << 20))
        fill_up(place, only_inodes=only_inodes)
        before = free(place)

        assert run("ps").count("\n") == 4
        assert run("images").count("\n") == 3
        assert Path(run("path", "one").rstrip("\n")).is_dir()
        run("df")
        assert run("rm", "one") == "one\n"
        assert run("ps").count("\n") == 3
        assert run("rm", "--wait", "two", "three") == "two\nthree\n"
        run("rmi", "--wait", made, other)
        assert run("images").count("\n") == 1
        subprocess.run(["sync", "--file-system", str(place)], check=True)
        wait_until(lambda: free(place) - before > 3 << 20)  # btrfs takes snapshots apart behind
        subprocess.run(["rm", "-rf", str(place / "full"), str(place / "names")], check=True)
        run("create", ignore, other)
        assert_clean(root)
