"""A question as a command: the options that all scripts have, the runs, and the answer's table."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks.pairs import Rival, Times, alternate
from benchmarks.places import MKFS, count, mounted, scratch, tree
from reflayer.cli.bench.machine import file_system, machine_facts

REFLAYER = Path(sys.executable).with_name("reflayer")
"""The program as it is installed beside this interpreter."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Where the rivals meet: a new folder, and the tree in it that is their source."""

    folder: Path
    tree: Path


Rivals = Callable[[Setting, ExitStack], list[Rival]]
"""Makes the rivals for a setting, ours first; what has to end afterwards goes on the stack."""


def question(title: str, rivals: Rivals) -> click.Command:
    """The command that measures ``rivals`` and prints a table with ``title``."""

    @click.command(help=title)
    @click.option(
        "--file-system",
        "kinds",
        type=click.Choice([*MKFS]),
        multiple=True,
        help="Measure on a new file system in a loop device; may be repeated; needs root.",
    )
    @click.option(
        "--place",
        "places",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        multiple=True,
        help="Measure in a new folder there; may be repeated.",
    )
    @click.option(
        "--tree",
        "name",
        default="debian",
        show_default=True,
        help="debian: made by debootstrap; a number: as many entries, made; or a folder.",
    )
    @click.option("--runs", type=click.IntRange(min=1), default=9, show_default=True)
    @click.option("--only", multiple=True, help="Of the others, only those with this in the name.")
    @click.option("--json", "as_json", is_flag=True, help="All times as JSON.")
    def command(
        kinds: tuple[str, ...],
        places: tuple[Path, ...],
        name: str,
        runs: int,
        only: tuple[str, ...],
        as_json: bool,
    ) -> None:
        source = tree(name)
        columns: dict[str, list[Times]] = {}
        with ExitStack() as stack:
            where = [*places, *(stack.enter_context(mounted(kind)) for kind in kinds)]
            if not where:
                raise click.UsageError("--place or --file-system says where to measure")
            for place in where:
                columns[_heading(place, columns)] = _measure(place, source, rivals, runs, only)
        facts = machine_facts(".")
        del facts["file system"]  # each column has its own
        entries, size = count(source)
        if as_json:
            seconds = {
                column: {times.name: times.missing or times.seconds for times in found}
                for column, found in columns.items()
            }
            told = {"question": title, "tree": name, "entries": entries, "bytes": size}
            click.echo(json.dumps({**told, **facts, "seconds": seconds}))
            return
        click.echo(
            f"{title}: {entries:,} entries, {size / 1e6:,.0f} MB. Medians of {runs} alternating "
            "runs of whole processes; in brackets reflayer's part of that time, with the "
            f"quartiles of the pairs. {', '.join(facts.values())}.\n"
        )
        click.echo(markdown(columns))

    return command


def _measure(
    place: Path, source: Path, rivals: Rivals, runs: int, only: tuple[str, ...]
) -> list[Times]:
    with scratch(place) as folder, ExitStack() as stack:
        subprocess.run(["cp", "-a", "--", source, folder / "tree"], check=True)
        ours, *others = rivals(Setting(folder, folder / "tree"), stack)
        if only:
            others = [one for one in others if any(part in one.name for part in only)]
        return alternate([ours, *others], folder, runs, _watch)


def _heading(place: Path, taken: dict[str, list[Times]]) -> str:
    kind = file_system(str(place))
    return kind if kind not in taken else f"{kind} ({place})"


def _watch(what: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{what}", err=True, nl=False)


def markdown(columns: dict[str, list[Times]]) -> str:
    """A table with a row for each program and a column for each place."""
    lines = [f"| | {' | '.join(columns)} |", "| --- |" + " --- |" * len(columns)]
    for row in zip(*columns.values(), strict=True):
        cells = [_cell(times, found[0]) for times, found in zip(row, columns.values(), strict=True)]
        lines.append(f"| {row[0].name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(times: Times, ours: Times) -> str:
    if times.missing is not None:
        return times.missing
    text = f"{times.median:.3g} s"
    if times is ours:
        return text
    middle, low, high = times.ratio_of(ours)
    return f"{text} ({middle:.2f}; {low:.2f} to {high:.2f})"
