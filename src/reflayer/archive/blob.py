"""A blob as it is read: counted, hashed, and never longer than promised."""

from __future__ import annotations

import hashlib
import io

from reflayer.errors import ArchiveError, OperationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO, Protocol

    from _typeshed import WriteableBuffer

    class Hash(Protocol):
        """What ``hashlib.new`` returns, as far as it is used here."""

        @property
        def name(self) -> str: ...
        def update(self, data: WriteableBuffer, /) -> None: ...
        def hexdigest(self) -> str: ...


_ALGORITHMS = {"sha256": 64, "sha512": 128}


class Blob(io.RawIOBase):
    """The compressed bytes, passed on as they come.

    Attributes:
        count: bytes read so far.
    """

    def __init__(self, raw: BinaryIO, hashing: Hash | None, size: int | None) -> None:
        """Read ``raw`` to its end, but no further than ``size`` bytes where that is promised.

        ``hashing`` gets every byte of it, where there is one.
        """
        self.count = 0
        self._raw = raw
        # It spares a copy; but whatever reads in a way of its own, and may check, does so in read.
        self._readinto: Callable[[memoryview], int] | None = None
        if type(raw) in (io.FileIO, io.BufferedReader):
            self._readinto = raw.readinto  # type: ignore[attr-defined]
        self._hash = hashing
        self._size = size
        self._ahead = b""

    def readable(self) -> bool:
        """Always."""
        return True

    def peek(self, size: int) -> bytes:
        """The first ``size`` bytes (fewer where the blob ends), which will be read again.

        Only before anything else is read.
        """
        while len(self._ahead) < size and (piece := self._next(size - len(self._ahead))):
            self._ahead += piece
        return self._ahead

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill ``buffer`` as far as one read goes; 0 at the end.

        Raises:
            ArchiveError: the blob is longer than promised.
            OperationError: it could not be read.
        """
        view = memoryview(buffer)
        if self._ahead or self._readinto is None:
            data = self._ahead[: len(view)] or self._next(len(view))
            self._ahead = self._ahead[len(data) :]
            view[: len(data)] = data
            return len(data)
        try:
            count = self._readinto(view)
        except OSError as error:
            raise OperationError.from_os_error(error, b"the layer's blob", "read") from error
        self._take(view[:count])
        return count

    def _next(self, size: int) -> bytes:
        try:
            data = self._raw.read(size)
        except OSError as error:
            raise OperationError.from_os_error(error, b"the layer's blob", "read") from error
        self._take(data)
        return data

    def _take(self, data: bytes | memoryview) -> None:
        self.count += len(data)
        if self._size is not None and self.count > self._size:
            raise ArchiveError(f"the blob is longer than the {self._size} bytes it should have")
        if self._hash is not None:
            self._hash.update(data)


def hash_for(digest: str | None) -> Hash:
    """A hash of the algorithm that ``digest`` names (OCI image-spec, descriptor: digests).

    Raises:
        ArchiveError: the digest is not of the form ``sha256:...`` or ``sha512:...``.
    """
    if digest is None:
        return hashlib.sha256()
    algorithm, _, encoded = digest.partition(":")
    if len(encoded) != _ALGORITHMS.get(algorithm) or set(encoded) - set("0123456789abcdef"):
        raise ArchiveError(f"{digest!r} is not a sha256 or sha512 digest")
    return hashlib.new(algorithm)


def digest_of(hashing: Hash, wanted: str | None, what: str) -> str:
    """The digest that ``hashing`` came to, which has to be ``wanted`` if that is given.

    Raises:
        ArchiveError: it is another.
    """
    algorithm = wanted.partition(":")[0] if wanted else "sha256"
    digest = f"{algorithm}:{hashing.hexdigest()}"
    if wanted is not None and digest != wanted:
        raise ArchiveError(f"the {what} is {digest} but should be {wanted}")
    return digest
