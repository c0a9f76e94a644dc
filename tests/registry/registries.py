"""Debian's docker-registry, started for tests: plain, with a password, with TLS."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.file_systems import require

USER, PASSWORD = "ada", "s3cret:with:colons"
_PATIENCE = 120.0  # seconds
_LISTENING = re.compile(r"listening on [\d.]+:(\d+)")


@dataclass(frozen=True)
class Registry:
    """A registry that runs.

    Attributes:
        host: its name and port.
        folder: where it keeps its blobs.
        log: what it has told of its requests.
    """

    host: str
    folder: Path
    log: Path

    def requests(self, text: str) -> list[str]:
        """The lines of its access log with this text in them, so far."""
        return [line for line in self.log.read_text().splitlines() if text in line and '"' in line]


@contextmanager
def running(folder: Path, **http: object) -> Iterator[Registry]:
    """A registry at a port of its own, with these settings of ``http`` (and ``auth``)."""
    require("docker-registry")
    settings = {
        "version": "0.1",
        "log": {"level": "info"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": "127.0.0.1:0", **http},
    }
    auth = settings["http"].pop("auth", None)  # type: ignore[attr-defined]
    if auth:
        settings["auth"] = auth
    (folder / "data").mkdir(parents=True)
    (folder / "settings.yml").write_text(json.dumps(settings))  # JSON is YAML
    log = folder / "log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(folder / "settings.yml")],
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield Registry(f"localhost:{_port(log, process)}", folder / "data", log)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def with_password(folder: Path) -> dict[str, object]:
    """The settings that let nobody in but ``USER``."""
    require("htpasswd")
    file = folder / "htpasswd"
    made = subprocess.run(["htpasswd", "-Bbn", USER, PASSWORD], check=True, capture_output=True)
    file.write_bytes(made.stdout)
    return {"auth": {"htpasswd": {"realm": "here", "path": str(file)}}}


def _port(log: Path, process: subprocess.Popen[bytes]) -> int:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end and process.poll() is None:
        match = _LISTENING.search(log.read_text())
        if match:
            return int(match[1])
        time.sleep(0.02)
    raise AssertionError(f"the registry did not start: {log.read_text()}")
