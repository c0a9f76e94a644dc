"""Images and containers of one machine: what exists, what uses what, what can go.

In a store's folder ROOT are:

- ``reflayer.db``: the SQLite database, which says what exists and what uses what;
- ``content/``: the blobs of images, an OCI image layout;
- ``layers/``: a driver's home, with the layers of images, and one whole layer for each container;
- ``lock``, ``locks/``: lock files (flock(2)), of the whole store and of single layers; and marks of
  what a crash may leave.

**Images are stacks.** A layer is called by its chain id, so images that have the same lowest layers
share those; each is a difference on the one below. What an older version made of a whole chain is
a whole layer of that id: the lowest of whatever lies on it. So is what is made where the driver
keeps no differences.

**The order.** A process that makes a container *shares* ``lock`` from before the first blob comes
in until all is recorded:

1. the blobs come into ``content/``, each verified, and written out;
2. under the locks of the layers that are missing: each is built, written out and renamed into
   place, after the one below it, and then recorded (another process that wants one of them waits
   for its lock, and finds the record);
3. the container's folder is cloned from the stack and renamed into place;
4. one transaction records the image, its blobs, its names, and the container.

Of an image that is there only the last two are left. So at any moment a record's folder is there,
with all that it lies on, and everything else that is there is either being made under a shared
``lock``, or garbage. Removal goes the other way: a container's folder first, and then its record;
an image only loses its record.

**Collecting.** While one process has ``lock`` for itself, nothing is being made: all blobs, layers
and folders that no record needs are garbage, and so are records whose folder is gone. An image
needs its stack. Of garbage the topmost layers go first, so that a crash leaves no stack without its
lowest. ``collect``
takes the lock only if it is free, and compares all with all. So it runs only after the removal of
an image; and before and after each creation and after the removal of a container where something
may be left. That is told by what is in ``locks/`` alone: each container that is made or removed has
a mark there, a claim, from before its folder comes or goes until its record has followed; and so
have blobs and layers (``collect``). So the last of several processes removes what the others had to
leave, a crash is cleared by the next start, and nothing takes longer for how much there is. Where
all folders or the database are gone it refuses: no crash does that, and the rest is not garbage.
Half-made layers (``layers/tmp``), those that are being deleted (``layers/trash``) and half-made
blobs are no business of it: the driver and the content store clear them, under locks of their own.

A transaction never waits for a lock file; and the locks of layers are taken from the top of a chain
down, so that whoever waits for one holds none but of layers above it: no ring of processes that
wait for one another can come about. Nor of threads: layers are begun from the lowest on, and wait
for none but those below.
"""

from __future__ import annotations

from reflayer.store.containers import Container
from reflayer.store.parts import default_root
from reflayer.store.store import Store

__all__ = ["Container", "Store", "default_root"]
