"""An image into a new archive that ``docker load`` reads, and every program that reads such.

It has the layout of Docker 25 and later: an OCI image layout of plain layers in a tar, and beside
it the ``manifest.json`` that older ones look for. The same image is always the same archive.
"""

from __future__ import annotations

import os
import stat

from reflayer.archive import tar_entry as types
from reflayer.archive.tar_header import padding
from reflayer.archive.tar_writer import END, headers
from reflayer.errors import ArchiveError, ImageError, failing, printable
from reflayer.images import layout
from reflayer.images.descriptor import CONTAINERD_NAME, REF_NAME, Descriptor
from reflayer.images.digest import (
    check_digest,
    check_digest_is,
    digest_bytes,
    digest_text,
    hash_like,
)
from reflayer.images.image import LARGEST_CONFIG
from reflayer.images.incoming import sync_folder
from reflayer.images.made import to_json
from reflayer.images.media_types import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from reflayer.images.remade import plain_chunks
from reflayer.images.replacement import replacement
from reflayer.images.resolve import read_document

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

    from reflayer.images.content import Content
    from reflayer.images.image import Image
    from reflayer.images.reference import Reference
    from reflayer.progress import Progress


def write_archive(
    path: str,
    name: Reference | None,
    content: Content,
    image: Image,
    progress: Progress | None,
) -> None:
    """Write ``image``, whose blobs are in ``content``, as the file ``path``, whatever that was.

    Args:
        path: of the archive; it is there when all of it is written out.
        name: what the image is called in it; None for no name.
        content: where its blobs are.
        image: it; its layers go out plain, as ``docker save`` has them.
        progress: is told of stage ``write``, in bytes.

    Raises:
        ImageError: a blob is missing or damaged, or the path is no regular file.
        OperationError: something could not be read or written.
    """
    place = os.path.realpath(path)  # of a link, the file that it leads to is replaced
    with failing(path, "write"):
        if os.path.lexists(place) and not stat.S_ISREG(os.lstat(place).st_mode):
            raise ImageError(f"{printable(path)} is no regular file: an archive needs one")
        with replacement(place) as out:
            _Writer(out, content, progress).write(image, name)
    sync_folder(os.path.dirname(place))


class _Writer:
    """One archive on its way out."""

    def __init__(self, out: BinaryIO, content: Content, progress: Progress | None) -> None:
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
        manifest = self._write_blob(
            to_json(
                {
                    "schemaVersion": 2,
                    "mediaType": OCI_MANIFEST,
                    "config": config.as_json(),
                    "layers": [layer.as_json() for layer in layers],
                }
            ),
            OCI_MANIFEST,
        )
        saved = {
            "Config": _member(config.digest),
            "RepoTags": [name.familiar()] if name else None,
            "Layers": [_member(layer.digest) for layer in layers],
        }
        self._write_file(layout.INDEX_FILE, to_json(_index(manifest, name)))
        self._write_file("manifest.json", to_json([saved]))
        self._write_file(layout.LAYOUT_FILE, to_json({"imageLayoutVersion": layout.VERSION}))
        self._out.write(END)

    def _write_layer(self, layer: Descriptor, diff_id: str) -> Descriptor:
        """Write a layer plain; how long that is shows only then, and goes before it."""
        start = self._out.tell()
        self._out.write(_header(_member(diff_id), 0))
        hashing = hash_like(diff_id)
        size = 0
        try:
            for chunk in plain_chunks(self._content.open, layer):
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
        self._out.write(_header(_member(diff_id), size))
        self._out.seek(end)
        return Descriptor(OCI_LAYER, diff_id, size)

    def _write_blob(self, data: bytes, media_type: str) -> Descriptor:
        digest = digest_bytes(data)
        self._write_file(_member(digest), data)
        return Descriptor(media_type, digest, len(data))

    def _write_file(self, name: str, data: bytes) -> None:
        self._out.write(_header(name, len(data)) + data + padding(len(data)))


def _header(name: str, size: int) -> bytes:
    """The header of a member; of one length, whatever the size: the record stands for any."""
    size_record = {b"size": b"%d" % size}
    return headers(name.encode(), types.FILE, mode=0o644, size=size, records=size_record)


def _member(digest: str) -> str:
    return "/".join((layout.BLOBS, *check_digest(digest)))


def _index(manifest: Descriptor, name: Reference | None) -> dict[str, object]:
    annotations = {CONTAINERD_NAME: str(name), REF_NAME: name.tag} if name else {}
    entry = {**manifest.as_json(), **({"annotations": annotations} if annotations else {})}
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
