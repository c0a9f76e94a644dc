"""containerd's snapshotter protocol: a proxy snapshotter for containerd, BuildKit and Kubernetes.

The service ``containerd.services.snapshots.v1.Snapshots`` over gRPC on a Unix socket.
"""
