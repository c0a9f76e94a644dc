"""Whole processes, or calls, that do the same work, timed in turn."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from reflayer.errors import ReflayerError
from reflayer.linux.syncfs import syncfs

Command = Sequence[str | Path] | Callable[[], object]
"""A process from its start to its end, or a call in this one, where all is imported already."""


def nothing() -> None:
    """No step is needed."""


@dataclass(frozen=True, slots=True)
class Rival:
    """One program that does the work.

    Attributes:
        name: what the table calls it.
        command: what is timed.
        before: what has to be done first, not timed.
        after: what puts things as they were, not timed.
        missing: why it cannot run here; None where it can.
    """

    name: str
    command: Command
    before: Callable[[], None] = nothing
    after: Callable[[], None] = nothing
    missing: str | None = None


@dataclass(frozen=True, slots=True)
class Times:
    """Wall times of one rival in seconds, in the order of the rounds; none where it is missing."""

    name: str
    seconds: tuple[float, ...]
    missing: str | None = None

    @property
    def median(self) -> float:
        """The median in seconds."""
        return median(self.seconds)

    def ratio_of(self, ours: Times) -> tuple[float, float, float]:
        """``ours`` as a part of it in each round: the median and the quartiles around it."""
        ratios = [a / b for a, b in zip(ours.seconds, self.seconds, strict=True)]
        low, middle, high = quantiles(ratios, n=4, method="inclusive") if ratios[1:] else ratios * 3
        return middle, low, high


def alternate(
    rivals: Sequence[Rival], place: Path, rounds: int, watch: Callable[[str], None]
) -> list[Times]:
    """Time each rival once in each round, after a round that only warms the caches.

    The file system of ``place`` is written out before each process starts. One that fails ends it
    all with its own words.

    Raises:
        subprocess.CalledProcessError: a process failed.
    """
    seconds: dict[str, list[float]] = {rival.name: [] for rival in rivals}
    running = [rival for rival in rivals if rival.missing is None]
    for number in range(rounds + 1):
        for rival in running:
            watch(f"{place}: {rival.name}, {number} of {rounds}")
            taken = _time(rival, place)
            if number:
                seconds[rival.name].append(taken)
    return [Times(rival.name, tuple(seconds[rival.name]), rival.missing) for rival in rivals]


def _time(rival: Rival, place: Path) -> float:
    rival.before()
    try:
        taken = _work(rival, place)
    except BaseException:
        # What was not made cannot be put away either: that is not the error to tell.
        with suppress(Exception, SystemExit):
            rival.after()
        raise
    rival.after()
    return taken


def _work(rival: Rival, place: Path) -> float:
    _write_out(place)
    started = time.perf_counter()
    error = _error(rival.command)
    taken = time.perf_counter() - started
    if error is not None:
        raise SystemExit(f"{rival.name}: {error}")
    return taken


def _error(command: Command) -> str | None:
    """Run it; what it says where it fails."""
    if callable(command):
        try:
            command()
        except ReflayerError as error:
            return str(error)
        return None
    done = subprocess.run(command, capture_output=True, check=False)
    return os.fsdecode(done.stderr).strip() if done.returncode else None


def _write_out(place: Path) -> None:
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        syncfs(fd)
    finally:
        os.close(fd)
