"""Layers carry zeros for holes, as Docker reads no others; what is made of them has holes again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflayer import Store
from reflayer.archive import apply_layer
from tests.archive.tars import entry, tar
from tests.store.stores import BASE, image

_BLOCK = 4096
_MB = 1 << 20


def _data(path: Path | str) -> list[tuple[int, int]]:
    """Where a file has data, from and to (lseek(2))."""
    found = []
    with open(path, "rb") as file:
        fd, end = file.fileno(), os.fstat(file.fileno()).st_size
        at = 0
        while at < end:
            try:
                start = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:  # no more
                break
            at = os.lseek(fd, start, os.SEEK_HOLE)
            found.append((start, at))
    return found


def _write(path: str, size: int, islands: list[tuple[int, int]]) -> None:
    with open(path, "wb") as file:
        file.truncate(size)
        for start, end in islands:
            file.seek(start)
            file.write(os.urandom(end - start))


def test_a_sparse_file_is_sparse_again_after_commit_and_create(place: Path) -> None:
    store = Store(place / "store")
    store.create(image(place / "image", BASE), name="one")
    islands = [
        (_BLOCK, 3 * _BLOCK),
        (_MB - _BLOCK, _MB + _BLOCK),  # where the chunks of a layer meet, or near
        (5 * _MB, 6 * _MB + _BLOCK),
        (20 * _MB, 20 * _MB + _BLOCK),
    ]
    names = ("late", "early", "whole", "empty", "odd")
    path = store.container("one").path
    _write(f"{path}/late", 24 * _MB, islands)
    _write(f"{path}/early", 24 * _MB, [(0, _BLOCK)])
    _write(f"{path}/whole", 3 * _MB, [(0, 3 * _MB)])
    _write(f"{path}/empty", 9 * _MB + 1, [])
    _write(f"{path}/odd", 5 * _MB + 17, [(4 * _MB, 5 * _MB + 17)])
    store.commit("one", "holes", compression="none")
    again = store.create("holes", pull="never").path
    for name in names:
        before, after = f"{path}/{name}", f"{again}/{name}"
        assert Path(after).read_bytes() == Path(before).read_bytes()
        os.sync()  # some file systems tell of data in memory by larger steps
        assert _data(after) == _data(before), name


def test_zeros_take_no_blocks(place: Path) -> None:
    store = Store(place / "store")
    store.create(image(place / "image", BASE), name="one")
    _write(f"{store.container('one').path}/zeros", 64 * _MB, [])
    store.commit("one", "zeros")
    path = store.create("zeros", pull="never").path
    os.sync()
    status = os.stat(f"{path}/zeros")
    assert (status.st_size, status.st_blocks) == (64 * _MB, 0)


_runs = st.lists(
    st.tuples(
        st.one_of(
            st.sampled_from([1, 511, 4095, _BLOCK, _BLOCK + 1, 3 * _BLOCK, _MB - 512, _MB]),
            st.integers(1, 3 * _BLOCK),
        ),
        st.sampled_from([b"\0", b"x", b"\0x"]),
    ),
    max_size=12,
)


@given(first=st.integers(0, 5000), runs=_runs)
def test_zeros_anywhere_come_out_as_zeros(
    first: int, runs: list[tuple[int, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("root")
    content = b"".join((unit * length)[:length] for length, unit in runs)
    layer = root / "layer.tar"
    layer.write_bytes(tar(entry("before", b"b" * first), entry("file", content), entry("z", b"z")))
    (root / "out").mkdir()
    with open(layer, "rb") as blob:
        apply_layer(root / "out", blob)
    assert (root / "out/file").read_bytes() == content
    assert (root / "out/z").read_bytes() == b"z"
