"""``scripts/test`` installs every program that the tests call."""

from __future__ import annotations

import ast
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.file_systems import require

PROJECT = Path(__file__).parents[1]

_INSTALLED = re.compile(r"(?<=\s)([\w.+-]+)=[a-z][a-z0-9.+-]+(?=\s)")
_SHELL_COMMAND = re.compile(r"(?:^|[;&|({]|exec|then|do) *([a-z][\w.-]+)(?= |$)", re.MULTILINE)
_SHELL_WORDS = {
    "cd",
    "do",
    "done",
    "exec",
    "exit",
    "export",
    "if",
    "read",
    "set",
    "shift",
    "test",
    "then",
    "wait",
    "while",
}
_CALLS = {"run", "Popen", "check_call", "check_output"}  # whose first argument is the command


def test_every_program_that_tests_call_is_installed_or_in_every_debian() -> None:
    require("dpkg-query")
    listed = {*_INSTALLED.findall((PROJECT / "scripts/test").read_text())}
    called = defaultdict(set)
    for folder in ("tests", "benchmarks"):
        for file in (PROJECT / folder).rglob("*.py"):
            for program in _called(ast.parse(file.read_text())):
                called[program].add(file.name)
    assert called.keys() >= {"mkfs.xfs", "strace", "sh", "mount"}  # by each way
    assert {one: called[one] for one in called.keys() - listed - _in_every_debian()} == {}


def _called(file: ast.Module) -> Iterator[str]:
    """The programs that a file's calls of ``subprocess`` begin with, and those it requires."""
    values: dict[str, list[ast.expr]] = defaultdict(list)
    for node in ast.walk(file):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            values[node.targets[0].id].append(node.value)

    def strings(node: ast.expr) -> Iterator[str]:
        match node:
            case ast.Constant(value=str(text)):
                yield text
            case ast.List(elts=[first, *rest]) | ast.Tuple(elts=[first, *rest]):
                yield from strings(first)
                for shell, option, script in zip([first, *rest], rest, rest[1:], strict=False):
                    if [ast.unparse(one) for one in (shell, option)] == ["'sh'", "'-c'"]:
                        for text in strings(script):
                            yield from _SHELL_COMMAND.findall(text)
            case ast.Starred(value=ast.expr() as value) | ast.BinOp(left=value):
                yield from strings(value)
            case ast.Name(id=name):
                for value in values.pop(name, ()):
                    yield from strings(value)

    for node in ast.walk(file):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="subprocess" | "os"), attr=call)):
                found = node.args[:1] if call in _CALLS else []
            case ast.Call(func=ast.Name(id="require")):
                found = node.args
            case _:
                found = []
        for argument in found:
            for text in strings(argument):
                if re.fullmatch(r"[a-z][\w.-]*", text) and text not in _SHELL_WORDS:
                    yield text


def _in_every_debian() -> set[str]:
    """The programs of what debootstrap installs at least."""
    query = ["dpkg-query", "--show", "--showformat=${Package} ${Essential} ${Priority}\n"]
    told = subprocess.run(query, check=True, capture_output=True, text=True).stdout
    packages = [line.split()[0] for line in told.splitlines() if re.search("yes|required", line)]
    files = ["dpkg-query", "--listfiles", *packages]
    paths = subprocess.run(files, check=True, capture_output=True, text=True).stdout
    return {Path(path).name for path in paths.splitlines() if re.search("/s?bin/", path)}


@pytest.mark.parametrize(
    "script",
    ["scripts/try", "scripts/test", "scripts/engines", "packaging/install", "packaging/deb"],
)
def test_a_script_tells_its_usage(script: str) -> None:
    done = subprocess.run(
        [PROJECT / script, "--help"], capture_output=True, text=True, check=True, timeout=120
    )
    assert script in done.stdout
    assert "#" not in done.stdout
