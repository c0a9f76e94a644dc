"""The VFS graph driver: layers by id in one home, each there as a whole or not at all.

A home is a folder as Docker's own vfs driver has it, which may have filled it:

- ``dir/ID``: the whole layers, and the trees of differences that somebody has asked for.
- ``differences/ID/upper``, ``lower``: a layer that is a difference, and the id of the layer that it
  lies on (``differences``). Where there is one, ``dir/ID`` is its tree (``trees``).
- ``children/ID/CHILD``: the differences that lie on a layer, and perhaps some that did.
- ``trees/BOOT/ID``: the differences that have a tree, made since that boot.
- ``tmp/``: what is being made, each with its claim (``reflayer.workers.lock``).
- ``trash/``: what was removed and is still to be deleted; ``trash.lock`` is held meanwhile.
- ``spares/BOOT/ID``: clones of a layer that wait for a name; ``warm/ID``: how many shall; they are
  made by one process at a time, which holds ``spares.lock`` (``spares``, ``fill``, ``lately``).
- ``keep-free``: how much of the disk stays free (``room``).
- ``cloned/BOOT/ID``: when a layer was cloned, and from which; or was the same as another last.
- ``changing/ID``: locked while a checkpoint of a container is made, or it is rolled back.
- ``maps/ID``: the map of ids of a container's layer that has the host's (``maps``).
- ``unanswered/ID``: a note of a layer that its engine is not told of yet (``recovery``).
- ``publish.lock``: held while a layer gets its name or loses it; ``quota.lock``, while it gets a
  project.

Whatever gets a name does so by one rename(2), and so it loses it. So a layer is there whole or not
at all, and what a crash leaves elsewhere is cleared by the next start (``recovery``).
"""

from __future__ import annotations

from reflayer.driver.clone import METHODS
from reflayer.driver.driver import Driver

__all__ = ["METHODS", "Driver"]
