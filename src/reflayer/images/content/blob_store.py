"""The blob store: an OCI image layout that skopeo and umoci read in place.

OCI image-spec, image-layout.md. Any layout's files are read here, also those of others.
"""

from __future__ import annotations

import errno
import io
import json
import os
import stat
from contextlib import contextmanager, suppress

from reflayer.errors import ImageError, brief, failing, printable
from reflayer.images.content.temp_file import TempFile, clear, fill, sync_folder, write_all
from reflayer.images.model.descriptor import (
    ALGORITHMS,
    OCI_INDEX,
    REF_NAME,
    Descriptor,
    check_digest,
    check_digest_is,
    check_size,
    digest_bytes,
    digest_text,
    hash_like,
    is_digest,
)
from reflayer.images.model.document import Document
from reflayer.linux.mkdir import make_folders
from reflayer.workers.lock import locked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import BinaryIO

    from reflayer.walk.folders import AnyPath

LAYOUT_FILE = "oci-layout"
INDEX_FILE = "index.json"
BLOBS = "blobs"
VERSION = "1.0.0"
_KNOWN = "1."  # others of these can be read by whoever reads the first (semver.org)
_LARGEST = 64 << 20  # bytes of an index: some 200,000 names
_ANY = "application/octet-stream"


class Layout:
    """An OCI image layout, to be read.

    A blob that is missing and a file that is not right are ImageErrors; what cannot be read is an
    OperationError.

    Attributes:
        folder: its path, absolute.
    """

    def __init__(self, folder: AnyPath) -> None:
        self.folder = os.path.abspath(os.fsdecode(folder))

    def path(self, digest: str) -> str:
        """Where a blob is, or would be."""
        return os.path.join(self.folder, blob_name(digest))

    def open(self, digest: str) -> BinaryIO:
        path = self.path(digest)
        with failing(path, "open"):
            try:
                return open_regular(path)
            except FileNotFoundError:
                where = printable(self.folder)
                raise ImageError(f"the blob {digest} is missing from {where}") from None

    def index(self) -> Document:
        """What is listed."""
        return Document.parse(self._read(INDEX_FILE), f"{printable(self.folder)}/{INDEX_FILE}")

    def check_version(self) -> None:
        """Make sure that this is a layout, and of a version that we know."""
        check_version(self._read(LAYOUT_FILE), self.folder)

    def _read(self, name: str) -> bytes:
        path = os.path.join(self.folder, name)
        where = printable(self.folder)
        with failing(path, "read"):
            try:
                with open_regular(path) as file:
                    data = file.read(_LARGEST + 1)
            except FileNotFoundError:
                reason = f"{where} is not an OCI image layout: it has no {name}"
                if os.path.isdir(os.path.join(self.folder, "etc")):
                    reason += f": rootfs:{where} takes a folder as it is"
                raise ImageError(reason) from None
            except NotADirectoryError:
                reason = f"{where} is no folder: oci-archive: is for layouts in a tar"
                raise ImageError(reason) from None
        if len(data) > _LARGEST:
            raise ImageError(f"{printable(path)} has more than {_LARGEST} bytes")
        return data


class BlobStore(Layout):
    """Blobs by digest, and tags; several threads and processes may use one folder at once.

    A blob is there whole and checked, or not at all. What keeps it there is no business of this:
    whoever deletes blobs has to know that nobody is about to use them.
    """

    def __init__(self, folder: AnyPath) -> None:
        """Open the layout ``folder``, make it where it is not there, clear what crashes left."""
        super().__init__(folder)
        self._blobs = os.path.join(self.folder, BLOBS)
        self._names = os.path.join(self.folder, "tmp")  # of temporary files
        self._index = os.path.join(self.folder, INDEX_FILE)
        self._lock = os.path.join(self.folder, "index.lock")
        with failing(self.folder, "create"):
            make_folders(self._names)
            make_folders(os.path.join(self._blobs, ALGORITHMS[0]))
        clear(self._names)
        if not os.path.exists(self._index):
            self._make()
        self.check_version()

    def has(self, digest: str) -> bool:
        return os.path.exists(self.path(digest))

    def size(self, digest: str) -> int:
        with self.open(digest) as blob:
            return os.fstat(blob.fileno()).st_size

    def digests(self) -> Iterator[str]:
        """The digest of every blob, in no order."""
        for algorithm in ALGORITHMS:
            with suppress(FileNotFoundError):
                for name in os.listdir(os.path.join(self._blobs, algorithm)):
                    if is_digest(digest := f"{algorithm}:{name}"):  # else it is another's file
                        yield digest

    def add(
        self,
        source: BinaryIO,
        *,
        digest: str | None = None,
        size: int | None = None,
        media_type: str = _ANY,
        progress: Callable[[int], None] | None = None,
        begin: Callable[[int], None] | None = None,
    ) -> Descriptor:
        """Take in a blob that has this digest and size; nothing is read where it is there already.

        The blocks of a regular file that nothing was read of are shared where the file system can.
        ``progress`` is called now and then with the number of its bytes that are done. They can be
        read then, by a descriptor that ``begin`` gets before, but are not checked yet.
        """
        if digest is not None and self.has(digest):
            there = self.size(digest)
            if size is not None:
                check_size(there, size, digest)
            return Descriptor(media_type, digest, there)
        with self.temp_file(digest) as file:
            if begin is not None:
                begin(os.dup(file.fd))
            hashing = hash_like(digest)
            count = fill(file.fd, source, hashing, size, progress)
            found = digest_text(hashing)
            if size is not None:
                check_size(count, size, digest or "that is to be added")
            if digest is not None:
                check_digest_is(found, digest)
            self.commit(file, found)
        return Descriptor(media_type, found, count)

    def add_bytes(self, data: bytes, media_type: str) -> Descriptor:
        digest = digest_bytes(data)
        return self.add(io.BytesIO(data), digest=digest, size=len(data), media_type=media_type)

    @contextmanager
    def temp_file(self, digest: str | None = None) -> Iterator[TempFile]:
        """A file for a blob to be; gone at the end unless ``commit`` has been called for it.

        An ``OSError`` of the block is an OperationError of the blob's.
        """
        path = self.path(digest) if digest else self._blobs
        with failing(path, "write"), TempFile(self.folder, self._names) as file:
            yield file

    def commit(self, file: TempFile, digest: str) -> None:
        """Make ``file``, which was found to have this digest, a blob."""
        path = self.path(digest)
        if os.path.exists(path):
            return
        with failing(path, "write"):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            file.commit(path)

    def sync(self) -> None:
        """Write out the names of blobs, whose content has been already."""
        for name in (*ALGORITHMS, ""):
            path = os.path.join(self._blobs, name)
            if os.path.exists(path):
                sync_folder(path)

    def delete(self, digest: str) -> None:
        """Remove a blob; one that is not there is no error."""
        path = self.path(digest)
        with failing(path, "remove"), suppress(FileNotFoundError):
            os.unlink(path)

    def tag(self, name: str, descriptor: Descriptor) -> None:
        """Let ``name`` be the manifest or index ``descriptor``, whatever it was before."""
        if not name or not name.isprintable():
            raise ImageError(f"{printable(name)!r} cannot be a tag")
        if not self.has(descriptor.digest):
            raise ImageError(f"{printable(name)} cannot be tagged: {descriptor.digest} is missing")
        with self._changing_index() as entries:
            entries[:] = [entry for entry in entries if _name(entry) != name]
            entries.append(_tagged(name, descriptor))

    def set_tags(self, tags: Mapping[str, Descriptor]) -> None:
        """Let these be all tags, all at once; what is listed without one stays."""
        with self._changing_index() as entries:
            digests = {name: one.digest for name, one in tags.items()}
            entries[:] = [
                entry
                for entry in entries
                if (name := _name(entry)) is None or digests.get(name) == entry.get("digest")
            ]
            there = {_name(entry) for entry in entries}
            entries += [_tagged(name, one) for name, one in tags.items() if name not in there]

    def list_untagged(self, descriptor: Descriptor) -> None:
        """Have the manifest or index ``descriptor``, whose blob is there, listed without a tag."""
        with self._changing_index() as entries:
            if not any(entry.get("digest") == descriptor.digest for entry in entries):
                entries.append(descriptor.as_json())

    def tags(self) -> dict[str, Descriptor]:
        listed = [entry.descriptor() for entry in self.index().children("manifests")]
        return {name: one for one in listed if (name := one.annotations.get(REF_NAME))}

    def tidy(self) -> None:
        """Remove what only writers need, and what they make again where they need it."""
        with locked(self._lock), failing(self.folder, "tidy"):
            try:
                os.rmdir(self._names)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                    raise
            os.unlink(self._lock)

    @contextmanager
    def _changing_index(self) -> Iterator[list[dict[str, object]]]:
        with locked(self._lock):
            index = self.index()
            entries = [entry.fields for entry in index.children("manifests")]
            before = list(entries)
            yield entries
            if entries != before:
                self._write(INDEX_FILE, {**index.fields, "manifests": entries})

    def _make(self) -> None:
        with locked(self._lock):
            if not os.path.exists(self._index):
                self._write(LAYOUT_FILE, {"imageLayoutVersion": VERSION})
                index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
                self._write(INDEX_FILE, index)

    def _write(self, name: str, value: dict[str, object]) -> None:
        path = os.path.join(self.folder, name)
        with failing(path, "write"), TempFile(self.folder, self._names) as file:
            write_all(file.fd, memoryview(json.dumps(value).encode()))
            file.commit(path)
        sync_folder(self.folder)


def blob_name(digest: str) -> str:
    return "/".join((BLOBS, *check_digest(digest)))


def open_regular(path: str) -> BinaryIO:
    """Open a regular file for reading, and never wait for a FIFO."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ImageError(f"{printable(path)} is not a regular file")
    return io.FileIO(fd)


def check_version(data: bytes, where: str) -> None:
    """Raise an ImageError where the file ``oci-layout`` of ``where`` names an unknown version."""
    document = Document.parse(data, f"{printable(where)}/{LAYOUT_FILE}")
    version = document.string("imageLayoutVersion")
    if not version.startswith(_KNOWN):
        raise ImageError(
            f"{printable(where)} is an image layout of version {brief(version)!r}, not {VERSION}"
        )


def _tagged(name: str, descriptor: Descriptor) -> dict[str, object]:
    return {**descriptor.as_json(), "annotations": {**descriptor.annotations, REF_NAME: name}}


def _name(entry: dict[str, object]) -> str | None:
    annotations = entry.get("annotations")
    name = annotations.get(REF_NAME) if isinstance(annotations, dict) else None
    return name if isinstance(name, str) else None
