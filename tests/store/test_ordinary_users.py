"""What an ordinary user, who keeps no owners, makes of images is as root would have made it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer import Store
from tests.cli.processes import PROGRAM
from tests.file_systems import kinds, require, require_root
from tests.store.stores import BASE, assert_clean, image

NOBODY = 65534
# The user may read all, since the interpreter of the tests is perhaps in root's home.
_READS = ("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search")
_BECOME = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *_READS)
_TESTS = Path(__file__).parents[1]
_DONE_BY_USERS = (
    "cli/test_changes_commands.py",
    "cli/test_image_commands.py",
    "cli/test_store_commands.py",
    "store/test_commit.py",
    "store/test_creating.py",
    "store/test_removing.py",
)


@pytest.fixture
def folder(base: Path) -> Path:
    """A folder of the user's."""
    return _folder_in(base)


def _folder_in(place: Path) -> Path:
    require_root()
    path = place / "user"
    path.mkdir()
    os.chown(path, NOBODY, NOBODY)
    return path


def by_user(folder: Path, *arguments: str) -> str:
    """Run the program as the user, on a store in ``folder``; return what it prints."""
    require("setpriv")
    command = [*_BECOME, *PROGRAM, "--root", str(folder / "store"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_users_do_works_for_one_on_every_file_system(
    place_on: Callable[[str], Path],
) -> None:
    require("setpriv")
    folders = [str(_folder_in(place_on(kind))) for kind in kinds()]
    environment = {"PLACES": ":".join(folders), "TMPDIR": folders[0], "HOME": folders[0], "CI": ""}
    pytest_ = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q"]
    done = subprocess.run(
        [*_BECOME, *pytest_, *(str(_TESTS / name) for name in _DONE_BY_USERS)],
        env={**os.environ, **environment},
        cwd=_TESTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    told = {what: int(count) for count, what in re.findall(r"(\d+) (passed|skipped)", done.stdout)}
    assert told["passed"] > 10 * told.get("skipped", 0)


def test_what_the_user_owns_is_roots_in_a_committed_layer(base: Path, folder: Path) -> None:
    ignore = ("--ownership", "ignore")
    container = by_user(folder, "create", *ignore, "--name", "one", image(base / "image", BASE))
    new = Path(container, "etc/new")
    new.write_text("new")
    os.chown(new, NOBODY, NOBODY)
    os.chown(Path(container, "etc/passwd"), NOBODY, 12)  # a group that the user is in, as well
    by_user(folder, "commit", *ignore, "one", "made")
    by_user(folder, "save", "made", f"oci:{folder}/out:made")
    path = Path(Store(base / "other").create(f"oci:{folder}/out:made").path)
    owners = {name: (path / name).stat() for name in (".", "etc", "etc/new", "etc/passwd")}
    assert {(name, one.st_uid, one.st_gid) for name, one in owners.items()} == {
        (".", 0, 0),
        ("etc", 0, 0),
        ("etc/new", 0, 0),
        ("etc/passwd", 0, 12),
    }
    assert_clean(folder / "store")


def test_a_folder_of_somebody_elses_files_can_be_saved(base: Path, folder: Path) -> None:
    tree = base / "tree"
    tree.mkdir()
    (tree / "file").write_text("root's")
    ignore = ("--ownership", "ignore")
    by_user(folder, "create", *ignore, f"rootfs:{tree}")
    by_user(folder, "save", *ignore, f"rootfs:{tree}", f"oci:{folder}/out:tree")
    path = Path(Store(base / "other").create(f"oci:{folder}/out:tree").path)
    assert [one.stat().st_uid for one in (path, path / "file")] == [0, 0]
