"""What is generated from the ``.proto`` files says what they say."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import grpc
import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

import reflayer
from reflayer.plugins.containerd.servicer import Servicer
from reflayer.plugins.service import Metrics
from tests.containerd.served import Served, code

if TYPE_CHECKING:
    from reflayer.plugins.containerd.snapshotter import Snapshotter

SOURCES = Path(reflayer.__file__).parents[1]
PROTOCOL = SOURCES / "reflayer/plugins/containerd/protocol"
METHOD = re.compile(
    r"(unary_\w+)\(\s*'([^']+)',"
    r"\s*request_serializer=\S+\.(\w+)\.SerializeToString,"
    r"\s*response_deserializer=\S+\.(\w+)\.FromString,"
)


def protoc(*arguments: str) -> None:
    """Run the compiler on all messages."""
    files = [str(path) for path in sorted(PROTOCOL.glob("*.proto"))]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{SOURCES}", *arguments, *files]
    subprocess.run(command, check=True)


def without_json_names(messages: list[DescriptorProto]) -> None:
    """Only one of both kinds of descriptors has these, which are made from the fields' names."""
    for message in messages:
        for field in message.field:
            field.ClearField("json_name")
        without_json_names(list(message.nested_type))


@pytest.mark.parametrize("name", ["mount", "snapshots"])
def test_the_generated_messages_are_those_of_the_proto_file(name: str, tmp_path: Path) -> None:
    protoc(f"--descriptor_set_out={tmp_path}/set")
    described = FileDescriptorSet.FromString((tmp_path / "set").read_bytes())
    (expected,) = [file for file in described.file if file.name.endswith(f"/{name}.proto")]
    without_json_names(list(expected.message_type))
    generated = importlib.import_module(f"reflayer.plugins.containerd.protocol.{name}_pb2")
    kept = FileDescriptorProto.FromString(generated.DESCRIPTOR.serialized_pb)
    assert kept == expected


def test_the_methods_that_are_served_are_those_of_the_proto_file(tmp_path: Path) -> None:
    protoc(f"--grpc_python_out={tmp_path}")
    generated = tmp_path / PROTOCOL.relative_to(SOURCES) / "snapshots_pb2_grpc.py"
    expected = METHOD.findall(generated.read_text())
    assert len(expected) == 10
    served = Servicer(cast("Snapshotter", None), Metrics()).__mapping__()
    assert expected == [
        (
            handler.cardinality.name.lower(),
            path,
            handler.request_type.DESCRIPTOR.name,
            handler.reply_type.DESCRIPTOR.name,
        )
        for path, handler in served.items()
    ]


@pytest.mark.parametrize(
    ("request_", "compression", "expected", "text"),
    [
        (b"\xff", grpc.Compression.NoCompression, grpc.StatusCode.INTERNAL, "cannot be read"),
        (bytes(1000), grpc.Compression.Gzip, grpc.StatusCode.UNIMPLEMENTED, "is compressed"),
    ],
)
def test_what_is_no_message_is_refused_in_one_line(
    lasting_service: Served,
    capfd: pytest.CaptureFixture[str],
    request_: bytes,
    compression: grpc.Compression,
    expected: grpc.StatusCode,
    text: str,
) -> None:
    path = "/containerd.services.snapshots.v1.Snapshots/Stat"
    with pytest.raises(grpc.RpcError) as refused:
        lasting_service.channel.unary_unary(path, bytes, bytes)(request_, compression=compression)
    assert code(refused.value) is expected
    assert text in str(refused.value)
    assert "Traceback" not in capfd.readouterr().err
