"""A root file system that containers can run in: busybox, which is one static program."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.file_systems import require


def busybox_tree(folder: Path) -> Path:
    """``folder``, made with busybox under the names of all its commands in it."""
    require("busybox")
    (folder / "bin").mkdir(parents=True)
    (folder / "etc").mkdir()
    (folder / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    (folder / "tmp").mkdir(mode=0o777)
    (folder / "tmp").chmod(0o1777)
    program = shutil.which("busybox")
    assert program is not None
    shutil.copy2(program, folder / "bin/busybox")
    commands = subprocess.run([program, "--list"], capture_output=True, text=True, check=True)
    for name in commands.stdout.split():
        if name != "busybox":
            (folder / "bin" / name).symlink_to("busybox")
    return folder


def pack(tree: Path, archive: Path) -> Path:
    """``archive``, the tar of ``tree`` with all that it has."""
    tar = ["tar", "--xattrs", "--xattrs-include=*", "-C", str(tree), "-cf", str(archive), "."]
    subprocess.run(tar, check=True)
    return archive
