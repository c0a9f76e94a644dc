"""A size for a container's layer, kept by the file system's project quotas, or refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer.driver import Driver
from reflayer.errors import OperationError, QuotaError
from tests.driver.layers import leftovers, make
from tests.file_systems import MKFS, require, require_root

_MIB = 1 << 20
_CHECKOUT = Path(__file__).parents[2]
_CASES = [f"tests/{room}/quota_cases.py" for room in ("driver", "store", "containerd")]
_INIT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME={folder} PYTHONDONTWRITEBYTECODE=1
mount -t proc proc /proc
mount -t tmpfs run /run
{python} -c "{loopback}"
mount -t xfs -o prjquota /dev/ubda {folder}/place
cd {checkout}
{python} -m pytest -p no:cacheprovider --basetemp {folder}/place/cases {cases} >{folder}/told 2>&1
echo $? >{folder}/status
echo o >/proc/sysrq-trigger
sleep 60
"""
# ifreq(7): SIOCSIFFLAGS with IFF_UP
_LOOPBACK = (
    "import fcntl, socket, struct;"
    "fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh14x', b'lo', 1))"
)


def test_under_a_kernel_with_project_quotas_sizes_are_kept(tmp_path: Path) -> None:
    """User-mode Linux is that kernel: the one that runs the tests may be built without quotas."""
    require_root()
    require("linux.uml", *MKFS["xfs"][:1])
    image = tmp_path / "image"
    with open(image, "wb") as file:
        file.truncate(1 << 30)
    subprocess.run([*MKFS["xfs"], str(image)], check=True)
    (tmp_path / "place").mkdir()
    init = tmp_path / "init"
    cases = " ".join(_CASES)
    init.write_text(
        _INIT.format(
            folder=tmp_path,
            checkout=_CHECKOUT,
            python=sys.executable,
            loopback=_LOOPBACK,
            cases=cases,
        )
    )
    init.chmod(0o755)
    command = ["linux.uml", "mem=768M", f"ubda={image}", "root=/dev/root", "rootfstype=hostfs"]
    console = subprocess.run(
        [*command, "rw", f"init={init}", "con=null", "con0=null,fd:1"],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
        env={**os.environ, "TMPDIR": str(tmp_path)},  # where it keeps its memory
    )
    image.unlink()
    if b"fp regs failed" in console.stdout:
        # Under CI, too: no tool is missing, this kernel has no room for the processor's registers.
        pytest.skip("user-mode Linux cannot run on this processor, which has AMX")
    assert (tmp_path / "status").exists(), console.stdout.decode(errors="replace")
    told = (tmp_path / "told").read_text()
    assert (tmp_path / "status").read_text() == "0\n", told
    assert "skipped" not in told


def test_where_there_are_no_quotas_dockers_words_say_so(place: Path) -> None:
    words = "^Filesystem does not support, or has not enabled quotas: .* mounted with prjquota$"
    driver = Driver(place)
    make(driver, "base")
    with pytest.raises(QuotaError, match=words):
        driver.create("clone", "base", size=_MIB)
    with pytest.raises(QuotaError, match=words):
        Driver(place, size=_MIB)
    assert driver.list() == ["base"]
    assert leftovers(driver) == []


def test_a_quota_that_cannot_be_set_leaves_nothing(
    place_on: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reflayer.driver.quota.enforces_project_quotas", lambda _: True)
    driver = Driver(place_on("xfs"))
    with pytest.raises(OperationError, match="set its quota"):
        driver.create("layer", size=_MIB)
    assert driver.list() == []
    assert leftovers(driver) == []
