"""Hard links stay hard links: where this system began."""

from __future__ import annotations

import os
from pathlib import Path

from reflayer.copy import copy_tree


def test_two_names_of_a_file_are_two_names_of_its_copy(place: Path) -> None:
    (place / "src/deep/down").mkdir(parents=True)
    (place / "src/one").write_bytes(b"content")
    os.link(place / "src/one", place / "src/deep/down/two")

    report = copy_tree(place / "src", place / "dst")

    one, two = os.stat(place / "dst/one"), os.stat(place / "dst/deep/down/two")
    assert (one.st_ino, one.st_nlink) == (two.st_ino, 2)
    assert os.stat(place / "src/one").st_nlink == 2
    assert report.entries == {"directory": 3, "file": 1, "hardlink": 1}
