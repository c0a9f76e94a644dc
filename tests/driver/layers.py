"""What the tests of the driver share: a layer with some of everything, and what is left over."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from subprocess import run

from reflayer.driver import Driver
from reflayer.driver.spares import stop_filling
from reflayer.workers.lock import locked
from tests.trees import Facts, facts


def tree(path: str | Path) -> Mapping[bytes, Facts]:
    """Its facts but for access times, which telling them changes."""
    return facts(Path(path), atime=False)


def fill(root: str | Path) -> None:
    """Some of everything that needs no root."""
    path = Path(root)
    (path / "folder").mkdir(mode=0o2750)
    (path / "folder/file").write_bytes(b"content" * 1000)
    os.link(path / "folder/file", path / "second name")
    (path / "link").symlink_to("/nowhere")
    os.mkfifo(path / "fifo", 0o640)
    os.setxattr(path, "user.on-the-root", b"value")
    os.utime(path / "folder", ns=(5, 1_000_000_000_000_000_007))
    path.chmod(0o1751)
    os.utime(path, ns=(77, -3_000_000_001))


def make(driver: Driver, id: str) -> str:
    """The path of a new layer of that id, filled."""
    with driver.build(id) as path:
        fill(path)
    return driver.path(id)


def kept(kind: str) -> str:
    """The method by which layers on a file system are kept as differences."""
    return "reflink" if kind == "btrfs" else "auto"


def archive_of(
    driver: Driver, id: str, edit: Callable[[Path], None], *, parent: str | None = ""
) -> io.BytesIO:
    """Edit a layer; what that has changed as an archive, or what is different from ``parent``."""
    driver.create("before", id)
    edit(Path(driver.path(id)))
    with driver.diff(id, "before" if parent == "" else parent) as packed:
        archive = io.BytesIO(packed.read())
    driver.remove("before")
    return archive


def change(root: Path) -> None:
    """Add, change, replace and delete something of what ``fill`` makes."""
    (root / "added/below").mkdir(parents=True)
    (root / "added/below/file").write_bytes(b"new" * 1000)
    (root / "fifo").unlink()
    (root / "link").unlink()
    (root / "link").mkdir()
    (root / "folder/file").chmod(0o600)
    os.setxattr(root / "folder", "user.own", b"\0")
    os.utime(root, ns=(4, -7))


def more(root: Path) -> None:
    """Change it once more."""
    (root / "added/below/file").unlink()
    (root / "added/other").symlink_to("below")
    (root / "link").rmdir()
    (root / "folder/second").write_bytes(b"x")


def stacked(driver: Driver) -> None:
    """Two differences on ``base``, and beside them ``whole`` with the same tree."""
    driver.create("whole", "base")
    for id, below, edit in (("middle", "base", change), ("top", "middle", more)):
        archive = archive_of(driver, "whole", edit)
        driver.create_difference(id, below)
        driver.apply(id, archive)


def inside(driver: Driver, *folders: str) -> list[str]:
    """The names in folders of the home."""
    found = []
    for folder in folders:
        path = Path(driver.home) / folder
        found += sorted(str(p.relative_to(path)) for p in path.glob("*")) if path.is_dir() else []
    return found


def leftovers(driver: Driver) -> list[str]:
    """What is in the folders that are empty when nothing is being made or deleted."""
    home = Path(driver.home)
    return [p.name for folder in ("tmp", "trash") for p in (home / folder).iterdir()]


def wait_until(condition: Callable[[], bool], seconds: float = 240) -> None:
    """Return when ``condition`` holds; fail when it does not in that time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.002)


def at_rest(home: Path) -> None:
    """Return when no process makes spares or deletes behind in a driver's home."""
    if home.is_dir():
        with locked(f"{home}/spares.lock", shared=True), locked(f"{home}/trash.lock"):
            pass


def put_to_rest(home: Path) -> None:
    """End what makes spares in a driver's home, which waits for the next to be wanted."""
    if home.is_dir():
        stop_filling(str(home))
        at_rest(home)


_BECOME = """
import concurrent.futures.thread, importlib, os, pkgutil, sys
import reflayer.archive, reflayer.copy, reflayer.driver, reflayer.linux, reflayer.walk
import tests.driver.layers
for package in (reflayer.archive, reflayer.copy, reflayer.driver, reflayer.linux, reflayer.walk):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
del sys.argv[1]
"""  # root's own interpreter may be out of others' reach, so all is imported before


def run_as(uid: int, code: str, place: Path, *arguments: str) -> str:
    """Run Python ``code`` with ``place`` and ``arguments`` as another user; its standard output."""
    for folder in (place, *place.parents):
        folder.chmod(folder.stat().st_mode | 0o011)  # the user may pass through
    os.chown(place, uid, uid)
    done = run(
        [sys.executable, "-c", _BECOME + code, str(uid), str(place), *arguments],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
