"""What shells complete, and the manual: both made from the parser."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from reflayer.cli.commands import COMMANDS
from reflayer.cli.completion import SHELLS, completion_script
from reflayer.cli.manual import files
from tests.cli.processes import PROGRAM, reflayer
from tests.file_systems import require
from tests.store.stores import BASE, image

_ASK = """\
reflayer() { %s "$@"; }
compopt() { :; }  # it works only where a line is typed
source %s
COMP_LINE=$1 COMP_POINT=${#1}
_reflayer
printf '%%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def root(base: Path) -> Path:
    """A store with an image and a container."""
    root = base / "store"
    made = image(base / "image", BASE)
    reflayer("--root", str(root), "create", "--name", "webserver", made)
    reflayer("--root", str(root), "tag", made, "localhost:5000/team/app:1")
    return root


def _completed(line: str, script: Path) -> list[str]:
    """What bash makes of a line."""
    script.write_text(completion_script("bash"))
    ask = _ASK % (shlex.join(PROGRAM), shlex.quote(str(script)))
    command = ["bash", "-c", ask, "bash", f"reflayer {line}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("cre", ["create"]),
        ("--ro", ["--root"]),
        ("--root /etc/ssl cre", ["create"]),
        ("create --pu", ["--pull"]),
        ("create --pull ", ["missing", "always", "never"]),
        ("create --pull=al", ["always"]),
        ("create --name rmi", []),
        ("serve docker con", ["containerd"]),
        ("doctor /etc/alternati", ["/etc/alternatives"]),
        ("completion f", ["fish"]),
    ],
)
def test_bash_completes_commands_options_and_values(
    tmp_path: Path, line: str, words: list[str]
) -> None:
    assert _completed(line, tmp_path / "script") == words


def test_bash_completes_names_of_the_store_that_the_line_names(tmp_path: Path, root: Path) -> None:
    script = tmp_path / "script"
    assert _completed(f"--root {root} path we", script) == ["webserver"]
    assert _completed(f"rm --root {root} ", script) == ["webserver"]
    # What is before the last colon is there already, as bash splits words.
    assert _completed(f"--root {root} rmi localhost:50", script) == ["5000/team/app:1"]
    assert "webserver" in _completed(f"--root {root} df ", script)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_reads_its_script(tmp_path: Path, shell: str) -> None:
    require("zsh", "fish")
    script = tmp_path / "script"
    script.write_text(reflayer("completion", shell).stdout)
    subprocess.run([shell, "-n", script], check=True)
    assert all(name in script.read_text() for name in COMMANDS)


def test_fish_completes_names(tmp_path: Path, root: Path) -> None:
    require("fish")
    script = tmp_path / "script.fish"
    script.write_text(completion_script("fish"))
    program = tmp_path / "reflayer"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(PROGRAM)} "$@"\n')
    program.chmod(0o755)
    line = f"reflayer --root {root} path w"
    done = subprocess.run(
        ["fish", "-c", f"source {script}; complete -C '{line}'"],
        env={**os.environ, "HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "webserver\n"


def test_each_command_has_a_page_that_troff_has_no_complaint_of(tmp_path: Path) -> None:
    require("groff")
    pages = {name: text for name, text in files().items() if name.startswith("man/")}
    assert len(pages) == len(COMMANDS) + 1
    paths = []
    for name, text in pages.items():
        paths.append(tmp_path / Path(name).name)
        paths[-1].write_text(text)
    done = subprocess.run(
        ["groff", "-man", "-ww", "-z", "-Kutf8", *paths], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
