"""gzip by zlib and zstd by libzstd, which every Debian has: where isal and backports.zstd are not.

They take longer by gzip, and make other bytes of the same content; what they read is the same.
"""

from __future__ import annotations

import ctypes
import zlib
from functools import cache
from gzip import GzipFile
from typing import NamedTuple

from reflayer.errors import ArchiveError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import BinaryIO, Self

_GZIP = 16 + zlib.MAX_WBITS
_GZIP_LEVEL = 1  # the fastest: zlib takes ten times as long as isal


class GzipDecompressor:
    """One member of gzip, as ``bz2`` has a stream."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(_GZIP)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        """Its end has been read."""
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        """What came after its end."""
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Some of the plain bytes, at most ``max_length``; the rest by further calls.

        Raises:
            zlib.error: the data is damaged.
        """
        plain = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self.needs_input = not self._zlib.unconsumed_tail and len(plain) < max_length
        return plain


def gzip_file(out: BinaryIO) -> GzipFile:
    """What is written to this comes into ``out`` compressed; its header has no time and no name."""
    return GzipFile("", "wb", _GZIP_LEVEL, out, mtime=0)


class ZstdError(Exception):
    """The data is damaged, or there is no memory for it."""


class DecompressionParameter:
    """Of zstd.h."""

    window_log_max = 100


class _Bounds(NamedTuple):
    parameter: int

    def bounds(self) -> tuple[int, int]:
        """The least and the most that it can be."""
        found = _library().ZSTD_cParam_getBounds(self.parameter)
        return found.least, found.most


class CompressionParameter:
    """Of zstd.h."""

    compression_level = _Bounds(100)
    checksum_flag = _Bounds(201)
    nb_workers = _Bounds(400)


class _Limits(ctypes.Structure):
    _fields_ = (("error", ctypes.c_size_t), ("least", ctypes.c_int), ("most", ctypes.c_int))


class _Buffer(ctypes.Structure):
    """``ZSTD_inBuffer`` and ``ZSTD_outBuffer``."""

    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_size_t), ("at", ctypes.c_size_t))


class ZstdDecompressor:
    """One frame of zstd, as ``compression.zstd`` has it."""

    _context: int | None = None  # until there is one, and where libzstd is not

    def __init__(self, options: Mapping[int, int]) -> None:
        self._zstd = _library()
        self._context = _made(self._zstd.ZSTD_createDCtx())
        for option, value in options.items():
            _checked(self._zstd.ZSTD_DCtx_setParameter(self._context, option, value))
        self._input = b""
        self.eof = False
        self.needs_input = True
        self.unused_data = b""

    def __del__(self) -> None:
        if self._context is not None:
            self._zstd.ZSTD_freeDCtx(self._context)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Some of the plain bytes, at most ``max_length``; the rest by further calls.

        Raises:
            ZstdError: the data is damaged, or takes too large a window.
        """
        self._input += data
        room = ctypes.create_string_buffer(max_length)
        source = _Buffer(
            ctypes.cast(ctypes.c_char_p(self._input), ctypes.c_void_p), len(self._input), 0
        )
        plain = _Buffer(ctypes.cast(room, ctypes.c_void_p), max_length, 0)
        left = _checked(
            self._zstd.ZSTD_decompressStream(
                self._context, ctypes.byref(plain), ctypes.byref(source)
            )
        )
        self._input = self._input[source.at :]
        self.eof = left == 0
        if self.eof:
            self.unused_data, self._input = self._input, b""
        self.needs_input = not self._input and plain.at < max_length
        return room.raw[: plain.at]


class ZstdFile:
    """What is written to this comes into ``out`` as one frame."""

    def __init__(self, out: BinaryIO, mode: str, options: Mapping[_Bounds, int]) -> None:
        assert mode == "wb"
        self._zstd = _library()
        self._out = out
        self._context = _made(self._zstd.ZSTD_createCCtx())
        for option, value in options.items():
            _checked(self._zstd.ZSTD_CCtx_setParameter(self._context, option.parameter, int(value)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._write(b"", 2)  # ZSTD_e_end
        finally:
            self._zstd.ZSTD_freeCCtx(self._context)

    def write(self, data: bytes) -> int:
        """Compress ``data``."""
        self._write(data, 0)  # ZSTD_e_continue
        return len(data)

    def _write(self, data: bytes, end: int) -> None:
        source = _Buffer(ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p), len(data), 0)
        room = ctypes.create_string_buffer(1 << 17)
        left = 1
        while source.at < source.size or (end and left):
            packed = _Buffer(ctypes.cast(room, ctypes.c_void_p), len(room), 0)
            left = _checked(
                self._zstd.ZSTD_compressStream2(
                    self._context, ctypes.byref(packed), ctypes.byref(source), end
                )
            )
            self._out.write(room.raw[: packed.at])


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libzstd.so.1")
    except OSError as error:
        raise ArchiveError(f"zstd needs backports.zstd or libzstd: {error}") from None
    for name in ("createDCtx", "createCCtx"):
        getattr(library, f"ZSTD_{name}").restype = ctypes.c_void_p
    pointer, buffer, number = ctypes.c_void_p, ctypes.POINTER(_Buffer), ctypes.c_int
    for name, arguments in (
        ("freeDCtx", (pointer,)),
        ("freeCCtx", (pointer,)),
        ("DCtx_setParameter", (pointer, number, number)),
        ("CCtx_setParameter", (pointer, number, number)),
        ("decompressStream", (pointer, buffer, buffer)),
        ("compressStream2", (pointer, buffer, buffer, number)),
        ("isError", (ctypes.c_size_t,)),
        ("getErrorName", (ctypes.c_size_t,)),
    ):
        function = getattr(library, f"ZSTD_{name}")
        function.argtypes = arguments
        if name not in ("isError", "freeDCtx", "freeCCtx"):
            function.restype = ctypes.c_size_t
    library.ZSTD_getErrorName.restype = ctypes.c_char_p
    library.ZSTD_cParam_getBounds.restype = _Limits
    return library


def _made(context: int | None) -> int:
    """What libzstd has made; it is NULL where there is no memory for it."""
    if context is None:
        raise ZstdError("libzstd has no memory")
    return context


def _checked(result: int) -> int:
    library = _library()
    if library.ZSTD_isError(result):
        raise ZstdError(library.ZSTD_getErrorName(result).decode())
    return result
