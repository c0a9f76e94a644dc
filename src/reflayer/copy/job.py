"""What every worker of one copy has to know."""

from __future__ import annotations

import os


class Job:
    """One copy's settings, the same for all its workers.

    Attributes:
        source: the source as the user named it, for errors.
        method: the first method for content.
        fall_back: whether the methods below it may be used where it is not supported.
        ignore_refused: whether what only a privileged user may keep is left out and counted.
        cross_mounts: whether mount points inside the source are copied through.
        mounts: the mount points inside the source, as paths from its root.
        mount_names: the last names of those: what is called otherwise is no mount point.
        links: name of the folder in the destination's root where inodes with several names wait.
        root: identity of the destination's root, which must not be met inside the source.
        folder_mode: the mode that folders have until they get their own.
        leave: ``mount_names`` for the part in C, each between two zeros.
    """

    __slots__ = (
        "cross_mounts",
        "fall_back",
        "folder_mode",
        "ignore_refused",
        "leave",
        "links",
        "method",
        "mount_names",
        "mounts",
        "root",
        "source",
    )

    def __init__(
        self,
        source: bytes,
        method: str,
        fall_back: bool,
        ignore_refused: bool,
        cross_mounts: bool,
        mounts: frozenset[bytes],
        links: str,
        root: tuple[int, int],
        folder_mode: int,
    ) -> None:
        self.source = source
        self.method = method
        self.fall_back = fall_back
        self.ignore_refused = ignore_refused
        self.cross_mounts = cross_mounts
        self.mounts = mounts
        self.mount_names = frozenset(os.path.basename(path) for path in mounts)
        self.leave = b"\0%b\0" % b"\0".join(self.mount_names) if mounts else b""
        self.links = links
        self.root = root
        self.folder_mode = folder_mode
