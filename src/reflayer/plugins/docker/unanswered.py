"""Layers that Docker has asked for and not been told of yet: if that fails, it never knows them.

Docker takes a new id for each try, and removes nothing of a creation that failed or that nobody
answered, not even the ``ID-init`` which it had made for that container alone (CreateRWLayer and
registerWithDescriptor in moby's layer/layer_store.go, 20.10 to 27). So both go with the request.
A note in the home tells a later process, where this one is killed. It is dropped just before the
answer is sent; what is lost in the moment between is found by ``reflayer doctor``. Where this
process is killed between an ``ID-init`` and its container, a later start removes the first.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress

from reflayer.driver.home import LAYERS
from reflayer.driver.recovery import orphans, reserve
from reflayer.errors import LayerError, ReflayerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.driver import Driver
    from reflayer.driver.recovery import Reservation

_INIT = "-init"  # what follows a container's id in that of its parent
_ALONE = 120.0  # seconds; Docker tries for 30 to reach a plugin that is being started anew
_CONTAINER, _IMAGE = "container", "image"  # what the driver notes of a layer

_log = logging.getLogger("reflayer.docker")


def is_container(id: str, parent: str | None) -> bool:
    """Whether ``id`` is a container's layer upon one that was made for it alone."""
    return parent == id + _INIT


class Unanswered:
    """One layer from the request on until it is known to Docker, or gone."""

    def __init__(self, driver: Driver, id: str, parent: str | None) -> None:
        """Nothing is noted yet."""
        self._driver = driver
        self._id = id
        self._parent = parent
        self._reserved: Reservation | None = None
        self._is_new = True

    def note(self) -> None:
        """Note that layer ``id`` will be made by this process, and no other has it.

        Raises:
            LayerError: it is there or being made already, or it is no id.
            OperationError: the note cannot be written.
        """
        self._is_new = False
        is_alone = is_container(self._id, self._parent)
        self._reserved = reserve(self._driver.home, self._id, _CONTAINER if is_alone else _IMAGE)

    def answer(self) -> None:
        """Docker is about to be told: from now on the layer is its.

        Raises:
            OperationError: the note cannot be dropped.
        """
        reserved, self._reserved = self._reserved, None
        if reserved is not None:
            reserved.release()

    def forget(self) -> None:
        """Docker will not be told: remove what was made, and what it had made for this layer.

        Raises:
            OperationError: the note cannot be written or dropped.
        """
        if self._is_new:  # it was still waiting for its turn
            with suppress(LayerError):
                self.note()
        reserved, self._reserved = self._reserved, None
        if reserved is not None:
            try:
                _remove(self._driver, self._id, is_container(self._id, self._parent))
            finally:
                reserved.release()


def forget_unanswered(driver: Driver) -> None:
    """Remove what processes that died had made of layers which Docker was not told of.

    Raises:
        OperationError: the notes cannot be read or dropped.
    """
    for id, kind in orphans(driver.home):
        _log.info("removing layer %s, of which Docker was not told", id)
        _remove(driver, id, kind == _CONTAINER)
    _forget_alone(driver)


def _forget_alone(driver: Driver) -> None:
    """Remove each ``ID-init`` without its container, which Docker did not ask for in time."""
    there = set(driver.list())
    for id in there:
        if id.endswith(_INIT) and id.removesuffix(_INIT) not in there:
            with suppress(FileNotFoundError):  # it is folded up
                if time.time() - os.lstat(f"{driver.home}/{LAYERS}/{id}").st_ctime > _ALONE:
                    _log.info("removing layer %s, which has no container", id)
                    _remove(driver, id, of_container=False)


def _remove(driver: Driver, id: str, of_container: bool) -> None:
    for layer in (id, id + _INIT) if of_container else (id,):
        try:
            driver.remove(layer, wait=False)
        except ReflayerError as error:
            _log.warning("layer %s, which Docker does not know, was left: %s", layer, error)
