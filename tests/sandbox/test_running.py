"""A command runs as Docker would run it, by each runtime, and nothing is left of it."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from reflayer import Store
from tests.archive.tars import entry, folder
from tests.file_systems import require_root
from tests.sandbox.images import (
    command,
    image,
    in_one_version,
    lines,
    nothing_runs,
    reflayer,
    require_runtime,
)

Run = Callable[..., CompletedProcess[str]]


def test_the_images_command_runs_unless_another_is_given(run: Run, source: str, root: Path) -> None:
    assert lines(run(source)) == ["by default"]
    assert lines(run(source, "echo", "-n", "--rm")) == ["--rm"]
    assert nothing_runs(root)
    assert reflayer(root, "ps", "-q").stdout == ""
    assert [path.stat().st_mode & 0o777 for path in (root, root / "running")] == [0o700, 0o700]


def test_the_entrypoint_stays_before_a_command(run: Run, base: Path) -> None:
    source = image(base / "other", Entrypoint=["echo", "first"], Cmd=["by default"])
    assert lines(run(source)) == ["first by default"]
    assert lines(run(source, "given")) == ["first given"]
    assert lines(run("--entrypoint", "id", source, "-u")) == ["0"]
    assert "has no command" in run("--entrypoint", "", source).stderr


def test_environment_user_and_working_directory_are_the_images(
    run: Run, runtime: str, base: Path
) -> None:
    settings = {"Env": ["PATH=/bin", "A=1", "B=2"], "User": "web", "WorkingDir": "/srv/a/b"}
    source = image(base / "other", folder("shut", mode=0o700), **settings)
    if runtime == "bwrap":
        assert "runs a container's root alone" in run(source, "true").stderr
        return
    told = lines(
        run("-e", "B=x=y", "-e", "FROM_HERE", source, "sh", "-c", "env; pwd; id", FROM_HERE="1")
    )
    assert {"A=1", "B=x=y", "FROM_HERE=1", "HOME=/srv/web", "PATH=/bin", "/srv/a/b"} <= set(told)
    assert told[-1].startswith("uid=101(web) gid=102(www) groups=102(www),103(extra)")
    told = lines(
        run("-w", "/made/here", "-u", "7:extra", "-e", "A", source, "sh", "-c", "pwd; env")
    )
    assert told[0] == "/made/here"
    assert "A=1" not in told  # as with Docker, where it is not in the environment either
    assert lines(run("-w", "/shut", "-u", "7", source, "pwd")) == ["/shut"]  # which is root's


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("true", 0),
        ("sh -c 'exit 7'", 7),
        ("nosuch", 127),
        ("/bin/nosuch", 127),
        ("/etc/passwd", 126),
        ("/etc", 126),
        ("sh -c 'sh -c \"kill -9 \\$\\$\"; exit $?'", 137),
    ],
)
def test_the_exit_status_is_dockers(
    run: Run, source: str, root: Path, words: str, status: int
) -> None:
    done = run(source, *shlex.split(words))
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    if status in (126, 127):
        assert "reflayer: " in done.stderr
    assert nothing_runs(root)


def test_what_fails_before_is_125(run: Run, source: str, base: Path) -> None:
    assert run("-u", "nosuch", source, "true").returncode == 125
    assert run("-u", "0:nosuch", source, "true").returncode == 125
    assert run(f"oci:{base}/nosuch", "true").returncode == 125
    assert run("-v", "/etc:/x", "-v", "/dev:/x", source, "true").returncode == 125
    assert run("-v", "name:/x", source, "true").returncode == 2


def test_where_namespaces_are_not_permitted_it_says_how_they_are(
    runtime: str, source: str, root: Path
) -> None:
    without = ("setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin")
    program = in_one_version(*without, sys.executable, "-m", "reflayer", "--root", str(root))
    words = ("run", "--rm", "--runtime", runtime, "--ownership", "ignore", source, "true")
    done = subprocess.run([*program, *words], capture_output=True, text=True)
    assert done.returncode == 125
    assert "started with --privileged, or with" in done.stderr.splitlines()[-1]
    assert nothing_runs(root)
    told = subprocess.run([*program, "doctor", "--json"], capture_output=True, text=True)
    findings = json.loads(told.stdout)
    assert (findings["runtime"], findings["isolation"]) == ("", [])
    assert "reflayer run runs nothing: no process may have" in findings["advice"][-1]


def test_it_reads_and_writes_pipes(run: Run, source: str) -> None:
    text = "line\n" * 100_000
    assert run("-i", source, "cat", typed=text).stdout == text
    assert run(source, "cat", typed=text).stdout == ""
    done = run(source, "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_it_inherits_nothing_but_its_streams(runtime: str, source: str, root: Path) -> None:
    words = ("run", "--rm", "--runtime", runtime, source, "ls", "/proc/self/fd")
    fd = os.open("/", os.O_RDONLY)
    try:
        done = subprocess.run(
            command(root, *words), capture_output=True, text=True, check=False, pass_fds=(fd,)
        )
    finally:
        os.close(fd)
    assert lines(done) == ["0", "1", "2", "3"]  # the last one lists them


def test_it_sees_itself_alone(run: Run, source: str) -> None:
    script = "echo $$; hostname; ls /proc | grep -c '^[0-9]'; ls -A /dev/shm /sys/firmware"
    pid, name, processes, *more = lines(
        run(source, "sh", "-c", f"{script}; cat /proc/kcore || true")
    )
    assert not any(line and line[-1] != ":" for line in more)
    assert pid == "1"
    assert name == os.uname().nodename
    assert int(processes) < 5


def test_what_would_reach_the_host_is_refused(run: Run, source: str) -> None:
    for words in (
        "mount -t tmpfs tmpfs /tmp",
        "sh -c 'echo 1 >/proc/sys/kernel/dmesg_restrict'",
        "sh -c 'echo b >/proc/sysrq-trigger'",
        "sh -c 'mknod /tmp/disk b 7 0 && head -c 1 /tmp/disk'",
        "touch /sys/kernel/x",
        "touch /etc/hosts",
        "hostname other",
    ):
        assert run(source, *shlex.split(words)).returncode != 0, words


def test_a_device_of_the_image_does_not_work(run: Run, base: Path) -> None:
    source = image(base / "other", entry("disk", kind="block", mode=0o666, device=(7, 0)))
    done = run(source, "head", "-c", "1", "/disk")
    assert done.returncode != 0
    assert "not permitted" in done.stderr or "denied" in done.stderr


@pytest.mark.parametrize("name", ["proc", "dev", "sys"])
def test_nothing_is_mounted_through_a_link(base: Path, root: Path, name: str) -> None:
    require_root()
    source = image(base / "other", entry(name, kind="symlink", target="/etc"))
    done = reflayer(root, "run", "--rm", source, "true")
    assert (done.returncode, done.stderr.count("\n")) == (125, 1)
    assert f"/{name} is a link in the container" in done.stderr
    assert reflayer(root, "ps", "-q").stdout == ""


def test_without_network_there_is_loopback_alone(run: Run, source: str) -> None:
    script = "ip -o addr; cat /etc/hosts; hostname"
    *told, name = lines(run("--network", "none", source, "sh", "-c", script))
    assert "127.0.0.1\tlocalhost" in told
    assert len(name) == 12
    assert [line.split()[1] for line in told if " inet " in line] == ["lo"]


def test_volumes_are_seen_and_written(run: Run, source: str, base: Path) -> None:
    (base / "there").mkdir()
    (base / "file").write_text("one file")
    volumes = ("-v", f"{base}/there:/deep/down", "-v", f"{base}/file:/etc/one:ro")
    done = run(*volumes, source, "sh", "-c", "cat /etc/one; touch /deep/down/new; touch /etc/one")
    assert (done.stdout, done.returncode) == ("one file", 1)
    assert os.listdir(base / "there") == ["new"]


def test_a_read_only_root_has_writable_volumes(run: Run, base: Path) -> None:
    source = image(base / "other", Volumes={"/data/x": {}})
    script = "touch /data/x/new && ls /data/x && touch /new"
    done = run("--read-only", source, "sh", "-c", script)
    assert (done.stdout, done.returncode) == ("new\n", 1)
    assert "ead-only" in done.stderr


def test_signals_are_passed_on(runtime: str, source: str, root: Path) -> None:
    script = "trap 'echo got it; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    words = ("run", "--rm", "--runtime", runtime, source, "sh", "-c", script)
    with subprocess.Popen(command(root, *words), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "got it\n"
        assert process.wait(20) == 3
    assert nothing_runs(root)


def test_another_command_runs_beside(runtime: str, source: str, root: Path) -> None:
    script = "touch /tmp/mark; echo ready; sleep 100"
    words = ("run", "--rm", "--name", "one", "-e", "A=1", "--runtime", runtime, source)
    with subprocess.Popen(
        command(root, *words, "sh", "-c", script), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            told = lines(reflayer(root, "exec", "one", "sh", "-c", "ls /tmp; echo $A; ps"))
            assert told[:2] == ["mark", "1"]
            assert any(line.split()[0] == "1" and "sleep 100" in line for line in told[2:])
            told = lines(
                reflayer(
                    root,
                    "exec",
                    "-i",
                    "-u",
                    "web",
                    "-w",
                    "/etc",
                    "one",
                    "sh",
                    typed="id -u; pwd; echo $HOME",
                )
            )
            assert told == ["101", "/etc", "/srv/web"]
            assert reflayer(root, "exec", "one", "sh", "-c", "exit 9").returncode == 9
            missing = reflayer(root, "exec", "one", "nosuch")
            assert (missing.returncode, missing.stderr.count("\n")) == (127, 1)
            assert "is running" in reflayer(root, "rm", "one").stderr
            assert "is running" in reflayer(root, "run", "one", "true").stderr
            again = lines(reflayer(root, "exec", "one", "grep", "CapBnd", "/proc/self/status"))
            assert int(again[0].split()[1], 16) & 1 << 21 == 0  # CAP_SYS_ADMIN
        finally:
            process.kill()
    assert reflayer(root, "prune").returncode == 0
    assert nothing_runs(root)
    assert reflayer(root, "ps", "-q").stdout == ""


@pytest.mark.parametrize("runtime", ["bwrap", "namespaces"], indirect=True)
def test_no_command_runs_beside_another_that_has_the_number_by_now(
    runtime: str, source: str, root: Path
) -> None:
    words = ("run", "--rm", "--name", "one", "--runtime", runtime, source)
    script = ("sh", "-c", "echo ready; sleep 100")
    with subprocess.Popen(["true"]) as ended:
        pass
    with subprocess.Popen(command(root, *words, *script), stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            (info,) = root.glob("running/*/info")
            for number in (os.getpid(), ended.pid):
                info.write_text(json.dumps({"child-pid": number}) + "\n")
                done = reflayer(root, "exec", "one", "echo", "here")
                assert (done.returncode, done.stdout) == (125, "")
                assert done.stderr == (
                    "reflayer: one: is not running: reflayer run one COMMAND runs it\n"
                )
        finally:
            process.kill()
    assert reflayer(root, "prune").returncode == 0
    assert nothing_runs(root)


def test_a_container_stays_and_runs_again(run: Run, runtime: str, source: str, root: Path) -> None:
    words = ("run", "--runtime", runtime, "--name", "one", source, "touch", "/new")
    assert reflayer(root, *words).returncode == 0
    assert reflayer(root, "diff", "one").stdout.splitlines() == ["A /new"]
    again = reflayer(root, "run", "--runtime", runtime, "one", "ls", "/new")
    assert lines(again) == ["/new"]
    assert "there is a container" in run("--name", "one", source, "true").stderr
    assert run("one", "true").returncode == 2
    assert reflayer(root, "exec", "one", "true").returncode == 125


def test_any_runtime_runs_the_spec(base: Path, root: Path, source: str) -> None:
    require_root()
    require_runtime("runc")
    container = Store(root).create(source, name="one")
    bundle = base / "bundle"
    bundle.mkdir()
    done = reflayer(root, "spec", "-o", str(bundle / "config.json"), "one", "echo", "by hand")
    assert done.returncode == 0, done.stderr
    assert json.loads((bundle / "config.json").read_text())["root"]["path"] == container.path
    by_hand = ["runc", "--root", str(base / "state"), "run", "--bundle", str(bundle), "by-hand"]
    run = subprocess.run(by_hand, capture_output=True, text=True, check=False, timeout=60)
    assert (run.stdout, run.returncode) == ("by hand\n", 0), run.stderr


def test_a_container_with_a_map_runs_in_a_user_namespace(
    run: Run, runtime: str, base: Path, root: Path, source: str
) -> None:
    mapped = ("--map", "0:100000:65536")
    if runtime in ("bwrap", "namespaces"):
        refused = run(*mapped, source, "true")
        assert "with a map of ids is run by crun or runc alone" in refused.stderr
        return
    words = ("-w", "/made", "-v", f"{base}:/seen", *mapped)
    script = "id -u; cat /proc/self/uid_map; stat -c %u:%g / /made /bin/busybox; touch /new"
    done = run(*words, source, "sh", "-c", script)
    shown = [line.split() for line in lines(done)]
    assert shown == [["0"], ["0", "100000", "65536"], *[["0:0"]] * 3]
    reflayer(root, "create", "--name", "box", *mapped, source)
    done = reflayer(root, "run", "--runtime", runtime, "-u", "7:8", "box", "touch", "/tmp/mine")
    assert lines(done) == []
    assert lines(reflayer(root, "diff", "box")) == ["C /tmp", "A /tmp/mine"]
    path = Store(root).container("box").path
    status = os.stat(f"{path}/tmp/mine")
    assert (status.st_uid, status.st_gid) == (100_007, 100_008)
    written = json.loads(reflayer(root, "spec", "box", "true").stdout)["linux"]
    assert written["uidMappings"] == [{"containerID": 0, "hostID": 100_000, "size": 65536}]
    assert {"type": "user"} in written["namespaces"]
    refused = reflayer(root, "run", "--runtime", runtime, "-u", "70000", "box", "true")
    assert "by the map of the container: Container ID 70000" in refused.stderr
    modes = [os.stat(one).st_mode & 0o707 for one in (root, root / "layers", root / "running")]
    assert modes == [0o700] * 3
