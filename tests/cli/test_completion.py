"""What shells complete, and the manual: both made from the parser."""

from __future__ import annotations

import os
import pty
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from signal import SIGKILL

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


def test_bash_takes_a_name_for_nothing_but_a_name(
    base: Path, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = image(base / "a $(echo>made)", BASE)
    reflayer("--root", str(root), "create", made)
    monkeypatch.chdir(tmp_path)
    found = " ".join(_completed(f"--root {root} rmi oci:", tmp_path / "script"))
    assert "/a\\ \\$\\(echo\\>made\\)" in found
    assert not (tmp_path / "made").exists()


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


@pytest.fixture
def typed(base: Path, root: Path) -> Callable[[str, str], list[str]]:
    """What a shell makes of a line: the whole line, or all that it offers."""
    require("zsh", "fish")
    program = base / "bin/reflayer"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.join(PROGRAM)} "$@"\n')
    program.chmod(0o755)
    for name in ("one", "two"):
        reflayer("--root", str(root), "checkpoint", "webserver", name)
    env = {
        **{key: value for key, value in os.environ.items() if key != "ZDOTDIR"},
        "HOME": str(base),
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "REFLAYER_ROOT": str(root),
        "TERM": "dumb",
    }

    def complete(shell: str, line: str) -> list[str]:
        script = base / f"script.{shell}"
        script.write_text(completion_script(shell))
        if shell == "fish":
            command = ["fish", "-c", f"source {script}; complete -C 'reflayer {line}'"]
            done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
            assert done.stderr == ""
            return [one.partition("\t")[0] for one in done.stdout.splitlines()]
        return _typed(shell, script, f"reflayer {line}\t", env)

    return complete


_SHELLS = {
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        "bind 'set bell-style none'; show() { echo \"<$READLINE_LINE>\"; };"
        "bind -x '\"\\C-g\": show'; PS1=; source %s; echo rea''dy\n",
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        'autoload -U compinit; compinit -u -D; show() { print -r -- "<$BUFFER>" };'
        "zle -N show; bindkey '^G' show; PS1= RPS1=; source %s; echo rea''dy\n",
    ),
}
"""How each is started, and told to show the line that is typed at a Ctrl-G."""


def _typed(shell: str, script: Path, line: str, env: dict[str, str]) -> list[str]:
    """The words of the line after the command, as a shell at a terminal has completed it."""
    command, settings = _SHELLS[shell]
    process, terminal = pty.fork()
    if not process:
        os.execvpe(command[0], command, env)
    try:
        _read_until(terminal, settings % script, "ready")
        shown = _read_until(terminal, f"{line}\x07", ">")
    finally:
        os.close(terminal)
        os.kill(process, SIGKILL)
        os.waitpid(process, 0)
    return shown.rpartition("<")[2].removesuffix(">").split()[1:]


def _read_until(terminal: int, typed: str, end: str) -> str:
    """What a terminal shows after something is typed, up to ``end``."""
    os.write(terminal, typed.encode())
    shown = ""
    while not shown.endswith(end):
        shown += os.read(terminal, 1).decode(errors="replace")
    return shown


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("path we", "path webserver"),
        ("path --root %s we", "path --root %s webserver"),
        ("rollback webserver t", "rollback webserver two"),
        ("rollback --json webserver o", "rollback --json webserver one"),
        ("fork webserver@t", "fork webserver@two"),
        ("diff webserver@one webserver@t", "diff webserver@one webserver@two"),
        ("rm webserver@o", "rm webserver@one"),
        ("rmi localhost:50", "rmi localhost:5000/team/app:1"),
        ("fork --name t webserver@t", "fork --name t webserver@two"),
    ],
)
def test_a_shell_completes_names(
    typed: Callable[[str, str], list[str]], root: Path, shell: str, line: str, words: str
) -> None:
    line, words = line.replace("%s", str(root)), words.replace("%s", str(root))
    expected = words.split()
    found = typed(shell, line)
    assert found == (expected[-1:] if shell == "fish" else expected)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    "line", ["path webserver ", "rollback webserver one ", "checkpoint webserver "]
)
def test_a_shell_offers_no_name_where_none_follows(
    typed: Callable[[str, str], list[str]], shell: str, line: str
) -> None:
    names = [word for word in typed(shell, line) if word[0] != "-"]  # options may follow
    assert names == ([] if shell == "fish" else line.split())


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
