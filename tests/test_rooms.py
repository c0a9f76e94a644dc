"""Each folder of the project has one job, and imports only what is below it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import reflayer

PACKAGE = Path(reflayer.__file__).parent
ROOMS = (
    "cli",
    "plugins",
    "sandbox",
    "doctor",
    "bench",
    "store",
    "images",
    "driver",
    "archive",
    "extents",
    "copy",
    "workers",
    "walk",
    "linux",
)
"""From the top down."""
OPEN_TO_ALL = ("errors", "lazy", "progress", "xdg", "__version__", "record", "contexts")


def modules() -> Iterator[tuple[Path, str]]:
    """Each file of the package, and the room that it is in; empty for the package's own files."""
    for path in sorted(PACKAGE.rglob("*.py")):
        inside = path.relative_to(PACKAGE).parts
        yield path, inside[0] if len(inside) > 1 else ""


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """The full names that a file imports, inside its functions too, and in which lines."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: a relative import"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def test_every_folder_is_a_room_of_the_list() -> None:
    assert {room for _, room in modules()} == {"", *ROOMS}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_is_below_it(room: str) -> None:
    allowed = (*ROOMS[ROOMS.index(room) :], *OPEN_TO_ALL)
    reached = [
        f"{path.relative_to(PACKAGE)}:{line} imports {name}"
        for path, inside in modules()
        if inside == room
        for name, line in imported(path)
        if (parts := [*name.split("."), ""])[0] == "reflayer" and parts[1] not in allowed
    ]
    assert reached == []


def test_no_files_import_each_other_in_a_circle() -> None:
    """Not for annotations alone, either: who reads one of them would have to read all."""
    names = {
        path: ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(
            ".__init__"
        )
        for path, _ in modules()
    }
    graph = {
        name: {
            found if found in names.values() else found.rpartition(".")[0]
            for found, _ in imported(path)
        }
        - {name}
        for path, name in names.items()
    }
    graph["reflayer"] = set()  # it imports nothing before its names are used
    TopologicalSorter(graph).prepare()  # CycleError tells of one


def test_nothing_is_imported_for_annotations_alone() -> None:
    """lazy.py tells how, and why not so."""
    slow = [str(path) for path, _ in modules() if "import TYPE_CHECKING" in path.read_text()]
    assert slow == []


def test_only_the_commands_and_programs_of_their_own_print_or_exit() -> None:
    breaches = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path, room in modules()
        if room != "cli" and '__name__ == "__main__"' not in path.read_text()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.exit", "exit")
    ]
    assert breaches == []


@pytest.mark.parametrize("module", ["reflayer", "reflayer.copy.tree", "reflayer.archive.tar_copy"])
def test_the_copy_needs_the_standard_library_alone(module: str) -> None:
    code = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); import {module}"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
