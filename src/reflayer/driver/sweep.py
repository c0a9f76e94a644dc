"""What a crash left: moved out of the way by the next start."""

from __future__ import annotations

import os

from reflayer.driver.cloned import forget
from reflayer.driver.home import BUILDS
from reflayer.driver.trash import discard
from reflayer.workers.lock import abandoned


def sweep(home: str) -> None:
    """Move the builds of processes that are dead to the trash; those of the living stay.

    Raises:
        OperationError: one of them cannot be moved.
    """
    for path, is_claimed in abandoned(f"{home}/{BUILDS}"):
        if is_claimed:
            forget(home, os.path.basename(path))  # where it was complete but not published
        discard(path, home)
