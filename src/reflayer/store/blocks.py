"""What the folders and blobs of a store take on disk, each by itself and all together."""

from __future__ import annotations

import os
from dataclasses import dataclass

from reflayer.extents import measure_files, measure_trees, share_out
from reflayer.images.content.blob_store import blob_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence, Set

    from reflayer.extents import TreeUsage
    from reflayer.progress import Progress
    from reflayer.store.parts import Parts

_TELL = 1000  # entries between two words of progress

Unit = str | frozenset[str]
"""What is measured as one: a folder, by its id, or the blobs that the same images use, by those."""


@dataclass(frozen=True, slots=True)
class Space:
    """What some trees and blobs take together; all sizes in bytes.

    Attributes:
        inodes: files of every type.
        size: lengths of the regular files, as ``ls`` shows them.
        allocated: what they would take if nothing were shared, as ``du`` shows it.
        shared: what they really take, together with others.
        own: what they really take and nobody else does.
        untold: how much of ``own`` may be shared all the same, since nobody tells.
        unread: files and folders that this user may not read.
    """

    inodes: int
    size: int
    allocated: int
    shared: int
    own: int
    untold: int
    unread: int


@dataclass(frozen=True, slots=True)
class Blocks:
    """What was measured: each unit by itself, and what several have in common.

    Attributes:
        units: each with its usage.
        shared: bytes by the units that have them; None is one for all who are not known.
    """

    units: dict[Unit, TreeUsage]
    shared: dict[frozenset[Unit | None], int]

    def freed(self, units: Set[Unit]) -> int:
        """Bytes that nobody has but ``units``."""
        return sum(self.units[unit].own for unit in units) + sum(
            size for owners, size in self.shared.items() if owners <= units
        )

    def held(self, units: Set[Unit]) -> int:
        """Bytes that any of ``units`` has."""
        return sum(self.units[unit].own for unit in units) + sum(
            size for owners, size in self.shared.items() if not owners.isdisjoint(units)
        )

    def space(self, units: Set[Unit], only: Set[Unit]) -> Space:
        """What ``units`` take, of which those that are in ``only`` have no other user."""
        own = self.freed(only)
        told = [self.units[unit] for unit in units]
        return Space(
            inodes=sum(one.inodes for one in told),
            size=sum(one.size for one in told),
            allocated=sum(one.allocated for one in told),
            shared=self.held(units) - own,
            own=own,
            untold=sum(self.units[unit].untold for unit in only),
            unread=sum(one.unread for one in told),
        )


def measured(
    parts: Parts,
    needed: Set[Unit],
    blobs: Mapping[frozenset[str], Sequence[str]],
    progress: Progress | None,
) -> Blocks:
    """Measure what is ``needed``; ``blobs`` are the digests by the images that use them.

    Raises:
        OperationError: something cannot be read for another reason than its permissions.
    """
    done = told = 0

    def report(entries: int) -> None:
        nonlocal done, told
        done += entries
        if progress is not None and done - told >= _TELL:
            told = done
            progress("measure", done, None)

    units: dict[Unit, TreeUsage] = {}
    shared: dict[frozenset[Unit | None], int] = {}
    folders = [unit for unit in needed if isinstance(unit, str)]
    paths = [os.path.join(parts.home, folder) for folder in folders]
    units.update(zip(folders, measure_trees(paths, progress=report), strict=True))
    content = os.path.join(parts.root, "content")
    sets = [unit for unit in needed if not isinstance(unit, str)]
    for users in sets:
        units[users] = measure_files(content, [blob_path("", digest) for digest in blobs[users]])
    # No block of a blob is one of a folder, and they may be on different file systems.
    for some in (folders, sets):
        _add_shared(shared, some, units)
    return Blocks(units, shared)


def _add_shared(
    shared: dict[frozenset[Unit | None], int],
    some: Sequence[Unit],
    units: dict[Unit, TreeUsage],
) -> None:
    for bits, size in share_out([units[unit] for unit in some]).items():
        owners = frozenset(
            unit for place, unit in enumerate([None, *some]) if bits >> place & 1
        )  # fmt: skip
        shared[owners] = shared.get(owners, 0) + size
