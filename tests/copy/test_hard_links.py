"""Hard links stay hard links: where this system began."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer.copy import copy_tree
from reflayer.copy.links import Links


def test_two_names_of_a_file_are_two_names_of_its_copy(place: Path) -> None:
    (place / "src/deep/down").mkdir(parents=True)
    (place / "src/one").write_bytes(b"content")
    os.link(place / "src/one", place / "src/deep/down/two")

    report = copy_tree(place / "src", place / "dst")

    one, two = os.stat(place / "dst/one"), os.stat(place / "dst/deep/down/two")
    assert (one.st_ino, one.st_nlink) == (two.st_ino, 2)
    assert os.stat(place / "src/one").st_nlink == 2
    assert report.entries == {"directory": 3, "file": 1, "hardlink": 1}


def test_an_inode_may_have_as_many_names_as_the_file_system_allows_and_no_more(
    place_on: Callable[[str], Path],
) -> None:
    most = 65_000  # ext4's, and the waiting folder's name is one of them for a while
    place = place_on("ext4")
    dst = os.open(place, os.O_RDONLY)
    links = Links(dst, "waiting")
    os.close(os.open("inode", os.O_CREAT | os.O_WRONLY, dir_fd=links.folder()))
    for number in range(most - 1):
        links.link(b"inode", dst, b"%d" % number, most)

    with pytest.raises(OSError, match=os.strerror(errno.EMLINK)):
        links.link(b"inode", dst, b"last", most + 1)
    links.link(b"inode", dst, b"last", most)

    links.close()
    links.clear()
    assert os.stat(place / "last").st_nlink == most
    assert len(os.listdir(dst)) == most
    os.close(dst)
