"""What the kernel refuses for want of privilege: an error, or left out and counted."""

from __future__ import annotations

import errno

from reflayer.copy.content import OF_THE_DATA
from reflayer.linux.xattrs import is_of_tree

REFUSED = frozenset({errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.EINVAL})
"""The errors that owners, devices and attributes are refused with."""


class Refusals:
    """Decides it for one piece of work.

    Attributes:
        skipped: how many owners, xattrs and devices were left out, by kind.
    """

    def __init__(self, ignore_refused: bool) -> None:
        """Refusals are counted in ``skipped`` where ``ignore_refused``."""
        self.skipped: dict[str, int] = {}
        self._ignore_refused = ignore_refused

    def skip(self, kind: str) -> None:
        """Count one thing of ``kind`` that was left out."""
        self.skipped[kind] = self.skipped.get(kind, 0) + 1

    def refused(self, kind: str, error: OSError) -> bool:
        """Whether ``error`` is a want of privilege that the caller ignores; then it is counted."""
        if self._ignore_refused and error.errno in REFUSED:
            self.skip(kind)
            return True
        return False

    def refused_attribute(self, name: str, error: OSError) -> bool:
        """The same of the attribute ``name``, which may also be of another system than this."""
        if is_of_tree(name) or error.errno in OF_THE_DATA:
            return self.refused("xattr", error)
        self.skip("xattr")
        return True
