"""What the tests of the store share: layers, the program, and a look at a store from outside."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

from tests.archive.tars import entry, folder, tar
from tests.cli.processes import PROGRAM
from tests.images.layouts import Layout

_NO_BLOCKS = re.compile(r"^reflayer: \w+ shares no blocks: .*\n", re.MULTILINE)
_PATIENCE = 120.0  # seconds for those who delete behind

OWNER, GROUP = (7, 9) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
"""Whom a file of ``BASE`` belongs to: an ordinary user has files of nobody else."""

BASE = tar(
    folder("./"),
    folder("bin"),
    entry("bin/sh", b"#!" * 5000, mode=0o4755),
    entry("bin/ash", kind="link", target="bin/sh", mode=0o4755),
    folder("etc"),
    entry("etc/passwd", b"root:x:0:0::/:/bin/sh\n", uid=OWNER, gid=GROUP),
    entry("etc/old", b"old"),
)
MORE = tar(
    entry("etc/.wh.old"),
    entry("etc/new", b"new"),
    entry("etc/link", kind="symlink", target="new"),
)
MOST = tar(folder("etc"), entry("etc/.wh..wh..opq"), entry("etc/last", b"last"))


def image(path: Path, *layers: bytes) -> str:
    """What a user calls an image of these plain layers, in a new layout at ``path``."""
    layout = Layout(path)
    layout.index(latest=layout.image(*layers))
    return f"oci:{path}:latest"


def names_in(path: str | Path) -> set[str]:
    """The names in a folder of a container."""
    return set(os.listdir(path))


def reflayer(
    root: Path, *arguments: str, ordinary: bool = False, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run the program on the store at ``root``, with ``more`` in its environment.

    What it tells of a file system that shares no blocks is left out: that is the machine's. If
    ``ordinary``, by a user who is not root: see that he gets in by ``open_to_all``.
    """
    user = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"] if ordinary else []
    done = subprocess.run(
        [*user, *PROGRAM, "--root", str(root), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **more},
    )
    done.stderr = _NO_BLOCKS.sub("", done.stderr)
    return done


def open_to_all(folder: Path) -> None:
    """Let everybody pass through ``folder`` and those that it is in."""
    for path in (folder, *folder.parents):
        if path.stat().st_uid == os.geteuid() and not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o011)


def layers_in(root: Path) -> set[str]:
    """The ids of layers and containers."""
    return names_in(root / "layers/dir") | names_in(root / "layers/differences")


def lower_in(root: Path) -> dict[str, str]:
    """Which layer each difference lies on."""
    differences = root / "layers/differences"
    return {name: os.readlink(differences / name / "lower") for name in names_in(differences)}


def assert_clean(root: Path) -> None:
    """Fail unless all in the store at ``root`` is on record, and all on record is there."""
    told = _told(root)
    needed = told["layers"] | told["containers"]
    assert layers_in(root) == needed
    assert {f"{layer} on {below}" for layer, below in lower_in(root).items()} == told["differences"]
    assert told["used layers"] == told["layers"]
    assert told["unused images"] == set()
    blobs = {f"sha256:{name}" for name in names_in(root / "content/blobs/sha256")}
    assert blobs == told["blobs"]
    index = json.loads((root / "content/index.json").read_text())["manifests"]
    assert {one["digest"] for one in index} == told["manifests"]
    assert names_in(root / "content/tmp") == set()
    assert names_in(root / "locks") == set()
    _wait_until_empty(root / "layers/tmp")
    _wait_until_empty(root / "layers/trash")


def _told(root: Path) -> dict[str, set[str]]:
    used = "(SELECT image FROM names UNION SELECT image FROM containers)"
    stacks = f"""WITH RECURSIVE stack (id) AS (SELECT layer FROM images WHERE id IN {used}
        UNION SELECT layer FROM checkpoints UNION SELECT layer FROM standing
        UNION SELECT parent FROM stack JOIN layers USING (id) WHERE parent NOTNULL)"""
    queries = {
        "layers": "SELECT id FROM layers",
        "containers": "SELECT id FROM containers",
        "used layers": f"{stacks} SELECT id FROM stack",
        "differences": "SELECT id || ' on ' || parent FROM layers WHERE parent NOTNULL",
        "unused images": f"SELECT id FROM images WHERE id NOT IN {used}",
        "blobs": "SELECT digest FROM blobs",
        "manifests": "SELECT json_extract(manifest, '$.digest') FROM images WHERE manifest NOTNULL",
    }
    with closing(sqlite3.connect(root / "reflayer.db")) as db:
        return {what: {row[0] for row in db.execute(query)} for what, query in queries.items()}


def _wait_until_empty(path: Path) -> None:
    end = time.monotonic() + _PATIENCE
    while names_in(path) and time.monotonic() < end:
        time.sleep(0.02)
    assert names_in(path) == set()
