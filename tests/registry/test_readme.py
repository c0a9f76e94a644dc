"""README's session, line by line."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

from tests.cli.processes import PROGRAM
from tests.registry.registries import Registry
from tests.store.stores import BASE, image, reflayer

README = Path(__file__).parents[2] / "README.md"


def test_the_session_in_readme_is_what_a_terminal_shows(
    base: Path, root: Path, registry: Registry
) -> None:
    made = image(base / "image", BASE)
    assert reflayer(root, "create", "--name", "first", made).returncode == 0
    assert reflayer(root, "tag", made, "debian:12").returncode == 0
    program = base / "bin/reflayer"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.join(PROGRAM)} "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    session = re.search(r"```\n(.*?)```", README.read_text(), re.DOTALL)
    assert session is not None
    steps = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", session[1], re.MULTILINE)
    assert len(steps) > 5
    for command, shown in steps:
        done = subprocess.run(
            ["bash", "-c", command.replace("registry.example.com", registry.host)],
            env={**os.environ, "PATH": path, "REFLAYER_ROOT": str(root)},
            capture_output=True,
            text=True,
            check=False,
        )
        expected = re.escape(shown.replace("/var/lib/reflayer", str(root)))
        expected = re.sub(r"[0-9a-f]{64}", "[0-9a-f]{64}", expected)
        assert (done.returncode, done.stderr) == (0, "")
        assert re.fullmatch(expected, done.stdout), (command, done.stdout)
