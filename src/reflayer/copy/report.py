"""What a copy did: the frozen report that ``copy_tree`` returns."""

from __future__ import annotations

from reflayer.record import as_dict, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


@record
class CopyReport:
    """One finished copy; frozen.

    Attributes:
        method: the best method that was used for content: ``snapshot``, ``reflink``, ``range``,
            ``stream`` or ``tar``; the one asked for where there was no content. ``spare`` where a
            layer was there already (``Driver.keep_spares``).
        entries: how many names were made, by type: ``file``, ``directory`` (the root included),
            ``symlink``, ``fifo``, ``socket``, ``char``, ``block``, and ``hardlink`` for every
            further name of an inode. A snapshot or spare counts nothing.
        bytes: bytes of content by the method that moved them. ``reflink`` counts a file's
            size, since its blocks are not looked at; the others what is no hole.
        skipped: what was refused and is left out or recorded, by kind: ``owner``, ``device`` and
            ``xattr``; ``xattr`` also where it belongs to another file system or host
            and means nothing here; ``socket``, which a tar cannot hold; and ``mount`` for each
            mount point that was not crossed.
        seconds: wall time.
    """

    method: str
    entries: Mapping[str, int]
    bytes: Mapping[str, int]
    skipped: Mapping[str, int]
    seconds: float

    def as_dict(self) -> dict[str, object]:
        """The attributes by name, for JSON."""
        return as_dict(self) | {
            name: dict(getattr(self, name)) for name in ("entries", "bytes", "skipped")
        }
