"""An OCI image layout, as files: where blobs are, and what the index lists.

OCI image-spec, image-layout.md.
"""

from __future__ import annotations

import io
import os
import stat
from typing import BinaryIO

from reflayer.errors import ImageError, OperationError, brief, printable
from reflayer.images.descriptor import REF_NAME, Descriptor
from reflayer.images.digest import check_digest
from reflayer.images.document import Document

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

LAYOUT_FILE = "oci-layout"
INDEX_FILE = "index.json"
BLOBS = "blobs"
VERSION = "1.0.0"
_LARGEST = 64 << 20  # bytes of an index: some 200,000 names
_KNOWN = "1."  # others of these can be read by whoever reads the first (semver.org)


def blob_path(folder: str, digest: str) -> str:
    """Where a blob is or would be.

    Raises:
        ImageError: ``digest`` is not one.
    """
    return os.path.join(folder, BLOBS, *check_digest(digest))


def open_blob(folder: str, digest: str) -> BinaryIO:
    """Open a blob for reading.

    Raises:
        ImageError: it is not there.
        OperationError: it cannot be opened.
    """
    path = blob_path(folder, digest)
    try:
        return open_regular(path)
    except FileNotFoundError:
        raise ImageError(f"the blob {digest} is missing from {printable(folder)}") from None
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(path), "open") from error


def open_regular(path: str) -> BinaryIO:
    """Open a regular file for reading, and never wait for a FIFO.

    Raises:
        ImageError: it is something else.
        OSError: as open(2) says.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ImageError(f"{printable(path)} is not a regular file")
    return io.FileIO(fd)


def standard_input() -> BinaryIO:
    """Standard input, which stays open.

    Raises:
        ImageError: it is a terminal.
        OSError: it is closed.
    """
    if os.isatty(0):
        raise ImageError("standard input is a terminal: let an archive come from it")
    return io.FileIO(0, closefd=False)


def is_stream(path: str) -> bool:
    """Whether an archive can be read once only: standard input, a FIFO, a pipe of the shell's."""
    return path == "-" or (os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode))


def open_stream(path: str) -> BinaryIO:
    """Open such an archive; a FIFO that nobody writes to is empty.

    Raises:
        ImageError: it is a terminal.
        OSError: it cannot be opened.
    """
    if path == "-":
        return standard_input()
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_blocking(fd, True)
    return io.FileIO(fd)


def in_words(path: str) -> str:
    """What an archive is called in messages."""
    return "standard input" if path == "-" else printable(path)


def check_layout(folder: str) -> None:
    """Make sure that ``folder`` is an image layout of the version that we know.

    Raises:
        ImageError: it is not.
        OperationError: it cannot be read.
    """
    check_version(_read(folder, LAYOUT_FILE), folder)


def check_version(data: bytes, where: str) -> None:
    """Make sure that the file ``oci-layout`` of ``where`` names a version that we know.

    Raises:
        ImageError: it does not.
    """
    document = Document.parse(data, f"{printable(where)}/{LAYOUT_FILE}")
    version = document.string("imageLayoutVersion")
    if not version.startswith(_KNOWN):
        raise ImageError(
            f"{printable(where)} is an image layout of version {brief(version)!r}, not {VERSION}"
        )


def read_index(folder: str) -> Document:
    """The index of the layout ``folder``.

    Raises:
        ImageError: it is not there or malformed.
        OperationError: it cannot be read.
    """
    return Document.parse(_read(folder, INDEX_FILE), f"{printable(folder)}/{INDEX_FILE}")


def named(index: Document) -> Iterator[tuple[str, Descriptor]]:
    """Each manifest that an index lists, with its tag or the empty string.

    Raises:
        ImageError: one is malformed.
    """
    for entry in index.children("manifests"):
        descriptor = entry.descriptor()
        yield descriptor.annotations.get(REF_NAME, ""), descriptor


def _read(folder: str, name: str) -> bytes:
    path = os.path.join(folder, name)
    try:
        with open_regular(path) as file:
            data = file.read(_LARGEST + 1)
    except FileNotFoundError:
        reason = f"{printable(folder)} is not an OCI image layout: it has no {name}"
        raise ImageError(reason) from None
    except NotADirectoryError:
        reason = f"{printable(folder)} is no folder: oci-archive: is for layouts in a tar"
        raise ImageError(reason) from None
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(path), "read") from error
    if len(data) > _LARGEST:
        raise ImageError(f"{printable(path)} has more than {_LARGEST} bytes")
    return data
