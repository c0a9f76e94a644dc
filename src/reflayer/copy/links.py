"""Hard links: an inode with several names is made once, in a waiting folder, and linked from there.

The waiting folder's names are the source's device and inode numbers, so the kernel keeps the table:
it costs no memory however many links there are, and it is the same table for every worker. The
folder stands in the destination's root and is removed at the end. The part in C makes an inode
where its first name is, and lets it wait once it is whole.
"""

from __future__ import annotations

import errno
import os

from reflayer.walk.folders import OPEN_FOLDER


class Links:
    """The waiting folder of one copy, made when the first inode with several names is met."""

    def __init__(self, root: int, name: str) -> None:
        """``root`` is the destination's root, which must stay open; ``name`` the folder's name."""
        self._root = root
        self._name = name
        self._folder = -1

    @property
    def opened(self) -> int:
        """The waiting folder's descriptor; -1 before the first such inode."""
        return self._folder

    def folder(self) -> int:
        """The waiting folder's descriptor."""
        if self._folder < 0:
            try:
                os.mkdir(self._name, 0o700, dir_fd=self._root)
            except FileExistsError:
                pass  # another worker was first
            self._folder = os.open(self._name, OPEN_FOLDER, dir_fd=self._root)
        return self._folder

    def link_again(self, waiting: bytes, dst: int, name: bytes, names: int) -> None:
        """Give an inode a further name; with its last one it waits no more.

        Not only at the end: what changes an inode last is the copy of its last name, so that times
        tell it from what is changed when the copy is complete.
        """
        self.link(waiting, dst, name, names)
        try:
            status = os.stat(waiting, dir_fd=self.folder(), follow_symlinks=False)
            if status.st_nlink > names:
                os.unlink(waiting, dir_fd=self.folder())
        except FileNotFoundError:
            pass  # another worker was first, or that was the last place

    def link(self, waiting: bytes, dst: int, name: bytes, names: int) -> None:
        """Give the inode that waits under the name ``waiting`` the name ``name`` in ``dst``.

        ``names`` is how many its original has.

        Raises:
            OSError: EMLINK when there are more than this file system can give an inode.
        """
        try:
            os.link(waiting, name, src_dir_fd=self.folder(), dst_dir_fd=dst, follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
            most = os.stat(waiting, dir_fd=self.folder(), follow_symlinks=False).st_nlink
            if names > most:
                raise
            # The waiting name takes the last place that there is, and this is the last name.
            os.rename(waiting, name, src_dir_fd=self.folder(), dst_dir_fd=dst)

    def close(self) -> None:
        """Shut the descriptor; the folder stays for the other workers."""
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1

    def clear(self) -> None:
        """Remove the waiting folder and the names in it, when every worker has finished."""
        try:
            # Opened anew: btrfs lists what there was at the time of opening.
            folder = os.open(self._name, OPEN_FOLDER, dir_fd=self._root)
        except FileNotFoundError:
            return
        try:
            for name in os.listdir(folder):
                os.unlink(name, dir_fd=folder)
        finally:
            os.close(folder)
        os.rmdir(self._name, dir_fd=self._root)
