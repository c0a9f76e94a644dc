"""Where the options of ``reflayer run`` end, and those of the command begin."""

from __future__ import annotations

import json
import sys

import pytest

from reflayer.cli.program import parser
from tests.cli.processes import reflayer


@pytest.mark.parametrize(
    ("line", "image", "words"),
    [
        ("run alpine", "alpine", []),
        ("run alpine ls -l --rm -- x", "alpine", ["ls", "-l", "--rm", "--", "x"]),
        ("run --rm -it alpine sh -c true", "alpine", ["sh", "-c", "true"]),
        ("run -e A=1 -eB=2 --env C=3 --env=D=4 alpine -x", "alpine", ["-x"]),
        ("run -itv /:/host -w /x --workdir /y alpine env", "alpine", ["env"]),
        ("run --entry x alpine y", "alpine", ["y"]),
        ("run --root /r --name n -- alpine -- y", "alpine", ["--", "y"]),
        ("--root /r run -u 0 alpine --user 1", "alpine", ["--user", "1"]),
        ("unshare ls -l", None, ["ls", "-l"]),
        ("unshare -- ls --help", None, ["ls", "--help"]),
        ("exec -it web sh -i", None, ["sh", "-i"]),
    ],
)
def test_what_follows_the_image_is_the_commands(
    monkeypatch: pytest.MonkeyPatch, line: str, image: str | None, words: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["reflayer", *line.split()])
    arguments = parser().parse_args()
    assert getattr(arguments, "image", None) == image
    given = arguments.command if line.startswith("unshare") else arguments.words
    assert given == words


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("run --mn x alpine ls", "unrecognized option --mn"),
        ("run -x alpine", "unrecognized option -x"),
        ("run", "the following arguments are required: IMAGE"),
        ("run -v relative:/x alpine", "volumes have no names here"),
        ("run -v /:x alpine", "is not SOURCE:DESTINATION[:ro]"),
        ("run -v /nosuch:/x alpine", "'/nosuch' is not there"),
        ("run -e =1 alpine", "does not begin with a variable's name"),
        ("run --network bridge alpine", "invalid choice: 'bridge'"),
        ("exec web", "exec: give a command"),
    ],
)
def test_wrong_usage_is_told(line: str, complaint: str) -> None:
    done = reflayer(*line.split())
    assert (done.returncode, complaint in done.stderr) == (2, True), done.stderr


def test_doctor_tells_what_runs_and_what_it_keeps_apart(tmp_path: str) -> None:
    told = json.loads(reflayer("doctor", "--json", str(tmp_path)).stdout)
    assert told["runtime"].startswith("/")
    assert any("capabilities" in line for line in told["isolation"])
