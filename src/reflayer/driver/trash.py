"""Layers on their way out: moved to ``trash/`` at once, deleted here or behind."""

from __future__ import annotations

import errno
import time

from reflayer.errors import OperationError

_TRIES = 100
_PAUSE = 0.02  # seconds; a copy's helper processes end a moment after their killed caller


def delete(path: str) -> None:
    """Delete the folder ``path`` with all in it; somebody else may be deleting it as well.

    Raises:
        OperationError: something in it cannot be deleted, which the error names.
    """
    from reflayer.copy.remove import remove_tree
    from reflayer.driver.snapshot import destroy

    for tries_left in reversed(range(_TRIES)):
        try:
            if not destroy(path):
                remove_tree(path)
        except OperationError as error:
            if error.errno != errno.ENOTEMPTY or not tries_left:
                raise
            time.sleep(_PAUSE)
        else:
            return
