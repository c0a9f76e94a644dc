"""The types of the files in C, whose comments say what each function does."""

_Rest = list[tuple[int, bytes]]  # d_type of getdents64(2), name

def clone_names(
    src: int,
    dst: int,
    method: int,
    uid: int,
    gid: int,
    uids: bytes,
    gids: bytes,
    withheld: int,
    folder_mode: int,
    leave: bytes,
    left: bytes,
    /,
) -> tuple[tuple[int, int, int, int], list[bytes], _Rest, bytes | None]: ...
def clone_merged(
    layers: bytes,
    path: bytes,
    avoid: int,
    device: int,
    dst: int,
    method: int,
    uid: int,
    gid: int,
    uids: bytes,
    gids: bytes,
    withheld: int,
    folder_mode: int,
    leave: bytes,
    /,
) -> (
    tuple[tuple[int, int, int, int, bytes, list[_Rest]], list[bytes], _Rest, bytes | None] | None
): ...
def unlink_names(folder: int, left: bytes, /) -> tuple[int, list[bytes], _Rest, bytes | None]: ...
def write_back_names(
    folder: int, left: bytes, /
) -> tuple[None, list[bytes], _Rest, bytes | None]: ...
def changed_names(
    folder: int, paths: tuple[bytes, ...], until: int, asks: bool, left: bytes, /
) -> tuple[list[int | tuple[int, int, list[bytes], _Rest]], bytes | None]: ...
def measure_names(
    folder: int, asks: int, left: bytes, /
) -> tuple[tuple[int, int, int, int, int, bytes], list[bytes], _Rest, bytes | None]: ...
def measure_folders(
    folder: int, paths: tuple[bytes, ...], asks: int, /
) -> tuple[tuple[int, int, int, int, int, bytes], list[tuple[list[bytes], _Rest]]]: ...
def make_files(
    data: memoryview,
    withheld: int,
    files: tuple[tuple[int, bytes, int, int, int, int, int, int, int], ...],
    first: int,
    /,
) -> int: ...
def openat2(dir_fd: int, path: bytes, flags: int, mode: int, resolve: int, /) -> int: ...
def tar_entry(
    data: bytes | memoryview, at: int, /
) -> (
    tuple[int, tuple[bytes, bytes, int, int, int, int, int, int, bytes], dict[str, bytes] | None]
    | None
): ...
