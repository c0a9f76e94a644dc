"""What a full disk lets one do, and how it gets empty again."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.containerd.served import Served, code, served
from tests.file_systems import fill_up, mounted

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
    with pytest.raises(grpc.RpcError, match="No space left") as failed:
        service.prepare("b", "base")
    assert code(failed.value) is grpc.StatusCode.UNKNOWN
    assert service.names() == ["a", "base"]
    service.cleanup()
    assert service.leftovers() == []
    assert len(service.folders()) == 2


@pytest.mark.parametrize("kind", ["xfs", "btrfs", "ext4", "tmpfs"])
def test_all_can_be_removed_from_a_full_disk(tmp_path: Path, socket: Path, kind: str) -> None:
    size = {"xfs": 320 << 20, "btrfs": 128 << 20}.get(kind, 48 << 20)
    with mounted(kind, tmp_path, size) as place, served(place / "home", socket) as service:
        (service.prepare("key") / "file").write_bytes(bytes(1 << 16))
        service.commit("base", "key")
        keys = [f"key-{number}" for number in range(60)]  # of which the last ones fill the log
        for key in keys:
            service.prepare(key, "base")
        service.view("view", "base")
        fill_up(place)
        assert service.names() == ["base", *sorted(keys), "view"]
        for key in ("view", *keys, "base"):
            service.remove(key)
        assert service.names() == []
        service.cleanup()
        assert service.leftovers() == []
        subprocess.run(["rm", "-rf", str(place / "full"), str(place / "names")], check=True)
        assert service.stop() == 0
        service.start()
        assert service.names() == []
