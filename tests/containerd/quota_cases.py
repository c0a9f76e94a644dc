"""Cases of snapshots with a size, for a kernel with project quotas: ``test_quota`` runs them."""

from __future__ import annotations

import os
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import pytest

from tests.containerd.served import Served, until
from tests.quotas import writable

_MIB = 1 << 20
_LABEL = "containerd.io/snapshot/disk_quota"
_METRICS = "127.0.0.1:9517"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Served]:
    """One whose snapshots may take 20 MiB, with the committed ``base`` of 5 MiB."""
    with TemporaryDirectory(dir="/run") as run:
        service = Served(tmp_path / "home", Path(run) / "socket")
        try:
            service.start("--size=20M", f"--metrics={_METRICS}")
            upper, _ = service.unpack("extract-1 base")
            (upper / "large").write_bytes(os.urandom(25 * _MIB))  # a layer has no limit
            os.truncate(upper / "large", 5 * _MIB)
            service.commit("base", "extract-1 base")
            yield service
        finally:
            service.close()


def test_a_snapshot_takes_its_size_and_no_more(service: Served) -> None:
    assert 13 <= writable(service.prepare("a", "base")) <= 15
    assert 33 <= writable(service.prepare("b", "base", **{_LABEL: "40M"})) <= 35
    assert writable(service.prepare("c", "base", **{_LABEL: "0"})) == 64
    assert 18 <= writable(service.prepare("d")) <= 20


def test_a_label_that_is_no_size_is_refused(service: Served) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        service.prepare("a", "base", **{_LABEL: "much"})
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "much" in str(caught.value.details())
    assert service.names() == ["base"]


def test_usage_and_metrics_tell_what_the_file_system_counts(service: Served) -> None:
    folder = service.prepare("a", "base")
    until(lambda: service.usage("a")[1] == 2)  # XFS frees what was tried in the clone behind
    before, inodes = service.usage("a")
    (folder / "file").write_bytes(os.urandom(2 * _MIB))
    os.sync()
    after, more = service.usage("a")
    assert 5 * _MIB <= before < 5.5 * _MIB
    assert after - before == 2 * _MIB
    assert (inodes, more) == (2, 3)
    page = urllib.request.urlopen(f"http://{_METRICS}/metrics").read().decode()
    gauges = dict(re.findall(r'reflayer_snapshot_(\w+)\{snapshot="a"\} (\S+)', page))
    assert {name: float(value) for name, value in gauges.items()} == {
        "used_bytes": after,
        "limit_bytes": 20 * _MIB,
    }


def test_what_was_committed_has_no_limit_for_its_children(service: Served) -> None:
    folder = service.prepare("a", "base")
    (folder / "file").write_bytes(os.urandom(4 * _MIB))
    service.commit("next", "a")
    assert 9 <= writable(service.prepare("b", "next")) <= 11
    assert writable(service.prepare("c", "next", **{_LABEL: "0"})) == 64
