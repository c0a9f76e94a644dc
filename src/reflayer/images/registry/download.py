"""One blob out of a registry into a file: resumed where it broke off, checked as a whole."""

from __future__ import annotations

import os
import re

from reflayer.errors import RegistryError
from reflayer.images.content.partial_download import complete, is_complete
from reflayer.images.content.temp_file import write_all
from reflayer.images.content.transfer import StoppedError
from reflayer.images.model.descriptor import check_digest_is, check_size, digest_text, hash_like
from reflayer.images.registry.retry import Patience, TemporaryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    import urllib3

    from reflayer.images.content.transfer import Told
    from reflayer.images.model.descriptor import Descriptor
    from reflayer.images.registry.repository import Repository

_CHUNK = 1 << 20  # bytes
_NO_RANGE = (400, 403, 405, 406, 412, 416, 417, 501)  # the blob may be had as a whole still
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")


class _NoRangeError(Exception):
    """The rest of a blob is not to be had alone."""


def download(repo: Repository, blob: Descriptor, fd: int, progress: Told, readable: Told) -> None:
    """Have ``blob`` in the file ``fd``, which may have its beginning, and write it out.

    A complete file is left as it is, whatever this registry says: other processes rely on it. What
    an earlier try left is not to be trusted until all of it is checked: a crash may have taken some
    of it. If it turns out wrong the blob is downloaded once more, as a whole.

    Args:
        repo, blob: what it has to be, and where it is.
        fd: what ``open_partial`` opened, locked by this process.
        progress: is called with the number of bytes that are there.
        readable: is called with the number of those that may be read before all are checked: none
            of an earlier try.
    """
    left = os.fstat(fd).st_size
    if is_complete(fd):
        check_size(left, blob.size, blob.digest)
        progress(left)
        readable(left)
        return
    if left > blob.size:
        os.ftruncate(fd, 0)
        left = 0
    found = _complete(repo, blob, fd, left, progress, None if left else readable)
    if found != blob.digest and left:
        os.ftruncate(fd, 0)
        found = _complete(repo, blob, fd, 0, progress, readable)
    if found != blob.digest:
        os.ftruncate(fd, 0)  # nothing to go on with
        check_digest_is(found, blob.digest)
    complete(fd)
    readable(blob.size)


def _complete(
    repo: Repository, blob: Descriptor, fd: int, left: int, progress: Told, readable: Told | None
) -> str:
    """Download what follows the first ``left`` bytes; return the digest of all."""
    hashing = hash_like(blob.digest)
    count = 0
    while count < left:
        data = os.pread(fd, min(_CHUNK, left - count), count)
        if not data:
            raise RegistryError("a blob that came in before is being changed meanwhile")
        hashing.update(data)
        count += len(data)
        if repo.stop.is_set():
            raise StoppedError
    patience = Patience(repo.waits)
    os.lseek(fd, count, os.SEEK_SET)
    in_parts = True
    while count < blob.size:
        try:
            for data in _pieces(repo, blob, count, in_parts and count > 0):
                write_all(fd, memoryview(data))
                hashing.update(data)
                count += len(data)
                patience.progressed(len(data))
                progress(count)
                if readable is not None:
                    readable(count)
        except _NoRangeError:
            in_parts = False
        except TemporaryError as error:
            patience.wait(error)
    return digest_text(hashing)


def _pieces(repo: Repository, blob: Descriptor, start: int, is_part: bool) -> Iterator[bytes]:
    """The blob's bytes from ``start`` on, as far as one answer goes; ``is_part`` asks for these."""
    url = repo.url(f"blobs/{blob.digest}")
    what = f"{repo.path}: the blob {blob.digest} cannot be had"
    headers = {"Range": f"bytes={start}-"} if is_part else {}
    accept = _NO_RANGE if is_part else ()
    with repo.request("GET", url, what, headers=headers, accept=accept) as response:
        if problem := _problem(response, blob, start):
            raise _NoRangeError if is_part else RegistryError(f"{repo.name}: {problem}")
        decode = _is_encoded(response, blob.size)
        skip = 0 if response.status == 206 else start
        left = blob.size - start
        while left:
            data = response.read(min(_CHUNK, skip or left), decode_content=decode)
            if not data:
                # A server that ends a body early without saying so.
                raise TemporaryError(f"{repo.name}: {what}: it lacks its last {left} bytes")
            if skip:
                skip -= len(data)
                continue
            left -= len(data)
            yield data
        has_no_length = decode or response.length_remaining is None
        if has_no_length and response.read(1, decode_content=decode):
            raise RegistryError(f"{repo.name}: {what}: it has more than {blob.size} bytes")


def _problem(response: urllib3.HTTPResponse, blob: Descriptor, start: int) -> str:
    """Why an answer is neither all of the blob nor what follows ``start``; empty where it is."""
    size = wanted = blob.size
    if response.status == 206:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        part = match and tuple(size if one == "*" else int(one) for one in match.groups())
        if part != (start, size - 1, size):
            return "sends another part of a blob than was asked for"
        wanted -= start
    elif response.status >= 300:
        return "sends no part of a blob"
    length = response.length_remaining
    if length in (None, wanted) or _is_encoded(response, size):
        return ""
    return f"sends {length} bytes as the blob {blob.digest}, which should have {size}"


def _is_encoded(response: urllib3.HTTPResponse, size: int) -> bool:
    """Whether a cache or proxy has compressed a blob on the way, without being asked to.

    A store that was told in what way the blob itself is compressed may say so, too.
    """
    encoding = response.headers.get("Content-Encoding", "identity")
    return encoding != "identity" and response.status == 200 and response.length_remaining != size
