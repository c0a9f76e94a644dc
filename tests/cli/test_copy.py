"""``reflayer copy`` as a script uses it."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer.cli.arguments import telling_of_ownership
from reflayer.errors import OperationError
from tests.cli.processes import reflayer, unprivileged
from tests.file_systems import kinds, require_root
from tests.trees import assert_same, facts

METHOD = "reflink" if kinds()[0] in ("xfs", "btrfs") else "range"


@pytest.fixture
def place(base: Path) -> Path:
    """A folder with a tree in it."""
    place = base
    tree = place / "tree"
    (tree / "folder").mkdir(parents=True)
    (tree / "folder/file").write_bytes(b"content" * 1000)
    os.link(tree / "folder/file", tree / "link")
    if os.geteuid() == 0:
        os.chown(tree / "folder", 7, 9)
    return place


def test_it_copies_and_sums_up_on_standard_error(place: Path) -> None:
    done = reflayer("copy", str(place / "tree"), str(place / "copy"))
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith(f"4 entries, 7kB by {METHOD}, ")
    assert done.stderr.count("\n") == 1
    assert_same(facts(place / "tree"), facts(place / "copy"))


def test_it_reports_as_json(place: Path) -> None:
    done = reflayer("copy", "--json", "--workers", "2", str(place / "tree"), str(place / "copy"))
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["entries"]["file"] == 1
    assert told["entries"]["hardlink"] == 1
    assert told["bytes"] == {METHOD: 7000}


def test_what_only_root_may_keep_is_left_out_and_counted_when_asked(place: Path) -> None:
    require_root()
    arguments = (str(place / "tree"), str(place / "copy"))
    done = unprivileged("copy", *arguments)
    assert done.returncode == 1
    assert "Operation not permitted: only root may set it" in done.stderr
    assert not (place / "copy").exists()
    done = unprivileged("copy", "--ownership", "ignore", *arguments)
    assert done.returncode == 0
    assert done.stderr.endswith("left out: 1 owner\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("nowhere", "copy"), "nowhere: "),
        (("tree/link", "copy"), "tree/link: "),
        (("tree", "tree/inside"), "inside the source"),
        (("tree", "."), "not empty"),
        (("tree", "no/such/place"), "no/such: "),
    ],
)
def test_a_failure_is_one_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, str], complaint: str
) -> None:
    monkeypatch.chdir(place)
    done = reflayer("copy", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("reflayer: ")
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(os.listdir(place)) == ["tree"]


@pytest.mark.parametrize(
    "arguments", [("a",), ("--method", "x", "a", "b"), ("--workers", "0", "a", "b")]
)
def test_wrong_usage_is_status_two(arguments: tuple[str, ...]) -> None:
    assert reflayer("copy", *arguments).returncode == 2


def test_a_method_that_cannot_work_is_refused_before_anything_is_made(
    place_on: Callable[[str], Path], place: Path
) -> None:
    copy = place_on("ext4") / "copy"
    done = reflayer("copy", "--method", "reflink", str(place / "tree"), str(copy))
    assert done.returncode == 1
    assert "use another or auto" in done.stderr
    assert not copy.exists()


@pytest.mark.parametrize(
    ("operation", "number", "helps"),
    [
        ("chown", errno.EPERM, True),
        ("chown", errno.EINVAL, True),  # user_namespaces(7): an id that has no place here
        ("mknod", errno.EPERM, True),
        ("setxattr trusted.name", errno.EPERM, True),
        ("setxattr user.name", errno.ENOSPC, False),
        ("copy its content", errno.EPERM, False),
        ("chmod", errno.EPERM, False),
        ("open", errno.EACCES, False),
    ],
)
def test_the_hint_at_ownership_comes_where_it_helps(
    operation: str, number: int, helps: bool
) -> None:
    with pytest.raises(OperationError) as caught, telling_of_ownership(lambda: "keep"):
        raise OperationError(b"path", operation, "reason", number)
    assert ("--ownership ignore" in caught.value.reason) == helps
