"""Ids of a container and of the host: converted in owners, ACLs and file capabilities."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflayer.archive import IdMap, IdRange
from reflayer.errors import ArchiveError

MAP = IdMap(
    uids=(IdRange(0, 100_000, 1000), IdRange(1000, 5000, 1), IdRange(1001, 101_000, 64_535)),
    gids=(IdRange(0, 300_000, 65_536),),
)
_USER, _GROUP, _MASK, _NO_ID = 0x02, 0x08, 0x10, 0xFFFFFFFF


def acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def capability(root: int | None) -> bytes:
    """cap_net_raw+ep, as it is for a namespace's root where there is one."""
    sets = struct.pack("<4I", 1 << 13, 0, 0, 0)
    if root is None:
        return struct.pack("<I", 0x02000001) + sets
    return struct.pack("<I", 0x03000001) + sets + struct.pack("<I", root)


@given(st.integers(0, 65_535), st.integers(0, 65_535))
def test_an_id_comes_back_as_it_was(uid: int, gid: int) -> None:
    assert MAP.to_container(*MAP.to_host(uid, gid)) == (uid, gid)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0x01, _USER, 0x04, _GROUP, _MASK, 0x20]),
            st.integers(0, 7),
            st.integers(0, 65_535),
        )
    )
)
def test_an_acl_comes_back_as_it_was(entries: list[tuple[int, int, int]]) -> None:
    attributes = {"system.posix_acl_access": acl(*entries), "system.posix_acl_default": acl()}
    assert MAP.attributes_to_container(MAP.attributes_to_host(attributes)) == attributes


def test_ids_are_those_of_the_ranges() -> None:
    assert MAP.root == (100_000, 300_000)
    assert MAP.to_host(1000, 1000) == (5000, 301_000)
    assert MAP.to_host(1001, 1) == (101_000, 300_001)
    assert MAP.to_container(5000, 300_000) == (1000, 0)
    assert IdMap().to_host(7, 4_000_000_000) == (7, 4_000_000_000)


@pytest.mark.parametrize(("uid", "gid"), [(65_536, 0), (0, 65_536), (100_000, 0)])
def test_an_id_that_the_host_has_none_for_is_an_error(uid: int, gid: int) -> None:
    with pytest.raises(ArchiveError, match=r"^Container ID \d+ cannot be mapped to a host ID$"):
        MAP.to_host(uid, gid)


@pytest.mark.parametrize(("uid", "gid"), [(0, 300_000), (100_000, 0), (165_535, 300_000)])
def test_an_id_that_the_container_has_none_for_is_an_error(uid: int, gid: int) -> None:
    with pytest.raises(ArchiveError, match=r"^Host ID \d+ cannot be mapped to a container ID$"):
        MAP.to_container(uid, gid)


def test_the_named_users_and_groups_of_an_acl_are_converted() -> None:
    on_host = MAP.attributes_to_host(
        {
            "system.posix_acl_access": acl((_USER, 6, 1000), (_GROUP, 4, 5), (_MASK, 6, _NO_ID)),
            "user.acl": acl((_USER, 6, 1000)),
        }
    )
    assert on_host == {
        "system.posix_acl_access": acl((_USER, 6, 5000), (_GROUP, 4, 300_005), (_MASK, 6, _NO_ID)),
        "user.acl": acl((_USER, 6, 1000)),
    }


@pytest.mark.parametrize(("in_container", "on_host"), [(None, 100_000), (1000, 5000)])
def test_capabilities_are_for_the_containers_root(in_container: int | None, on_host: int) -> None:
    name = "security.capability"
    host = {name: capability(on_host)}
    assert MAP.attributes_to_host({name: capability(in_container)}) == host
    assert MAP.attributes_to_container(host) == {name: capability(in_container)}


def test_capabilities_of_the_hosts_own_root_stay_as_they_are() -> None:
    groups_only = IdMap(gids=MAP.gids)
    attributes = {"security.capability": capability(None)}
    assert groups_only.attributes_to_host(attributes) == attributes
    assert groups_only.attributes_to_container(attributes) == attributes


@pytest.mark.parametrize("value", [b"", b"\1\0", bytes(3), capability(None)[:-1], bytes(40)])
def test_what_is_no_capability_is_left_to_the_kernel(value: bytes) -> None:
    attributes = {"security.capability": value}
    assert MAP.attributes_to_host(attributes) == attributes
    assert MAP.attributes_to_container(attributes) == attributes


def test_a_malformed_acl_is_an_error() -> None:
    with pytest.raises(ArchiveError, match="posix_acl_access is malformed"):
        MAP.attributes_to_host({"system.posix_acl_access": acl((_USER, 6, 0))[:-1]})


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("0:100000", "0:100000:1"),
        ("0:100000:1000,1000:5000:1", "0:100000:1000,1000:5000:1"),
        ("u0:1:2", "0:1:2"),
        ("u0:1:2,g0:3:2", "u0:1:2,g0:3:2"),
        ("0:1:2,g9:8:7", "u0:1:2,g0:1:2,g9:8:7"),
    ],
)
def test_a_map_is_written_as_it_is_read(text: str, written: str) -> None:
    assert str(IdMap.parse(text)) == written
    assert IdMap.parse(written) == IdMap.parse(text)


@pytest.mark.parametrize(
    "text",
    ["", "0", "0:1:2:3", "x0:1:2", "ug0:1:2", "0:-1:2", "0:1:0", "0:1:2,1:7:1", "0:1:2,5:2:1"],
)
def test_what_is_no_map_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"id|not CONTAINER:HOST"):
        IdMap.parse(text)
