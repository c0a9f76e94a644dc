"""Ask a snapshotter on its socket for its health: ``python -m reflayer.plugins.containerd.probe``.

For Kubernetes, whose own gRPC probes reach no Unix socket.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from grpclib.client import Channel
from grpclib.exceptions import GRPCError, StreamTerminatedError
from grpclib.health.v1.health_grpc import HealthStub
from grpclib.health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from reflayer.plugins.containerd.protocol.snapshots_pb2 import DESCRIPTOR

_PATIENCE = 5.0  # seconds


def main() -> None:
    """Exit with status 1, and the reason on standard error, where the snapshots are not served."""
    parser = argparse.ArgumentParser(description="Ask a snapshotter for its health.")
    parser.add_argument("socket", help="the path of its Unix socket")
    socket = parser.parse_args().socket
    try:
        answer = asyncio.run(_ask(socket))
    except (GRPCError, OSError, StreamTerminatedError) as error:
        reason = error.message if isinstance(error, GRPCError) else str(error)
        sys.exit(f"{socket}: {reason or type(error).__name__}")
    if answer.status != HealthCheckResponse.SERVING:
        sys.exit(f"{socket}: it does not serve")


async def _ask(socket: str) -> HealthCheckResponse:
    request = HealthCheckRequest(service=DESCRIPTOR.services_by_name["Snapshots"].full_name)
    async with Channel(path=socket) as channel:
        return await HealthStub(channel).Check(request, timeout=_PATIENCE)


if __name__ == "__main__":
    main()
