"""Steps that are done on several sides in turn: what each tells, and how long it takes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from reflayer.bench.runs import Times
from reflayer.record import record

_PATIENCE = 600  # seconds for one command


def _nothing() -> None:
    return None


@record
class Step:
    """One command, which is timed, and what has to be the same on all sides after it."""

    name: str
    command: Sequence[str]
    told: Callable[[bytes], str]  # of what the command printed
    before: Callable[[], object] = _nothing  # neither of the two is timed
    after: Callable[[], object] = _nothing


@record
class Side:
    """What one snapshotter, or storage driver, is asked to do: the same steps as all others."""

    name: str
    steps: Sequence[Step]


@record
class Answer:
    """What became of one step.

    Attributes:
        step: its name.
        failure: what was told where ours, the first side, failed.
        unlike: by side, what was told by ours and there, where that is not the same.
        times: of each side.
    """

    step: str
    failure: str
    unlike: Mapping[str, tuple[str, str]]
    times: Sequence[Times]

    @property
    def is_fault(self) -> bool:
        """Whether ours is as none of the others."""
        return len(self.unlike) == len(self.times) - 1


def answers(sides: Sequence[Side], rounds: int) -> list[Answer]:
    """Do each step on each side, once more than ``rounds``; the first warms caches alone."""
    steps = list(zip(*(side.steps for side in sides), strict=True))
    told: list[list[list[str]]] = [[[] for _ in sides] for _ in steps]
    seconds: list[list[list[float | None]]] = [[[] for _ in sides] for _ in steps]
    for number in range(rounds + 1):
        for step, texts, times in zip(steps, told, seconds, strict=True):
            for side in [*range(len(sides))][:: 1 if number % 2 else -1]:
                _watch(f"{step[side].name}, {sides[side].name}")
                taken, text = _done(step[side])
                texts[side].append(text)
                times[side].append(taken)
    _watch("")
    return [
        Answer(
            step[0].name,
            next((text for text, one in zip(texts[0], times[0], strict=True) if one is None), ""),
            {
                side.name: pair
                for side, other in zip(sides[1:], texts[1:], strict=True)
                if (pair := _first_unlike(texts[0], other)) is not None
            },
            [_times(side.name, taken) for side, taken in zip(sides, times, strict=True)],
        )
        for step, texts, times in zip(steps, told, seconds, strict=True)
    ]


def _times(name: str, seconds: Sequence[float | None]) -> Times:
    """Of all rounds but the first, where none has failed."""
    taken = tuple(one for one in seconds if one is not None)
    return Times(name, taken[1:]) if len(taken) == len(seconds) else Times(name, (), "fails")


def _done(step: Step) -> tuple[float | None, str]:
    """Seconds, if it succeeds, and what is told."""
    try:
        step.before()
        started = time.perf_counter()
        done = subprocess.run(
            step.command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE
        )
        taken = time.perf_counter() - started
        if done.returncode:
            words = done.stderr.decode(errors="replace").strip().splitlines() or [""]
            return None, f"failed with {done.returncode}: {words[-1]}"
        text = step.told(done.stdout)
        step.after()
    except (OSError, ValueError, LookupError, subprocess.SubprocessError, SystemExit) as error:
        return None, f"failed: {error}"
    return taken, text


def _first_unlike(ours: Sequence[str], theirs: Sequence[str]) -> tuple[str, str] | None:
    return next((pair for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1]), None)


def _watch(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
