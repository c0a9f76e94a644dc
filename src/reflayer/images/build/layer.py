"""A plain tar becomes a layer's blob, compressed and hashed on the way; and a blob a plain tar."""

from __future__ import annotations

import os
from contextlib import contextmanager
from hashlib import sha256
from typing import NamedTuple, cast

from reflayer.archive.compression import Blob, PlainReader, ReadAhead
from reflayer.images.content.temp_file import write_all
from reflayer.images.model.descriptor import LAYER_TYPES, Descriptor, digest_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from hashlib import _Hash as Hash
    from typing import BinaryIO

    from reflayer.images.content.blob_store import BlobStore
    from reflayer.progress import Progress

    Chunk = bytes | memoryview

_GZIP_LEVEL = 3  # the best of igzip, and ten times as fast as zlib for 8% more bytes
_ZSTD_LEVEL = 3  # zstd's own default
_BLOCK = 1 << 20  # bytes that one thread compresses at a time
_MOST_THREADS = 4  # a core makes the tar and hashes it; more of these would only wait


class NewLayer(NamedTuple):
    """A layer's blob, and the digest of its plain tar."""

    layer: Descriptor
    diff_id: str


def add_layer(
    content: BlobStore, chunks: Iterable[Chunk], compression: str, progress: Progress | None
) -> NewLayer:
    """Add the layer whose plain tar ``chunks`` are, compressed by ``none``, ``gzip`` or ``zstd``.

    The same tar is the same blob, whatever the number of cores. ``progress`` is told of stage
    ``pack``, in bytes of the plain tar.
    """
    if compression not in LAYER_TYPES:
        raise ValueError(f"compression {compression!r} is not one of {', '.join(LAYER_TYPES)}")
    plain_size = 0
    with content.temp_file() as file:
        blob = _Hashed(file.fd)
        plain = blob.hash if compression == "none" else sha256()
        with _compressing(compression, blob) as out:
            for block in _blocks(chunks):
                if plain is not blob.hash:
                    plain.update(block)
                plain_size += len(block)
                out.write(block)
                if progress is not None:
                    progress("pack", plain_size, None)
        digest = digest_text(blob.hash)
        content.commit(file, digest)
    layer = Descriptor(LAYER_TYPES[compression], digest, blob.size)
    return NewLayer(layer, digest_text(plain))


def plain_tar(blob: BinaryIO, size: int | None = None) -> ReadAhead:
    """The plain bytes of a layer's blob, of ``size`` bytes at most, in chunks, while entered."""
    return ReadAhead(PlainReader(Blob(blob, None, size)), None)


def _blocks(chunks: Iterable[Chunk]) -> Iterator[bytes]:
    """The chunks in blocks of one size, so that how they were cut does not show in a blob."""
    gathered = bytearray()
    for chunk in chunks:
        gathered += chunk
        while len(gathered) >= _BLOCK:
            yield bytes(gathered[:_BLOCK])
            del gathered[:_BLOCK]
    if gathered:
        yield bytes(gathered)


class _Hashed:
    """A file that is written from its start, and the hash and number of its bytes so far."""

    def __init__(self, fd: int) -> None:
        self.hash: Hash = sha256()
        self.size = 0
        self._fd = fd

    def write(self, data: Chunk) -> int:
        self.hash.update(data)
        self.size += len(data)
        write_all(self._fd, memoryview(data))
        return len(data)

    def flush(self) -> None:
        pass


@contextmanager
def _compressing(compression: str, blob: _Hashed) -> Iterator[BinaryIO]:
    """What is written to this comes into ``blob`` compressed; all of it at the end of the block.

    Only the library that is needed is imported.
    """
    out = cast("BinaryIO", blob)
    threads = min(len(os.sched_getaffinity(0)), _MOST_THREADS)
    match compression:
        case "gzip":
            with _gzip(out, threads) as stream:
                yield stream
        case "zstd":
            from reflayer.archive.compression import load_zstd

            zstd = load_zstd()
            parameters = zstd.CompressionParameter
            _, most = parameters.nb_workers.bounds()  # 0 where zstd is built without
            options: dict[int, int] = {
                parameters.compression_level: _ZSTD_LEVEL,
                parameters.checksum_flag: True,
                # As many bytes come out of one thread of zstd's own as of several, but not of none.
                parameters.nb_workers: min(threads, most),
            }
            with zstd.ZstdFile(out, "wb", options=options) as stream:
                yield cast("BinaryIO", stream)
        case _:
            yield out


def _gzip(out: BinaryIO, threads: int) -> BinaryIO:
    """What is written to this comes into ``out`` compressed; its header has no time and no name."""
    try:
        from isal import igzip_threaded
    except ImportError:
        from reflayer.archive.system_codecs import gzip_file

        return cast("BinaryIO", gzip_file(out))
    opened = igzip_threaded.open(out, "wb", _GZIP_LEVEL, threads=threads, block_size=_BLOCK)  # type: ignore[no-untyped-call]
    return cast("BinaryIO", opened)
