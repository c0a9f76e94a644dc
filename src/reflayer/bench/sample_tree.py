"""A made tree that is like a distribution's: its sizes, folders, links and modes."""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from random import Random

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

# Of a minimal Debian's files this share is not larger than that many bytes.
_SIZES = (
    (0.00, 0),
    (0.02, 63),
    (0.10, 290),
    (0.30, 967),
    (0.50, 2_179),
    (0.60, 3_467),
    (0.70, 8_724),
    (0.80, 18_680),
    (0.90, 52_144),
    (0.95, 111_498),
    (0.98, 241_534),
    (0.99, 431_596),
    (0.995, 836_288),
    (0.999, 2_209_528),
    (1.00, 9_000_000),
)
_SHARES = tuple(share for share, _ in _SIZES)
_FOLDERS, _SYMLINKS, _HARD_LINKS = 0.12, 0.09, 0.01  # of all entries
_MODES = (0o644,) * 85 + (0o755,) * 14 + (0o600,)
_NOISE = 16 << 20  # bytes that all contents are cut from
_OLDEST, _NEWEST = 1_000_000_000, 1_700_000_000


def make_tree(root: str, entries: int, seed: int = 0) -> None:
    """Fill the empty folder ``root`` with ``entries`` entries; the same for the same ``seed``."""
    random = Random(seed)
    noise = memoryview(random.randbytes(_NOISE))
    folders = _make_folders(root, random, max(1, int(entries * _FOLDERS)))
    links = int(entries * _SYMLINKS), int(entries * _HARD_LINKS)
    files: list[str] = []
    symlinks: list[str] = []
    for number in range(entries - len(folders) - sum(links)):
        path = f"{_skewed(folders, random)}/file-{number}"
        _make_file(path, _content(noise, random), random.choice(_MODES))
        files.append(path)
    for number in range(links[0] if files else 0):
        symlinks.append(f"{_skewed(folders, random)}/link-{number}")
        os.symlink(os.path.basename(random.choice(files)), symlinks[-1])
    for number in range(links[1] if files else 0):
        os.link(random.choice(files), f"{_skewed(folders, random)}/again-{number}")
    for path in [*files, *symlinks, *reversed(folders), root]:
        moment = random.randrange(_OLDEST * 10**9, _NEWEST * 10**9)
        os.utime(path, ns=(moment, moment), follow_symlinks=False)


def count(tree: str | Path) -> tuple[int, int]:
    """How many entries are below ``tree``, and how many bytes its files hold."""
    entries = size = 0
    for here, folders, files in os.walk(tree):
        entries += len(folders) + len(files)
        size += sum(os.lstat(os.path.join(here, name)).st_size for name in files)
    return entries, size


def _make_folders(root: str, random: Random, count: int) -> list[str]:
    """Make folders, some deep and some wide; their paths, each after those that it is in."""
    folders = [root]
    for number in range(count):
        # Among the newest half: so chains of folders grow to a distribution's depth.
        parent = folders[random.randrange(len(folders) // 2, len(folders))]
        folders.append(f"{parent}/folder-{number}")
        os.mkdir(folders[-1])
        os.chmod(folders[-1], 0o755)  # whatever the umask
    return folders[1:]


def _skewed(folders: list[str], random: Random) -> str:
    """One of them: a few get most of what there is, as in a distribution."""
    return folders[int(len(folders) * random.random() ** 3)]


def _content(noise: memoryview, random: Random) -> memoryview:
    size = _size(random.random())
    start = random.randrange(len(noise) - size)
    return noise[start : start + size]


def _size(share: float) -> int:
    """The size that ``share`` of all files do not exceed, between the known ones by logarithm."""
    place = min(bisect_right(_SHARES, share), len(_SIZES) - 1)
    (low, small), (high, large) = _SIZES[place - 1], _SIZES[place]
    part = (share - low) / (high - low)
    return round(math.exp((1 - part) * math.log1p(small) + part * math.log1p(large))) - 1


def _make_file(path: str, content: memoryview, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        while content:
            content = content[os.write(fd, content) :]
        os.fchmod(fd, mode)
    finally:
        os.close(fd)
