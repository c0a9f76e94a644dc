"""``docker-archive:FILE[:REF]``: an image in a tar that ``docker save`` writes, ``load`` reads.

Its ``manifest.json`` names each image's config and layers: the older layout keeps a layer as
``ID/layer.tar`` (or a link to it), that of Docker 25 and later as a blob of an OCI image layout,
which is in the same tar. Any other archive of images holds such a layout alone (``oci-archive:``).
Where both are in one, the transport tells which is meant; else what is there is taken.
"""

from __future__ import annotations

import os
import re
import stat

from reflayer.archive import tar_header as types
from reflayer.archive.compression import compression_of
from reflayer.archive.tar_header import BLOCK, END, Entry, clean_path, headers, padding
from reflayer.archive.tar_reader import TarStream, read_entries
from reflayer.errors import ArchiveError, ImageError, brief, failing, listed, printable
from reflayer.images.build.layer import add_layer, plain_tar
from reflayer.images.build.manifest import add_image, manifest_of, to_json
from reflayer.images.content.blob_store import (
    BLOBS,
    INDEX_FILE,
    LAYOUT_FILE,
    VERSION,
    blob_name,
    check_version,
)
from reflayer.images.content.resolve import names_of, read_document
from reflayer.images.content.source import Destination, Source
from reflayer.images.content.temp_file import replacement, sync_folder
from reflayer.images.content.transfer import add_blobs, fetch_listed
from reflayer.images.model.descriptor import (
    CONTAINERD_NAME,
    LAYER_TYPES,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    REF_NAME,
    Descriptor,
    check_digest_is,
    digest_bytes,
    digest_text,
    hash_like,
)
from reflayer.images.model.document import Document, parse_json
from reflayer.images.model.image import (
    LARGEST_CONFIG,
    LARGEST_MANIFEST,
    check_count,
    check_layers,
    check_platform,
    parse_config,
)
from reflayer.images.model.reference import Reference, parse_reference
from reflayer.images.tar import TarMembers, archive_members, is_stream, opened_archive
from reflayer.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

    from reflayer.images.content.blob_store import BlobStore
    from reflayer.images.content.source import Fetched
    from reflayer.images.model.image import Image
    from reflayer.images.model.platform import Platform
    from reflayer.progress import Progress

    Which = Reference | int | None  # the image's name, its place in the archive, or the only one

MANIFEST_JSON = "manifest.json"
_REPOSITORIES = "repositories"
_OF_ITS_LAYER = ("id", "parent", "layer_id", "parent_id", "throwaway", "Size")
_BLOBS = f"{BLOBS}/sha256/"
_MOST_NAMES = 1000


@record
class DockerArchive(Source, Destination):
    """An image in the archive ``path``, which may be compressed.

    Attributes:
        path: absolute; or ``-`` for standard input.
        which: its name, its place in the archive, or None for the only one.
    """

    path: str
    which: Which = None

    is_plain = True

    @property
    def name(self) -> str:
        """What a store calls the image: its first name in the archive where it has one.

        Reads the archive where that was not asked for by name, and can be read twice.
        """
        if isinstance(self.which, Reference) or is_stream(self.path):
            return self._names(())[0]
        with opened_archive(self.path) as (file, compression):
            data = _find_manifest(file, compression)
            return self._names(choose(parse_saved(data), self.which).tags if data else ())[0]

    def _fetch(
        self, content: BlobStore, platform: Platform | None, progress: Progress | None
    ) -> Fetched:
        with archive_members(self.path, content, progress) as members:
            if MANIFEST_JSON in members or INDEX_FILE not in members:
                image, tags = fetch_saved(members, self.which, content, platform, progress)
            else:
                which = f"@{self.which}" if isinstance(self.which, int) else str(self.which or "")
                image, tags = fetch_layout(members, which, content, platform, progress)
        return image, self._names(tags)

    def write(self, content: BlobStore, image: Image, progress: Progress | None) -> None:
        """Write ``image`` as the archive, in place of what was there, in the layout of Docker 25.

        The same image is always the same archive.
        """
        assert not isinstance(self.which, int)
        place = os.path.realpath(self.path)  # of a link, the file that it leads to is replaced
        with failing(self.path, "write"):
            if os.path.lexists(place) and not stat.S_ISREG(os.lstat(place).st_mode):
                raise ImageError(f"{printable(self.path)} is no regular file: an archive needs one")
            with replacement(place) as out:
                _Writer(out, content, progress).write(image, self.which)
        sync_folder(os.path.dirname(place))

    def _names(self, tags: tuple[Reference, ...]) -> tuple[str, ...]:
        if isinstance(self.which, Reference):
            return (str(self.which),)
        place = "" if self.which is None else f":@{self.which}"
        return tuple(dict.fromkeys(map(str, tags))) or (f"docker-archive:{self.path}{place}",)


def parse_which(text: str) -> Which:
    """The name or place that ``REF`` is; None where it is empty."""
    if re.fullmatch(r"@[0-9]{1,6}", text):
        return int(text[1:])
    return parse_reference(text) if text else None


def fetch_layout(
    members: TarMembers,
    which: str,
    content: BlobStore,
    platform: Platform | None,
    progress: Progress | None,
) -> tuple[Image, tuple[Reference, ...]]:
    """Bring in the image of an archived layout; return what that calls it, too."""
    if LAYOUT_FILE in members:
        check_version(members.read(LAYOUT_FILE, LARGEST_MANIFEST), "the archive")
    index = Document.parse(members.read(INDEX_FILE, LARGEST_MANIFEST), INDEX_FILE)

    def open_blob(digest: str) -> BinaryIO:
        return members.open(blob_name(digest))

    image, top = fetch_listed(index, which, open_blob, content, platform, progress, "the archive")
    whole = [name for name in names_of(top) if "/" in name]  # a tag alone says of no image
    return image, tuple(parse_reference(name) for name in whole)


def fetch_saved(
    members: TarMembers,
    which: Which,
    content: BlobStore,
    platform: Platform | None,
    progress: Progress | None,
) -> tuple[Image, tuple[Reference, ...]]:
    """Bring in the image of a ``manifest.json``; return what that calls it, too."""
    if MANIFEST_JSON not in members and _REPOSITORIES in members:
        return _fetch_oldest(members, which, content, platform)
    saved = choose(parse_saved(members.read(MANIFEST_JSON, LARGEST_MANIFEST)), which)
    data = members.read(saved.config, LARGEST_CONFIG)
    if saved.config.startswith(_BLOBS):
        check_digest_is(digest_bytes(data), f"sha256:{saved.config.removeprefix(_BLOBS)}")
    config = parse_config(data, brief(saved.config))
    check_layers(len(saved.layers), config, "the image")
    check_platform(config.platform, platform, "the archive")
    layers = tuple(
        _describe(content, members, name, diff_id)
        for name, diff_id in zip(saved.layers, config.diff_ids, strict=True)
    )
    names = {one.digest: name for one, name in zip(layers, saved.layers, strict=True)}
    add_blobs(content, lambda digest: members.open(names[digest]), layers, progress)
    return add_image(content, data, layers, platform), saved.tags


def _fetch_oldest(
    members: TarMembers, which: Which, content: BlobStore, platform: Platform | None
) -> tuple[Image, tuple[Reference, ...]]:
    """Bring in the image of ``repositories``; its config is made as Docker did."""
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
        with members.open(name) as file, plain_tar(file) as chunks:
            added.append(add_layer(content, chunks, "none", None))
    config = {
        **{key: value for key, value in documents[0].fields.items() if key not in _OF_ITS_LAYER},
        "rootfs": {"type": "layers", "diff_ids": [one.diff_id for one in added]},
    }
    blobs = tuple(one.layer for one in added)
    return add_image(content, to_json(config), blobs, platform), saved.tags


def _describe(content: BlobStore, members: TarMembers, name: str, diff_id: str) -> Descriptor:
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
            with plain_tar(file) as chunks:
                return add_layer(content, chunks, "none", None).layer
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
        return members.read(MANIFEST_JSON, LARGEST_MANIFEST) if MANIFEST_JSON in members else b""
    with plain_tar(file) as chunks:
        stream = TarStream(iter(chunks))
        for entry in read_entries(stream):
            if clean_path(entry.name) == MANIFEST_JSON.encode():
                if entry.size > LARGEST_MANIFEST:
                    raise ImageError(f"{MANIFEST_JSON} has more than {LARGEST_MANIFEST} bytes")
                return stream.all_data()
    return b""


@record
class SavedImage:
    """One image of an archive: the members that are its config and its layers, and its names."""

    config: str
    layers: tuple[str, ...]
    tags: tuple[Reference, ...]


def parse_saved(data: bytes) -> list[SavedImage]:
    entries = parse_json(data, MANIFEST_JSON)
    if not isinstance(entries, list):
        raise ImageError("manifest.json is not a list of images")
    images = []
    for entry in entries:
        if not isinstance(entry, dict):
            raise ImageError("manifest.json has an image that is not an object")
        image = Document(entry, MANIFEST_JSON)
        config, layers = image.required_string("Config"), tuple(image.strings("Layers"))
        tags = tuple(parse_reference(tag) for tag in image.strings("RepoTags"))
        images.append(SavedImage(config, layers, tags))
    return images


def parse_repositories(data: bytes) -> list[SavedImage]:
    """Read ``repositories``, which is all that Docker wrote before 1.10 (Docker's image spec v1).

    The config of an image is then that of its top layer, which names the layer below.
    """
    document = Document.parse(data, _REPOSITORIES)
    tags: dict[str, list[Reference]] = {}
    for name in document.fields:
        if tagged := document.child(name):
            for tag in tagged.fields:
                reference = parse_reference(f"{name}:{tag}")
                tags.setdefault(tagged.required_string(tag), []).append(reference)
    return [SavedImage(one, (), tuple(names)) for one, names in tags.items()]


def choose(images: list[SavedImage], which: Which) -> SavedImage:
    names = (
        image.tags[0].familiar() if image.tags else f"@{place}"
        for place, image in enumerate(images)
    )
    there = f"the archive has {listed(names)}" if images else "the archive has no images"
    if isinstance(which, Reference):
        for image in images:
            if which in image.tags:
                return image
        raise ImageError(f"there is no image {which.familiar()}: {there}")
    if which is None and len(images) != 1:
        raise ImageError(f"say which image: {there}" if images else there)
    if (which or 0) >= len(images):
        raise ImageError(f"there is no image @{which}: {there}")
    image = images[which or 0]
    if len(image.tags) > _MOST_NAMES:
        raise ImageError(f"the image has {len(image.tags):,} names: say by which to take it")
    return image


class _Writer:
    """One archive on its way out."""

    def __init__(self, out: BinaryIO, content: BlobStore, progress: Progress | None) -> None:
        self._out = out
        self._content = content
        self._progress = progress
        self._done = 0

    def write(self, image: Image, name: Reference | None) -> None:
        """Write all of it: the layers first, whose sizes are in what comes after them."""
        layers: list[Descriptor] = []
        for layer, diff_id in zip(image.layers, image.diff_ids, strict=True):
            there = next((one for one in layers if one.digest == diff_id), None)
            layers.append(there or self._write_layer(layer, diff_id))
        data = read_document(image.config, self._content.open, LARGEST_CONFIG)
        config = self._write_blob(data, OCI_CONFIG)
        manifest = self._write_blob(manifest_of(config, layers), OCI_MANIFEST)
        saved = {
            "Config": blob_name(config.digest),
            "RepoTags": [name.familiar()] if name else None,
            "Layers": [blob_name(layer.digest) for layer in layers],
        }
        self._write_file(INDEX_FILE, to_json(_index(manifest, name)))
        self._write_file(MANIFEST_JSON, to_json([saved]))
        self._write_file(LAYOUT_FILE, to_json({"imageLayoutVersion": VERSION}))
        self._out.write(END)

    def _write_layer(self, layer: Descriptor, diff_id: str) -> Descriptor:
        """Write a layer plain; how long that is shows only then, and goes before it."""
        start = self._out.tell()
        self._out.write(_header(blob_name(diff_id), 0))
        hashing = hash_like(diff_id)
        size = 0
        try:
            with self._content.open(layer.digest) as file, plain_tar(file, layer.size) as chunks:
                for chunk in chunks:
                    hashing.update(chunk)
                    self._out.write(chunk)
                    size += len(chunk)
                    if self._progress is not None:
                        self._progress("write", self._done + size, None)
        except ArchiveError as error:
            raise ImageError(f"layer {layer.digest}: {error}") from error
        check_digest_is(digest_text(hashing), diff_id)
        self._done += size
        self._out.write(padding(size))
        end = self._out.tell()
        self._out.seek(start)
        self._out.write(_header(blob_name(diff_id), size))
        self._out.seek(end)
        return Descriptor(OCI_LAYER, diff_id, size)

    def _write_blob(self, data: bytes, media_type: str) -> Descriptor:
        digest = digest_bytes(data)
        self._write_file(blob_name(digest), data)
        return Descriptor(media_type, digest, len(data))

    def _write_file(self, name: str, data: bytes) -> None:
        self._out.write(_header(name, len(data)) + data + padding(len(data)))


def _header(name: str, size: int) -> bytes:
    """The header of a member; of one length, whatever the size: the record stands for any."""
    size_record = {b"size": b"%d" % size}
    return headers(Entry(name.encode(), types.FILE, size, 0o644), size_record)


def _index(manifest: Descriptor, name: Reference | None) -> dict[str, object]:
    annotations = {CONTAINERD_NAME: str(name), REF_NAME: name.tag} if name else {}
    entry = {**manifest.as_json(), **({"annotations": annotations} if annotations else {})}
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
