"""Names are bytes, in locales in which a character has two spellings, too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reflayer.archive import changes
from tests.archive.tars import apply, entry, folder, tar
from tests.cli.processes import PROGRAM
from tests.file_systems import require, require_folder
from tests.trees import assert_same, facts

SPELLINGS = b"\xa2\xcc", b"\xa4\x51"  # of one character, in Big5
LAYER = tar(
    *(folder(os.fsdecode(name)) for name in SPELLINGS),
    *(entry(os.fsdecode(name) + "/file", name) for name in SPELLINGS),
    *(entry(os.fsdecode(n) + "/link", kind="symlink", target=os.fsdecode(n)) for n in SPELLINGS),
)


@pytest.fixture
def big5(tmp_path: Path) -> dict[str, str]:
    """The environment of such a locale."""
    require("localedef")
    require_folder("/usr/share/i18n/charmaps")
    made = ["localedef", "-c", "-i", "zh_TW", "-f", "BIG5", str(tmp_path / "zh_TW.BIG5")]
    subprocess.run(made, check=False, capture_output=True)  # it warns, and ends with 1
    assert (tmp_path / "zh_TW.BIG5/LC_CTYPE").exists()
    return {**os.environ, "LOCPATH": str(tmp_path), "LC_ALL": "zh_TW.BIG5"}


def test_a_copy_has_the_same_names_and_targets(tmp_path: Path, big5: dict[str, str]) -> None:
    source, copied = (os.fsencode(tmp_path) + b"/" + name for name in SPELLINGS)
    os.mkdir(source)
    apply(source, LAYER)
    subprocess.run([*PROGRAM, "copy", source, copied], env=big5, check=True, capture_output=True)
    assert_same(facts(Path(os.fsdecode(source))), facts(Path(os.fsdecode(copied))))


def test_a_container_has_an_image_s_names_and_so_has_what_is_made_of_it(
    tmp_path: Path, big5: dict[str, str]
) -> None:
    def reflayer(*arguments: str | bytes) -> bytes:
        command = [*PROGRAM, "--root", os.fsencode(tmp_path) + b"/" + SPELLINGS[0], *arguments]
        return subprocess.run(command, env=big5, check=True, capture_output=True).stdout

    apply(tmp_path / "image", LAYER)
    (tmp_path / "image.tar").write_bytes(LAYER)
    root = reflayer("create", "--name", "web", f"tar:{tmp_path}/image.tar").rstrip(b"\n")
    inside = facts(Path(os.fsdecode(root)))
    assert inside.keys() == facts(tmp_path / "image").keys()
    assert inside[SPELLINGS[0] + b"/link"].target == SPELLINGS[0]

    os.unlink(root + b"/" + SPELLINGS[0] + b"/file")
    assert b"D /" + SPELLINGS[0] + b"/file" in reflayer("diff", "web").splitlines()
    apply(tmp_path / "exported", reflayer("export", "web"))
    assert list(changes(tmp_path / "exported", root)) == []
    reflayer("rm", "web")


def test_the_library_tells_what_python_lacks(big5: dict[str, str]) -> None:
    command = [sys.executable, "-c", "from reflayer import copy_tree"]
    done = subprocess.run(command, env=big5, check=False, capture_output=True)
    assert done.stderr.splitlines()[-1].endswith(b"start Python with -X utf8")
    command.insert(1, "-Xutf8")
    subprocess.run(command, env=big5, check=True)
