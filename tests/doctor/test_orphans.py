"""Which layers Docker's records do not name: none too many, and never by a record unread."""

from __future__ import annotations

from pathlib import Path

import pytest

from reflayer.doctor.orphans import orphans
from reflayer.errors import OperationError

_IMAGE, _MOUNT, _GOING, _LOST = (digit * 64 for digit in "abcd")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with layers of ours, all of them recorded but one."""
    layers = tmp_path / "reflayer/dir"
    for id in (_IMAGE, _MOUNT, _GOING, _LOST, "0a1b2c3d4e5f6g7h8i9j0k1l2"):
        (layers / id).mkdir(parents=True)
    for id in (_MOUNT, _LOST):
        (tmp_path / f"reflayer/differences/{id}-init").mkdir(parents=True)
    (tmp_path / "reflayer/trash.lock").touch()
    records = tmp_path / "image/reflayer/layerdb"
    for path, id in (
        ("sha256/1/cache-id", f"{_IMAGE}\n"),
        ("sha256/1-2-removing/cache-id", _GOING),
        ("mounts/3/mount-id", _MOUNT),
        ("mounts/3/init-id", f"{_MOUNT}-init"),
    ):
        (records / path).parent.mkdir(parents=True, exist_ok=True)
        (records / path).write_text(id)
    return tmp_path


def test_only_a_layer_that_is_named_nowhere_is_told(root: Path) -> None:
    assert orphans(str(root)) == [
        f"{root}/reflayer/dir/{_LOST}",
        f"{root}/reflayer/differences/{_LOST}-init",
    ]


def test_nothing_is_told_without_records(root: Path) -> None:
    (root / "image/reflayer").rename(root / "image/moved")
    assert orphans(str(root)) == []


def test_another_driver_s_layers_are_not_ours_to_tell(root: Path) -> None:
    (root / "reflayer/trash.lock").unlink()
    assert orphans(str(root)) == []


def test_a_record_that_cannot_be_read_is_an_error(root: Path) -> None:
    record = root / "image/reflayer/layerdb/mounts/3/mount-id"
    record.unlink()
    record.mkdir()
    with pytest.raises(OperationError, match="mount-id: read: Is a directory"):
        orphans(str(root))
