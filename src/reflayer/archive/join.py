"""Differences that lie on each other become one, which hides and shows what they do together.

A name is that of the topmost difference that has it, be it a whiteout. Folders of one name are one,
down to the first that is opaque, or to a difference that has something else there: then what is
below all of them is hidden, too, so the one folder is opaque.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack

from reflayer.archive.copy_up import copy_up, folder_facts
from reflayer.archive.upper import Upper
from reflayer.errors import OperationError, failing
from reflayer.linux.xattrs import path_at
from reflayer.walk.facts import FailedError, list_attributes
from reflayer.walk.folders import OPEN_ANY_FOLDER, identity, open_beneath, open_noatime
from reflayer.walk.overlay import WHITEOUT_MODE, is_implied, is_opaque, is_whiteout
from reflayer.walk.stack import Part, tree_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from reflayer.walk.folders import AnyPath

    Folder = tuple[bytes, list[int], bool]
    """A folder's path, the differences that it is of, and whether it hides what is below them."""


def join(
    differences: Sequence[AnyPath], into: AnyPath, *, method: str = "auto", ownership: str = "keep"
) -> None:
    """Make in the empty folder ``into`` what ``differences``, topmost first, are together.

    Nobody may change them meanwhile.

    Raises:
        OperationError: something cannot be read or made.
    """
    path = os.fsencode(into)
    with failing(path, "join"), ExitStack() as until:
        roots = []
        for one in [*map(os.fsencode, differences), path]:
            roots.append(open_noatime(one, None, OPEN_ANY_FOLDER))
            until.callback(os.close, roots[-1])
        *roots, top = roots
        try:
            _Join(roots, Upper(top, method, ownership)).run()
        except FailedError as error:
            raise OperationError.from_os_error(error.cause, path, error.operation) from error


class _Join:
    def __init__(self, roots: list[int], upper: Upper) -> None:
        self._roots = roots
        self._upper = upper
        self._links: dict[tuple[int, int], tuple[bytes, bytes]] = {}

    def run(self) -> None:
        layers = [*range(len(self._roots))]
        opaque = [layer for layer in layers if is_opaque(self._roots[layer])]
        todo: list[Folder] = [(b"", layers[: opaque[0] + 1] if opaque else layers, bool(opaque))]
        made = []
        while todo:
            folder = todo.pop()
            made.append(folder)
            with ExitStack() as until:
                todo += self._fill(*self._opened(folder, until))
        for folder in reversed(made):  # a folder's times change with the names in it
            with ExitStack() as until:
                self._settle(*self._opened(folder, until))

    def _opened(self, folder: Folder, until: ExitStack) -> tuple[Folder, dict[int, int], int]:
        """A folder with its descriptors by the differences, and of its counterpart."""
        path, layers, _ = folder
        fds = []
        for root in (*(self._roots[layer] for layer in layers), self._upper.fd):
            fds.append(open_beneath(root, path))
            until.callback(os.close, fds[-1])
        return folder, dict(zip(layers, fds, strict=False)), fds[-1]

    def _fill(self, folder: Folder, sources: dict[int, int], dst: int) -> list[Folder]:
        """Make all names of a folder; return the folders in it, which are empty."""
        path, *_ = folder
        found: dict[bytes, list[tuple[int, bool]]] = {}
        for layer, src in sources.items():
            with os.scandir(src) as scan:
                for entry in scan:
                    place = layer, entry.is_dir(follow_symlinks=False)
                    found.setdefault(os.fsencode(entry.name), []).append(place)
        folders: list[Folder] = []
        names: dict[int, list[bytes]] = {}
        for name, places in found.items():
            inside: list[int] = []
            hides = False
            for layer, is_folder in places:
                hides = not is_folder
                if hides:
                    break
                inside.append(layer)
                hides = is_opaque(path_at(sources[layer], name))
                if hides:
                    break
            if inside:
                os.mkdir(name, 0o700, dir_fd=dst)
                folders.append((os.path.join(path, name), inside, hides))
            else:
                names.setdefault(places[0][0], []).append(name)
        for layer, some in names.items():
            src = sources[layer]
            kinds = [(stat.S_IFMT(os.lstat(name, dir_fd=src).st_mode) >> 12, name) for name in some]
            for name in self._upper.clone_names(src, dst, kinds):
                self._copy(path, src, dst, name)
        return folders

    def _copy(self, path: bytes, src: int, dst: int, name: bytes) -> None:
        own = os.lstat(name, dir_fd=src)
        if is_whiteout(own):
            os.mknod(name, WHITEOUT_MODE, 0, dir_fd=dst)
            return
        if own.st_nlink > 1:
            above, first = self._links.setdefault(identity(own), (path, name))
            if (above, first) != (path, name):
                fd = open_beneath(self._upper.fd, above)
                try:
                    os.link(first, name, src_dir_fd=fd, dst_dir_fd=dst, follow_symlinks=False)
                finally:
                    os.close(fd)
                return
        upper = self._upper
        copy, skip = upper.method.copy, upper.metadata.skip
        status = tree_status(src, name, own)
        copy_up(Part(src, False, 0), status, name, dst, upper.metadata, upper.marks, copy, skip)

    def _settle(self, folder: Folder, sources: dict[int, int], dst: int) -> None:
        """Give a folder its metadata: those of the topmost."""
        _, layers, hides = folder
        upper = self._upper
        facts = folder_facts(Part(sources[layers[0]], False, 0), upper.metadata.skip)
        if hides:
            upper.marks.set_opaque(dst)
        elif all(is_implied(list_attributes(src)) for src in sources.values()):
            upper.marks.set_implied(dst)
        upper.metadata.set_all(dst, facts, -1, -1, -1)
