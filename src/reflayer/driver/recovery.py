"""What a crash leaves in a home, and how the next start clears it.

Killed while it makes a layer, a process leaves ``tmp/NAME`` with its claim, and perhaps a note of
when it was cloned; while it removes one, ``trash/NAME``; while it folds or unfolds one, both
``folded/ID`` and ``dir/ID``, of which the folder counts. What living processes have there stays.
"""

from __future__ import annotations

import errno
import os

from reflayer.driver.clone_times import forget
from reflayer.driver.folded import sweep_folded
from reflayer.driver.home import BUILDS
from reflayer.driver.trash import delete_behind, discard, holds_trash
from reflayer.errors import OperationError
from reflayer.workers.lock import abandoned


def recover(home: str) -> None:
    """Clear what processes that died left; what takes long is left to a process of its own.

    Raises:
        OperationError: something cannot be moved or unlinked.
    """
    try:
        for path, is_claimed in abandoned(f"{home}/{BUILDS}"):
            if is_claimed:
                forget(home, os.path.basename(path))  # where it was complete but not published
            discard(path, home)
        sweep_folded(home)
        if holds_trash(home):
            delete_behind(home)
    except OperationError as error:
        if error.errno != errno.EROFS:  # there it can be read as it is
            raise
