"""A layer on its way in: claimed and built in ``tmp/``, published whole, or gone."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager

from reflayer.driver.home import PUBLISH_LOCK
from reflayer.driver.trash import delete
from reflayer.errors import LayerError, OperationError
from reflayer.workers.lock import claim_new, locked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_AT_FDCWD = -100  # fcntl.h: paths from the current folder


@contextmanager
def building(builds: str, id: str) -> Iterator[str]:
    """A path in the folder ``builds`` for the block to make ``id`` at, and to move away from.

    If the block raises, what is there is deleted. After the death of this process it is left to the
    next ``sweep``.

    Raises:
        OperationError: the claim cannot be made.
    """
    claim = claim_new(builds, id)
    path = claim.path
    try:
        yield path
    except BaseException as error:
        try:
            delete(path)
        except OperationError as failed:
            error.add_note(f"it was left for the next start to clear: {failed}")
        raise
    finally:
        claim.release()


def publish(path: str, layer: str) -> None:
    """Let the complete folder ``path`` appear as ``layer``, which must not be there.

    Raises:
        LayerError: there is a layer of that id already.
        OperationError: the rename failed.
    """
    from reflayer.linux.renameat2 import RENAME_NOREPLACE, renameat2

    old, new = os.fsencode(path), os.fsencode(layer)
    try:
        try:
            renameat2(_AT_FDCWD, old, _AT_FDCWD, new, RENAME_NOREPLACE)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS):
                raise
            _publish_in_turn(path, layer)
    except FileExistsError as error:
        raise taken(os.path.basename(layer)) from error
    except OSError as error:
        raise OperationError.from_os_error(error, new, "rename") from error


def taken(id: str) -> LayerError:
    """The error for a layer that is there already."""
    return LayerError(f"layer {id} exists already")


def _publish_in_turn(path: str, layer: str) -> None:
    # rename(2) replaces an empty folder, and this file system knows no RENAME_NOREPLACE. All
    # reflayer processes meet here then, so looking first is safe under a lock.
    home = os.path.dirname(os.path.dirname(layer))
    with locked(f"{home}/{PUBLISH_LOCK}"):
        if os.path.lexists(layer):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        os.rename(path, layer)
