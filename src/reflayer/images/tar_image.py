"""``tar:FILE``: a root file system's tar as an image of one layer."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from io import FileIO

from reflayer.archive.compression import Blob, PlainReader
from reflayer.archive.read_ahead import ReadAhead
from reflayer.archive.tar_header import BLOCK, is_header
from reflayer.errors import ArchiveError, ImageError, failing
from reflayer.images.descriptor import Descriptor
from reflayer.images.digest import digest_text
from reflayer.images.fill import keep, write_all
from reflayer.images.layout import in_words, standard_input
from reflayer.images.made import LAYER_TYPES, add_image, config_of
from reflayer.images.media_types import OCI_LAYER
from reflayer.images.platform import Platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from reflayer.images.content import Content
    from reflayer.images.sources import Fetched
    from reflayer.progress import Progress


@dataclass(frozen=True, slots=True)
class TarImage:
    """The tar ``path``, in any usual compression; ``-`` is standard input.

    The same file is always the same image.
    """

    path: str

    @property
    def name(self) -> str:
        """What a store calls the image."""
        return f"tar:{self.path}"

    def fetch(
        self, content: Content, platform: Platform | None, progress: Progress | None
    ) -> Fetched:
        """As ``Source`` has it; the file is read whole, since only that tells what it is."""
        with failing(self.path, "open"):
            file = standard_input() if self.path == "-" else FileIO(self.path)
        with file:
            try:
                layer, diff_id = _add_layer(content, file, progress)
            except ArchiveError as error:
                raise ImageError(f"{in_words(self.path)}: {error}") from error
        config = config_of(platform or Platform.of_machine(), diff_id)
        return add_image(content, config, (layer,)), (self.name,)


def _add_layer(
    content: Content, file: BinaryIO, progress: Progress | None
) -> tuple[Descriptor, str]:
    """Add the layer, as it is where OCI has a media type for it, else plain; and its diff id."""
    with content.incoming() as kept:
        size = keep(kept.fd, file)
        hashing = sha256()
        blob = Blob(FileIO(kept.fd, closefd=False), hashing, size)
        reader = PlainReader(blob)
        with ReadAhead(reader, None) as ahead:
            chunks = _checked(ahead, blob, progress, size)
            if reader.compression not in LAYER_TYPES:
                return add_plain(content, chunks)
            # The digest of a plain tar is its diff id.
            plain = None if reader.compression == "none" else sha256()
            for chunk in chunks:
                if plain is not None:
                    plain.update(chunk)
        digest = digest_text(hashing)
        content.commit(kept, digest)
        layer = Descriptor(LAYER_TYPES[reader.compression], digest, size)
        return layer, digest_text(plain) if plain is not None else digest


def add_plain(content: Content, chunks: Iterator[memoryview]) -> tuple[Descriptor, str]:
    """Add the plain layer that ``chunks`` are; and its diff id."""
    plain = sha256()
    count = 0
    with content.incoming() as file:
        for chunk in chunks:
            plain.update(chunk)
            write_all(file.fd, chunk)
            count += len(chunk)
        digest = digest_text(plain)
        content.commit(file, digest)
    return Descriptor(OCI_LAYER, digest, count), digest


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
