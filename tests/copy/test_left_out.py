"""What another place cannot have by its nature is left out and counted; other losses are errors."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer import copy_tree
from reflayer.copy import CopyError
from reflayer.linux.xattrs import is_of_tree
from tests.trees import assert_same, facts

METHODS = pytest.mark.parametrize("method", ["auto", "tar"])


@pytest.mark.parametrize(
    "name",
    [
        *("btrfs.compression", "bcachefs.compression", "ceph.dir.layout", "lustre.lov"),
        *("system.nfs4_acl", "system.cifs_acl", "system.ntfs_security", "system.richacl"),
        *("security.selinux", "security.SMACK64", "security.apparmor", "security.ima"),
        *("security.evm", "trusted.gfid", "trusted.glusterfs.quota.size", "trusted.lov"),
        *("trusted.SGI_ACL_FILE", "com.apple.provenance", "osx.name", "security.capability.x"),
    ],
)
def test_attributes_of_a_system_are_not_the_trees(name: str) -> None:
    assert not is_of_tree(name)


@pytest.mark.parametrize(
    "name",
    [
        *("user.name", "user.btrfs.compression", "trusted.something", "security.capability"),
        *("system.posix_acl_access", "system.posix_acl_default", "trusted.overlay.opaque"),
    ],
)
def test_what_a_user_or_a_package_gave_a_file_is_the_trees(name: str) -> None:
    assert is_of_tree(name)


@METHODS
def test_a_property_of_btrfs_is_left_out_elsewhere_and_kept_there(
    place_on: Callable[[str], Path], method: str
) -> None:
    here, there = place_on("btrfs"), place_on("xfs")
    (here / "src/folder").mkdir(parents=True)
    (here / "src/file").write_text("content")
    os.setxattr(here / "src/file", "user.name", b"value")
    before = facts(here / "src")
    for path in (here / "src", here / "src/folder", here / "src/file"):
        os.setxattr(path, "btrfs.compression", b"zstd")

    report = copy_tree(here / "src", there / "dst", method=method)
    copy_tree(here / "src", here / "dst", method=method)

    assert report.skipped == {"xattr": 3}
    assert {path: fact.xattrs for path, fact in facts(there / "dst").items()} == {
        path: fact.xattrs for path, fact in before.items()
    }
    assert_same(facts(here / "src"), facts(here / "dst"))


@METHODS
def test_an_attribute_of_a_user_that_is_lost_is_an_error(
    place_on: Callable[[str], Path], method: str
) -> None:
    here, there = place_on("xfs"), place_on("ext4")
    (here / "src").mkdir()
    (here / "src/file").write_text("content")
    os.setxattr(here / "src/file", "user.name", os.urandom(60_000))  # ext4 has a block for them

    with pytest.raises(CopyError, match=r"dst/file: setxattr user\.name") as caught:
        copy_tree(here / "src", there / "dst", method=method)

    assert caught.value.errno in (errno.ENOSPC, errno.E2BIG)
