"""What a copy did: the frozen report that ``copy_tree`` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CopyReport:
    """One finished copy.

    Attributes:
        method: the best method that was used for content: ``snapshot``, ``reflink``, ``range``,
            ``stream`` or ``tar``; the one asked for where there was no content.
        entries: how many names were made, by type: ``file``, ``directory`` (the root included),
            ``symlink``, ``fifo``, ``socket``, ``char``, ``block``, and ``hardlink`` for every
            further name of an inode. A snapshot counts nothing.
        bytes: bytes of content by the method that moved them; holes are not counted.
        skipped: what was left out by ``ownership="ignore"`` or because the method cannot hold it,
            by kind: ``owner``, ``device``, ``xattr``, ``socket``; and ``mount`` for each mount
            point that was not crossed.
        seconds: wall time.
    """

    method: str
    entries: Mapping[str, int]
    bytes: Mapping[str, int]
    skipped: Mapping[str, int]
    seconds: float
