"""Layers made by hand for the tests, and the one way in which the tests apply them."""

from __future__ import annotations

import ctypes
import io
import os
import pickle
import sys
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal, TypeVar

import pytest

from reflayer.archive import AppliedLayer, apply_layer
from reflayer.archive.compression import load_zstd

_ZSTD = load_zstd()

Entry = tuple[tarfile.TarInfo, bytes]
Result = TypeVar("Result")

_TYPES = {
    "file": tarfile.REGTYPE,
    "link": tarfile.LNKTYPE,
    "symlink": tarfile.SYMTYPE,
    "char": tarfile.CHRTYPE,
    "block": tarfile.BLKTYPE,
    "folder": tarfile.DIRTYPE,
    "fifo": tarfile.FIFOTYPE,
}
_PR_SET_DUMPABLE = 4
NOBODY = 65534


def entry(
    name: str,
    data: bytes = b"",
    *,
    kind: str = "file",
    target: str = "",
    mode: int | None = None,
    uid: int = os.geteuid(),
    gid: int = os.getegid(),
    mtime: float = 1_000_000_000,
    device: tuple[int, int] = (0, 0),
    pax: Mapping[str, str] | None = None,
) -> Entry:
    """One entry; ``pax`` are records for its extended header."""
    info = tarfile.TarInfo(name)
    info.type = _TYPES[kind]
    info.mode = mode if mode is not None else 0o755 if kind == "folder" else 0o644
    info.uid, info.gid, info.mtime, info.linkname = uid, gid, mtime, target
    info.devmajor, info.devminor = device
    info.size = len(data)
    info.pax_headers = dict(pax or {})
    return info, data


def folder(name: str, **fields: object) -> Entry:
    """A folder's entry."""
    return entry(name, kind="folder", **fields)  # type: ignore[arg-type]


def tar(*entries: Entry, form: Literal[0, 1, 2] = tarfile.PAX_FORMAT, end: bool = True) -> bytes:
    """A plain tar; without the blocks of zeros at its ``end`` where that is False."""
    return b"".join(blocks(entries, form)) + (bytes(1024) if end else b"")


def blocks(
    entries: Iterable[Entry], form: Literal[0, 1, 2] = tarfile.PAX_FORMAT
) -> Iterable[bytes]:
    """The headers and the data of each entry."""
    for info, data in entries:
        yield info.tobuf(form, "utf-8", "surrogateescape")
        yield data + bytes(-len(data) % 512)


def header(block: bytes) -> bytes:
    """``block`` with its checksum put right."""
    blank = block[:148] + b" " * 8 + block[156:512]
    return blank[:148] + b"%06o\0 " % sum(blank) + blank[156:] + block[512:]


def xattr(name: str) -> str:
    """The key of a PAX record that holds an extended attribute."""
    return f"SCHILY.xattr.{name}"


def text(value: bytes) -> str:
    """Bytes as ``tarfile`` wants them in a PAX record."""
    return value.decode("utf-8", "surrogateescape")


def without_fast_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let isal and backports.zstd be missing, as they are where Debian's packages are used."""
    for name in ("isal", "isal.igzip_lib", "backports", "backports.zstd", "compression.zstd"):
        monkeypatch.setitem(sys.modules, name, None)


def zstd(data: bytes, **parameters: int) -> bytes:
    """One frame with a checksum, of unknown size as a stream's; zstd's ``parameters`` by name."""
    out = io.BytesIO()
    told = {"checksum_flag": 1, **parameters}
    options = {_ZSTD.CompressionParameter[name]: told[name] for name in told}
    with _ZSTD.ZstdFile(out, "wb", options=options) as stream:
        stream.write(data)
    return out.getvalue()


def apply(root: Path | bytes | str, archive: bytes, **options: object) -> AppliedLayer:
    """Apply ``archive`` to ``root``, which is made where it is not there."""
    if isinstance(root, Path):
        root.mkdir(exist_ok=True)
    return apply_layer(root, io.BytesIO(archive), **options)  # type: ignore[arg-type]


def as_nobody(place: Path, do: Callable[[], Result]) -> Result:
    """What ``do`` returns in a process without privileges whose working folder is ``place``."""
    os.chown(place, NOBODY, NOBODY)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.chdir(place)
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            # As after execve(2): /proc/self belongs to the new user.
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
            try:
                answer = pickle.dumps((True, do()))
            except Exception as error:
                answer = pickle.dumps((False, error))
            os.write(write_end, answer)
        finally:
            os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        done, value = pickle.loads(pipe.read())
    os.waitpid(child, 0)
    if not done:
        raise value
    result: Result = value
    return result
