"""An ordinary user runs commands as root of a user namespace.

Not by bubblewrap, which refuses whoever has a capability: here he has one, to read the interpreter.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sandbox.images import RUNTIMES, USER, image, lines, nothing_runs, reflayer
from tests.store.stores import open_to_all


@pytest.fixture
def theirs(base: Path) -> Iterator[Path]:
    """A folder of the user's."""
    open_to_all(base)
    path = base / "theirs"
    path.mkdir()
    os.chown(path, USER, USER)
    yield path
    shutil.rmtree(path, ignore_errors=True)


_OTHERS = [name for name in RUNTIMES if name != "bwrap"]


@pytest.mark.parametrize("runtime", _OTHERS, indirect=True)
def test_he_is_root_in_there_over_what_is_his(runtime: str, theirs: Path, base: Path) -> None:
    source = image(base / "other", Volumes={"/data": {}}, WorkingDir="/work")
    root = theirs / "store"
    own = ("run", "--rm", "--runtime", runtime, "--ownership", "ignore")
    script = "id -u; touch new; stat -c %u new; pwd; ls -d /data; exit 5"
    home = {"HOME": str(theirs)}
    done = reflayer(root, *own, source, "sh", "-c", script, ordinary=True, **home)
    assert (done.stdout.split(), done.returncode) == (["0", "0", "/work", "/data"], 5), done.stderr
    script = "ip -o addr | grep -c inet; sh -c 'kill -9 $$'; echo $?"
    quiet = ("--network", "none", source, "sh", "-c", script)
    told = lines(reflayer(root, *own, *quiet, ordinary=True, **home))
    assert told[-1] == "137"
    assert nothing_runs(root)


@pytest.mark.parametrize("runtime", _OTHERS, indirect=True)
def test_who_is_not_there_is_told(runtime: str, theirs: Path, base: Path) -> None:
    source = image(base / "other", User="101")
    own = ("run", "--rm", "--runtime", runtime, "--ownership", "ignore")
    home = {"HOME": str(theirs)}
    done = reflayer(theirs / "store", *own, source, "true", ordinary=True, **home)
    assert done.returncode == 125
    assert "there is no user 101 here" in done.stderr
