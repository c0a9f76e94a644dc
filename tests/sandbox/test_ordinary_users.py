"""An ordinary user runs commands as root of a user namespace, by each runtime."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.sandbox.images import image, in_one_version, nothing_runs
from tests.store.users import COUNT, FIRST, USER, User


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


def test_his_programs_have_sandboxes_where_his_commands_are(base: Path) -> None:
    user = User(base, ranges=True)
    source = image(base / "other", User="web")
    assert by(user, "pull", source).returncode == 0
    code = (
        "import sys, reflayer\n"
        "with reflayer.Sandbox(sys.argv[1]) as box:\n"
        "    print(box.run(['id', '-u'], check=True).stdout)"
    )
    done = by(user, "unshare", user.program[0], "-c", code, source)
    assert (done.stdout.strip(), done.returncode) == ("101", 0), done.stderr
    assert nothing_runs(user.store)


def test_his_programs_that_are_elsewhere_are_told_the_way(base: Path) -> None:
    user = User(base, ranges=True)
    source = image(base / "other", User="web")
    code = (
        "import sys, reflayer\n"
        "try:\n"
        "    with reflayer.Sandbox(sys.argv[1], user=sys.argv[2]) as box:\n"
        "        print(box.run(['id', '-u'], check=True).stdout)\n"
        "except reflayer.ReflayerError as error:\n"
        "    print(error)\n"
    )

    def told(as_user: str) -> str:
        command = user.start_other(user.program[0], "-c", code, source, as_user)
        done = subprocess.run(in_one_version(*command), capture_output=True, text=True, cwd="/")
        assert done.stderr == ""
        return done.stdout.strip()

    assert told("0") == "0"
    assert "no user 101 here" in told("web")
    (base / "ranges").write_text("")
    assert "/etc/subuid has no line for" in told("web")
    (base / "ranges").write_text(f"{USER}:{FIRST}:{COUNT}\n")
    assert "a program started by reflayer unshare has more" in told("web")
    assert by(user, "pull", source).returncode == 0  # in a namespace; the store is of that now
    assert "which this process is not in" in told("0")
