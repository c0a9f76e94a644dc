"""Whose a layer's files are where an ordinary user packs them."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.archive import IdMap
    from reflayer.store.parts import Parts

_ALL = 2**32 - 1  # ids; the one that is missing means none (chown(2))


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
