"""The folders of the snapshots in the driver's home, and that they agree with the records."""

from __future__ import annotations

import logging
import os

from reflayer.driver.home import TRASH
from reflayer.errors import OperationError
from reflayer.plugins.containerd.snapshot import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.driver import Driver
    from reflayer.plugins.containerd.records import Records
    from reflayer.plugins.containerd.snapshot import Snapshot

_log = logging.getLogger("reflayer.containerd")


def has_own_folder(snapshot: Snapshot) -> bool:
    """Whether its folder is its own: a view of a parent shows that of its parent."""
    return snapshot.kind is not Kind.VIEW or not snapshot.parent


def left_by_removed(home: str) -> set[str]:
    """The names of the folders that are still to be deleted.

    Raises:
        OperationError: they cannot be listed.
    """
    trash = f"{home}/{TRASH}"
    try:
        # NFS keeps what is unlinked while it is open as .nfs...
        return {name for name in os.listdir(trash) if not name.startswith(".nfs")}
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(trash), "list") from error


def agree(driver: Driver, records: Records) -> None:
    """Let go of what is only half there after a crash or power cut: a folder, or a record.

    A snapshot's folder is made before it is recorded, and its record goes together with its folder:
    so a folder without a record is nobody's, and a record without a folder is of a snapshot that
    was being removed.

    Raises:
        ReflayerError: that cannot be done.
    """
    folders = set(driver.list())
    recorded = set()
    lost = []
    for snapshot in records.all():
        recorded.add(snapshot.folder)
        if snapshot.folder not in folders:
            lost.append(snapshot.name)
    for name in lost:
        _log.warning("snapshot %s has no folder any more: it is forgotten", name)
    if lost:
        records.forget(lost)
    for folder in folders - recorded:
        driver.remove(folder, wait=False)
