"""``Sandbox`` runs a program's commands, and is gone whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reflayer import Sandbox, Store
from reflayer.errors import SandboxError
from tests.sandbox.images import image, nothing_runs

_PATIENCE = 120.0  # seconds


@pytest.fixture
def store(root: Path) -> Store:
    return Store(root)


@pytest.fixture(params=["runc", "namespaces"])
def runtime(request: pytest.FixtureRequest) -> str:
    """An OCI runtime, and the other kind."""
    from tests.file_systems import require_root
    from tests.sandbox.images import require_runtime

    require_root()
    require_runtime(request.param)
    assert isinstance(request.param, str)
    return request.param


def test_commands_share_the_container(store: Store, source: str, runtime: str) -> None:
    with Sandbox(source, store=store, runtime=runtime, env={"A": "1"}) as box:
        assert box.run().stdout == "by default\n"
        done = box.run(
            ["sh", "-c", "cat >/new; echo $A$B; echo bad >&2; exit 3"], input="x", env={"B": "2"}
        )
        assert (done.returncode, done.stdout, done.stderr) == (3, "12\n", "bad\n")
        assert Path(box, "new").read_text() == "x"
        assert box.run(["cat", "new"], workdir="/").stdout == "x"
        assert box.run(["id", "-u"], user="web").stdout == "101\n"
        with pytest.raises(subprocess.CalledProcessError):
            box.run(["sh", "-c", "exit 1"], check=True)
        with pytest.raises(SandboxError) as caught:
            box.run(["nosuch"])
        assert caught.value.status == 127
        path = box.path
    assert not os.path.exists(path)
    assert store.containers() == []
    assert nothing_runs(Path(store.root))
    with pytest.raises(SandboxError, match="with statement"):
        box.run(["true"])


def test_what_takes_too_long_is_ended_with_all_it_started(
    store: Store, source: str, runtime: str
) -> None:
    with Sandbox(source, store=store, runtime=runtime) as box:
        alive = Path(box, "alive")
        script = "(while :; do echo >>/alive; sleep 0.05; done) & echo begun; wait"
        with pytest.raises(subprocess.TimeoutExpired) as caught:
            box.run(["sh", "-c", script], timeout=4)
        assert caught.value.output == "begun\n"
        size = alive.stat().st_size
        assert size
        time.sleep(0.3)
        assert alive.stat().st_size == size
        assert box.run(["echo", "still there"]).stdout == "still there\n"


def test_an_error_in_the_block_leaves_nothing(store: Store, source: str, runtime: str) -> None:
    with pytest.raises(TypeError), Sandbox(source, store=store, runtime=runtime) as box:
        box.run("true")
    assert store.containers() == []
    with pytest.raises(SandboxError), Sandbox(source, store=store, user="nosuch") as box:
        box.run(["true"])
    assert store.containers() == []
    assert nothing_runs(Path(store.root))


def test_threads_run_side_by_side(store: Store, source: str, runtime: str) -> None:
    def in_own(number: int) -> str:
        with Sandbox(source, store=store, runtime=runtime) as box:
            box.run(["sh", "-c", f"echo {number} >/number"])
            return box.run(["cat", "/number"]).stdout

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(in_own, range(6))) == [f"{n}\n" for n in range(6)]
        with Sandbox(source, store=store, runtime=runtime) as box:
            words = (["echo", str(number)] for number in range(6))
            done = list(pool.map(box.run, words))
    assert [one.stdout for one in done] == [f"{n}\n" for n in range(6)]
    assert store.containers() == []
    assert nothing_runs(Path(store.root))


def test_a_killed_process_s_sandbox_goes_with_the_next(
    store: Store, source: str, runtime: str
) -> None:
    code = (
        "import sys; from reflayer import Sandbox, Store\n"
        "with Sandbox(sys.argv[1], store=Store(sys.argv[2]), runtime=sys.argv[3]) as box:\n"
        "    print(box.path, flush=True)\n"
        "    box.run(['sh', '-c', 'while :; do echo >>/alive; sleep 0.05; done'])\n"
    )
    words = [sys.executable, "-c", code, source, store.root, runtime]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        path = Path(process.stdout.readline().strip())
        end = time.monotonic() + _PATIENCE
        while not (path / "alive").exists():
            assert time.monotonic() < end
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert path.exists()
    with Sandbox(source, store=store, runtime=runtime) as box:
        assert not path.exists()
        assert [one.id for one in store.containers()] == [box.container.id]


def test_a_spare_is_taken(store: Store, source: str) -> None:
    store.pull(source)
    store.warm(source, 1)
    with Sandbox(source, store=store) as box:
        assert os.path.isdir(box)


def test_volumes_and_a_read_only_root(store: Store, source: str, runtime: str, base: Path) -> None:
    (base / "there").mkdir()
    volumes = {f"{base}/there": "/there", "/etc/hostname": "/name:ro"}
    with Sandbox(source, store=store, runtime=runtime, volumes=volumes, read_only=True) as box:
        script = "touch /there/new; touch /new || touch /name || echo refused"
        assert box.run(["sh", "-c", script]).stdout == "refused\n"
    assert os.listdir(base / "there") == ["new"]


def test_it_goes_back_to_what_it_was(store: Store, source: str, runtime: str) -> None:
    with Sandbox(source, store=store, runtime=runtime) as box:
        box.run(["touch", "/first"])
        box.checkpoint("one")
        box.run(["sh", "-c", "rm /first /bin/busybox; echo >/second"])
        with pytest.raises(SandboxError):
            box.run(["ls"])
        box.rollback()
        assert "first" in box.run(["ls"]).stdout.split()
        box.run(["touch", "/second"])
        assert box.checkpoint().name != "one"
        box.rollback("one")
        assert "second" not in box.run(["ls"]).stdout.split()
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(box.run, ["sh", "-c", "touch /tmp/on; sleep 1000"], timeout=6)
            while not os.path.exists(f"{box.path}/tmp/on"):
                time.sleep(0.02)
            with pytest.raises(SandboxError, match="is running"):
                box.rollback()
            with pytest.raises(subprocess.TimeoutExpired):
                running.result()
        box.rollback()
    assert store.containers() == []
    assert nothing_runs(Path(store.root))


@pytest.mark.parametrize(
    "settings",
    [{"runtime": "lxc"}, {"network": "bridge"}, {"volumes": {"/x": "y"}}, {"user": "\0"}],
)
def test_what_is_not_right_is_refused_at_once(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Sandbox("debian", **settings)  # type: ignore[arg-type]


def test_an_image_of_another_user(store: Store, base: Path, runtime: str) -> None:
    with Sandbox(image(base / "other", User="web"), store=store, runtime=runtime) as box:
        assert box.run(["id", "-un"]).stdout == "web\n"
