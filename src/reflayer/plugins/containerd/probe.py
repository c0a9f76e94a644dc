"""Ask a snapshotter on its socket for its health: ``python -m reflayer.plugins.containerd.probe``.

For Kubernetes, whose own gRPC probes reach no Unix socket.
"""

from __future__ import annotations

import argparse
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from reflayer.plugins.containerd.server import SERVICE

_PATIENCE = 5.0  # seconds


def main() -> int:
    """0 where the snapshots are served; else 1, with the reason on standard error."""
    parser = argparse.ArgumentParser(description="Ask a snapshotter for its health.")
    parser.add_argument("socket", help="the path of its Unix socket")
    socket = parser.parse_args().socket
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=_PATIENCE)
        except grpc.RpcError as error:
            reason = error.details()
            print(f"{socket}: {reason}", file=sys.stderr)
            return 1
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        print(f"{socket}: it does not serve", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
