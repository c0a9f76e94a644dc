"""Metrics, for those who ask for them."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from reflayer import copy_tree
from reflayer.errors import CopyError, LayerError, ServiceError
from reflayer.plugins.prometheus import PrometheusMetrics
from reflayer.plugins.service import Metrics


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def _pages(metrics: PrometheusMetrics, *paths: str, host: str = "127.0.0.1") -> list[str]:
    """What is answered at ``paths``, with their status before it."""

    async def read() -> list[str]:
        port = metrics.serve(host, 0)
        where = f"[{host}]" if ":" in host else host
        try:
            urls = [f"http://{where}:{port}{path}" for path in paths]
            answers = [await asyncio.to_thread(_get, url) for url in urls]
        finally:
            metrics.close()
        return [f"{status} {text}" for status, text in answers]

    return asyncio.run(read())


def test_operations_are_counted_by_outcome_and_timed() -> None:
    metrics = PrometheusMetrics()
    for _ in range(2):
        with metrics.operation("docker", "Get", id="a"):
            pass
    for error in (LayerError("a"), CopyError(b"a", "b", "c"), asyncio.CancelledError()):
        with pytest.raises(type(error)), metrics.operation("docker", "Create"):
            raise error
    with metrics.operation("docker", "Exists") as operation:
        operation.outcome = "refused"
    (page,) = _pages(metrics, "/metrics")
    for name, outcome, count in [
        ("Get", "ok", 2),
        ("Create", "refused", 1),
        ("Create", "failed", 1),
        ("Create", "cancelled", 1),
        ("Exists", "refused", 1),
    ]:
        labels = f'operation="{name}",outcome="{outcome}",service="docker"'
        assert f"reflayer_operations_total{{{labels}}} {count}.0\n" in page
    labels = 'operation="Create",service="docker"'
    assert f"reflayer_operation_seconds_count{{{labels}}} 3.0\n" in page
    assert "\nprocess_resident_memory_bytes " in page


def test_what_clones_copied_is_counted(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_bytes(b"seven b")
    metrics = PrometheusMetrics()
    metrics.copied(copy_tree(tmp_path / "source", tmp_path / "copy", method="stream"))
    metrics.copied(None)
    (page,) = _pages(metrics, "/metrics")
    assert 'reflayer_copied_bytes_total{method="stream"} 7.0\n' in page
    assert "reflayer_copied_entries_total 2.0\n" in page


def test_layers_are_counted_when_they_are_read(caplog: pytest.LogCaptureFixture) -> None:
    def bad() -> int:
        raise LayerError("not now")

    metrics = PrometheusMetrics()
    metrics.layers("docker", [1, 2, 3].__len__, [1].__len__)
    metrics.layers("containerd", bad, bad)
    (page,) = _pages(metrics, "/metrics")
    assert 'reflayer_layers{service="docker"} 3.0\n' in page
    assert 'reflayer_layers{service="containerd"}' not in page
    assert 'reflayer_spares{service="docker"} 1.0\n' in page
    assert "the layers of containerd cannot be counted: not now" in caplog.text


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_health_is_told_and_nothing_else_is_there(host: str) -> None:
    metrics = PrometheusMetrics()
    health, other = _pages(metrics, "/healthz", "/secret", host=host)
    assert health == "200 ok\n"
    assert other == "404 "


def test_an_event_loop_that_is_stuck_is_not_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading
    import time

    monkeypatch.setattr("reflayer.plugins.prometheus._PATIENCE", 0.05)
    metrics, answers = PrometheusMetrics(), []

    async def be_stuck() -> None:
        port = metrics.serve("127.0.0.1", 0)
        url = f"http://127.0.0.1:{port}/healthz"
        asking = threading.Thread(target=lambda: answers.append(_get(url)))
        asking.start()
        while not answers:  # nothing is awaited
            time.sleep(0.01)
        asking.join()
        metrics.close()

    asyncio.run(be_stuck())
    assert answers == [(503, "")]


def test_an_address_in_use_is_one_clear_error() -> None:
    async def twice() -> None:
        first = PrometheusMetrics()
        port = first.serve("127.0.0.1", 0)
        try:
            with pytest.raises(ServiceError, match=f"--metrics 127.0.0.1:{port}: cannot listen"):
                PrometheusMetrics().serve("127.0.0.1", port)
        finally:
            first.close()

    asyncio.run(twice())


def test_each_request_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "reflayer.docker")
    with Metrics().operation("docker", "Get", id="abc"):
        pass
    with pytest.raises(CopyError), Metrics().operation("docker", "Create", id="abc"):
        raise CopyError(b"path", "clone", "no space")
    get, create = caplog.records
    assert (get.levelname, get.getMessage()) == ("DEBUG", "Get ok")
    assert (create.levelname, create.getMessage()) == ("ERROR", "Create failed")
    fields = create.__dict__["fields"]
    assert fields["error"] == "path: clone: no space"
    assert list(fields) == ["operation", "id", "outcome", "seconds", "error"]


def test_without_metrics_nothing_of_prometheus_is_imported() -> None:
    program = (
        "import sys, reflayer.cli.serve, reflayer.plugins.service\n"
        "sys.exit('prometheus_client' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
