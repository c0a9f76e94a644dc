"""One blob into a registry: skipped, mounted, sent at once, or in chunks that can go on.

OCI distribution-spec, "Pushing Blobs".
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from reflayer.errors import ImageError, RegistryError
from reflayer.images.registry.retry import Patience, TemporaryError
from reflayer.images.registry.transport import address_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import urllib3

    from reflayer.images.descriptor import Descriptor
    from reflayer.images.registry.session import Session

    Told = Callable[[int], None]

_AT_ONCE = 8 << 20  # bytes: a larger blob is sent in chunks
_CHUNK = 32 << 20  # bytes; what has to be sent again if a connection breaks off
_PIECE = 1 << 20  # bytes read at a time
_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,19})")
_BINARY = "application/octet-stream"


def upload(session: Session, blob: Descriptor, fd: int, source: str | None, progress: Told) -> None:
    """Have ``blob`` in the repository.

    Args:
        session: the repository.
        blob: what is sent.
        fd: its bytes, a regular file.
        source: a repository of the same registry that may have it.
        progress: is called with the bytes that are there; may raise to give up.

    Raises:
        RegistryError: the registry does not take it.
        StoppedError: somebody asked to stop.
    """
    what = f"{session.path} does not take the blob {blob.digest}"
    patience = Patience(session.stop)
    while True:
        try:
            place = None
            if not _is_there(session, blob, what):
                place = _begin(session, blob, source, what)
            if place is not None:
                _Upload(session, blob, fd, place, what, patience, progress).run()
            progress(blob.size)
            return
        except TemporaryError as error:
            patience.wait(error)


def _is_there(session: Session, blob: Descriptor, what: str) -> bool:
    url = session.url(f"blobs/{blob.digest}")
    with session.request("HEAD", url, what, accept=(404,)) as response:
        return response.status != 404


def _begin(session: Session, blob: Descriptor, source: str | None, what: str) -> str | None:
    """Where the upload goes to; None where the blob was mounted from ``source``."""
    url = session.url("blobs/uploads/")
    headers = {"Content-Length": "0"}
    if source is not None:
        mount = f"{url}?{urlencode({'mount': blob.digest, 'from': source})}"
        also = (f"repository:{source}:pull",)
        try:
            with session.request("POST", mount, what, headers=headers, also=also) as response:
                return None if response.status == 201 else _place(response, session, mount, what)
        except TemporaryError:
            raise
        except RegistryError:
            pass  # who may not read there, or who knows no mounts, may send it all the same
    with session.request("POST", url, what, headers=headers) as response:
        return _place(response, session, url, what)


class _Upload:
    """An upload that has begun: where it goes on, and how much of it is there."""

    def __init__(
        self,
        session: Session,
        blob: Descriptor,
        fd: int,
        place: str,
        what: str,
        patience: Patience,
        progress: Told,
    ) -> None:
        self._session = session
        self._blob = blob
        self._fd = fd
        self._place = place
        self._what = what
        self._patience = patience
        self._progress = progress
        self._there = 0

    def run(self) -> None:
        """Send it all.

        Raises:
            TemporaryError: it has to begin anew.
        """
        size = self._blob.size
        if size > _AT_ONCE:
            while self._there < size:
                try:
                    self._patch(min(_CHUNK, size - self._there))
                except TemporaryError as error:
                    self._patience.wait(error)
                    self._ask(error)
        self._put(size - self._there)

    def _patch(self, count: int) -> None:
        start = self._there
        headers = {
            "Content-Type": _BINARY,
            "Content-Length": str(count),
            "Content-Range": f"{start}-{start + count - 1}",
        }
        with self._session.request(
            "PATCH", self._place, self._what, headers=headers, body=lambda: self._pieces(count)
        ) as response:
            self._place = _place(response, self._session, self._place, self._what)
            self._there = start + count
        self._patience.progressed(count)

    def _ask(self, error: TemporaryError) -> None:
        """Find out how much is there; begin anew where the registry does not know."""
        with self._session.request(
            "GET", self._place, self._what, accept=(400, 404, 405, 416)
        ) as response:
            match = _RANGE.fullmatch(response.headers.get("Range", ""))
            if response.status != 204 or match is None:
                raise error
            # An empty upload is told as 0-0, too: then its first byte comes twice, which is
            # refused, and the upload begins anew.
            there = int(match[1]) + 1 if match[1] != "0" else 0
            if there > self._blob.size:
                raise RegistryError(
                    f"{self._session.name}: {self._what}: it has more than was sent"
                )
            self._place = _place(response, self._session, self._place, self._what)
            self._there = there

    def _put(self, count: int) -> None:
        mark = "&" if "?" in self._place else "?"
        url = self._place + mark + urlencode({"digest": self._blob.digest})
        headers = {"Content-Type": _BINARY, "Content-Length": str(count)}
        body = (lambda: self._pieces(count)) if count else None
        with self._session.request("PUT", url, self._what, headers=headers, body=body):
            pass

    def _pieces(self, count: int) -> Iterator[bytes]:
        place = self._there
        end = place + count
        while place < end:
            data = os.pread(self._fd, min(_PIECE, end - place), place)
            if not data:
                raise ImageError(f"the blob {self._blob.digest} is shorter than it should be")
            yield data
            place += len(data)
            self._progress(place)


def _place(response: urllib3.HTTPResponse, session: Session, url: str, what: str) -> str:
    location = response.headers.get("Location")
    if not location:
        raise RegistryError(f"{session.name}: {what}: it does not say where to")
    return address_in(location, url)
