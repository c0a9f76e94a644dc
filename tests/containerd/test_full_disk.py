"""What a full disk lets one do, and how it gets empty again."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.containerd.served import Served, code, served
from tests.file_systems import mounted

_SIZE = 8 << 20  # bytes


@pytest.fixture
def service(tmp_path: Path, socket: Path) -> Iterator[Served]:
    """The service, with its home on a small file system."""
    with mounted("tmpfs", tmp_path, _SIZE) as place, served(place / "home", socket) as service:
        yield service


def fill(file: Path) -> None:
    """Write to ``file`` until nothing is left of the file system."""
    fd = os.open(file, os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(fd, bytes(4096))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    finally:
        os.close(fd)


def test_what_does_not_fit_is_refused_and_leaves_nothing(service: Served) -> None:
    (service.prepare("key") / "file").write_bytes(bytes(_SIZE // 4))
    service.commit("base", "key")
    fill(service.prepare("a") / "file")
    for key, parent in (("b", "base"), ("c", "")):
        with pytest.raises(grpc.RpcError, match=r"No space left|disk is full") as failed:
            service.prepare(key, parent)
        assert code(failed.value) is grpc.StatusCode.UNKNOWN
    assert service.names() == ["a", "base"]
    service.cleanup()
    assert service.leftovers() == []
    assert len(service.folders()) == 2


def test_a_removal_makes_room_on_a_full_disk(service: Served) -> None:
    fill(service.prepare("a") / "file")
    service.remove("a")
    assert service.names() == []
    service.prepare("b")
