"""What is recorded of owners and devices is told again, and what others wrote is understood."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from reflayer.walk.recorded import (
    NAMES,
    add_names,
    key_of,
    names_in,
    names_of,
    names_record,
    own_attributes,
    owner_of,
    owner_record,
    recorded_mode,
    status_record,
)

_UNCHANGED = b"\xff\xff\xff\xff\x0f"  # 2**32 - 1


@pytest.mark.parametrize("ids", [(0, 5), (5, 0), (127, 128), (65534, 2**32 - 2), (0, 0)])
def test_an_owner_that_is_recorded_is_told_again(ids: tuple[int, int]) -> None:
    assert owner_of(owner_record(*ids), 1, 2) == ids


@pytest.mark.parametrize(
    ("record", "owner"),
    [
        (b"\x08\x01\x10" + _UNCHANGED, (1, 22)),
        (b"\x10\x02\x08" + _UNCHANGED, (11, 2)),
        (b"\x08\x00\x10\x07", (0, 7)),
        (b"\x08", (11, 22)),
        (b"\x08\x81", (11, 22)),
        (b"no message", (11, 22)),
    ],
)
def test_a_record_of_others_is_taken_for_what_it_says(
    record: bytes, owner: tuple[int, int]
) -> None:
    assert owner_of(record, 11, 22) == owner


def test_a_device_is_one_until_something_is_written(tmp_path: Path) -> None:
    file = tmp_path / "null"
    file.touch(0o640)
    record = status_record(1, 2, stat.S_IFBLK | 0o660, os.makedev(8, 300))
    assert record == b"1:2:0660:block-8-300"
    assert recorded_mode(record, file.stat()) == (stat.S_IFBLK | 0o640, (8, 300))
    file.write_text("more")
    assert recorded_mode(record, file.stat()) == (stat.S_IFREG | 0o640, (0, 0))


def test_a_folder_tells_the_owners_of_its_links(tmp_path: Path) -> None:
    owners = {key_of(b"%d" % number, number): owner_record(number % 3, 70_000) for number in (1, 2)}
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        assert names_in(folder) is None
        for key, owner in owners.items():
            add_names(folder, names_record({key: owner}))
        add_names(folder, b"")
        assert names_of(names_in(folder) or b"") == owners
    finally:
        os.close(folder)
    assert own_attributes({NAMES: names_record(owners)}) == {}


def test_another_link_of_that_name_has_another_key() -> None:
    second = 10**9
    keys = {key_of(name, time * second) for name in (b"a", b"b", b"1/a") for time in (1, 11, -1)}
    assert len(keys) == 9
    assert key_of(b"a", second + 1) == key_of(b"a", second)


@pytest.mark.parametrize("record", [b"\x80", b"\1", b"\2\x08\1\7", b"\0\xff\xff\xff\xff\xff\1"])
def test_a_malformed_record_of_links_tells_nothing(record: bytes) -> None:
    assert names_of(record) == {}


@pytest.mark.parametrize("record", [b"", b"0:0:0644", b"0:0:x:file", b"0:0:0600:char-1", b"\xff"])
def test_a_malformed_record_tells_nothing(tmp_path: Path, record: bytes) -> None:
    file = tmp_path / "file"
    file.touch(0o640)
    assert recorded_mode(record, file.stat()) == (stat.S_IFREG | 0o640, (0, 0))


def test_a_mode_is_recorded_until_another_is_set(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    file.chmod(0o420)
    record = status_record(0, 0, stat.S_IFREG | 0o020)
    assert recorded_mode(record, file.stat())[0] == stat.S_IFREG | 0o020
    file.chmod(0o600)
    assert recorded_mode(record, file.stat())[0] == stat.S_IFREG | 0o600


def test_attributes_that_were_refused_have_their_own_names_again() -> None:
    kept = {"user.reflayer.trusted.x": b"1", "user.rootlesscontainers": b"", "user.a": b"2"}
    assert own_attributes(kept) == {"trusted.x": b"1", "user.a": b"2"}
