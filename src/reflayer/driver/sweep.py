"""What a crash left: moved out of the way by the next start."""

from __future__ import annotations

import os

from reflayer.driver.claims import LOCK, claim_left
from reflayer.driver.cloned import forget
from reflayer.driver.home import BUILDS
from reflayer.driver.trash import discard
from reflayer.errors import OperationError


def sweep(home: str) -> None:
    """Move the builds of processes that are dead to the trash; those of the living stay.

    Raises:
        OperationError: one of them cannot be moved.
    """
    for name in {name.removesuffix(LOCK) for name in _names(f"{home}/{BUILDS}")}:
        if name.startswith("."):  # none of ours: NFS keeps what is unlinked while open as .nfs...
            continue
        path = f"{home}/{BUILDS}/{name}"
        try:
            claim = claim_left(path)
        except FileNotFoundError:
            discard(path, home)  # without a lock file it is nobody's
            continue
        if claim is not None:
            try:
                forget(home, name)  # its note, where it was complete but not published
                discard(path, home)
            finally:
                claim.release()


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(folder), "list") from error
