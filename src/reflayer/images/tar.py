"""``tar:FILE``: a root file system's tar as an image of one layer."""

from __future__ import annotations

import os
import time
from hashlib import sha256
from io import FileIO

from reflayer.archive.compression import Blob, PlainReader, ReadAhead
from reflayer.archive.tar_header import BLOCK, is_header
from reflayer.errors import ArchiveError, ImageError, failing
from reflayer.images.build.layer import add_layer
from reflayer.images.build.manifest import add_image, config_of
from reflayer.images.content.fetch import UNSETTLED, Source
from reflayer.images.content.temp_file import fill
from reflayer.images.model.descriptor import LAYER_TYPES, Descriptor, digest_text
from reflayer.images.model.platform import Platform
from reflayer.images.tar_members import in_words, standard_input
from reflayer.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from reflayer.images.content.blob_store import BlobStore
    from reflayer.images.content.fetch import Fetched
    from reflayer.progress import Progress


@record
class TarImage(Source):
    """The tar ``path``, in any usual compression; ``-`` is standard input.

    The same file is always the same image.
    """

    path: str

    @property
    def name(self) -> str:
        """What a store calls the image."""
        return f"tar:{self.path}"

    def stamp(self) -> str:
        if self.path == "-":
            return ""
        with failing(self.path, "stat"):
            status = os.stat(self.path)
        if time.time() - status.st_ctime < UNSETTLED:
            return ""
        times = (status.st_mtime_ns, status.st_ctime_ns)
        return ":".join(map(str, (status.st_dev, status.st_ino, status.st_size, *times)))

    def _fetch(
        self, content: BlobStore, platform: Platform | None, progress: Progress | None
    ) -> Fetched:
        with failing(self.path, "open"):
            file = standard_input() if self.path == "-" else FileIO(self.path)
        with file:
            try:
                layer, diff_id = _add(content, file, progress)
            except ArchiveError as error:
                raise ImageError(f"{in_words(self.path)}: {error}") from error
        config = config_of(platform or Platform.of_machine(), diff_id)
        return add_image(content, config, (layer,)), (self.name,)


def _add(content: BlobStore, file: BinaryIO, progress: Progress | None) -> tuple[Descriptor, str]:
    """Add the layer, as it is where OCI has a media type for it, else plain; and its diff id."""
    with content.temp_file() as kept:
        size = fill(kept.fd, file, None)
        os.lseek(kept.fd, 0, os.SEEK_SET)
        hashing = sha256()
        blob = Blob(FileIO(kept.fd, closefd=False), hashing, size)
        reader = PlainReader(blob)
        with ReadAhead(reader, None) as ahead:
            chunks = _checked(ahead, blob, progress, size)
            if reader.compression not in LAYER_TYPES:
                added = add_layer(content, chunks, "none", None)
                return added.layer, added.diff_id
            # The digest of a plain tar is its diff id.
            plain = None if reader.compression == "none" else sha256()
            for chunk in chunks:
                if plain is not None:
                    plain.update(chunk)
        digest = digest_text(hashing)
        content.commit(kept, digest)
        layer = Descriptor(LAYER_TYPES[reader.compression], digest, size)
        return layer, digest_text(plain) if plain is not None else digest


def _checked(
    ahead: ReadAhead, blob: Blob, progress: Progress | None, size: int
) -> Iterator[memoryview]:
    """The chunks of ``ahead``, which are a tar's, with ``progress`` called at each."""
    for chunk in ahead:
        if ahead.count == len(chunk) and not is_header(bytes(chunk[:BLOCK])):
            raise ArchiveError("it is not a tar")
        if progress is not None:
            progress("fetch", blob.count, size)
        yield chunk
    if progress is not None:
        progress("fetch", blob.count, size)
