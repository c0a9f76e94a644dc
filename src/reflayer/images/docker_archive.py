"""``docker-archive:FILE[:REF]``: an image in what ``docker save`` wrote.

Both of its layouts have a ``manifest.json`` that names each image's config and layers; the older
one keeps a layer as ``ID/layer.tar`` (or a link to it), that of Docker 25 and later as an OCI blob.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reflayer.archive.blob import Blob
from reflayer.archive.compression import PlainReader, compression_of
from reflayer.archive.names import clean
from reflayer.archive.read_ahead import ReadAhead
from reflayer.archive.tar_header import BLOCK
from reflayer.archive.tar_reader import read_entries
from reflayer.archive.tar_stream import TarStream
from reflayer.errors import ArchiveError, ImageError, printable
from reflayer.images.descriptor import Descriptor
from reflayer.images.digest import Unhashed, check_digest_is, digest_bytes
from reflayer.images.fetch import add_blobs
from reflayer.images.fill import write_all
from reflayer.images.image import LARGEST_CONFIG, check_layers, check_platform, parse_config
from reflayer.images.incoming import failing
from reflayer.images.layout import open_regular
from reflayer.images.made import LAYER_TYPES, add_image
from reflayer.images.manifest import LARGEST_MANIFEST
from reflayer.images.reference import Reference
from reflayer.images.saved import choose, parse_saved
from reflayer.images.tar_members import TarMembers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from reflayer.images.content import Content
    from reflayer.images.fetch import Progress
    from reflayer.images.image import Image
    from reflayer.images.platform import Platform

_MANIFEST = "manifest.json"
_BLOBS = "blobs/sha256/"


@dataclass(frozen=True, slots=True)
class DockerArchive:
    """An image in the archive ``path``, which may be compressed.

    Attributes:
        path: absolute.
        which: its name, its place in the archive, or None for the only one.
    """

    path: str
    which: Reference | int | None = None

    @property
    def name(self) -> str:
        """What a store calls the image: its first name in the archive where it has one.

        Raises:
            ImageError, OperationError: as ``names`` does.
        """
        return self.names[0]

    @property
    def names(self) -> tuple[str, ...]:
        """All of its names in the archive, or that by which it was asked for.

        Reads the archive where that was not asked for by name.

        Raises:
            ImageError: the archive has no such image, or is malformed.
            OperationError: it cannot be read.
        """
        if isinstance(self.which, Reference):
            return (str(self.which),)
        with self._opened() as file:
            image = choose(parse_saved(_find_manifest(file)), self.which)
        if image.tags:
            return tuple(dict.fromkeys(map(str, image.tags)))
        place = "" if self.which is None else f":@{self.which}"
        return (f"docker-archive:{self.path}{place}",)

    def fetch(
        self, content: Content, platform: Platform | None, progress: Progress | None
    ) -> Image:
        """As ``Source`` has it.

        A compressed archive takes the space of a plain one in ``content`` meanwhile.
        """
        with self._opened() as file:
            if _compression(file) == "none":
                return self._fetch(file.fileno(), content, platform, progress)
            with content.incoming() as spool:
                _decompress(file, spool.fd, progress)
                return self._fetch(spool.fd, content, platform, progress)

    def _fetch(
        self, fd: int, content: Content, platform: Platform | None, progress: Progress | None
    ) -> Image:
        members = TarMembers(fd)
        saved = choose(parse_saved(_read(members, _MANIFEST, LARGEST_MANIFEST)), self.which)
        data = _read(members, saved.config, LARGEST_CONFIG)
        config = parse_config(data, printable(saved.config))
        check_layers(len(saved.layers), config, "the image")
        check_platform(config.platform, platform, "the archive")
        described = [
            _describe(content, members, name, diff_id)
            for name, diff_id in zip(saved.layers, config.diff_ids, strict=True)
        ]
        names = {one.digest: name for one, name in zip(described, saved.layers, strict=True)}
        layers = tuple(described)
        add_blobs(content, lambda digest: members.open(names[digest]), layers, progress)
        return add_image(content, data, layers)

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        with failing(self.path, "open"):
            file = open_regular(self.path)
        try:
            with file, failing(self.path, "read"):
                yield file
        except (ArchiveError, ImageError) as error:
            raise ImageError(f"{printable(self.path)}: {error}") from error


def _describe(content: Content, members: TarMembers, name: str, diff_id: str) -> Descriptor:
    """The descriptor of the layer that the member ``name`` is.

    A plain layer is what its diff id says. The digest of a compressed one is in the name of an OCI
    blob; otherwise only reading it tells, and it is added at once.
    """
    with members.open(name) as file:
        compression = compression_of(file.read(BLOCK))
        media_type = LAYER_TYPES.get(compression)
        if media_type is None:
            raise ImageError(f"the layer {printable(name)} is compressed by {compression}")
        size = file.seek(0, os.SEEK_END)
        if compression == "none":
            return Descriptor(media_type, diff_id, size)
        path = os.fsdecode(clean(os.fsencode(name)))
        if path.startswith(_BLOBS):
            return Descriptor(media_type, f"sha256:{path.removeprefix(_BLOBS)}", size)
        file.seek(0)
        return content.add(file, media_type=media_type)


def _read(members: TarMembers, name: str, largest: int) -> bytes:
    """All of a small member; where its name is an OCI blob's its digest is checked."""
    with members.open(name) as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise ImageError(f"{printable(name)} has more than {largest} bytes")
    if name.startswith(_BLOBS):
        check_digest_is(digest_bytes(data), f"sha256:{name.removeprefix(_BLOBS)}")
    return data


def _find_manifest(file: BinaryIO) -> bytes:
    """``manifest.json``, read without keeping anything of a compressed archive."""
    if _compression(file) == "none":
        return _read(TarMembers(file.fileno()), _MANIFEST, LARGEST_MANIFEST)
    with ReadAhead(PlainReader(Blob(file, Unhashed(), None)), None) as ahead:
        stream = TarStream(iter(ahead))
        for entry in read_entries(stream):
            if clean(entry.name) == os.fsencode(_MANIFEST):
                if entry.size > LARGEST_MANIFEST:
                    raise ImageError(f"{_MANIFEST} has more than {LARGEST_MANIFEST} bytes")
                return stream.all_data()
    raise ImageError(f"the archive has no file {_MANIFEST}")


def _compression(file: BinaryIO) -> str:
    head = file.read(BLOCK)
    file.seek(0)
    return compression_of(head)


def _decompress(file: BinaryIO, fd: int, progress: Progress | None) -> None:
    size = os.fstat(file.fileno()).st_size
    blob = Blob(file, Unhashed(), None)
    with ReadAhead(PlainReader(blob), None) as ahead:
        for chunk in ahead:
            write_all(fd, chunk)
            if progress is not None:
                progress("fetch", blob.count, size)
