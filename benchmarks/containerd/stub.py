"""A client of a gRPC service by grpcio, which is another library than the server's."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass


class Stub:
    """The methods of ``service`` by their names, as generated code has them."""

    def __init__(self, channel: grpc.Channel, service: ServiceDescriptor) -> None:
        for method in service.methods:
            kind = channel.unary_stream if method.server_streaming else channel.unary_unary
            call = kind(
                f"/{service.full_name}/{method.name}",
                GetMessageClass(method.input_type).SerializeToString,
                GetMessageClass(method.output_type).FromString,
            )
            setattr(self, method.name, call)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)
