"""Images that are kept warm: containers of them are made ahead, as the driver's spares."""

from __future__ import annotations

from reflayer.driver.spares import all_spares
from reflayer.extents import measure_trees
from reflayer.record import record
from reflayer.store.create import pull, refuse_map
from reflayer.store.images import find, images

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from reflayer.driver.spares import Spares
    from reflayer.store.create import Wanted
    from reflayer.store.images import StoredImage
    from reflayer.store.parts import Parts
    from reflayer.walk.id_map import IdMap


@record
class WarmImage:
    """The spares of one image; those with the same layers share them.

    Attributes:
        image: a name of it, or its id.
        count: how many are to be ready; 0 for those that are only there by recycling.
        ready: how many are.
        bytes: what they take on disk that nothing else does; as many times what one of them does.
    """

    image: str
    count: int
    ready: int
    bytes: int


def warm(parts: Parts, wanted: Wanted, count: int, wait: bool, id_map: IdMap | None) -> None:
    refuse_map(parts, id_map)
    layer = pull(parts, wanted).layer if count else find(parts, wanted.text)[0].layer
    is_waited_for = wait and count > 0
    parts.driver.keep_spares(
        layer, count, id_map=id_map, wait=is_waited_for, progress=wanted.progress
    )


def warm_images(parts: Parts) -> list[WarmImage]:
    """Those that are warm or are to be, by name."""
    found = spares(parts)
    images_of = by_layer(parts) if found else {}
    told = []
    for one in found:
        if one.layer in images_of:
            image = images_of[one.layer]
            called = image.names[0] if image.names else image.id
            size = sum(tree.own for tree in measure_trees(one.paths[:1])) * one.ready
            told.append(WarmImage(called, one.wanted, one.ready, size))
    return sorted(told, key=lambda one: one.image)


def by_layer(parts: Parts) -> Mapping[str, StoredImage]:
    """The images by their layers; of those with the same one, the first by name."""
    with parts.database.reading() as db:
        return {image.layer: image for image in reversed(images(db))}


def spares(parts: Parts) -> list[Spares]:
    """Those of all layers; nothing is made in order to find none."""
    return all_spares(parts.layers)
