"""What a folder's file system can do for layers and this user on it: found out by trying."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from reflayer.copy import remove_tree
from reflayer.doctor.orphans import orphans
from reflayer.driver import Driver
from reflayer.errors import OperationError, failing, printable
from reflayer.linux.names import native
from reflayer.linux.user_namespace import ALL_IDS, id_maps, may_all, why_none
from reflayer.record import record

_METHODS = ("snapshot", "reflink", "range", "stream")  # best first
_LAYER = "layer"
_CONTENT = bytes(range(256)) * 256  # more than a block, and more than fits into an inode
_BETTER = "XFS (mkfs.xfs -m reflink=1, its default) or btrfs"
_ADVICE = {
    "xfs": "This XFS was made without shared blocks: make it anew by mkfs.xfs -m reflink=1, and "
    "each clone will cost its metadata only.",
    "tmpfs": "What is in here is in memory, counts against it, and is gone at the next start. "
    f"Put the store on {_BETTER}, where clones share their blocks.",
    "overlayfs": "This is a container's own layer: mount a volume here that is on "
    f"{_BETTER}, where clones share their blocks.",
}
_USUAL_ADVICE = (
    f"Each clone copies all data here. Put the store on {_BETTER}: clones share their blocks "
    "there, and cost their metadata only."
)
_ORPHANS = (
    "The Docker daemon here has no record of these layers. Stop it, run this again, and delete "
    "those that are still told; but none, if docker images and docker ps --all lacked something:"
)

_RECORDED = "by this user: they are recorded in attributes beside, and committed as they were."
_LEFT_OUT = "by this user, nor be recorded, without user attributes: they are left out."
_UNSUPPORTED = "by this file system."


@record
class Findings:
    """What was found out."""

    folder: str
    file_system: str  # its name, as mount(8) has it
    method: str  # what ``auto`` takes here
    shares_blocks: bool
    methods: Mapping[str, str]  # why each does not work here; empty where it does
    owners: str  # which of the three ways there is to keep them: root's, a namespace's, one user's
    metadata: Mapping[str, str]  # why what a clone has to keep cannot be; empty where it can
    pure: str  # why Python does all work, without the part in C; empty where that is in use
    forgotten: tuple[str, ...]  # paths of layers that the Docker daemon here does not know
    advice: tuple[str, ...]  # what to change for better


def examine(folder: str) -> Findings:
    """Try in a new folder in ``folder``, which is gone afterwards.

    Raises:
        OperationError: nothing can be made in there, or a record of Docker's not be read.
    """
    folder = os.path.abspath(folder)
    forgotten = tuple(orphans(folder))
    with _scratch(folder) as scratch:
        driver = Driver(f"{scratch}/home")
        status = driver.status()
        with driver.build(_LAYER) as layer, open(f"{layer}/file", "wb") as file:
            file.write(_CONTENT)
        methods = {method: _why_not(driver.home, method) for method in _METHODS}
        file_system = status["Backing Filesystem"]
        if file_system != "btrfs":
            methods["snapshot"] = "only btrfs has them"
        refusals = _metadata(scratch)
    shares = status["Shared Blocks"] == "true"
    owners, better = _owners()
    return Findings(
        folder=folder,
        file_system=file_system,
        method=status["Method"],
        shares_blocks=shares,
        methods=methods,
        owners=owners,
        metadata={
            what: (error.strerror or str(error)) if error else ""
            for what, error in refusals.items()
        },
        pure=_pure(),
        forgotten=forgotten,
        advice=(*_advice(file_system, shares, refusals, forgotten), *better),
    )


@contextmanager
def _scratch(folder: str) -> Iterator[str]:
    with failing(folder, "try it"):
        try:
            scratch = tempfile.mkdtemp(prefix=".reflayer-doctor-", dir=folder)
        except PermissionError as error:
            reason = (
                f"{error.strerror}: it takes a new folder in there: name one that you may write in"
            )
            raise OperationError(folder, "try it", reason, error.errno) from error
    try:
        yield scratch
    finally:
        Driver(f"{scratch}/home").remove(_LAYER)
        remove_tree(scratch)


def _why_not(home: str, method: str) -> str:
    driver = Driver(home, method=method)
    try:
        driver.create(method, _LAYER)
    except OperationError as error:
        return error.reason.partition(":")[0]  # what follows is advice to whoever clones
    driver.remove(method)
    return ""


def _metadata(scratch: str) -> dict[str, OSError | None]:
    """What a clone has to keep of a file, and why it cannot be set in ``scratch``."""
    file = f"{scratch}/file"
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600))
    return {
        "owners": _refusal(lambda: os.chown(file, os.geteuid() + 1, os.getegid() + 1)),
        "devices": _refusal(lambda: os.mknod(f"{scratch}/null", 0o20600, os.makedev(1, 3))),
        "user attributes": _refusal(lambda: os.setxattr(file, "user.reflayer", b"1")),
        "trusted attributes": _refusal(lambda: os.setxattr(file, "trusted.reflayer", b"1")),
    }


def _owners() -> tuple[str, list[str]]:
    """How the owners of images can be kept, and how they could be kept better."""
    if may_all():
        return "all, by root", []
    if os.geteuid() == 0:
        users = sum(int(line.split()[2]) for line in id_maps()[0].split(", "))
        if users == ALL_IDS:
            return "all that root without some of its capabilities may set", []
        return f"{users:,} users, in a user namespace", []
    return "one user's", [
        "All belongs to this user, since there is no user namespace in which he had more ids: "
        f"{why_none()}"
    ]


def _pure() -> str:
    if native is not None:
        return ""
    if os.environ.get("REFLAYER_PURE") == "1":
        return "REFLAYER_PURE=1"
    return "it was not compiled; install gcc and python3-dev, and then reflayer once more"


def _refusal(trial: Callable[[], None]) -> OSError | None:
    try:
        trial()
    except OSError as error:
        return error
    return None


def _advice(
    file_system: str, shares: bool, refusals: Mapping[str, OSError | None], forgotten: Sequence[str]
) -> Iterator[str]:
    if not shares:
        yield _ADVICE.get(file_system, _USUAL_ADVICE)
    refused = _LEFT_OUT if refusals["user attributes"] else _RECORDED
    for numbers, consequence in (
        ((errno.EPERM, errno.EACCES), refused),
        ((errno.EOPNOTSUPP,), _UNSUPPORTED),
    ):
        lost = [what for what, error in refusals.items() if error and error.errno in numbers]
        if lost:
            yield f"{_and(lost).capitalize()} cannot be kept {consequence}"
    if forgotten:
        yield "\n  ".join((_ORPHANS, *map(printable, forgotten)))


def _and(words: list[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
