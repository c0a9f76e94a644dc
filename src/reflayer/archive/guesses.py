"""Folders that a layer has no entry for, made before it is known what is below them.

Layers are unpacked side by side, and nearly each leads by folders of the one below. So every such
folder is guessed to be below, and made at once. What it has there it gets in the end, when all of
the layers below are complete. Only then a guess can turn out to be wrong: there is a link, so that
paths lead elsewhere, or a file. That is rare, and the layer is applied anew, without guesses.
"""

from __future__ import annotations

import errno
import os
import stat

from reflayer.archive.copy_up import folder_facts
from reflayer.archive.difference import UnionFolders, UnionWay
from reflayer.archive.folders import IMPLIED_MODE, MOST_IMPLIED, Way
from reflayer.archive.layer_metadata import LayerFolder
from reflayer.errors import ArchiveError
from reflayer.walk.empty import empty_folder
from reflayer.walk.facts import FailedError
from reflayer.walk.folders import NO_FOLDER, OPEN_ANY_FOLDER, open_beneath
from reflayer.walk.overlay import clear_own, is_whiteout
from reflayer.walk.stack import UnionPaths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from reflayer.archive.layer_metadata import Key
    from reflayer.walk.facts import Facts
    from reflayer.walk.stack import Union

_DEEPEST = 64  # folders one in another: all are open in each layer when they are looked up


class WrongGuessError(Exception):
    """What is below, or the number of guesses, asks for the layer to be applied without them."""


class GuessedFolders(UnionFolders):
    """The folders of a difference; what is below is asked for in the end, or for a hard link.

    Its methods raise WrongGuessError, too.
    """

    def _begin(self) -> None:
        self._guesses: dict[bytes, Key] = {}  # by path
        self._needed: set[bytes] = set()  # those that also stand there if they are not below
        self._unsettled: set[Key] = set()  # guessed folders that have no entry, and are there still
        self.upper_paths.guessed = self._unsettled

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        super().__exit__(kind, error, trace)
        if isinstance(error, ArchiveError) and error.entry is not None and self._guesses:
            raise WrongGuessError from error  # perhaps

    def lower_root(self) -> Union:
        if self._lower is None:
            self._shut_all()  # it may be long until that is there
            root = super().lower_root()
            try:
                self._settle_guesses(root)
            except (OSError, FailedError) as error:
                raise WrongGuessError from error  # whose error it is, the entry at fault will tell
        return super().lower_root()

    def guess(self, parent: LayerFolder, name: bytes, path: bytes, *, needed: bool) -> LayerFolder:
        """Make the folder ``name`` that is at ``path``, and most likely below.

        Where it is not, it stands there nevertheless if it is ``needed``.
        """
        self._implied += 1
        if self._implied > MOST_IMPLIED or path.count(b"/") > _DEEPEST:
            raise WrongGuessError
        folder = self._mkdir(parent, name, IMPLIED_MODE)
        self.upper_paths.add_lower_folder(folder)
        self._guesses[path] = folder.key
        self._unsettled.add(folder.key)
        if needed:
            self._needed.add(path)
        return folder

    def _complete(self) -> None:
        if self._guesses:
            self.lower_root()
        super()._complete()

    def _way(self, make: bool) -> Way:
        return GuessedWay(self, make) if self._lower is None else UnionWay(self, make)

    def _set_metadata(self, folder: LayerFolder) -> None:
        if folder.key not in self._unsettled:
            super()._set_metadata(folder)

    def _shut_all(self) -> None:
        self._by_path = {b"": self.root}
        while self._open:
            self._finish(self._open.popitem()[1])

    def _settle_guesses(self, root: Union) -> None:
        """Give all guessed folders what they have below."""
        guesses = list(self._facts_below(root))
        for path, facts in reversed(guesses):  # who is no root may not get into some of them later
            try:
                fd = open_beneath(self.root.fd, path)
            except OSError as error:
                if error.errno not in (errno.ENOENT, *NO_FOLDER):
                    raise
                continue  # it was replaced
            try:
                status = os.fstat(fd)
                key = self.upper_paths.key(status)
                if key in self._unsettled and key == self._guesses[path]:
                    self._settle_guess(LayerFolder(fd, status, key, path), facts)
            finally:
                os.close(fd)
        self._guesses.clear()
        self._needed.clear()
        self._unsettled.clear()
        self._implied = 0

    def _settle_guess(self, folder: LayerFolder, facts: Facts | None) -> None:
        if facts is None:
            self.upper_paths.add_entry(folder)
            folder.mode = IMPLIED_MODE
            if (folder.uid, folder.gid) != self._owner:
                os.chown(folder.fd, *self._owner)
        else:
            self.metadata.enter_folder(folder, facts)
        self._marks.set_implied(folder.fd)
        self.metadata.finish_folder(folder)

    def _facts_below(self, root: Union) -> Iterator[tuple[bytes, Facts | None]]:
        """The paths of all guesses, and what is there below; None for nothing."""
        with UnionPaths(root) as below:
            for names in sorted(path.split(b"/") for path in self._guesses):
                path = b"/".join(names)
                try:
                    facts = folder_facts(below.at(names).parts[0])
                except OSError as error:
                    if not self._is_missing(error, names[: len(below.way) + 1]):
                        raise
                    if path not in self._needed:
                        raise WrongGuessError from None
                    yield path, None
                else:
                    yield path, facts

    def _is_missing(self, error: OSError, names: list[bytes]) -> bool:
        """Whether ``error`` says of a folder below that there is none, or its entry replaced it."""
        is_other = error.errno in NO_FOLDER and b"/".join(names) not in self._guesses
        return error.errno == errno.ENOENT or is_other


class GuessedWay(Way):
    """How far a path was followed in the root, as if all that it lacks were folders below."""

    _folders: GuessedFolders

    def top(self) -> None:
        super().top()
        self._hidden = [self._folders.is_opaque(self._folder)]  # whether nothing below is there

    def up(self) -> None:
        if self.names:
            self._hidden.pop()
        super().up()

    def enter(self, name: bytes) -> bytes | None:
        folders, is_hidden = self._folders, self._hidden[-1]
        try:
            inside = folders.child(self._folder, name)
            is_hidden = is_hidden or folders.is_opaque(inside)
        except FileNotFoundError:
            if is_hidden:
                inside = self._make_implied(name)
            else:
                path = b"/".join([*self.names, name])
                inside = folders.guess(self._folder, name, path, needed=self._make)
        except OSError as error:
            if error.errno not in NO_FOLDER:
                raise
            status = os.stat(name, dir_fd=self._folder.fd, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                return os.readlink(name, dir_fd=self._folder.fd)
            if not is_whiteout(status):
                raise
            inside, is_hidden = self._make_implied(name), True
        self._folder = inside
        self.names.append(name)
        self._hidden.append(is_hidden)
        return None

    def _make_implied(self, name: bytes) -> LayerFolder:
        if not self._make:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return self._folders.make_implied(self._folder, name)


def start_over(root: bytes) -> None:
    """Let the folder of a difference be empty again."""
    fd = os.open(root, OPEN_ANY_FOLDER)
    try:
        clear_own(fd)
        empty_folder(os.dup(fd), root)
    finally:
        os.close(fd)
