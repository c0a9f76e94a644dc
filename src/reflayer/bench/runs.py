"""Whole processes, or calls, that do the same work, timed in turn."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median, quantiles

from reflayer.errors import OperationError, ReflayerError, failing
from reflayer.linux.libc import syncfs
from reflayer.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from reflayer.progress import Progress

Command = Sequence[str | Path] | Callable[[], object]
"""A process from its start to its end, or a call in this one, where all is imported already."""


@record
class Rival:
    """One program that does the work."""

    name: str  # what the table calls it
    command: Command  # what is timed
    before: Callable[[], object] = lambda: None  # what has to be done first
    after: Callable[[], object] = lambda: None  # what puts things as they were
    missing: str | None = None  # why it cannot run here; None where it can
    about: str = ""  # how it does the work, in some words


@record
class Times:
    """What was measured of one rival; nothing where it is missing."""

    name: str
    seconds: tuple[float, ...]  # the wall time of each run that counts, in their order
    missing: str | None = None
    about: str = ""
    disk: int = 0  # bytes that the file system had less after a run, the median; never below 0

    @property
    def median(self) -> float:
        """The median run in seconds."""
        return median(self.seconds)

    def ratio_of(self, ours: Times) -> tuple[float, float, float]:
        """``ours`` as a part of it in each round: the median and the quartiles around it."""
        ratios = [a / b for a, b in zip(ours.seconds, self.seconds, strict=True)]
        low, middle, high = quantiles(ratios, n=4, method="inclusive") if ratios[1:] else ratios * 3
        return middle, low, high


def alternate(
    rivals: Sequence[Rival],
    place: str | Path,
    rounds: int,
    progress: Progress | None = None,
    *,
    may_fail: bool = False,
) -> list[Times]:
    """Time each rival once in each round, after a round that only warms the caches.

    So all meet the same disturbances. The file system of ``place`` is written out before each run,
    so that none pays for another's data.

    Args:
        rivals: who runs, in this order.
        place: a folder on the file system that they work on.
        rounds: how many count.
        progress: is told a rival's name, and of how many rounds this is which; 0 does not count.
        may_fail: whether a rival that fails in the first round is only missing. Any other failure
            ends it all.

    Raises:
        ReflayerError: a rival failed: its name and its own words.
    """
    running = [rival for rival in rivals if rival.missing is None]
    missing = {rival.name: rival.missing for rival in rivals}
    measured: dict[str, list[tuple[float, int]]] = {rival.name: [] for rival in rivals}
    with opened(place) as fd:
        for number in range(rounds + 1):
            for rival in running:
                if progress is not None:
                    progress(rival.name, number, rounds)
                try:
                    run = _run(rival, fd)
                except ReflayerError as error:
                    if number or not may_fail:
                        raise ReflayerError(f"{rival.name}: {error}") from error
                    missing[rival.name] = _reason(error)
                else:
                    measured[rival.name].append(run)
            running = [rival for rival in running if missing[rival.name] is None]
    return [
        Times(
            rival.name,
            tuple(seconds for seconds, _ in measured[rival.name][1:]),
            missing[rival.name],
            rival.about,
            max(0, int(median(disk for _, disk in measured[rival.name][1:] or [(0, 0)]))),
        )
        for rival in rivals
    ]


@contextmanager
def opened(folder: str | Path) -> Iterator[int]:
    """A folder, open while the block runs."""
    with failing(os.fspath(folder), "open"):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _run(rival: Rival, file_system: int) -> tuple[float, int]:
    """Seconds that one run takes, and bytes that it takes from the file system."""
    rival.before()
    try:
        syncfs(file_system)
        free = _free(file_system)
        started = time.perf_counter()
        _work(rival.command)
        seconds = time.perf_counter() - started
        syncfs(file_system)
        taken = free - _free(file_system)
    except BaseException:
        # What was not made cannot be put away either: that is not the error to tell.
        with suppress(Exception, SystemExit):
            rival.after()
        raise
    rival.after()
    return seconds, taken


def _work(command: Command) -> None:
    if callable(command):
        command()
        return
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise ReflayerError(os.fsdecode(done.stderr).strip() or f"exit status {done.returncode}")


def _free(fd: int) -> int:
    status = os.fstatvfs(fd)
    return status.f_bfree * status.f_frsize


def _reason(error: ReflayerError) -> str:
    """Why it does not work here, without the advice, which is for a command."""
    if not isinstance(error, OperationError):
        return str(error)
    return error.reason.partition(":")[0] if error.errno is None else os.strerror(error.errno)
