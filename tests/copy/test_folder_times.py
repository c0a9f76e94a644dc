"""Folder times are set after the contents: where this system began, too."""

from __future__ import annotations

import os
from pathlib import Path

from reflayer.copy import copy_tree


def test_folders_keep_their_times_though_names_are_made_in_them(place: Path) -> None:
    times = {"src": 1_000_000_001, "src/a": -5, "src/a/b": 4_000_000_000_000_000_123}
    (place / "src/a/b").mkdir(parents=True)
    (place / "src/a/b/file").write_bytes(b"content")
    (place / "src/a/late").symlink_to("b")
    for name, time in reversed(times.items()):
        os.utime(place / name, ns=(time, time))

    copy_tree(place / "src", place / "dst")

    for name, time in times.items():
        copied = os.stat(str(place / name).replace("/src", "/dst", 1))
        assert copied.st_mtime_ns == time
