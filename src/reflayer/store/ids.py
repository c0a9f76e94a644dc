"""Ids by their beginning."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sqlite3 import Connection

_HEX = frozenset("0123456789abcdef")


def is_full_id(text: str) -> bool:
    """Whether ``text`` can only be an id, with ``sha256:`` before it or not."""
    digits = text.removeprefix("sha256:")
    return len(digits) == 64 and _HEX.issuperset(digits)


def ids_with(db: Connection, table: str, start: str) -> list[str]:
    """The ids in ``table`` that begin so; none where ``start`` has no digit, or others."""
    digits = start.removeprefix("sha256:")
    if not digits or not _HEX.issuperset(digits):
        return []
    rows = db.execute(f"SELECT id FROM {table} WHERE id >= ? AND id < ?", (start, f"{start}g"))
    return [row[0] for row in rows]
