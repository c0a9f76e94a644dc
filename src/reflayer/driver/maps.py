"""Mapped layers: containers' folders with the host's ids, where all other layers have images' own.

The link ``maps/ID`` has the map in its text (``IdMap.parse``). It is there before the layer is, and
until that is gone. So what is told of a layer, or made of it, has the ids that images have, however
it was made: they are converted whenever its folder is read beside others.
"""

from __future__ import annotations

import os
from contextlib import suppress

from reflayer.driver.home import MAPS, relink, unlink
from reflayer.errors import failing
from reflayer.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.driver.home import Making
    from reflayer.walk.id_map import IdMap


def map_of(home: str, id: str) -> IdMap | None:
    """The map of layer ``id``; None where its folder has the ids that images have."""
    path = f"{home}/{MAPS}/{id}"
    with failing(path, "read"), suppress(FileNotFoundError):
        text = os.readlink(path)
        from reflayer.walk.id_map import IdMap

        return IdMap.parse(text)
    return None


def note_map(home: str, id: str, id_map: IdMap | None) -> None:
    """Note the map of the layer that is to be called ``id``, or that it has none; in ``naming``."""
    if id_map is None:
        forget_map(home, id)  # that of one that could not be published
        return
    with failing(f"{home}/{MAPS}", "mkdir"):
        os.makedirs(f"{home}/{MAPS}", 0o700, exist_ok=True)
    relink(f"{home}/{MAPS}/{id}", str(id_map))


def forget_map(home: str, id: str) -> None:
    """Take the note away, within ``naming``, when there is no such layer."""
    unlink(f"{home}/{MAPS}/{id}")


def mapped(making: Making, id_map: IdMap | None) -> Making:
    """How layers are made that are to have the host's ids."""
    if id_map is None:
        return making
    return replace(making, id_map=id_map, owner=id_map.root)
