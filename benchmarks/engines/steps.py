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
        unlike: what was told where it is not as ours, the first side's, by the side; its own first.
        times: of each side.
    """

    step: str
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
    seconds: list[list[list[float]]] = [[[] for _ in sides] for _ in steps]
    for number in range(rounds + 1):
        for step, texts, times in zip(steps, told, seconds, strict=True):
            for side in [*range(len(sides))][:: 1 if number % 2 else -1]:
                _watch(f"{step[side].name}, {sides[side].name}")
                taken, text = _done(step[side])
                texts[side].append(text)
                times[side] += [taken] * bool(number)
    _watch("")
    return [
        Answer(
            step[0].name,
            {
                side.name: pair
                for side, other in zip(sides[1:], texts[1:], strict=True)
                if (pair := _first_unlike(texts[0], other)) is not None
            },
            [Times(side.name, tuple(taken)) for side, taken in zip(sides, times, strict=True)],
        )
        for step, texts, times in zip(steps, told, seconds, strict=True)
    ]


def _done(step: Step) -> tuple[float, str]:
    """Seconds, and what is told."""
    taken = 0.0
    try:
        step.before()
        started = time.perf_counter()
        done = subprocess.run(
            step.command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE
        )
        taken = time.perf_counter() - started
        if done.returncode:
            words = done.stderr.decode(errors="replace").strip().splitlines() or [""]
            text = f"failed with {done.returncode}: {words[-1]}"
        else:
            text = step.told(done.stdout)
        step.after()
    except (OSError, ValueError, LookupError, subprocess.SubprocessError, SystemExit) as error:
        text = f"failed: {error}"
    return taken, text


def _first_unlike(ours: Sequence[str], theirs: Sequence[str]) -> tuple[str, str] | None:
    return next((pair for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1]), None)


def _watch(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
