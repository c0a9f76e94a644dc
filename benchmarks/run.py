"""How long does it take to run a command in a fresh container of an image that is there?"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from contextlib import ExitStack
from functools import partial
from tempfile import TemporaryDirectory

from benchmarks.docker.engine import Engine
from benchmarks.images import Store, oci_image
from benchmarks.processes import fed, run
from benchmarks.question import Setting, question
from reflayer.bench.runs import Rival
from reflayer.sandbox.runtimes import find

_UDOCKER_MODES = {"P1": "proot", "R1": "runc"}


def rivals(setting: Setting, stack: ExitStack) -> list[Rival]:
    """``reflayer run --rm`` with a spare and without, the runtime alone, and other engines."""
    if shutil.which("umoci") is None:
        raise SystemExit("umoci makes the image: apt-get install umoci")
    store = Store(setting, oci_image(setting))
    store.create("ready")
    image = store.image
    running = store.command("run", "--rm", image, "true")
    return [
        Rival(
            "reflayer run --rm, a spare ready",
            running,
            before=partial(run, store.command("warm", "--count", "1", image)),
            after=store.settle,
        ),
        Rival(
            "reflayer run --rm",
            running,
            before=partial(run, store.command("warm", "--count", "0", image)),
            after=store.settle,
        ),
        _ready_bundle(setting, store),
        *(_podman(setting, stack, driver) for driver in ("overlay", "vfs")),
        *(_docker(setting, stack, driver) for driver in ("overlay2", "vfs")),
        *(_udocker(setting, mode) for mode in _UDOCKER_MODES),
    ]


def _ready_bundle(setting: Setting, store: Store) -> Rival:
    """What the runtime takes, of which reflayer has the choice as well."""
    runtime = find()
    if not runtime.is_oci:
        return Rival("a ready bundle", [], missing="neither crun nor runc here")
    bundle = setting.folder / "bundle"
    bundle.mkdir()
    run(store.command("spec", "-o", f"{bundle}/config.json", "ready", "true"))
    words = [runtime.program, "run", "--bundle", str(bundle), "reflayer-bench"]
    return Rival(f"{runtime.name} run of a ready bundle", words)


def _podman(setting: Setting, stack: ExitStack, driver: str) -> Rival:
    name = f"podman run --rm ({driver})"
    if shutil.which("podman") is None:
        return Rival(name, [], missing="no podman here")
    root = setting.folder / f"podman-{driver}"
    state = stack.enter_context(TemporaryDirectory(prefix="podman-", dir="/run"))  # a short path
    podman = ["podman", "--root", str(root), "--runroot", state, f"--storage-driver={driver}"]
    image = fed(setting.tree, [*podman, "import", "-q", "-"]).split()[-1]
    return Rival(name, [*podman, "run", "--rm", "--network=host", image, "true"])


def _docker(setting: Setting, stack: ExitStack, driver: str) -> Rival:
    engine = Engine(setting, stack, driver)
    if engine.missing is None:
        engine.load(setting)
    words = engine.docker("run", "--rm", "--network=host", "tree", "true")
    return Rival(f"docker run --rm ({driver})", words, missing=engine.missing)


def _udocker(setting: Setting, mode: str) -> Rival:
    """With the system's programs: an empty ``UDOCKER_TARBALL`` fetches none of its own."""
    program = _UDOCKER_MODES[mode]
    name = f"udocker run --rm ({mode}: {program})"
    paths = {one: shutil.which(one) for one in ("udocker", program)}
    if absent := [one for one, path in paths.items() if path is None]:
        return Rival(name, [], missing=f"no {absent[0]} here")
    folder = setting.folder / "udocker"
    udocker = [
        *("env", "UDOCKER_TARBALL=", f"UDOCKER_DIR={folder}"),
        *(f"UDOCKER_DEFAULT_EXECUTION_MODE={mode}", f"UDOCKER_TMP={setting.folder}"),
        f"UDOCKER_USE_{program.upper()}_EXECUTABLE={paths[program]}",
        *("udocker", "--allow-root", "--quiet"),
    ]
    if not folder.exists():
        fed(setting.tree, [*udocker, "import", "-", "tree:1"])
    words = [*udocker, "run", "--rm", "tree:1", "true"]
    if mode == "R1":  # without a terminal it ends with status 1 whatever runc says (udocker 1.3.17)
        words = ["script", "--quiet", "--return", "--command", shlex.join(words), os.devnull]
    tried = subprocess.run(words, capture_output=True, text=True, check=False)
    lines = (tried.stdout + tried.stderr).strip().splitlines()
    return Rival(name, words, missing="; ".join(lines[-1:]) if tried.returncode else None)


if __name__ == "__main__":
    question("Running true in a fresh container", rivals)
