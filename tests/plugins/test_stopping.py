"""A daemon stops when it is told to: what runs is finished first, unless it is told twice."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.plugins.daemons import Client, daemon, lines, until

SIGNALS = [(signal.SIGTERM, 143), (signal.SIGINT, 130)]


@pytest.fixture
def held(tmp_path: Path) -> Path:
    """As long as this file is there, a request that holds it runs."""
    path = tmp_path / "held"
    path.touch()
    return path


def _hold(client: Client, held: Path) -> None:
    """Let a request run."""
    assert client.ask("ping") == "pong"
    client.send("hold", held)
    until(lambda: held.read_text() == "running")


@pytest.mark.parametrize("number", [number for number, _ in SIGNALS])
def test_a_request_in_flight_is_finished_before_the_end(
    tmp_path: Path, held: Path, number: signal.Signals
) -> None:
    with daemon(lines(tmp_path)) as process:
        client = Client(tmp_path / "socket")
        _hold(client, held)
        process.send_signal(number)
        until(lambda: not (tmp_path / "socket").exists())  # nothing new is accepted
        assert process.poll() is None
        held.unlink()
        assert client.answer() == "done"
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert "stopped" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_a_second_signal_does_not_wait(
    tmp_path: Path, held: Path, number: signal.Signals, status: int
) -> None:
    with daemon(lines(tmp_path)) as process:
        client = Client(tmp_path / "socket")
        _hold(client, held)
        process.send_signal(number)
        until(lambda: not (tmp_path / "socket").exists())
        process.send_signal(number)
        assert process.wait(timeout=60) == status
        assert client.answer() == ""
