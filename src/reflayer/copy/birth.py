"""What an inode has from the moment it is made, which then need not be set."""

from __future__ import annotations

import os


class Birth:
    """What an inode has when this process has just made it in the destination.

    Attributes:
        uid: its owner.
        gid: its group.
        withheld: the permission bits that the umask takes away.
        powerful: permission bits do not bind this process (capabilities(7): CAP_DAC_OVERRIDE).
    """

    __slots__ = ("gid", "powerful", "uid", "withheld")

    def __init__(self, uid: int, gid: int, withheld: int, powerful: bool) -> None:
        self.uid = uid
        self.gid = gid
        self.withheld = withheld
        self.powerful = powerful


def birth_in(folder: int) -> Birth:
    """Learn it by making a folder in the open ``folder`` and looking at it.

    So an NFS server that changes owners, a file system that hands groups down and a umask that
    another thread has set all show.
    """
    probe = f".reflayer-{os.urandom(8).hex()}"
    os.mkdir(probe, 0o777, dir_fd=folder)
    try:
        status = os.stat(probe, dir_fd=folder, follow_symlinks=False)
        powerful = os.geteuid() == 0 and _may_all(probe, folder)
    finally:
        os.rmdir(probe, dir_fd=folder)
    return Birth(status.st_uid, status.st_gid, 0o777 & ~status.st_mode, powerful)


def _may_all(probe: str, folder: int) -> bool:
    # Root in a container may have lost its capabilities.
    os.chmod(probe, 0, dir_fd=folder)
    return os.access(probe, os.R_OK | os.W_OK, dir_fd=folder, effective_ids=True)
