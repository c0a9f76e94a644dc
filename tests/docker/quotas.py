"""A file system with project quotas, where the kernel has any."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.file_systems import mounted


@contextmanager
def mounted_with_quotas(folder: Path) -> Iterator[Path]:
    """XFS with project quotas below ``folder``; the test is skipped where the kernel lacks them.

    That is no program to be installed, so under CI it is no failure. The driver's own tests bring
    a kernel that has them.
    """
    with ExitStack() as stack:
        try:
            place = stack.enter_context(mounted("xfs", folder, options="loop,prjquota"))
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this kernel has no project quotas: {error.stderr.decode().strip()}")
        yield place
