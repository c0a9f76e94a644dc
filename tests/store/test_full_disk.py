"""A full disk in the middle of each step: one clear line, a clean store, and then it goes on."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from reflayer import ReflayerError, Store
from tests.archive.tars import entry, tar
from tests.file_systems import mounted
from tests.store.stores import BASE, assert_clean, image, layers_in, reflayer

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
    assert "No space left on device" in done.stderr
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
    filler = disk / "filler"

    def fill(at: str, done: int, total: int | None) -> None:
        if at == stage and (total is None or done == total) and not filler.exists():
            _fill(filler)

    with pytest.raises(ReflayerError) as failed:
        Store(root).create(made, progress=fill)
    assert "\n" not in str(failed.value)
    assert layers_in(root) == set() or stage == "clone"
    filler.unlink()
    store = Store(root)
    container = store.create(made)
    assert [one.name for one in store.containers()] == [container.name]
    assert len(layers_in(root)) == 2
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


def _fill(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    os.write(fd, bytes(size))
            except OSError:
                os.fsync(fd) if size == 1 else None
    except OSError:
        pass  # so it is full
    finally:
        os.close(fd)


def test_a_disk_without_a_free_byte_can_be_looked_at_and_cleared(base: Path, disk: Path) -> None:
    root = disk / "store"
    made = image(base / "image", tar(entry("noise", _noise(1 << 20))))
    assert reflayer(root, "create", "--name", "web", made).returncode == 0
    _fill_to_the_last_byte(disk / "others")

    assert "web" in reflayer(root, "ps").stdout
    assert reflayer(root, "images").stdout.count("\n") == 2
    done = reflayer(root, "rm", "--wait", "web")

    assert (done.returncode, done.stdout, done.stderr) == (0, "web\n", "")
    (disk / "others").unlink()
    assert reflayer(root, "create", "--name", "web", made).returncode == 0
    assert_clean(root)


def _fill_to_the_last_byte(path: Path) -> None:
    with open(path, "wb", buffering=0) as file:
        for size in (1 << 20, 1 << 10):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    status = os.statvfs(path)
    assert status.f_bavail == 0, f"{status.f_bavail * status.f_frsize} bytes are left"
