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


def main() -> int:
    """0 where the snapshots are served; else 1, with the reason on standard error."""
    parser = argparse.ArgumentParser(description="Ask a snapshotter for its health.")
    parser.add_argument("socket", help="the path of its Unix socket")
    socket = parser.parse_args().socket
    try:
        answer = asyncio.run(_ask(socket))
    except (GRPCError, OSError, StreamTerminatedError) as error:
        reason = error.message if isinstance(error, GRPCError) else str(error)
        print(f"{socket}: {reason or type(error).__name__}", file=sys.stderr)
        return 1
    if answer.status != HealthCheckResponse.SERVING:
        print(f"{socket}: it does not serve", file=sys.stderr)
        return 1
    return 0


async def _ask(socket: str) -> HealthCheckResponse:
    request = HealthCheckRequest(service=DESCRIPTOR.services_by_name["Snapshots"].full_name)
    async with Channel(path=socket) as channel:
        return await HealthStub(channel).Check(request, timeout=_PATIENCE)


if __name__ == "__main__":
    sys.exit(main())
