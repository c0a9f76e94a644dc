"""Signals end a command, and undo it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from reflayer import Store
from reflayer.driver import Driver
from tests.archive.tars import entry, tar
from tests.cli.processes import PROGRAM
from tests.store.stores import BASE, assert_clean, image, layers_in, reflayer


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
@pytest.mark.parametrize("where", ["content", "layers/tmp"])
def test_a_signal_undoes_a_create(
    base: Path, root: Path, number: signal.Signals, status: int, where: str
) -> None:
    assert reflayer(root, "create", "--name", "other", image(base / "other", BASE)).returncode == 0
    layer = tar(entry("noise", os.urandom(8 << 20)), *(entry(f"f{n}") for n in range(5000)))
    made = image(base / "image", layer)
    process = subprocess.Popen(
        [*PROGRAM, "--root", str(root), "create", made],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    os.killpg(process.pid, signal.SIGSTOP)
    while not _works_in(
        root / where, process.pid
    ):  # it goes in steps: a busy test would come too late
        os.killpg(process.pid, signal.SIGCONT)
        time.sleep(0.002)
        os.killpg(process.pid, signal.SIGSTOP)
        assert process.poll() is None
    os.killpg(process.pid, number)  # as a terminal does: helpers get it, too
    os.killpg(process.pid, signal.SIGCONT)
    out, errors = process.communicate(timeout=60)
    assert (out, errors) == ("", f"reflayer: ended by {number.name}\n")
    assert process.returncode == status
    assert [one.name for one in Store(root).containers()] == ["other"]
    assert len(Store(root).images()) == 1
    assert len(layers_in(root)) == 2
    Driver(root / "layers")  # a signal between two steps leaves the next start something to clear
    assert_clean(root)


def _works_in(folder: Path, process: int) -> bool:
    """Whether it has a file without a name open in ``folder``, or builds a layer there."""
    if folder.name == "tmp":
        return any(folder.glob("*"))
    opened: list[str] = []
    for fd in Path(f"/proc/{process}/fd").iterdir():
        with suppress(FileNotFoundError):
            opened.append(os.readlink(fd))
    return any(one.startswith(f"{folder}/") and one.endswith(" (deleted)") for one in opened)


@pytest.mark.parametrize("where", ["a finalizer", "a weak reference's callback"])
def test_a_signal_is_not_lost_where_the_interpreter_swallows_exceptions(where: str) -> None:
    finalizer = "def __del__(self): signal.raise_signal(signal.SIGTERM)"
    callback = "lambda _: signal.raise_signal(signal.SIGTERM)"
    if where == "a finalizer":
        swallowed = f"class Thing:\n    {finalizer}\nthing = Thing()"
    else:
        swallowed = f"class Thing: pass\nthing = Thing()\nheld = weakref.ref(thing, {callback})"
    program = f"""
import signal, time, weakref
from reflayer.cli.interrupt import Interrupted, catch_signals
catch_signals()
{swallowed}
try:
    del thing
    print("swallowed\\n", end="")
    time.sleep(60)
except Interrupted as interrupted:
    print(interrupted, interrupted.status)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("swallowed\nended by SIGTERM 143\n", "")


def test_a_signal_after_the_copy_comes_too_late(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/file").write_bytes(b"content")
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(1 << 12))
    os.set_blocking(writing, True)
    command = [*PROGRAM, "copy", str(tmp_path / "src"), str(tmp_path / "dst")]
    process = subprocess.Popen(command, stderr=writing)  # which cannot tell how it went
    os.close(writing)
    ignored = 0
    while not ignored & 1 << signal.SIGTERM - 1:
        assert process.poll() is None
        time.sleep(0.01)
        status = Path(f"/proc/{process.pid}/status").read_text()
        ignored = int(status.split("SigIgn:")[1].split()[0], 16)
    process.send_signal(signal.SIGTERM)
    with open(reading, "rb") as pipe:
        assert b"2 entries" in pipe.read()
    assert process.wait(60) == 0
    assert (tmp_path / "dst/file").read_bytes() == b"content"


@pytest.mark.parametrize(
    "command",
    [
        "copy tree DST",
        "create rootfs:tree",
        "commit web app --compression none",
        "save app:1 oci:DST",
        "save app:1 docker-archive:DST",
        "tag app:1 app:2",
        "ps",
    ],
)
def test_a_signal_at_the_very_end_comes_too_late(
    base: Path, root: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(base)
    Path("tree").mkdir()
    assert reflayer(root, "create", "--name", "web", "rootfs:tree").returncode == 0
    assert reflayer(root, "commit", "web", "app:1").returncode == 0
    program = """
import os, signal, sys
from reflayer.cli import main
from reflayer.cli.progress_bars import bars
def at_end_of(owner, name):
    end = getattr(owner, name)
    def interrupted(*arguments):
        signal.raise_signal(signal.SIGTERM)
        end(*arguments)
    setattr(owner, name, interrupted)
at_end_of(bars, "__exit__")
at_end_of(os, "_exit")
main()
"""
    words = ["--root", str(root), *command.split()]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ended by" not in done.stderr
    assert Path("DST").exists() is ("DST" in command)


def test_a_signal_whose_message_cannot_be_printed_gives_its_status_all_the_same() -> None:
    program = """
import signal, sys
from reflayer.cli import main, program
program.parser = lambda: signal.raise_signal(signal.SIGTERM)
main()
"""
    with open("/dev/full", "w") as full:
        assert (
            subprocess.run([sys.executable, "-c", program, "ps", "--help"], stderr=full).returncode
            == 143
        )
