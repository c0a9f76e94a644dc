"""What a copy did: the frozen report that ``copy_tree`` returns."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn


class CopyReport:
    """One finished copy; frozen.

    No dataclass: to import ``dataclasses`` takes longer than to copy a small tree.

    Attributes:
        method: the best method that was used for content: ``snapshot``, ``reflink``, ``range``,
            ``stream`` or ``tar``; the one asked for where there was no content.
        entries: how many names were made, by type: ``file``, ``directory`` (the root included),
            ``symlink``, ``fifo``, ``socket``, ``char``, ``block``, and ``hardlink`` for every
            further name of an inode. A snapshot counts nothing.
        bytes: bytes of content by the method that moved them. ``reflink`` counts a file's
            size, since its blocks are not looked at; the others what is no hole.
        skipped: what was left out, by kind: ``owner``, ``device`` and ``xattr`` by
            ``ownership="ignore"``; ``xattr`` also where it belongs to another file system or host
            and means nothing here; ``socket``, which a tar cannot hold; and ``mount`` for each
            mount point that was not crossed.
        seconds: wall time.
    """

    __slots__ = ("bytes", "entries", "method", "seconds", "skipped")

    method: str
    entries: Mapping[str, int]
    bytes: Mapping[str, int]
    skipped: Mapping[str, int]
    seconds: float

    def __init__(
        self,
        method: str,
        entries: Mapping[str, int],
        bytes: Mapping[str, int],  # noqa: A002
        skipped: Mapping[str, int],
        seconds: float,
    ) -> None:
        for name, value in zip(
            ("method", "entries", "bytes", "skipped", "seconds"),
            (method, entries, bytes, skipped, seconds),
            strict=True,
        ):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a report is frozen: {name} cannot be set")

    def __reduce__(self) -> tuple[type[CopyReport], tuple[object, ...]]:
        return CopyReport, tuple(self.as_dict().values())

    def __repr__(self) -> str:
        return f"CopyReport({', '.join(f'{k}={v!r}' for k, v in self.as_dict().items())})"

    def as_dict(self) -> dict[str, object]:
        """The attributes by name, for JSON."""
        return {
            "method": self.method,
            "entries": dict(self.entries),
            "bytes": dict(self.bytes),
            "skipped": dict(self.skipped),
            "seconds": self.seconds,
        }
