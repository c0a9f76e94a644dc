"""Lay the shared blocks of several trees side by side."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from reflayer.extents.measure import TreeUsage

ELSEWHERE = 1
"""The bit of owners that are in none of the trees."""


def share_out(trees: Sequence[TreeUsage]) -> dict[int, int]:
    """How many bytes each group of owners has in common.

    The file system tells that blocks have several owners, not how many. Blocks that were met once
    therefore have one ``ELSEWHERE``, and those that were met more often are taken to have none.

    Returns:
        Bytes by owners: a bit for each of them, ``ELSEWHERE`` or ``2 << i`` for tree ``i``. All
        trees are on one file system.
    """
    totals: dict[int, int] = {}
    for owners, length in _places(_once_each(tree.shared for tree in trees)):
        totals[owners] = totals.get(owners, 0) + length
    # Compressed data may be told longer than its place is: those cannot overlap.
    starts: dict[int, int] = {}
    held: dict[int, int] = {}
    for key, owners in _once_each(tree.encoded for tree in trees).items():
        start = key >> 64
        starts[start] = _joined(starts[start], owners) if start in starts else owners
        held[start] = max(held.get(start, 0), key & _LENGTH)
    for start, owners in starts.items():
        owners = _told(owners)
        totals[owners] = totals.get(owners, 0) + held[start]
    return totals


_LENGTH = (1 << 64) - 1


def _once_each(trees: Iterable[Sequence[int]]) -> dict[int, int]:
    """Owners by ``place << 64 | length``; bit 0 says that one of them has it twice or more.

    Most trees are clones of each other: what is the same in all of them is kept once.
    """
    owners: dict[int, int] = {}
    for number, shared in enumerate(trees):
        bit = 2 << number
        each = iter(shared)
        for place, length in zip(each, each, strict=True):
            key = place << 64 | length
            there = owners.get(key, 0)
            owners[key] = there | bit | (1 if there & bit else 0)
    return owners


def _places(owners: dict[int, int]) -> Iterator[tuple[int, int]]:
    """The owners of each place, and its length; places that overlap are cut where they do."""
    run: list[tuple[int, int, int]] = []
    run_end = 0
    for key in sorted(owners):
        start = key >> 64
        end = start + (key & _LENGTH)
        if start >= run_end:
            yield from _cut(run)
            run = []
        run.append((start, end, owners[key]))
        run_end = max(run_end, end)
    yield from _cut(run)


def _cut(run: list[tuple[int, int, int]]) -> Iterator[tuple[int, int]]:
    """The owners of each place of a run in which every place overlaps another, and its length."""
    if len(run) < 2:
        for start, end, owners in run:
            yield _told(owners), end - start
        return
    # btrfs keeps an extent as long as any part of it has an owner: what was met once in the run
    # belongs to all who have a part in it.
    everybody = 0
    for _, _, owners in run:
        everybody = _joined(everybody, owners) if everybody else owners
    turns = [(start, 1, owners) for start, _, owners in run]
    turns += [(end, -1, owners) for _, end, owners in run]
    turns.sort()
    here: dict[int, int] = {}
    before = turns[0][0]
    for place, change, owners in turns:
        if here and place > before:
            yield _told(_owners(here, everybody)), place - before
        before = place
        here[owners] = here.get(owners, 0) + change
        if not here[owners]:
            del here[owners]


def _owners(here: dict[int, int], everybody: int) -> int:
    owners = 0
    for some, times in here.items():
        owners = _joined(owners, some) if owners else some
        if times > 1:
            owners |= 1
    return owners if owners & 1 or owners.bit_count() > 1 else everybody


def _joined(some: int, others: int) -> int:
    """Both, and bit 0 where one of them is among both."""
    return some | others | (1 if some & others & ~1 else 0)


def _told(owners: int) -> int:
    """From bit 0 as "met twice" to bit 0 as ``ELSEWHERE``."""
    if owners.bit_count() == 1:
        return owners | ELSEWHERE
    return owners & ~1
