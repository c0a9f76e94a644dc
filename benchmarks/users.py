"""What does it cost to be an ordinary user, from an image in a registry to a changed one there?

The image is pulled, a container is made, fifty files are written in it, that is committed and
pushed. By root; by a user with ranges of ids, who works in a namespace; and by one without, whose
files' owners are recorded beside them.
"""

from __future__ import annotations

import os
import site
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import reflayer
from benchmarks.pulling import registry
from benchmarks.question import Setting, question
from reflayer.bench.runs import Rival
from reflayer.copy import remove_tree

_USER, _RANGE = 1000, "1000:100000:65536\n"
_BECOME = f"setpriv --reuid={_USER} --regid={_USER} --clear-groups --inh-caps=-all"
_WITH_RANGES = 'mount --bind "$0" /etc/subuid && mount --bind "$0" /etc/subgid && exec "$@"'
_PATHS = [str(Path(reflayer.__file__).parents[1]), *site.getsitepackages()]
_STEPS = """
set -e
reflayer() { "$PYTHON" -m reflayer --quiet --root "$STORE" "$@"; }
root=$(reflayer create --name bench "$IMAGE")
$ENTER sh -c 'mkdir "$0/new"; for i in $(seq 50); do echo $i > "$0/new/$i"; done' "$root"
reflayer commit bench new:1 >&2
reflayer push new:1 "$IMAGE-$WHO" >&2
"""


def rivals(setting: Setting, stack: ExitStack) -> list[Rival]:
    """Those three, each with a new store."""
    image = registry(setting, stack)
    file = setting.folder / "subuid"
    file.write_text(_RANGE)
    none = setting.folder / "no-subuid"
    none.touch()
    setting.folder.chmod(0o755)
    become = _BECOME.split()
    return [
        _rival("root", [], setting, image),
        _rival("ranges", [*_bound(file), *become], setting, image),
        _rival("no-ranges", [*_bound(none), *become], setting, image),
    ]


def _bound(ranges: Path) -> list[str]:
    return ["unshare", "-m", "sh", "-c", _WITH_RANGES, str(ranges)]


def _rival(who: str, become: list[str], setting: Setting, image: str) -> Rival:
    folder = setting.folder / who
    folder.mkdir()
    if become:
        os.chown(folder, _USER, _USER)
    store = folder / "store"
    words = {
        "ENTER": "" if who == "no-ranges" else "reflayer unshare",
        "HOME": str(folder),
        "IMAGE": image,
        "PYTHON": _python(),
        "PYTHONPATH": ":".join(_PATHS),
        "STORE": str(store),
        "WHO": who,
    }
    environment = [f"{name}={value}" for name, value in words.items()]
    command = [*become, "env", *environment, "sh", "-c", _STEPS]
    return Rival(who, command, after=partial(remove_tree, store))


def _python() -> str:
    """One that the user can start; root takes the same."""
    for python in (sys.executable, "/usr/bin/python3"):
        program = [*_BECOME.split(), "env", python, "-c", "import sqlite3"]
        if subprocess.run(program, capture_output=True, check=False).returncode == 0:
            return python
    raise SystemExit("an ordinary user needs a Python that he can start")


if __name__ == "__main__":
    question("From an image in a registry to a changed one there", rivals)
