"""The plugin and a real dockerd, each test's own: nothing of them is at the usual places.

A daemon looks for plugins in /run/docker/plugins alone. So it gets a mount namespace of its own in
which a temporary folder is /run.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import pytest

from tests.file_systems import require, require_root

REFLAYER = Path(sys.executable).with_name("reflayer")
_PATIENCE = 120.0  # seconds
_FIRST_WITHOUT_PLUGINS = 28
_IN_OWN_FOLDERS = """
set -e
[ ! -d "$1/etc" ] || mount --bind "$1/etc" /etc
mount --bind "$1" /run
shift
exec "$@"
"""


class Plugin:
    """``reflayer serve docker``.

    Attributes:
        socket: the path of its socket.
        log: the path of what it logged.
        program: what is started in place of ``reflayer``, if it is to do something else, too.
    """

    program: Sequence[str] = (str(REFLAYER),)

    def __init__(self, folder: Path, *options: str) -> None:
        """To be started, with its socket where a ``Dockerd`` of that folder looks for it."""
        self.socket = folder / "run/docker/plugins/reflayer.sock"
        self.log = folder / "plugin.log"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it until it answers."""
        command = [*self.program, "serve", "docker", f"--docker-socket={self.socket}"]
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [*command, "--log-level", "debug", *self._options],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            wait_until(self._answers)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> int:
        """End it as a service is ended; its exit status."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it in the middle of whatever it does."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        return end(process, number)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0


class Dockerd:
    """A Docker daemon, and its command line.

    Attributes:
        data: its data root.
        log: the path of what it logged.
    """

    def __init__(self, folder: Path, data: Path, *options: str) -> None:
        """To be started, with its state in ``folder`` and its layers below ``data``."""
        self.data = data
        self.log = folder / "dockerd.log"
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def start(self, driver: str = "reflayer") -> None:
        """Start it with that storage driver until it answers."""
        daemon = [
            "dockerd",
            "--host=unix:///run/docker.sock",
            "--experimental",
            f"--storage-driver={driver}",
            f"--data-root={self.data}",
            "--exec-root=/run/exec",
            "--pidfile=/run/docker.pid",
            "--bridge=none",
            "--iptables=false",
            "--ip6tables=false",
            *self._options,
        ]
        (self._folder / "run").mkdir(exist_ok=True)
        namespace = ["unshare", "--mount", "--propagation=slave", "sh", "-c", _IN_OWN_FOLDERS, "sh"]
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [*namespace, self._folder / "run", *daemon],
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "DOCKERD_DEPRECATED_GRAPHDRIVER_PLUGINS": "1"},
            )
        wait_until(self._answers)

    def stop(self) -> None:
        """End it as a service is ended."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it in the middle of whatever it does, and the containerd that it has started."""
        self._end(signal.SIGKILL)
        record = self._folder / "run/exec/containerd/containerd.pid"
        with suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int(record.read_text()), signal.SIGKILL)
        # The next daemon takes a process that nobody has waited for yet for one that runs.
        record.unlink(missing_ok=True)

    def tear_down(self) -> None:
        """End it and its containers."""
        if self._process is not None:
            for container in self.try_to("ps", "--all", "--quiet").stdout.split():
                self.try_to("rm", "--force", container)
            self.stop()

    def run(self, *arguments: str | Path, stdin: IO[bytes] | None = None) -> str:
        """What ``docker ARGUMENTS`` prints; it has to succeed."""
        done = self.try_to(*arguments, stdin=stdin)
        assert done.returncode == 0, f"docker {arguments}: {done.stderr}\n{self._last_words()}"
        return done.stdout.strip()

    def try_to(
        self, *arguments: str | Path, stdin: IO[bytes] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """``docker ARGUMENTS``, done."""
        return subprocess.run(
            self.command(*arguments),
            stdin=stdin or subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE,
            env=self.environment(),
        )

    def command(self, *arguments: str | Path) -> list[str | Path]:
        """The command line of ``docker ARGUMENTS``."""
        return ["docker", f"--host=unix://{self._folder}/run/docker.sock", *arguments]

    def environment(self) -> dict[str, str]:
        """The environment of its command line; images are built by the daemon itself."""
        config = {"DOCKER_CONFIG": f"{self._folder}/config", "DOCKER_BUILDKIT": "0"}
        return {**os.environ, **config}

    def layer(self, container: str) -> Path:
        """Where the root of a container is."""
        return Path(self.run("inspect", "--format={{.GraphDriver.Data.Path}}", container))

    def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is not None:
            end(process, number)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._last_words()
        return self.try_to("version").returncode == 0

    def _last_words(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-8:])


@contextmanager
def folder_for_plugin() -> Iterator[Path]:
    """A new folder, not far down: the path of a socket has to be short (unix(7))."""
    folder = Path(tempfile.mkdtemp(prefix="reflayer-docker-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def running_plugin() -> Iterator[Plugin]:
    """A plugin, for the block."""
    with folder_for_plugin() as folder:
        plugin = Plugin(folder)
        plugin.start()
        yield plugin
        plugin.stop()


@contextmanager
def folder_for_daemons() -> Iterator[Path]:
    """The same, where a daemon can be started too."""
    require_root()
    require("dockerd", "docker", "containerd", "runc", "unshare")
    if docker_release() >= _FIRST_WITHOUT_PLUGINS:
        # There is no other to be installed beside it, so under CI it is no failure.
        pytest.skip(f"Docker {docker_release()} has no graph-driver plugins any more")
    with folder_for_plugin() as folder:
        yield folder


def docker_release() -> int:
    """The major number of the Docker daemon that is installed."""
    told = subprocess.run(["dockerd", "--version"], check=True, capture_output=True, text=True)
    match = re.search(r"version (\d+)", told.stdout)
    assert match is not None, told.stdout
    return int(match[1])


@contextmanager
def running(
    data: Path, *options: str, etc: Mapping[str, str] | None = None
) -> Iterator[tuple[Dockerd, Plugin]]:
    """A daemon with its layers in our plugin, below ``data``; it has those files in /etc."""
    with folder_for_daemons() as folder:
        if etc is not None:
            (folder / "run").mkdir()
            shutil.copytree("/etc", folder / "run/etc", symlinks=True)
            for name, text in etc.items():
                (folder / "run/etc" / name).write_text(text)
        plugin = Plugin(folder)
        dockerd = Dockerd(folder, data, *options)
        try:
            plugin.start()
            dockerd.start()
            yield dockerd, plugin
        finally:
            dockerd.tear_down()
            plugin.stop()


def end(process: subprocess.Popen[bytes], number: int) -> int:
    """The exit status of ``process`` after that signal; one that does not end is killed."""
    process.send_signal(number)
    try:
        return process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


def wait_until(condition: Callable[[], bool], seconds: float = _PATIENCE) -> None:
    """Return when ``condition`` holds; fail when it does not in that time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
