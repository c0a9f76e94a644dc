"""containerd's snapshotter protocol: a proxy snapshotter for containerd, BuildKit and Kubernetes.

The service ``containerd.services.snapshots.v1.Snapshots`` over gRPC on a Unix socket.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.plugins.metrics import Metrics
    from reflayer.plugins.service import ContainerdOptions, Service
    from reflayer.plugins.work import Work


def service(options: ContainerdOptions, work: Work, metrics: Metrics) -> Service:
    """The snapshotter of the home that ``options`` name."""
    from reflayer.plugins.containerd.server import ContainerdService  # and gRPC

    return ContainerdService(options, work, metrics)
