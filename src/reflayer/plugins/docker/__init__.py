"""Docker's graph-driver plugin protocol: HTTP at a Unix socket, for Docker Engine up to 27."""

from __future__ import annotations

from reflayer.plugins.docker.service import DockerService

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.plugins.metrics import Metrics
    from reflayer.plugins.service import DockerOptions, Service
    from reflayer.plugins.work import Work

__all__ = ["service"]


def service(options: DockerOptions, work: Work, metrics: Metrics) -> Service:
    """The plugin, not started yet."""
    return DockerService(options, work, metrics)
