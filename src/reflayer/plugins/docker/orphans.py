"""Layers that Docker has asked for and is not told of: it never knows them, nor removes them.

Docker takes a new id for each try, and removes nothing of a creation that failed or was not
answered, not even the ``ID-init`` which it had made for that container alone (CreateRWLayer and
registerWithDescriptor in moby's layer/layer_store.go, 20.10 to 27). So both go with the request.
The driver's note tells a later process, where this one is killed. It is dropped just before the
answer is sent; what is lost in the moment between is found by ``reflayer doctor``. Where this
process is killed between an ``ID-init`` and its container, a later start removes the first.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import contextmanager, suppress

from reflayer.driver.home import LAYERS
from reflayer.driver.recovery import orphans, reserved
from reflayer.errors import LayerError, ReflayerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from reflayer.driver import Driver

_INIT = "-init"  # what follows a container's id in that of its parent
_ALONE = 120.0  # seconds; Docker tries for 30 to reach a plugin that is being started anew
_CONTAINER, _IMAGE = "container", "image"  # what a note says of its layer

_log = logging.getLogger("reflayer.docker")


def is_container(id: str, parent: str | None) -> bool:
    """Whether ``id`` is a container's layer upon one that was made for it alone."""
    return parent == id + _INIT


def is_init(id: str) -> bool:
    """Whether a layer is made for a container alone, which will be upon it."""
    return id.endswith(_INIT)


@contextmanager
def until_answered(driver: Driver, id: str, parent: str | None) -> Iterator[None]:
    """The block makes layer ``id``; at its end Docker is told of it, unless it raises."""
    kind = _kind(id, parent)
    with reserved(driver.home, id, kind):
        try:
            yield
        except BaseException:
            _remove(driver, id, kind)
            raise


def forget(driver: Driver, id: str, parent: str | None) -> None:
    """Remove what Docker had made for layer ``id``, whose request ended before it was begun."""
    kind = _kind(id, parent)
    with suppress(LayerError), reserved(driver.home, id, kind):
        _remove(driver, id, kind)


def remove_orphans(driver: Driver) -> None:
    """Remove what processes that died had made of layers which Docker was not told of.

    And each ``ID-init`` without its container, which Docker did not ask for in time.
    """
    for id, kind in orphans(driver.home):
        _log.info("removing layer %s, of which Docker was not told", id)
        _remove(driver, id, kind)
    there = set(driver.list())
    for id in there:
        if is_init(id) and id.removesuffix(_INIT) not in there:
            with suppress(FileNotFoundError):  # it is a difference: it had its container
                if time.time() - os.lstat(f"{driver.home}/{LAYERS}/{id}").st_ctime > _ALONE:
                    _log.info("removing layer %s, which has no container", id)
                    _remove(driver, id, _IMAGE)


def _kind(id: str, parent: str | None) -> str:
    return _CONTAINER if is_container(id, parent) else _IMAGE


def _remove(driver: Driver, id: str, kind: str) -> None:
    for layer in (id, id + _INIT) if kind == _CONTAINER else (id,):
        try:
            driver.remove(layer, wait=False)
        except ReflayerError as error:
            _log.warning("layer %s, which Docker does not know, was left: %s", layer, error)
