"""Alternating runs: each way once, then each once more, so that all meet the same disturbances."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

from reflayer.cli.bench.ways import BASELINE, Way
from reflayer.errors import OperationError, ReflayerError
from reflayer.linux.syncfs import syncfs


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was measured of one way.

    Attributes:
        way: its name.
        about: what it does, in some words.
        seconds: wall time of each run that counts, in the order of the runs.
        disk: bytes that the file system had less after a run, the median; never below 0.
        reason: why the way does not work here; it has no ``seconds`` then.
    """

    way: str
    about: str
    seconds: tuple[float, ...] = ()
    disk: int = 0
    reason: str | None = None

    @property
    def median(self) -> float:
        """The median run in seconds."""
        return median(self.seconds)

    def ratio(self, other: Outcome) -> float:
        """Its time as a part of ``other``'s: the median of the ratios of neighbouring runs."""
        return median(a / b for a, b in zip(self.seconds, other.seconds, strict=True))


def measure(ways: list[Way], place: str, runs: int, watch: Callable[[str], None]) -> list[Outcome]:
    """Measure each way of making a tree on the file system of ``place``, ``runs`` times.

    A first round warms the caches and finds out what does not work here; it is not counted. The
    file system is written out before each run, so that none pays for another's data.

    Args:
        ways: what to measure.
        place: a folder on the file system that they work on.
        runs: how often each way is measured.
        watch: called before each run with the way's name.
    """
    reasons: dict[str, str] = {}
    for way in ways:
        watch(way.name)
        try:
            _run(way, place)
        except ReflayerError as error:
            reasons[way.name] = _reason(error)
    working = [way for way in ways if way.name not in reasons]
    measured: dict[str, list[tuple[float, int]]] = {way.name: [] for way in working}
    for _ in range(runs):
        for way in working:
            watch(way.name)
            measured[way.name].append(_run(way, place))
    return [
        Outcome(way.name, way.about, reason=reasons[way.name])
        if way.name in reasons
        else Outcome(
            way.name,
            way.about,
            tuple(seconds for seconds, _ in measured[way.name]),
            max(0, int(median(disk for _, disk in measured[way.name]))),
        )
        for way in ways
    ]


def fastest(outcomes: list[Outcome]) -> Outcome | None:
    """The one with the smallest median; None if none works."""
    working = [outcome for outcome in outcomes if outcome.reason is None]
    return min(working, key=lambda outcome: outcome.median, default=None)


def compared_with(outcomes: list[Outcome]) -> Outcome | None:
    """What the others are compared with: ``cp -a``, else the fastest; None if none works."""
    for outcome in outcomes:
        if outcome.way == BASELINE and outcome.reason is None:
            return outcome
    return fastest(outcomes)


def _run(way: Way, place: str) -> tuple[float, int]:
    """Seconds that one run takes and bytes that it takes from the file system."""
    with _opened(place) as fd:
        try:
            syncfs(fd)
            free = _free(fd)
            started = time.perf_counter()
            way.make()
            seconds = time.perf_counter() - started
            syncfs(fd)
            return seconds, free - _free(fd)
        finally:
            way.remove()


@contextmanager
def _opened(folder: str) -> Iterator[int]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _free(fd: int) -> int:
    status = os.fstatvfs(fd)
    return status.f_bfree * status.f_frsize


def _reason(error: ReflayerError) -> str:
    if not isinstance(error, OperationError):
        return str(error)
    if error.errno is None:
        return error.reason.partition(":")[0]  # without the advice, which is for a command
    return os.strerror(error.errno)
