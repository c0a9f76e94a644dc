"""The exceptions that reflayer raises on purpose; ``str()`` of each is one clear line.

ReflayerError
    OperationError              a system operation on a path failed
        CopyError               a tree could not be copied
    ArchiveError                a layer's archive is bad, or cannot be applied
    LayerError                  a layer is not there, is there already, or in use
        QuotaError
    ImageError                  an image or its content is not there, or not right
        RegistryError
            DeniedError         it asks for credentials, or for others
            MissingError        it has nothing of that name
    StoreError                  the store refuses
        UnknownNameError        there is no container or image of that name
        TakenNameError          there is one already
        InUseError              containers are made of it
    SandboxError                a command cannot be run in a container
    ServiceError                a service cannot be started
    UsageError                  a command's arguments do not go together
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Self

_BRIEF = 120  # characters
_LISTED = 10


NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
"""No block or no inode is free, or a quota is used up."""


class ReflayerError(Exception):
    """The base of all; a handler of it meets nothing that is a fault of reflayer's own.

    Attributes:
        code: a word for scripts, which stays as it is. The words of ``str()`` may change.
    """

    code = "failed"


class OperationError(ReflayerError):
    """A system operation on a path failed.

    Attributes:
        path: the path as the user knows it, as ``os.fsdecode`` has it.
        operation: what was being done, a system call's name or a short verb.
        reason: why it failed, in words.
        errno: the kernel's error number, or None where the reason is our own.
    """

    code = "operation"

    def __init__(
        self, path: bytes | str, operation: str, reason: str, errno: int | None = None
    ) -> None:
        super().__init__(path, operation, reason, errno)
        self.path = os.fsdecode(path)
        self.operation = operation
        self.reason = reason
        self.errno = errno

    @classmethod
    def from_os_error(cls, error: OSError, path: bytes | str, operation: str) -> Self:
        """The failure of a system call, with the path as the user knows it."""
        return cls(path, operation, error.strerror or str(error), error.errno)

    def __str__(self) -> str:
        return f"{printable(self.path)}: {self.operation}: {self.reason}"


class CopyError(OperationError):
    """A tree could not be copied; the destination that the copy created is gone again."""

    code = "copy"


class ArchiveError(ReflayerError):
    """A layer's archive is bad or cannot be applied.

    Attributes:
        entry: the name of the archive's entry at fault, as ``os.fsdecode`` has it, or None when it
            is the archive as a whole.
        reason: what is wrong, in words.
    """

    code = "archive"

    def __init__(self, reason: str, entry: bytes | None = None) -> None:
        super().__init__(reason, entry)
        self.reason = reason
        self.entry = None if entry is None else os.fsdecode(entry)

    def __str__(self) -> str:
        return self.reason if self.entry is None else f"{printable(self.entry)}: {self.reason}"


class LayerError(ReflayerError):
    """A layer does not exist, exists already, is in use, or its id is not one."""

    code = "layer"


class QuotaError(LayerError):
    """A layer cannot have a quota where it is."""

    code = "quota"


class ImageError(ReflayerError):
    """An image, its reference, manifest or content is not there or not right."""

    code = "image"


class RegistryError(ImageError):
    """A registry cannot be reached, refuses, or answers what it should not."""

    code = "registry"


class DeniedError(RegistryError):
    """A registry asks for credentials, or refuses those that it got (401, 403)."""

    code = "denied"


class MissingError(RegistryError):
    """What is asked for is not in the registry (404)."""

    code = "missing"


class StoreError(ReflayerError):
    """The store refuses: a name is taken or unknown, something is in use, the schema is another."""

    code = "store"


class UnknownNameError(StoreError):
    """There is no container or image of that name or id in the store."""

    code = "not-found"


class TakenNameError(StoreError):
    """There is a container of that name already."""

    code = "exists"


class InUseError(StoreError):
    """What is to be removed is needed by containers."""

    code = "in-use"


class SandboxError(ReflayerError):
    """A command cannot be run in a container.

    Attributes:
        status: the exit status that ``docker run`` would have: 125, or 126 where the command cannot
            be executed, and 127 where it is not there.
        is_told: the runtime has said so on its standard error.
    """

    code = "sandbox"

    def __init__(self, message: str, status: int = 125, *, is_told: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.is_told = is_told


class ServiceError(ReflayerError):
    """A service cannot be started: its socket, an option or a library is not right."""

    code = "service"


class UsageError(ReflayerError):
    """A command's arguments do not go together; its exit status is 2."""

    code = "usage"


class failing:  # noqa: N801 - a context manager, read as a word of the sentence
    """Turn every ``OSError`` of the block into an error of ours that names the path.

    For what is done once. Where it is done for each entry of a tree, ``try`` costs nothing.
    """

    __slots__ = ("_as", "_operation", "_path")

    def __init__(
        self, path: bytes | str, operation: str, error: type[OperationError] = OperationError
    ) -> None:
        self._path = path
        self._operation = operation
        self._as = error

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, OSError):
            raise self._as.from_os_error(error, self._path, self._operation) from error


def printable(name: bytes | str) -> str:
    """A file name as one line of printable text: control and undecodable bytes are escaped."""
    text = name if isinstance(name, str) else os.fsdecode(name)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] if c != "\\" else "\\\\" for c in text)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``: did you mean NAME?`` of what is most like ``word``; empty where nothing is like it."""
    from difflib import get_close_matches

    close = get_close_matches(word, known, 1)
    return f": did you mean {printable(close[0])}?" if close else ""


def brief(text: str) -> str:
    """Another's words in a message: printable, and at most 120 characters of them."""
    return printable(text if len(text) <= _BRIEF else text[: _BRIEF - 3] + "...")


def listed(names: Iterable[str]) -> str:
    """Names in a message, each once; only how many more there are beyond ten."""
    each = list(dict.fromkeys(names))
    more = f" and {len(each) - _LISTED:,} more" if len(each) > _LISTED else ""
    return ", ".join(map(brief, each[:_LISTED])) + more


def counted(things: Mapping[str, int]) -> str:
    """How many there are of each kind: ``2 owners, 1 socket``."""
    return ", ".join(f"{count:,} {kind}{'s' * (count > 1)}" for kind, count in things.items())
