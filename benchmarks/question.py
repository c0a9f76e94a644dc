"""A question's command line, which is the same for all, its runs, and the table that answers it."""

from __future__ import annotations

import argparse
import compileall
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from pathlib import Path

import reflayer
from benchmarks.places import MKFS, mounted, tree
from reflayer.bench.methods import file_system, machine_facts, scratch
from reflayer.bench.runs import Rival, Times, alternate
from reflayer.bench.sample_tree import count
from reflayer.cli.arguments import at_least_one, folder
from reflayer.cli.interrupt import Interrupted, catch_signals
from reflayer.errors import ReflayerError
from reflayer.record import record, replace

REFLAYER = Path(sys.executable).with_name("reflayer")
"""The program as it is installed beside this interpreter."""


@record
class Setting:
    """Where the rivals meet: a new folder, and the tree in it that is their source."""

    folder: Path
    tree: Path


Rivals = Callable[[Setting, ExitStack], list[Rival]]
"""Makes the rivals for a setting, ours first; what has to end afterwards goes on the stack."""


def question(title: str, rivals: Rivals) -> None:
    """Measure ``rivals`` as the command line asks, and print a table with ``title``."""
    parser = _parser(title)
    arguments = parser.parse_args()
    if not arguments.place and not arguments.file_system:
        parser.error("--place or --file-system says where to measure")
    catch_signals()  # so that daemons, mounts and folders go however this ends
    try:
        _answer(title, rivals, arguments)
    except Interrupted as interrupted:
        sys.exit(interrupted.status)
    except ReflayerError as error:
        sys.exit(str(error))


def _answer(title: str, rivals: Rivals, arguments: argparse.Namespace) -> None:
    # As pip does: a checkout may be used where Python is told not to write what it compiles.
    compileall.compile_dir(Path(reflayer.__file__).parent, quiet=2)
    source = tree(arguments.tree)
    columns: dict[str, list[Times]] = {}
    places: list[AbstractContextManager[Path]] = [*map(nullcontext, arguments.place)]
    for where in [*places, *map(mounted, arguments.file_system)]:
        with where as place:
            found = _measure(place, source, rivals, arguments)
            columns[_heading(place, columns)] = found
    facts = machine_facts()
    entries, size = count(source)
    if arguments.json:
        seconds = {
            column: {times.name: times.missing or times.seconds for times in found}
            for column, found in columns.items()
        }
        told = {"question": title, "tree": arguments.tree, "entries": entries, "bytes": size}
        print(json.dumps({**told, **facts, "seconds": seconds}))
        return
    print(
        f"{title}: {entries:,} entries, {size / 1e6:,.0f} MB. Medians of {arguments.runs} "
        f"alternating runs; in brackets the first row's part of that time, with the "
        f"quartiles of the pairs. {', '.join(facts.values())}.\n"
    )
    print(markdown(columns))


def _parser(title: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=title)
    where = parser.add_argument_group("where, at least one; each may be repeated")
    where.add_argument(
        "--file-system",
        choices=[*MKFS],
        action="append",
        default=[],
        help="on a new file system in a loop device, which needs root",
    )
    where.add_argument(
        "--place", metavar="DIR", type=_folder, action="append", default=[], help="in that folder"
    )
    parser.add_argument(
        "--tree",
        default="debian",
        help="debian: made by debootstrap (default); a number: as many entries, made; or a folder",
    )
    parser.add_argument(
        "--runs", metavar="N", type=at_least_one, default=9, help="rounds that count (default: 9)"
    )
    parser.add_argument(
        "--only",
        metavar="TEXT",
        action="append",
        default=[],
        help="of the others, only those with this in the name; may be repeated",
    )
    parser.add_argument(
        "--first",
        metavar="TEXT",
        default="",
        help="the row whose part is told: with this in the name",
    )
    parser.add_argument(
        "--beside",
        metavar="PROGRAM",
        help="another version's reflayer, to be a row after each of ours",
    )
    parser.add_argument(
        "--cold", action="store_true", help="drop all caches before each run, as root"
    )
    parser.add_argument("--json", action="store_true", help="all times as JSON")
    return parser


def _folder(text: str) -> Path:
    return Path(folder(text)).absolute()


def _measure(
    place: Path, source: Path, rivals: Rivals, arguments: argparse.Namespace
) -> list[Times]:
    with scratch(place) as new, ExitStack() as stack:
        subprocess.run(["cp", "-a", "--", source, new / "tree"], check=True)
        found = rivals(Setting(new, new / "tree"), stack)
        if arguments.beside:
            found = [row for one in found for row in (one, *_beside(arguments.beside, one))]
        ours = next((one for one in found if arguments.first in one.name), None)
        if ours is None:
            names = ", ".join(one.name for one in found)
            raise SystemExit(f"--first {arguments.first}: only {names} are there")
        if arguments.cold:
            ours, *found = (replace(one, before=partial(_cool, one)) for one in (ours, *found))
        only = arguments.only or [""]
        others = [
            one for one in found if any(part in one.name for part in only) and one.name != ours.name
        ]
        return alternate([ours, *others], new, arguments.runs, _watch)


def _cool(rival: Rival) -> None:
    """Do what has to be done first, and let nothing of the disk be in memory (proc_sys_vm(5))."""
    rival.before()
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def _beside(program: str, ours: Rival) -> Iterator[Rival]:
    """The same by ``program``, where it is our command."""
    if not callable(ours.command) and str(REFLAYER) in map(str, ours.command):
        command = [program if str(word) == str(REFLAYER) else word for word in ours.command]
        yield replace(ours, name=f"{ours.name} ({program})", command=command)


def _heading(place: Path, taken: dict[str, list[Times]]) -> str:
    kind = file_system(str(place))
    return kind if kind not in taken else f"{kind} ({place})"


def _watch(name: str, number: int, rounds: int | None) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{name}, {number} of {rounds}", end="", file=sys.stderr, flush=True)


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
