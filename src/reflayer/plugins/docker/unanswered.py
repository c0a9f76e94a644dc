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

from reflayer.driver.clone_times import boot_id
from reflayer.driver.home import LAYERS, checked_id, is_id, taken, unlink
from reflayer.errors import LayerError, OperationError, ReflayerError
from reflayer.workers.lock import abandoned, claim

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.driver import Driver
    from reflayer.workers.lock import Claim

_NOTES = "unanswered"  # the folder of the notes in the home
_INIT = "-init"  # what follows a container's id in that of its parent
_ALONE = 120.0  # seconds; Docker tries for 30 to reach a plugin that is being started anew
_CONTAINER, _IMAGE = "container", "image"  # what a note says of its layer

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
        self._claim: Claim | None = None
        self._is_new = True

    def note(self) -> None:
        """Note that layer ``id`` will be made by this process, and no other has it.

        Raises:
            LayerError: it is there or being made already, or it is no id.
            OperationError: the note cannot be written.
        """
        self._is_new = False
        note = _path(self._driver, checked_id(self._id))
        claimed = claim(note)
        if claimed is None:
            raise taken(self._id)
        try:
            # In this order: a note that is there says that what is so called was made after it.
            if self._driver.exists(self._id):
                raise taken(self._id)
            _write(note, is_container(self._id, self._parent))
        except BaseException:
            claimed.release()
            raise
        self._claim = claimed

    def answer(self) -> None:
        """Docker is about to be told: from now on the layer is its.

        Raises:
            OperationError: the note cannot be dropped.
        """
        claimed, self._claim = self._claim, None
        if claimed is not None:
            _drop(claimed)

    def forget(self) -> None:
        """Docker will not be told: remove what was made, and what it had made for this layer.

        Raises:
            OperationError: the note cannot be written or dropped.
        """
        if self._is_new:  # it was still waiting for its turn
            with suppress(LayerError):
                self.note()
        claimed, self._claim = self._claim, None
        if claimed is not None:
            try:
                _remove(self._driver, self._id, is_container(self._id, self._parent))
            finally:
                _drop(claimed)


def forget_unanswered(driver: Driver) -> None:
    """Remove what processes that died had made of layers which Docker was not told of.

    Of an earlier boot nothing is: after a crash of the machine a note may be there that had been
    dropped, and the layer be known.

    Raises:
        OperationError: the notes cannot be read or dropped.
    """
    folder = f"{driver.home}/{_NOTES}"
    try:
        os.makedirs(folder, 0o700, exist_ok=True)
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(folder), "mkdir") from error
    for note, is_claimed in abandoned(folder):
        id = os.path.basename(note)
        if not is_claimed or not is_id(id):  # its process has just dropped it
            continue
        try:
            boot, _, kind = _read(note).partition(" ")
            if boot == boot_id():
                _log.info("removing layer %s, of which Docker was not told", id)
                _remove(driver, id, kind == _CONTAINER)
        finally:
            unlink(note)
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


def _path(driver: Driver, id: str) -> str:
    return f"{driver.home}/{_NOTES}/{id}"


def _write(note: str, of_container: bool) -> None:
    """Make the note: a symbolic link, which is there whole, and on a full disk, too."""
    text = f"{boot_id() or 'unknown'} {_CONTAINER if of_container else _IMAGE}"
    try:
        os.symlink(text, note)
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(note), "symlink") from error


def _read(note: str) -> str:
    """The note; empty where there is none, as where its maker died before it wrote any."""
    try:
        return os.readlink(note)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(note), "read") from error


def _drop(claimed: Claim) -> None:
    try:
        unlink(claimed.path)
    finally:
        claimed.release()
