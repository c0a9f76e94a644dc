"""``docker-archive:FILE[:REF]`` and ``oci-archive:FILE[:TAG]``: an image in a tar.

What ``docker save`` writes has a ``manifest.json`` that names each image's config and layers: the
older layout keeps a layer as ``ID/layer.tar`` (or a link to it), that of Docker 25 and later as an
OCI blob. Any other archive of images holds an OCI image layout. Where both are in one, the prefix
tells which is meant; else what is there is taken.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass

from reflayer.archive.compression import Blob, PlainReader, compression_of
from reflayer.archive.read_ahead import ReadAhead
from reflayer.archive.tar_entry import clean_path
from reflayer.archive.tar_header import BLOCK
from reflayer.archive.tar_reader import TarStream, read_entries
from reflayer.errors import ImageError, brief
from reflayer.images import layout
from reflayer.images.descriptor import Descriptor
from reflayer.images.digest import Unhashed, check_digest, check_digest_is, digest_bytes
from reflayer.images.document import Document
from reflayer.images.fetch import add_blobs, fetch_image, nearest
from reflayer.images.image import (
    LARGEST_CONFIG,
    check_count,
    check_layers,
    check_platform,
    parse_config,
)
from reflayer.images.made import LAYER_TYPES, add_image, to_json
from reflayer.images.manifest import LARGEST_MANIFEST
from reflayer.images.oci_layout import choose_image, names_of
from reflayer.images.reference import Reference, parse_reference
from reflayer.images.saved import choose, parse_repositories, parse_saved
from reflayer.images.tar_image import add_plain
from reflayer.images.tar_members import TarMembers, archive_members, opened_archive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from reflayer.images.content import Content
    from reflayer.images.image import Image
    from reflayer.images.platform import Platform
    from reflayer.images.sources import Fetched
    from reflayer.progress import Progress

_MANIFEST = "manifest.json"
_REPOSITORIES = "repositories"
_OF_ITS_LAYER = ("id", "parent", "layer_id", "parent_id", "throwaway", "Size")
_BLOBS = f"{layout.BLOBS}/sha256/"


@dataclass(frozen=True, slots=True)
class DockerArchive:
    """An image in the archive ``path``, which may be compressed.

    Attributes:
        path: absolute; or ``-`` for standard input.
        which: its name, its place in the archive, or None for the only one.
    """

    path: str
    which: Reference | int | None = None

    @property
    def name(self) -> str:
        """What a store calls the image: its first name in the archive where it has one.

        Reads the archive where that was not asked for by name, and can be read twice.

        Raises:
            ImageError: the archive has no such image, or is malformed.
            OperationError: it cannot be read.
        """
        if isinstance(self.which, Reference) or layout.is_stream(self.path):
            return self._names(())[0]
        with opened_archive(self.path) as (file, compression):
            data = _find_manifest(file, compression)
            return self._names(choose(parse_saved(data), self.which).tags if data else ())[0]

    def fetch(
        self, content: Content, platform: Platform | None, progress: Progress | None
    ) -> Fetched:
        """As ``Source`` has it."""
        with archive_members(self.path, content, progress) as members:
            if _MANIFEST in members or layout.INDEX_FILE not in members:
                image, tags = _fetch_saved(members, self.which, content, platform, progress)
            else:
                which = f"@{self.which}" if isinstance(self.which, int) else str(self.which or "")
                image, tags = _fetch_layout(members, which, content, platform, progress)
        return image, self._names(tags)

    def _names(self, tags: tuple[Reference, ...]) -> tuple[str, ...]:
        if isinstance(self.which, Reference):
            return (str(self.which),)
        place = "" if self.which is None else f":@{self.which}"
        return tuple(dict.fromkeys(map(str, tags))) or (f"docker-archive:{self.path}{place}",)


@dataclass(frozen=True, slots=True)
class OciArchive:
    """An image in the archive ``path`` (absolute, or ``-``), by its ``tag`` or the only one."""

    path: str
    tag: str = ""

    @property
    def name(self) -> str:
        """What a store calls the image."""
        return f"oci-archive:{self.path}:{self.tag}" if self.tag else f"oci-archive:{self.path}"

    def fetch(
        self, content: Content, platform: Platform | None, progress: Progress | None
    ) -> Fetched:
        """As ``Source`` has it."""
        with archive_members(self.path, content, progress) as members:
            if layout.INDEX_FILE in members or _MANIFEST not in members:
                image, _ = _fetch_layout(members, self.tag, content, platform, progress)
            else:
                which = parse_reference(self.tag) if self.tag else None
                image, _ = _fetch_saved(members, which, content, platform, progress)
        return image, (self.name,)


def _fetch_layout(
    members: TarMembers,
    which: str,
    content: Content,
    platform: Platform | None,
    progress: Progress | None,
) -> tuple[Image, tuple[Reference, ...]]:
    """The image of a layout, and what that calls it."""
    if layout.LAYOUT_FILE in members:
        layout.check_version(members.read(layout.LAYOUT_FILE, LARGEST_MANIFEST), "the archive")
    index = Document.parse(members.read(layout.INDEX_FILE, LARGEST_MANIFEST), layout.INDEX_FILE)

    def open_blob(digest: str) -> BinaryIO:
        return members.open("/".join((layout.BLOBS, *check_digest(digest))))

    near = nearest(content, open_blob)
    image, top = choose_image(index, which, platform, near, "the archive")
    fetch_image(image, open_blob, content, progress)
    whole = [name for name in names_of(top) if "/" in name]  # a tag alone says of no image
    return image, tuple(parse_reference(name) for name in whole)


def _fetch_saved(
    members: TarMembers,
    which: Reference | int | None,
    content: Content,
    platform: Platform | None,
    progress: Progress | None,
) -> tuple[Image, tuple[Reference, ...]]:
    """The image of a ``manifest.json``, and what that calls it."""
    if _MANIFEST not in members and _REPOSITORIES in members:
        return _fetch_oldest(members, which, content, platform)
    saved = choose(parse_saved(members.read(_MANIFEST, LARGEST_MANIFEST)), which)
    data = members.read(saved.config, LARGEST_CONFIG)
    if saved.config.startswith(_BLOBS):
        check_digest_is(digest_bytes(data), f"sha256:{saved.config.removeprefix(_BLOBS)}")
    config = parse_config(data, brief(saved.config))
    check_layers(len(saved.layers), config, "the image")
    check_platform(config.platform, platform, "the archive")
    described = [
        _describe(content, members, name, diff_id)
        for name, diff_id in zip(saved.layers, config.diff_ids, strict=True)
    ]
    names = {one.digest: name for one, name in zip(described, saved.layers, strict=True)}
    layers = tuple(described)
    add_blobs(content, lambda digest: members.open(names[digest]), layers, progress)
    return add_image(content, data, layers, platform), saved.tags


def _fetch_oldest(
    members: TarMembers,
    which: Reference | int | None,
    content: Content,
    platform: Platform | None,
) -> tuple[Image, tuple[Reference, ...]]:
    """The image of ``repositories``, and what that calls it; its config is made as Docker did."""
    saved = choose(parse_repositories(members.read(_REPOSITORIES, LARGEST_MANIFEST)), which)
    documents: list[Document] = []
    layers: list[str] = []
    below = saved.config
    while below:
        data = members.read(f"{below}/json", LARGEST_CONFIG)
        documents.append(Document.parse(data, brief(f"{below}/json")))
        layers.insert(0, f"{below}/layer.tar")
        check_count(len(layers), "the image")
        below = documents[-1].string("parent")
    added = []
    for name in layers:
        with members.open(name) as file, _plain(file) as chunks:
            added.append(add_plain(content, chunks))
    config = {
        **{key: value for key, value in documents[0].fields.items() if key not in _OF_ITS_LAYER},
        "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in added]},
    }
    blobs = tuple(layer for layer, _ in added)
    return add_image(content, to_json(config), blobs, platform), saved.tags


@contextmanager
def _plain(file: BinaryIO) -> Iterator[Iterator[memoryview]]:
    with ReadAhead(PlainReader(Blob(file, Unhashed(), None)), None) as ahead:
        yield iter(ahead)


def _describe(content: Content, members: TarMembers, name: str, diff_id: str) -> Descriptor:
    """The descriptor of the layer that the member ``name`` is.

    A plain layer is what its diff id says. The digest of a compressed one is in the name of an OCI
    blob; otherwise only reading it tells, and it is added at once, plain where OCI has no media
    type for it.
    """
    with members.open(name) as file:
        compression = compression_of(file.read(BLOCK))
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        media_type = LAYER_TYPES.get(compression)
        if media_type is None:
            with _plain(file) as chunks:
                return add_plain(content, chunks)[0]
        if compression == "none":
            return Descriptor(media_type, diff_id, size)
        path = clean_path(name.encode()).decode()
        if path.startswith(_BLOBS):
            return Descriptor(media_type, f"sha256:{path.removeprefix(_BLOBS)}", size)
        return content.add(file, media_type=media_type)


def _find_manifest(file: BinaryIO, compression: str) -> bytes:
    """``manifest.json``, read without keeping anything of a compressed archive; empty if absent."""
    if compression == "none":
        members = TarMembers(file.fileno())
        return members.read(_MANIFEST, LARGEST_MANIFEST) if _MANIFEST in members else b""
    with _plain(file) as chunks:
        stream = TarStream(chunks)
        for entry in read_entries(stream):
            if clean_path(entry.name) == _MANIFEST.encode():
                if entry.size > LARGEST_MANIFEST:
                    raise ImageError(f"{_MANIFEST} has more than {LARGEST_MANIFEST} bytes")
                return stream.all_data()
    return b""
