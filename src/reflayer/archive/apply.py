"""A layer's blob, checked on the way, becomes files in a folder.

Up to four threads work on one layer, each behind the one before: read and decompress, hash
(``compression``), parse headers and make what is not ordinary (``layer``), make ordinary files by
the part in C (``files``). A layer of one chunk, 1 MiB, never waits for a thread to start.
"""

from __future__ import annotations

import hashlib
import os

from reflayer.archive.compression import Blob, PlainReader, ReadAhead
from reflayer.archive.folders import Folders
from reflayer.archive.layer import Layer
from reflayer.archive.tar_reader import TarStream, read_entries
from reflayer.errors import ArchiveError, failing
from reflayer.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from hashlib import _Hash as Hash
    from typing import BinaryIO

    from reflayer.archive.id_map import IdMap
    from reflayer.walk.folders import AnyPath

_ALGORITHMS = {"sha256": 64, "sha512": 128}  # hexadecimal digits: OCI image-spec, descriptor.md


@record
class AppliedLayer:
    """One applied layer.

    Attributes:
        digest: of the blob as it was read, ``sha256:...`` unless another was asked for.
        diff_id: digest of the plain tar.
        size: bytes of the blob.
        plain_size: bytes of the plain tar.
        entries: how many entries it has, whiteouts included.
        skipped: what ``ownership="ignore"`` left out, by kind: ``owner``, ``device``, ``xattr``;
            and each ``xattr`` that belongs to another host or file system.
    """

    digest: str
    diff_id: str
    size: int
    plain_size: int
    entries: int
    skipped: Mapping[str, int]


def apply_layer(
    root: AnyPath,
    blob: BinaryIO,
    *,
    digest: str | None = None,
    size: int | None = None,
    diff_id: str | None = None,
    checked: bool = False,
    ownership: str = "keep",
    progress: Callable[[int], None] | None = None,
) -> AppliedLayer:
    """Apply the layer ``blob`` in place to the folder ``root`` (OCI image-spec, layer.md).

    Nothing is forced to disk. After an error ``root`` is half changed, and of no use.

    Args:
        root: the folder that the lower layers are in, or an empty one.
        blob: a tar, plain or compressed by gzip, zstd, bzip2 or xz; it is read to its end.
        digest: what the blob's digest has to be.
        size: how many bytes the blob has to have.
        diff_id: what the digest of the plain tar has to be.
        checked: ``blob`` itself makes sure that it has ``digest``, so that nobody need do so twice:
            reading its end raises otherwise.
        ownership: ``keep``, or ``ignore`` to leave out and count owners, devices and attributes
            that the kernel refuses, as it does without root.
        progress: is called now and then with the number of the blob's bytes that were read.

    Raises:
        ArchiveError: the archive is damaged, is not what it has to be, or asks for what cannot be.
        OperationError: the system could not do what the archive asks for; for want of space, say.
        ValueError: ``ownership`` is neither.
    """
    known = digest if checked else None
    whole = _new_hash(digest)
    plain = _new_hash(diff_id)
    compressed = Blob(blob, whole if known is None else None, size)
    reader = PlainReader(compressed)
    # The digest of a plain tar is its diff id, and need not be made twice.
    is_one = known is None and reader.compression == "none" and whole.name == plain.name
    ahead = ReadAhead(reader, None if is_one else plain)
    entries, _, skipped = _apply(root, compressed, ahead, ownership, progress)
    if size is not None and compressed.count != size:
        raise ArchiveError(f"the blob has {compressed.count} bytes but should have {size}")
    return AppliedLayer(
        digest=_checked(whole, digest, "blob's digest") if known is None else known,
        diff_id=_checked(whole if is_one else plain, diff_id, "diff id"),
        size=compressed.count,
        plain_size=ahead.count,
        entries=entries,
        skipped=skipped,
    )


def _new_hash(digest: str | None) -> Hash:
    """A hash of the algorithm of ``digest``."""
    if digest is None:
        return hashlib.sha256()
    algorithm, _, encoded = digest.partition(":")
    if len(encoded) != _ALGORITHMS.get(algorithm) or set(encoded) - set("0123456789abcdef"):
        raise ArchiveError(f"{digest!r} is not a sha256 or sha512 digest")
    return hashlib.new(algorithm)


def _checked(hashing: Hash, wanted: str | None, what: str) -> str:
    """The digest that ``hashing`` came to, which has to be ``wanted`` if that is given."""
    digest = f"{hashing.name}:{hashing.hexdigest()}"
    if wanted is not None and digest != wanted:
        raise ArchiveError(f"the {what} is {digest} but should be {wanted}")
    return digest


def apply_stream(
    root: AnyPath,
    stream: BinaryIO,
    *,
    ownership: str = "keep",
    id_map: IdMap | None = None,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Apply a layer of which no digest is wanted; return the sum of its files' sizes.

    The sum is what Docker tells of a layer: whole sizes of sparse files, nothing for further names.
    With an ``id_map`` the archive's ids are a container's, and those of the host are set.

    Raises:
        ArchiveError, OperationError, ValueError: as ``apply_layer`` does.
    """
    blob = Blob(stream, None, None)
    reading = ReadAhead(PlainReader(blob), None)
    return _apply(root, blob, reading, ownership, progress, id_map)[1]


def _apply(
    root: AnyPath,
    blob: Blob,
    reading: ReadAhead,
    ownership: str,
    progress: Callable[[int], None] | None,
    id_map: IdMap | None = None,
) -> tuple[int, int, Mapping[str, int]]:
    """Return the number of entries, the sum of their sizes and what was left out."""
    if ownership not in ("keep", "ignore"):
        raise ValueError(f"ownership is keep or ignore, not {ownership!r}")
    path = os.fsencode(root)
    with failing(path, "open"):
        folders = Folders(path, ownership == "ignore", None if id_map is None else id_map.root)
    entries = size = 0
    with folders, reading as ahead:
        chunks = _told(ahead, blob, progress)
        stream = TarStream(chunks)
        layer = Layer(folders, stream, id_map)
        ahead.release, ahead.settle = layer.files.release, layer.files.settle
        with layer.files:
            for entry in read_entries(stream):
                layer.apply(entry)
                entries += 1
                size += entry.size if entry.sparse is None else entry.sparse.size
            layer.finish()
            for _ in chunks:
                pass  # what follows the end of the archive counts for the digests
    return entries, size, folders.metadata.skipped


def _told(
    ahead: ReadAhead, blob: Blob, progress: Callable[[int], None] | None
) -> Iterator[memoryview]:
    """The chunks of ``ahead``, with ``progress`` called at each."""
    for chunk in ahead:
        if progress is not None:
            progress(blob.count)
        yield chunk
    if progress is not None:
        progress(blob.count)
