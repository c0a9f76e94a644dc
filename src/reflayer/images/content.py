"""The content store: an OCI image layout that skopeo and umoci read in place."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
from contextlib import contextmanager, suppress

from reflayer.errors import ImageError, failing, printable
from reflayer.images import layout
from reflayer.images.descriptor import REF_NAME, Descriptor
from reflayer.images.digest import (
    ALGORITHMS,
    check_digest,
    check_digest_is,
    check_size,
    digest_bytes,
    digest_text,
)
from reflayer.images.incoming import Incoming, clear, incoming, locked, sync_folder
from reflayer.images.media_types import OCI_INDEX
from reflayer.linux.mkdir import make_folders

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from typing import BinaryIO

    from reflayer.copy.paths import AnyPath

_ANY = "application/octet-stream"


class Content:
    """Blobs by digest, and tags; several threads and processes may use one folder at once.

    A blob is there whole and checked, or not at all. What keeps it there is no business of this:
    whoever deletes blobs has to know that nobody is about to use them.

    Attributes:
        folder: the layout.
    """

    def __init__(self, folder: AnyPath) -> None:
        """Open the layout ``folder``, make it where it is not there, clear what crashes left.

        Raises:
            ImageError: something else is there.
            OperationError: it cannot be made or read.
        """
        self.folder = os.path.abspath(os.fsdecode(folder))
        self._incoming = os.path.join(self.folder, "tmp")
        self._index = os.path.join(self.folder, layout.INDEX_FILE)
        self._lock = os.path.join(self.folder, "index.lock")
        with failing(self.folder, "create"):
            make_folders(self._incoming)
            make_folders(os.path.join(self.folder, layout.BLOBS, ALGORITHMS[0]))
        clear(self._incoming)
        if not os.path.exists(self._index):
            self._make()
        layout.check_layout(self.folder)

    def has(self, digest: str) -> bool:
        """Whether a blob is there.

        Raises:
            ImageError: ``digest`` is not one.
        """
        return os.path.exists(self.path(digest))

    def path(self, digest: str) -> str:
        """Where a blob is, or would be.

        Raises:
            ImageError: ``digest`` is not one.
        """
        return layout.blob_path(self.folder, digest)

    def open(self, digest: str) -> BinaryIO:
        """Open a blob for reading.

        Raises:
            ImageError: it is not there.
            OperationError: it cannot be opened.
        """
        return layout.open_blob(self.folder, digest)

    def size(self, digest: str) -> int:
        """The size of a blob, in bytes.

        Raises:
            ImageError: it is not there.
            OperationError: it cannot be opened.
        """
        with self.open(digest) as blob:
            return os.fstat(blob.fileno()).st_size

    def digests(self) -> Iterator[str]:
        """The digest of every blob, in no order."""
        for algorithm in ALGORITHMS:
            with suppress(FileNotFoundError):
                for name in os.listdir(os.path.join(self.folder, layout.BLOBS, algorithm)):
                    digest = f"{algorithm}:{name}"
                    with suppress(ImageError):  # another's file
                        check_digest(digest)
                        yield digest

    def add(
        self,
        source: BinaryIO,
        *,
        digest: str | None = None,
        size: int | None = None,
        media_type: str = _ANY,
        progress: Callable[[int], None] | None = None,
    ) -> Descriptor:
        """Take in a blob; nothing is read where it is there already.

        The blocks of a regular file that nothing was read of are shared where the file system can.

        Args:
            source: is read to its end.
            digest: what its digest has to be.
            size: how many bytes it has to have.
            media_type: for the descriptor that is returned.
            progress: is called now and then with the number of its bytes that are done.

        Raises:
            ImageError: it is not what it has to be.
            OperationError: it could not be read or written.
        """
        if digest is not None and self.has(digest):
            there = self.size(digest)
            if size is not None:
                check_size(there, size, digest)
            return Descriptor(media_type, digest, there)
        from reflayer.images.fill import fill  # where nothing comes in it is not needed

        with self.incoming(digest) as file:
            hashing, count = fill(file.fd, source, digest, size, progress)
            found = digest_text(hashing)
            if size is not None:
                check_size(count, size, digest or "that is to be added")
            if digest is not None:
                check_digest_is(found, digest)
            self.commit(file, found)
        return Descriptor(media_type, found, count)

    def add_bytes(self, data: bytes, media_type: str) -> Descriptor:
        """Take in ``data`` as a blob.

        Raises:
            OperationError: it could not be written.
        """
        digest = digest_bytes(data)
        return self.add(io.BytesIO(data), digest=digest, size=len(data), media_type=media_type)

    def incoming(self, digest: str | None = None) -> AbstractContextManager[Incoming]:
        """A file for a blob to be; gone at the end unless ``commit`` has been called for it."""
        path = self.path(digest) if digest else os.path.join(self.folder, layout.BLOBS)
        return incoming(self._incoming, path, make_folder=True)

    def commit(self, file: Incoming, digest: str) -> None:
        """Make ``file``, which was found to have this digest, a blob.

        Raises:
            OperationError: it could not be written.
        """
        path = self.path(digest)
        if os.path.exists(path):
            return
        with failing(path, "write"):
            os.makedirs(os.path.dirname(path), exist_ok=True)
        file.commit(path)

    def sync(self) -> None:
        """Write out the names of blobs, whose content has been already.

        Raises:
            OperationError: they could not be written.
        """
        for name in (*ALGORITHMS, ""):
            path = os.path.join(self.folder, layout.BLOBS, name)
            if os.path.exists(path):
                sync_folder(path)

    def delete(self, digest: str) -> None:
        """Remove a blob; one that is not there is no error.

        Raises:
            ImageError: ``digest`` is not one.
            OperationError: it cannot be removed.
        """
        path = self.path(digest)
        with failing(path, "remove"), suppress(FileNotFoundError):
            os.unlink(path)

    def tag(self, name: str, descriptor: Descriptor) -> None:
        """Let ``name`` be the manifest or index ``descriptor``, whatever it was before.

        Raises:
            ImageError: that blob is not there, or the name is empty.
            OperationError: the index could not be written.
        """
        if not name or not name.isprintable():
            raise ImageError(f"{printable(name)!r} cannot be a tag")
        if not self.has(descriptor.digest):
            raise ImageError(f"{printable(name)} cannot be tagged: {descriptor.digest} is missing")
        with self._changing_index() as entries:
            entries[:] = [entry for entry in entries if _name(entry) != name]
            entries.append(_tagged(name, descriptor))

    def set_tags(self, tags: Mapping[str, Descriptor]) -> None:
        """Let these be all tags, all at once; what is listed without one stays.

        Raises:
            OperationError: the index could not be written.
        """
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
        """Have the manifest or index ``descriptor``, whose blob is there, listed without a tag.

        Raises:
            OperationError: the index could not be written.
        """
        with self._changing_index() as entries:
            if not any(entry.get("digest") == descriptor.digest for entry in entries):
                entries.append(descriptor.as_json())

    def tags(self) -> dict[str, Descriptor]:
        """What each name is.

        Raises:
            ImageError: the index is malformed.
            OperationError: it cannot be read.
        """
        return {name: one for name, one in layout.named(layout.read_index(self.folder)) if name}

    def tidy(self) -> None:
        """Remove what only writers need, and what they make again where they need it.

        Raises:
            OperationError: it cannot be removed.
        """
        with locked(self._lock, fcntl.LOCK_EX), failing(self.folder, "tidy"):
            try:
                os.rmdir(self._incoming)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                    raise
            os.unlink(self._lock)

    @contextmanager
    def _changing_index(self) -> Iterator[list[dict[str, object]]]:
        with locked(self._lock, fcntl.LOCK_EX):
            index = layout.read_index(self.folder)
            entries = [entry.fields for entry in index.children("manifests")]
            before = list(entries)
            yield entries
            if entries != before:
                self._write(layout.INDEX_FILE, {**index.fields, "manifests": entries})

    def _make(self) -> None:
        with locked(self._lock, fcntl.LOCK_EX):
            if not os.path.exists(self._index):
                self._write(layout.LAYOUT_FILE, {"imageLayoutVersion": layout.VERSION})
                index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
                self._write(layout.INDEX_FILE, index)

    def _write(self, name: str, value: dict[str, object]) -> None:
        path = os.path.join(self.folder, name)
        with incoming(self._incoming, path, make_folder=True) as file:
            with open(file.fd, "wb", closefd=False) as stream:
                stream.write(json.dumps(value).encode())
            file.commit(path)
        sync_folder(self.folder)


def _tagged(name: str, descriptor: Descriptor) -> dict[str, object]:
    return {**descriptor.as_json(), "annotations": {**descriptor.annotations, REF_NAME: name}}


def _name(entry: dict[str, object]) -> str | None:
    annotations = entry.get("annotations")
    name = annotations.get(REF_NAME) if isinstance(annotations, dict) else None
    return name if isinstance(name, str) else None
