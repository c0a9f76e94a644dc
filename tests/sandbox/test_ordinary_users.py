"""An ordinary user runs commands as root of a user namespace, by each runtime."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.sandbox.images import image, in_one_version, nothing_runs
from tests.store.users import User


def by(user: User, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the program as the user."""
    command = in_one_version(*user.start(*words))
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd="/")


def test_he_is_root_in_there_over_what_is_his(runtime: str, base: Path) -> None:
    user = User(base, ranges=False)
    source = image(base / "other", Volumes={"/data": {}}, WorkingDir="/work")
    own = ("run", "--rm", "--runtime", runtime, "--ownership", "ignore")
    script = "id -u; touch new; stat -c %u new; pwd; ls -d /data; exit 5"
    done = by(user, *own, source, "sh", "-c", script)
    assert (done.stdout.split(), done.returncode) == (["0", "0", "/work", "/data"], 5), done.stderr
    script = "ip -o addr | grep -c inet; sh -c 'kill -9 $$'; echo $?"
    done = by(user, *own, "--network", "none", source, "sh", "-c", script)
    assert done.stdout.split()[-1] == "137", done.stderr
    assert nothing_runs(user.store)


def test_who_is_not_there_is_told(runtime: str, base: Path) -> None:
    user = User(base, ranges=False)
    source = image(base / "other", User="101")
    done = by(user, "run", "--rm", "--runtime", runtime, "--ownership", "ignore", source, "true")
    assert done.returncode == 125
    assert "there is no user 101 here" in done.stderr


def test_with_ranges_there_are_the_images_users(runtime: str, base: Path) -> None:
    user = User(base, ranges=True)
    source = image(base / "other", User="web")
    own = ("run", "--rm", "--runtime", runtime)
    if runtime != "bwrap":
        script = "id -u; id -G; stat -c %u /bin; touch /tmp/x && stat -c %U:%G /tmp/x"
        done = by(user, *own, source, "sh", "-c", script)
        told = ["101", "102", "103", "0", "web:www"]
        assert (done.stdout.split(), done.returncode) == (told, 0), done.stderr
    for network in ("host", "none"):
        script = "id -u; test -d /sys/kernel && sh -c 'exit 3'"
        words = ("-u", "0", "--network", network, source, "sh", "-c", script)
        done = by(user, *own, *words)
        assert (done.stdout, done.returncode) == ("0\n", 3), done.stderr
    assert nothing_runs(user.store)
    assert os.stat(user.store).st_uid == 1000


@contextmanager
def running(user: User, *words: str) -> Iterator[subprocess.Popen[str]]:
    """The program, which runs something that prints a line first; killed at the end of the block.

    What it ran is ended as well, and nothing of it is left.
    """
    command = in_one_version(*user.start(*words))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd="/") as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()
            process.wait()
            pruned = by(user, "prune")
    assert pruned.returncode == 0
    assert nothing_runs(user.store)


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "none"])
def test_another_command_runs_beside(runtime: str, base: Path, ranges: bool) -> None:
    user = User(base, ranges)
    source = image(base / "other")
    script = "touch /tmp/mark; echo ready; sleep 100"
    words = ("run", "--rm", "--name", "one", "--runtime", runtime, source, "sh", "-c", script)
    with running(user, *words):
        done = by(user, "exec", "one", "sh", "-c", "ls /tmp; ps; exit 3")
        assert (done.stdout.split()[0], done.returncode) == ("mark", 3), done.stderr
        assert "sleep 100" in done.stdout
        if ranges:
            assert by(user, "exec", "-u", "web", "one", "id", "-u").stdout == "101\n"
            inside = by(user, "unshare", *user.program, "exec", "one", "true")
            assert "out of reach from this one" in inside.stderr
        assert by(user, "exec", "other", "true").returncode == 125
    done = by(user, "exec", "one", "true")
    assert (done.returncode, done.stderr.count("\n")) == (125, 1)


@pytest.mark.parametrize("runtime", ["crun"], indirect=True)
def test_another_command_runs_in_a_container_with_a_map(runtime: str, base: Path) -> None:
    user = User(base, ranges=True)
    map_ = ("--ownership", "keep", "--map", "0:1000:2000")
    assert by(user, "create", *map_, "--name", "one", image(base / "other")).returncode == 0
    with running(user, "run", "--runtime", runtime, "one", "sh", "-c", "echo ready; sleep 100"):
        done = by(user, "exec", "-u", "web", "one", "id", "-u")
        assert done.stdout == "101\n", done.stderr


@pytest.mark.parametrize("runtime", ["namespaces"], indirect=True)
def test_another_command_finds_the_store_where_home_is_not_set(runtime: str, base: Path) -> None:
    user = User(base, ranges=True)
    words = ("run", "--rm", "--name", "one", "--runtime", runtime, image(base / "other"))
    with running(user, *words, "sh", "-c", "echo ready; sleep 100"):
        started = user.start_other("env", "-u", "HOME", *user.program, "exec", "one", "id", "-u")
        done = subprocess.run(started, capture_output=True, text=True, cwd="/")
        assert done.stdout == "0\n", done.stderr


@pytest.mark.parametrize("runtime", ["crun", "runc", "namespaces"], indirect=True)
def test_what_a_killed_one_left_is_ended_whoever_it_belongs_to(runtime: str, base: Path) -> None:
    user = User(base, ranges=True)
    source = image(base / "other", User="web")
    seconds = f"{100_000 + os.getpid()}"
    script = f"echo ready; exec sleep {seconds}"
    with running(user, "run", "--runtime", runtime, "--rm", source, "sh", "-c", script):
        await_that(lambda: runs("sleep", seconds))
    await_that(lambda: not runs("sleep", seconds))


def await_that(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def runs(*words: str) -> bool:
    """Whether some process was started by these words."""
    wanted = "\0".join(words).encode() + b"\0"
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if path.read_bytes() == wanted:
                return True
    return False


_PROGRAM = """
import io, multiprocessing, os, signal, sys, threading
from concurrent.futures import ThreadPoolExecutor
import reflayer

source, web = sys.argv[1:]

def in_own(number):
    with reflayer.Sandbox(source, user="0") as box:
        box.run(["touch", f"/{number}"], check=True)
        return [name for name in box.run(["ls", "/"]).stdout.split() if name.isdigit()]

with reflayer.Sandbox(source) as box:
    assert box.run(["id", "-u"]).stdout.strip() == web, box.run(["id", "-u"])
    box.run(["touch", "/new"], user="0")
    assert os.path.exists(f"{box.path}/new")
    assert box.checkpoint("one").name == "one"
    os.unlink(f"{box.path}/new")
    box.rollback()
    assert os.path.exists(f"{box.path}/new")
    try:
        box.run(["nosuch"])
    except reflayer.ReflayerError as error:
        assert error.status == 127
    words = [["echo", str(number)] for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert [one.stdout for one in pool.map(box.run, words)] == ["0\\n", "1\\n", "2\\n", "3\\n"]
        assert [*pool.map(in_own, range(4))] == [[str(number)] for number in range(4)]
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(in_own, range(3)) == [["0"], ["1"], ["2"]]

store, stages = reflayer.Store(), []
with store.create(source, progress=lambda stage, *_: stages.append(stage)) as one:
    assert "clone" in stages
    one.checkpoint()
    open(f"{one.path}/new", "w").close()
    assert [(change.kind, change.path) for change in store.changes(one.name)] == [("A", "/new")]
    tar = io.BytesIO()
    assert store.export(one.name, tar).size == len(tar.getvalue()) > 0
    assert store.find("box:1") if store.commit(one.name, "box:1") else False
    with one.fork() as other:
        assert os.path.exists(f"{other.path}/new")
try:
    store.create(source, progress=lambda *_: 1 // 0)
except ZeroDivisionError:
    pass
assert store.containers() == []

parent, told = multiprocessing.Pipe()
if not os.fork():
    try:
        with reflayer.Sandbox(source) as box:
            told.send(box.path)
            threading.Timer(1, os.kill, (os.getpid(), signal.SIGKILL)).start()
            box.run(["sleep", "1000"])
    finally:
        os._exit(1)
told.close()
path = parent.recv()
os.wait()
while os.path.exists(path):  # where there is a namespace, it goes by itself
    with reflayer.Sandbox(source):
        pass
print("done")
"""


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "none"])
def test_his_programs_have_sandboxes(base: Path, ranges: bool) -> None:
    user = User(base, ranges=ranges)
    source = image(base / "other", User="web" if ranges else "0")
    (base / "program.py").write_text(_PROGRAM)
    # From Python 3.12 on it is deprecated to fork beside threads.
    program = (user.program[0], "-W", "ignore::DeprecationWarning", str(base / "program.py"))
    words = (*program, source, "101" if ranges else "0")

    def told() -> str:
        done = subprocess.run(
            in_one_version(*user.start_other(*words)),
            capture_output=True,
            text=True,
            timeout=200,
            cwd="/",
        )
        return done.stdout + done.stderr

    assert told() == "done\n"
    assert nothing_runs(user.store)
    if ranges:
        assert user.do("create", "--name", "one", source)  # it is where his commands are
        (base / "ranges").write_text("")
        assert "which this process is not in: /etc/subuid has no line for" in told()


def test_his_program_is_told_which_users_there_are(base: Path) -> None:
    user = User(base, ranges=False)
    code = "import sys, reflayer\nwith reflayer.Sandbox(sys.argv[1]) as box: box.run(['id'])"
    words = (user.program[0], "-c", code, image(base / "other", User="web"))
    done = subprocess.run(user.start_other(*words), capture_output=True, text=True, cwd="/")
    assert "no user 101 here" in done.stderr
    assert "/etc/subuid has no line for" in done.stderr
