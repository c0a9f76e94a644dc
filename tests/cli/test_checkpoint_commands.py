"""The commands of checkpoints as a script uses them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.store.stores import BASE, assert_clean, image, reflayer


@pytest.fixture
def box(base: Path, root: Path) -> Path:
    """The root of a container ``box``."""
    done = reflayer(root, "create", "--name", "box", image(base / "image", BASE))
    return Path(done.stdout.rstrip("\n"))


def _line(root: Path, *arguments: str) -> str:
    done = reflayer(root, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.rstrip("\n")


def test_a_session(box: Path, root: Path) -> None:
    (box / "etc/file").write_text("one")
    assert _line(root, "checkpoint", "box") == "box@1"
    (box / "etc/file").write_text("two")
    assert _line(root, "checkpoint", "box", "two") == "box@two"
    (box / "etc/file").unlink()
    assert _line(root, "diff", "box", "box@two") == "C /etc\nD /etc/file"
    assert _line(root, "rollback", "box") == "box@two"
    assert (box / "etc/file").read_text() == "two"
    assert _line(root, "rollback", "box", "1") == "box@1"
    assert _line(root, "path", "box") == str(box)
    assert (box / "etc/file").read_text() == "one"
    assert _line(root, "checkpoint", "box", "other") == "box@other"
    told = json.loads(_line(root, "checkpoints", "box", "--json"))
    assert [(one["name"], one["parent"], one["current"]) for one in told] == [
        ("1", None, False),
        ("two", "1", False),
        ("other", "1", True),
    ]
    table = [line[:10].rstrip() for line in _line(root, "checkpoints", "box").split("\n")]
    assert table == ["  CHECKPOI", "  1", "* - other", "  two"]
    assert _line(root, "rm", "box@1", "box@two") == "box@1\nbox@two"
    told = json.loads(_line(root, "checkpoints", "box", "--json"))
    names = [one["name"] for one in told]
    assert _line(root, "checkpoints", "box", "-q").split() == names == ["other"]
    assert_clean(root)


def test_forks(box: Path, root: Path) -> None:
    (box / "etc/file").write_text("one")
    _line(root, "checkpoint", "box", "one")
    paths = _line(root, "fork", "box@one", "--count", "3").split("\n")
    paths.append(_line(root, "fork", "box", "--name", "new"))
    paths.append(_line(root, "create", "box@one", "--name", "made"))
    assert len({*paths}) == 5
    assert all(Path(path, "etc/file").read_text() == "one" for path in paths)
    assert _line(root, "path", "new") == paths[3]
    assert reflayer(root, "fork", "box", "--name", "x", "--count", "2").returncode == 2
    assert _line(root, "rm", "box") == "box"
    assert all(Path(path, "etc/file").exists() for path in paths)
    assert_clean(root)


def test_what_is_not_there_is_told_with_what_is(box: Path, root: Path) -> None:
    assert box.exists()
    _line(root, "checkpoint", "box", "first")
    for command in (("rollback", "box", "frist"), ("rm", "box@frist"), ("fork", "box@frist")):
        done = reflayer(root, *command)
        assert done.returncode == 1
        assert "no such checkpoint: did you mean first?" in done.stderr
    assert "no such checkpoint; there are: first" in reflayer(root, "rollback", "box", "z").stderr
