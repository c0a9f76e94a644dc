"""What the pages say to type is typed: each block of commands, and each example in Python.

A block that cannot be run in a test has a comment before it in the page, which says why:
``<!-- not run: ... -->``. Places and registries are others here, images are of busybox.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.archive.tars import Entry, entry
from tests.cli.processes import PROGRAM
from tests.file_systems import require, require_root
from tests.registry.registries import Registry, running
from tests.sandbox.images import image, in_one_version
from tests.store.stores import reflayer

PROJECT = Path(__file__).parents[1]
OF_USAGE = ("architecture.md", "cli.md")
PAGES = [
    PROJECT / "README.md",
    *(one for one in sorted(PROJECT.glob("docs/*.md")) if one.name not in OF_USAGE),
]
_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<why>.+?) -->\n+)?```(?P<language>\w*)\n(?P<text>.*?)^```",
    re.DOTALL | re.MULTILINE,
)
_NAMES = ("debian:12", "python:3.12", "alpine", "quay.io/fedora/fedora:41", "app")
_STEP = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
_HEX = "[0-9a-f]{64}"


def _program(name: str, text: str) -> Entry:
    return entry(f"bin/{name}", f"#!/bin/sh\n{text}\n".encode(), mode=0o755)


_PROGRAMS = (
    _program("apt-get", "touch /installed"),
    _program("bash", 'exec sh "$@"'),
    _program("make", "exit 1"),
    _program("pytest", "test -d /src"),
    _program("python3", "echo"),
    _program("rm", 'exec busybox rm "$@"'),
    entry("etc/os-release", b"ID=debian\n"),
)


def _blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each that is to be run."""
    found = [one.groupdict() for one in _BLOCK.finditer(page.read_text())]
    languages = ("", "python")
    return [
        (one["language"], one["text"])
        for one in found
        if one["why"] is None and one["language"] in languages
    ]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with running(tmp_path_factory.mktemp("registry")) as one:
        yield one


@pytest.fixture(scope="module")
def template(file_system: Callable[[str], Path], registry: Registry) -> Path:
    """What the place of each page begins as."""
    require_root()
    require("crun", "busybox", "strace")
    base = file_system("xfs") / "pages"
    base.mkdir()
    root = base / "store"

    def do(*words: str) -> None:
        done = reflayer(root, *words)
        assert done.returncode == 0, done.stderr

    made = image(base / "image", *_PROGRAMS)
    do("create", "--name", "first", made)
    for name in _NAMES:
        do("tag", made, name)
    do("rm", "--wait", "first")
    for name in ("alpine", "team/app:1"):
        do("push", "app", f"{registry.host}/{name}")
    for folder in ("home", "cache"):
        (base / folder).mkdir()
        (base / folder / "reflayer").symlink_to("../store")
    work = base / "work"
    (work / "src").mkdir(parents=True)
    (work / "run-tests").write_text("test -f run-tests\n")
    do("save", "app", f"docker-archive:{work}/image.tar")
    for folder in ("srv/base", "srv/layers/3", "srv/layers/2", "work/SRC"):
        (base / folder).mkdir(parents=True)
        (base / folder / "file").write_text(folder)
    (base / "srv/layers/base").symlink_to("../base")
    for folder in ("vfs", "image/vfs", "containers/one"):
        (base / "docker" / folder).mkdir(parents=True)
    (base / "docker/containers/one/config.v2.json").write_text('{"Driver":"vfs"}')
    for name, text in (
        ("reflayer", f'exec {shlex.join(PROGRAM)} "$@"'),
        ("apptainer", 'test "$1" = exec; shift; exec chroot "$@"'),  # Debian has none
    ):
        program = base / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
    return base


class Place:
    """A home, a registry and a working folder for the commands of a page."""

    def __init__(self, base: Path, registry: Registry) -> None:
        self.base = base
        self.root = base / "store"
        self.moved = {
            "registry.example.com": registry.host,
            "localhost:5000": registry.host,
            "pull alpine": f"pull {registry.host}/alpine",
            "/var/lib/docker": f"{base}/docker",
            "/var/lib/reflayer": str(self.root),
            "/cache/": f"{base}/cache/",
            "/srv/store": str(self.root),
            "/srv/": f"{base}/srv/",
        }

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run something on a terminal, on which somebody types ``exit`` now and then."""
        ours, theirs = os.openpty()
        os.set_blocking(ours, False)
        try:
            with subprocess.Popen(
                in_one_version(*words),
                cwd=self.base / "work",
                env={
                    **os.environ,
                    "PATH": f"{self.base}/bin:{os.environ['PATH']}",
                    "HOME": str(self.base / "home"),
                    "REFLAYER_ROOT": str(self.root),
                    "CI_JOB_ID": "7",
                },
                stdin=theirs,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            ) as process:
                while True:
                    try:
                        out, errors = process.communicate(timeout=1)
                    except subprocess.TimeoutExpired:
                        with suppress(BlockingIOError):
                            os.write(ours, b"exit\n")
                    else:
                        return subprocess.CompletedProcess(words, process.returncode, out, errors)
        finally:
            os.close(ours)
            os.close(theirs)

    def here(self, text: str) -> str:
        """The text with the places of this machine."""
        for known, other in self.moved.items():
            text = text.replace(known, other)
        return text


@pytest.mark.parametrize("page", [one for one in PAGES if _blocks(one)], ids=lambda one: one.name)
def test_what_a_page_says_to_type_works(
    page: Path, base: Path, template: Path, registry: Registry
) -> None:
    subprocess.run(["cp", "-a", "--reflink=auto", f"{template}/.", base], check=True)
    place = Place(base, registry)
    for language, text in _blocks(page):
        if text.startswith("$ "):
            _see(place, text)
            continue
        shell = ("bash", "-euo", "pipefail", "-c")
        words = (sys.executable, "-c") if language == "python" else shell
        done = place.run(*words, place.here(text))
        assert done.returncode == 0, (text, done.stderr)


def _see(place: Place, session: str) -> None:
    """Type each line after ``$``, and compare what is shown with what follows it."""
    steps = _STEP.findall(session)
    assert len(steps) > 5
    for command, shown in steps:
        done = place.run("bash", "-c", place.here(command))
        expected = re.sub(_HEX, _HEX, re.escape(place.here(shown)))
        assert (done.returncode, done.stderr) == (0, "")
        assert re.fullmatch(expected, done.stdout), (command, done.stdout)
