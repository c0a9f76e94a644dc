"""What a home's file system can do: which method a clone takes there is found out by making one."""

from __future__ import annotations

from reflayer.driver.create import building, make_folder
from reflayer.driver.home import BUILDS
from reflayer.driver.sync import opened
from reflayer.driver.trash import delete
from reflayer.errors import failing

_CONTENT = b"content\n" * 512  # one block: a smaller file might be kept without any


def status(home: str, method: str) -> dict[str, str]:
    """The ``Backing Filesystem``, the ``Method`` that ``auto`` or ``method`` is, ``Shared Blocks``.

    Raises:
        OperationError: nothing can be made in the home.
    """
    from reflayer.linux.statfs import file_system_name

    builds = f"{home}/{BUILDS}"
    with opened(builds) as folder, failing(builds, "statfs"):
        file_system = file_system_name(folder)
    found = _best_method(home) if method == "auto" else method
    shares = found in ("snapshot", "reflink")
    return {
        "Backing Filesystem": file_system,
        "Method": found,
        "Shared Blocks": str(shares).lower(),
    }


def _best_method(home: str) -> str:
    from reflayer.copy.method import best_method
    from reflayer.driver.snapshot import snapshot

    with building(home, "probe") as path:
        try:
            with failing(path, "try it"):
                make_folder(path)
                with open(f"{path}/file", "wb") as file:
                    file.write(_CONTENT)
                with opened(path) as folder:
                    if snapshot(folder, f"{path}/clone") is None:
                        return "snapshot"
                    return best_method(folder, folder)
        finally:
            delete(path)
