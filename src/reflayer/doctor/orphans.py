"""Layers in a Docker daemon's data root that its own records (moby's layerdb) do not name.

A layer stays behind where the daemon dies between a creation and the record of it. Nothing removes
it automatically, since records may also be missing because somebody has moved them.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress

from reflayer.driver.home import DIFFERENCES, LAYERS, TRASH_LOCK
from reflayer.errors import failing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# What Docker's layer store makes. BuildKit's layers have shorter ids, and records of its own.
_ID = re.compile(r"[0-9a-f]{64}(-init)?")
_RECORDS = {"sha256": ("cache-id",), "mounts": ("mount-id", "init-id")}  # moby's layer/filestore.go


def orphans(data_root: str) -> list[str]:
    """The paths of the layers in homes of ours below ``data_root`` that no record there names.

    Those that a running daemon is just making are among them. Where there are no records, it is no
    data root, and there are none.

    Raises:
        OperationError: a folder or record is there and cannot be read.
    """
    found = []
    for driver in _names(f"{data_root}/image"):
        records = f"{data_root}/image/{driver}/layerdb"
        home = f"{data_root}/{driver}"
        if os.path.isdir(records) and os.path.lexists(f"{home}/{TRASH_LOCK}"):
            # In this order: a layer that is recorded meanwhile is not taken for an orphan.
            layers = [
                (name, f"{home}/{folder}/{name}")
                for folder in (LAYERS, DIFFERENCES)
                for name in _names(f"{home}/{folder}")
                if _ID.fullmatch(name)
            ]
            known = set(_recorded(records))
            found += [path for name, path in layers if name not in known]
    return found


def _recorded(records: str) -> Iterator[str]:
    for folder, files in _RECORDS.items():
        for name in _names(f"{records}/{folder}"):
            for file in files:
                record = f"{records}/{folder}/{name}/{file}"
                with (
                    failing(record, "read"),
                    suppress(FileNotFoundError, NotADirectoryError),
                    open(record, errors="replace") as opened,
                ):
                    yield opened.read().strip()


def _names(folder: str) -> list[str]:
    """What is in ``folder``, sorted; nothing where it is not there."""
    with failing(folder, "list"), suppress(FileNotFoundError, NotADirectoryError):
        return sorted(os.listdir(folder))
    return []
