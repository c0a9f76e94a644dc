"""The layers of a home: which there are, their trees, and what is different in them."""

from __future__ import annotations

import io
import os
from contextlib import contextmanager
from functools import cached_property, partial

from reflayer.driver import compare, differences, trees
from reflayer.driver.compare import while_compared
from reflayer.driver.differences import is_difference, is_there
from reflayer.driver.home import checked_id, layer_path
from reflayer.driver.maps import map_of
from reflayer.driver.room import is_short
from reflayer.driver.trash import delete_behind, left_in_trash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from reflayer.archive import Change, IdMap, Packing, Usage
    from reflayer.driver.abilities import Abilities
    from reflayer.driver.compare import Sides
    from reflayer.driver.home import Making
    from reflayer.walk.stack import Stack


class Layers:
    """What ``Driver`` is when nothing is made or removed but trees of differences.

    Attributes:
        home: the home's path, absolute, without symbolic links.
    """

    def __init__(self, home: str, making: Making, id_map: IdMap | None) -> None:
        self.home = home
        self._making = making
        self._id_map = id_map
        self._references = trees.References(home, making)

    @property
    def keeps_differences(self) -> bool:
        """Whether ``create_difference`` makes one.

        Not where a clone is a snapshot, which costs nothing, and not where overlayfs' whiteouts and
        attributes cannot be made, or folders not be locked (NFS). It is found out once, by trying.
        """
        return self._abilities.keeps_differences

    def get(self, id: str) -> str:
        """The path of the tree of layer ``id``, which stays until as many calls of ``put``.

        For a difference the tree is made, unless there is one; of all who ask at once, in whichever
        process, one makes it. A difference that nobody has filled yet becomes whole for good, since
        the caller will write into it; other trees of differences must not be changed.
        """
        self._references.take(checked_id(id))
        return layer_path(self.home, id)

    def put(self, id: str) -> None:
        """Give back a reference; it is no error where none was taken.

        The tree of a difference that no process references any more is dropped where it shares no
        blocks, or where less than a tenth of the disk is free. It is not where something is mounted
        in it; what was mounted from it elsewhere is not seen.
        """
        held = self._references.give_back(checked_id(id))
        if held is not None and trees.let_go(self.home, id, held, drop=self._drops_trees()):
            delete_behind(self.home)

    def path(self, id: str) -> str:
        """The path of the tree of layer ``id``, as ``get`` has it there; but nothing holds it.

        That of a whole layer stays. That of a difference goes when the last who got it puts it.
        """
        held = trees.hold(self.home, checked_id(id), self._making)
        if held is not None:
            os.close(held)
        return layer_path(self.home, id)

    def drop_trees(self) -> None:
        """Drop the trees of differences that no process references, as what a killed one had.

        Whoever has mounted one gets it before, so that his mounts survive a restart of him.
        """
        trees.drop_trees(self.home)
        if left_in_trash(self.home):
            delete_behind(self.home)

    def folder(self, id: str) -> str:
        """The path of what layer ``id`` has itself: a difference's folder, or all of a whole one.

        Nothing is made. Others may fill the folder of a new difference in overlayfs' form.
        """
        differences.require(self.home, id)
        own = differences.upper_path(self.home, id)
        return own if is_difference(self.home, id) else layer_path(self.home, id)

    def has_archive_paths(self, id: str) -> bool:
        """Whether ``folder`` has each file of the archive that filled it at its path there.

        Not so in a whole layer's, which has more, nor where a path led by a link of a layer below.
        """
        from reflayer.walk.overlay import is_by_link

        path = differences.difference_path(self.home, id)
        if self.lower(id) is None or differences.is_empty(path):
            return False
        return not is_by_link(os.fsencode(differences.upper_in(path)))

    def is_difference(self, id: str) -> bool:
        """Whether layer ``id`` is a difference, be it told or not what it lies on."""
        differences.require(self.home, id)
        return is_difference(self.home, id)

    def lower(self, id: str) -> str | None:
        """The layer that the difference ``id`` lies on; None for a whole one, and until told."""
        differences.require(self.home, id)
        return differences.lower(self.home, id)

    def stack(self, id: str) -> Stack:
        """The folders whose union layer ``id`` is. Nothing holds them."""
        return differences.stack(self.home, checked_id(id))

    def id_map(self, id: str) -> IdMap | None:
        """The map by which the folder of layer ``id`` has the host's ids, if it has a map."""
        return map_of(self.home, checked_id(id))

    def exists(self, id: str) -> bool:
        """Whether layer ``id`` is there."""
        return is_there(self.home, checked_id(id))

    def list(self) -> list[str]:
        """The ids of all layers, sorted."""
        return differences.layers(self.home)

    def metadata(self, id: str) -> dict[str, str]:
        """What Docker shows of layer ``id``: where its tree is, or will be, as ``Path``.

        And its ``References`` here; for a difference also ``UpperDir`` and ``LowerDir``, as Docker
        shows them for overlay2.
        """
        self.folder(id)
        shown = {"Path": layer_path(self.home, id), "References": str(self._references.count(id))}
        if differences.lower(self.home, id) is not None:
            upper, *below = map(os.fsdecode, self.stack(id).paths)
            shown |= {"UpperDir": upper, "LowerDir": ":".join(below)}
        return shown

    def status(self) -> dict[str, str]:
        """What Docker shows of a driver; the method that a clone takes is found out by trying.

        ``Backing Filesystem``, ``Method``, ``Shared Blocks`` (``true`` or ``false``) and ``Layers``
        (``differences`` or ``whole``).
        """
        found = self._abilities
        return {
            "Backing Filesystem": found.file_system,
            "Method": found.method,
            "Shared Blocks": "true" if found.shares_blocks else "false",
            "Layers": "differences" if found.keeps_differences else "whole",
        }

    def cloned(self, id: str, parent: str) -> float | None:
        """When layer ``id`` was a complete clone of ``parent``, in seconds since the epoch.

        None where that is not known, or does not tell what was touched since then; and for a
        difference.
        """
        self.folder(id)
        checked_id(parent)
        if is_difference(self.home, id):
            return None
        return compare.cloned_at(self.home, id, parent)

    def changes(self, id: str, parent: str | None = None) -> Iterator[Change]:
        """What is different in layer ``id`` from ``parent``, or all in it, as in Docker's diff.

        Of a difference on ``parent`` nothing is compared, here and below: it tells that itself.

        Raises:
            LayerError: here or meanwhile: one of them is not there, or was removed.
            OperationError: something in them cannot be read.
        """
        from reflayer.archive import changes, difference_changes

        def walk(sides: Sides) -> Iterator[Change]:
            if sides.is_difference and sides.parent is not None:
                return difference_changes(sides.root, sides.parent)
            return changes(sides.root, sides.parent, cloned=sides.cloned)

        return while_compared(self.home, id, parent, self._making, walk)

    def diff(self, id: str, parent: str | None = None) -> io.BufferedReader:
        """The difference of layer ``id`` from ``parent`` as an uncompressed OCI layer.

        Returns:
            A file that is made while it is read, and has to be closed. Reading raises as
            ``changes`` does, and ``ArchiveError`` for a name that cannot be in a layer, or an id
            that cannot be in a container.
        """
        walk = partial(_pack, id_map=self._id_map)
        chunks = while_compared(self.home, id, parent, self._making, walk)
        return io.BufferedReader(compare.Stream(chunks))

    @contextmanager
    def packing(self, id: str, parent: str, id_map: IdMap | None) -> Iterator[Packing]:
        """What ``diff`` packs, by another map of ids than the home's, while the block runs."""
        with compare.compared(self.home, id, parent, self._making) as sides:
            yield _pack(sides, id_map)

    def diff_size(self, id: str, parent: str | None = None) -> int:
        """The bytes of the files that are different in layer ``id`` from ``parent``, as in Docker.

        Each file's size counts, holes too, but once for all of its names; deletions do not.
        """
        from reflayer.archive import changed_size, difference_size

        with compare.compared(self.home, id, parent, self._making) as sides:
            if sides.is_difference:
                return difference_size(sides.root)
            return changed_size(sides.root, sides.parent, cloned=sides.cloned)

    def usage(self, id: str, parent: str | None = None) -> Usage:
        """What layer ``id`` takes itself, as far as the method of the home's clones tells that.

        That is all of a difference on ``parent``. Of a whole layer, where clones share their
        parents' blocks, it is what is different from ``parent``, else all of it.
        """
        from reflayer.archive import Usage, changed_usage
        from reflayer.extents import measure_trees

        if self.lower(id) is None and not self._abilities.shares_blocks:
            parent = None
        with compare.compared(self.home, id, parent, self._making) as sides:
            if sides.parent is not None and not sides.is_difference:
                return changed_usage(sides.root, sides.parent, cloned=sides.cloned)
            (found,) = measure_trees([sides.root], shared=False)
            return Usage(found.allocated, found.inodes)

    def _drops_trees(self) -> bool:
        return is_short(self.home) or not self._abilities.shares_blocks

    @cached_property
    def _abilities(self) -> Abilities:
        from reflayer.driver.abilities import find_abilities

        return find_abilities(self.home, self._making.method)


def _pack(sides: Sides, id_map: IdMap | None) -> Packing:
    from reflayer.archive import pack_difference, pack_layer

    id_map = sides.id_map or id_map
    if sides.is_difference:
        return pack_difference(sides.root, id_map=id_map)
    return pack_layer(sides.root, sides.parent, cloned=sides.cloned, id_map=id_map)
