"""The VFS graph driver: layers by id in one home, made, found and removed whole.

A home is a folder as Docker's own vfs driver has it, which may have filled it:

- ``dir/ID``: the layers.
- ``tmp/``: what is being made, each with its claim (``reflayer.workers.lock``).
- ``trash/``: what was removed and is still to be deleted; ``trash.lock`` is held meanwhile.
- ``cloned/BOOT/ID``: when a layer was cloned, and from which.
- ``folded/ID``: in place of ``dir/ID``, how a layer differs from its parent; ``folded.lock``.
- ``unanswered/ID``: a note of a layer that its engine is not told of yet (``recovery``).
- ``quota.lock``, ``publish.lock``: held while a layer gets a project, or a name in ``dir/``.

Whatever comes into ``dir/`` or leaves it does so by one rename(2). So a layer is there whole or not
at all, and what a crash leaves elsewhere is cleared by the next start (``recovery``).
"""

from __future__ import annotations

from reflayer.driver.create import METHODS
from reflayer.driver.driver import Driver

__all__ = ["METHODS", "Driver"]
