"""``reflayer serve --metrics``: Prometheus metrics and a health check over HTTP."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from functools import partial
from http.server import ThreadingHTTPServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    MetricsHandler,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from reflayer.errors import ReflayerError, ServiceError
from reflayer.plugins.service import Metrics

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from reflayer.copy import CopyReport
    from reflayer.linux.project_quota import ProjectUse

_BUCKETS = (0.001, 0.005, 0.02, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)  # seconds
_PATIENCE = 10  # seconds for a client to send its request, and for the event loop to answer

_log = logging.getLogger("reflayer.metrics")


class PrometheusMetrics(Metrics):
    """Counts, for Prometheus to read at ``http://HOST:PORT/metrics``.

    ``/healthz`` there answers 200 as long as the event loop does.
    """

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        labels = ("service", "operation")
        counter = partial(Counter, registry=registry)
        histogram = partial(Histogram, buckets=_BUCKETS, registry=registry)
        self._operations = counter(
            "reflayer_operations", "Requests answered.", (*labels, "outcome")
        )
        self._seconds = histogram(
            "reflayer_operation_seconds", "Time that the requests took.", labels
        )
        self._bytes = counter(
            "reflayer_copied_bytes", "Content of clones, by the method that moved it.", ("method",)
        )
        self._entries = counter("reflayer_copied_entries", "Names made in clones.")
        self._layers = _Counted("layers", "Layers that there are.")
        self._spares = _Counted("spares", "Containers that are made ahead.")
        registry.register(self._layers)
        registry.register(self._spares)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._server: ThreadingHTTPServer | None = None

    def copied(self, report: CopyReport | None) -> None:
        if report is None:
            return
        self._entries.inc(sum(report.entries.values()))
        for method, size in report.bytes.items():
            self._bytes.labels(method).inc(size)

    def layers(self, service: str, count: Callable[[], int], spares: Callable[[], int]) -> None:
        self._layers.counts[service] = count
        self._spares.counts[service] = spares

    def limits(self, uses: Callable[[], Iterable[tuple[str, ProjectUse]]]) -> None:
        self._registry.register(_Limits(uses))

    def serve(self, host: str, port: int) -> int:
        """Answer HTTP in threads; from within the event loop. Return the port, chosen where 0.

        Raises:
            ServiceError: this cannot be listened on.
        """

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
            daemon_threads = True

        class Handler(_Handler):
            registry = self._registry
            loop = asyncio.get_running_loop()

        try:
            self._server = Server((host, port), Handler)
        except OSError as error:
            reason = error.strerror or error
            raise ServiceError(f"--metrics {host}:{port}: cannot listen there: {reason}") from error
        where = f"[{host}]" if ":" in host else host
        _log.info("metrics at http://%s:%d/metrics", where, self._server.server_port)
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()
        return self._server.server_port

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def _count(self, service: str, name: str, outcome: str, seconds: float) -> None:
        self._operations.labels(service, name, outcome).inc()
        self._seconds.labels(service, name).observe(seconds)


class _Counted(Collector):
    """A gauge of what each service has, counted when it is read."""

    def __init__(self, what: str, told: str) -> None:
        self._what = what
        self._told = told
        self.counts: dict[str, Callable[[], int]] = {}

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(f"reflayer_{self._what}", self._told, labels=["service"])
        for service, count in self.counts.items():
            try:
                family.add_metric([service], count())
            except ReflayerError as error:  # its absence tells; the rest is still worth reading
                _log.warning("the %s of %s cannot be counted: %s", self._what, service, error)
        yield family


class _Limits(Collector):
    """The gauges of snapshots with a size, asked for when they are read."""

    def __init__(self, uses: Callable[[], Iterable[tuple[str, ProjectUse]]]) -> None:
        self._uses = uses

    def describe(self) -> Iterator[GaugeMetricFamily]:
        return iter(())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        name, of = "reflayer_snapshot", ["snapshot"]
        used = GaugeMetricFamily(f"{name}_used_bytes", "Taken of a snapshot's size.", labels=of)
        limit = GaugeMetricFamily(f"{name}_limit_bytes", "A snapshot's size.", labels=of)
        for snapshot, use in self._uses():
            used.add_metric([snapshot], use.bytes)
            limit.add_metric([snapshot], use.limit)
        yield from (used, limit)


class _Handler(MetricsHandler):
    """prometheus-client's page at /metrics, and our health at /healthz."""

    loop: asyncio.AbstractEventLoop
    timeout = _PATIENCE
    server_version = "reflayer"
    sys_version = ""

    def do_GET(self) -> None:  # noqa: N802
        path = self.path.partition("?")[0]
        if path == "/metrics":
            super().do_GET()
        elif path == "/healthz":
            is_healthy = _answers(self.loop)
            self.send_response(200 if is_healthy else 503)
            self.send_header("Content-Type", "text/plain")
            self.end_headers()
            self.wfile.write(b"ok\n" if is_healthy else b"stuck\n")
        else:
            self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """At level debug, with all that the service logs."""
        _log.debug(format, *args)


def _answers(loop: asyncio.AbstractEventLoop) -> bool:
    answered = threading.Event()
    try:
        loop.call_soon_threadsafe(answered.set)
    except RuntimeError:  # it is closed
        return False
    return answered.wait(_PATIENCE)
