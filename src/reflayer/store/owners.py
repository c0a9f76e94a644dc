"""Whether owners are kept, which a store remembers, and whose a packed layer's files are."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sqlite3 import Connection

    from reflayer.archive import IdMap
    from reflayer.store.database import Database
    from reflayer.store.parts import Parts

_ALL = 2**32 - 1  # ids; the one that is missing means none (chown(2))


def remembered_ownership(database: Database) -> str:
    """What the last image or container was made with: ``keep`` or ``ignore``."""
    with database.reading() as db:
        return _remembered(db)


def _remembered(db: Connection) -> str:
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'settings'").fetchone():
        return "keep"
    row = db.execute("SELECT value FROM settings WHERE name = 'ownership'").fetchone()
    return "keep" if row is None else str(row[0])


def remember_ownership(db: Connection, parts: Parts) -> None:
    """Record what is on record from now on, in the transaction that records what was made."""
    if parts.ownership != _remembered(db):
        db.execute("CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT)")
        db.execute("INSERT OR REPLACE INTO settings VALUES ('ownership', ?)", (parts.ownership,))


def ids_in_layers(parts: Parts) -> IdMap | None:
    """What the ids on disk are in a layer that is packed; None where they are the same.

    Where owners are not kept all that an image's root owned is the user's, and is root's again when
    it is packed: otherwise each commit would give the folders above a change to a user whom the
    image does not know.
    """
    user, group = os.geteuid(), os.getegid()
    if parts.ownership == "keep" or user == 0:
        return None
    from reflayer.archive import IdMap, IdRange

    same = IdRange(0, 0, _ALL)
    return IdMap(uids=(IdRange(0, user, 1), same), gids=(IdRange(0, group, 1), same))
