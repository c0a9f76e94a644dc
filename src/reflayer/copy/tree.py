"""``copy_tree``: the recipe of a whole copy, from the two paths to the report."""

from __future__ import annotations

import errno
import os
import time

from reflayer.copy.destination import Destination
from reflayer.copy.folder import Filling, Folder, Job
from reflayer.copy.merged import merge
from reflayer.copy.method import LADDER, METHODS, why_not
from reflayer.copy.report import CopyReport
from reflayer.copy.source import Source
from reflayer.copy.worker import Worker
from reflayer.errors import CopyError, OperationError, failing, printable
from reflayer.walk.metadata import OWNERSHIPS
from reflayer.workers.pool import Workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from reflayer.progress import Progress
    from reflayer.walk.folders import AnyPath
    from reflayer.walk.stack import AnyStack
    from reflayer.workers.pool import Pool

    Counts = tuple[dict[str, int], dict[str, int], dict[str, int]]  # as CopyReport has them
    Move = Callable[[Job, Folder, Progress | None], Counts]

_OF_THE_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMLINK, errno.EROFS})

MOVES: dict[str, Move] = {}
"""Methods of packages above this one, which enter them: each copies a root and all in it."""


def copy_tree(
    src: AnyStack,
    dst: AnyPath,
    *,
    method: str = "auto",
    ownership: str = "keep",
    cross_mounts: bool = False,
    workers: int | None = None,
    pool: Pool | None = None,
    progress: Progress | None = None,
    folders: list[int] | None = None,
) -> CopyReport:
    """Make ``dst`` the same tree as the folder ``src``, or as the stack of folders.

    Content, types, owners, modes, extended attributes, ACLs, times in nanoseconds, hard links and
    holes are kept; nothing is inherited from where the copy lands; no link inside is followed.
    The flags of chattr(1) are neither kept nor in the way, as with cp(1) and rsync(1).

    Args:
        src: the folder to copy, or the layers of a stack, the topmost first; all are only read. Of
            a stack the union by overlayfs' rules is made: all but the lowest are differences
            (``reflayer.walk.overlay``), and a whiteout in the lowest is an error.
        dst: a path that is absent, or an empty folder.
        method: how content is copied: ``reflink`` (ioctl_ficlone(2)), ``range``
            (copy_file_range(2)), ``stream`` (read and write), or ``auto``: the first of these that
            the two file systems support; or ``tar``: packed as a PAX archive by one thread and
            unpacked by another. That keeps all that a tar can hold, which is all but sockets, and
            it takes one folder.
        ownership: of what only a privileged process can keep (owners, devices, some extended
            attributes) ``keep`` makes an error, ``ignore`` leaves it out and counts it, and
            ``record`` does that, too, but keeps owners and devices in attributes beside.
        cross_mounts: copy what is mounted inside ``src`` too; otherwise an empty folder (or file)
            stands in each mount point's place.
        workers: threads that work on it, the caller's included; by default the processors that this
            process may use. A small tree never waits for one to start.
        pool: how many threads may work, for all copies that share it; by default all share one.
        progress: called some times a second with the stage ``clone`` and the entries made so far.
        folders: gets two numbers for each folder, by which ``reflayer.archive.undo`` knows it.

    Raises:
        CopyError: something failed. The destination is as it was before, absent or empty.
        ValueError: ``method``, ``ownership`` or ``workers`` is not one of the above, or the stack
            is empty.
    """
    move = MOVES.get(method)
    is_stack = not isinstance(src, (str, bytes, os.PathLike)) and getattr(src, "differences", True)
    if method not in METHODS and move is None:
        raise ValueError(f"method {method!r} is not one of {', '.join((*METHODS, *MOVES))}")
    if ownership not in OWNERSHIPS:
        raise ValueError(f"ownership {ownership!r} is not one of {', '.join(OWNERSHIPS)}")
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}, but has to be at least 1")
    if move is not None and is_stack:
        raise ValueError(f"the method {method} copies one folder, and no stack")
    started = time.monotonic()
    source = Source(src, cross_mounts)
    try:
        destination = Destination(os.fsencode(dst))
        try:
            for layer in source.roots:
                destination.refuse_inside(layer, cross_mounts)
            if method in LADDER:
                _refuse_unsupported(method, source, destination)
            destination.make()
            try:
                with failing(source.paths[0], "prepare the copy", CopyError):
                    fd = destination.fd
                    job = Job(source, fd, method, ownership, cross_mounts)
                    job.folders = folders
                    root = Folder(None, b"", source.roots[0], fd)
                    part = _all_below(job, root)
                if move is None:
                    counts = _copy(job, root, part, workers, pool, progress)
                else:
                    counts = move(job, part, progress)
            except BaseException as error:
                _undo(destination, error)
                if isinstance(error, CopyError) and error.errno in _OF_THE_ROOM:
                    below = source.path_below(os.fsencode(error.path))
                    path = os.path.join(destination.path, below).rstrip(b"/")
                    raise CopyError(path, error.operation, error.reason, error.errno) from error
                raise
        finally:
            destination.close()
    finally:
        source.close()
    made, moved, skipped = counts
    return CopyReport(
        method=next((rung for rung in LADDER if rung in moved), method),
        entries=made,
        bytes=moved,
        skipped=skipped,
        seconds=time.monotonic() - started,
    )


def _undo(destination: Destination, error: BaseException) -> None:
    """Make the destination what it was; where that fails ``error`` tells that, too."""
    try:
        destination.undo()
    except (OperationError, OSError) as remains:
        note = f"what was made of {printable(destination.path)} remains: {remains}"
        if isinstance(error, CopyError):
            error.reason += f"; {note}"
        else:
            error.add_note(note)


def _refuse_unsupported(method: str, source: Source, destination: Destination) -> None:
    for path, root in zip(source.paths, source.roots, strict=True):
        with failing(path, "look for a file to try with", CopyError):
            refusal = why_not(method, root, destination.place)
        if refusal is not None:
            reason = (
                f"{refusal.strerror}: the method does not work here, use another or auto: "
                "reflayer doctor tells which"
            )
            raise CopyError(destination.path, method, reason, refusal.errno)


def _all_below(job: Job, root: Folder) -> Folder:
    """What there is to copy: ``root`` in all of its layers, for a worker to take over."""
    if job.source.differences:
        layers = list(range(len(job.source.roots)))
        merge(job, root, layers, lambda kind: None)  # noqa: ARG005
    part = root.part([])
    root.merged = None  # its own metadata is the topmost layer's, which it is open in
    return part


def _copy(
    job: Job,
    root: Folder,
    part: Folder,
    most: int | None,
    pool: Pool | None,
    progress: Progress | None,
) -> Counts:
    """Copy all below ``root``, of which ``part`` is for a worker, and its metadata last of all."""
    begun: list[Worker] = []

    def begin() -> Callable[[Folder], None]:
        worker = Worker(job, root.dst, workers)
        begun.append(worker)
        return worker.copy_below

    def tell() -> None:
        assert progress is not None
        progress("clone", sum(w.entries.count() for w in begun), None)

    workers = Workers(begin, most, pool, None if progress is None else tell)
    try:
        part.filling = Filling()
        workers.run(part)
        first = begun[0]
        with failing(job.path(b""), "finish the copy", CopyError):
            first.links.clear()
        first.finish(root, root.final_mode(), 0o700)
        first.entries.made["directory"] += 1
    finally:
        for worker in begun:
            worker.links.close()
    if progress is not None:
        tell()
    return (
        _sums(w.entries.made for w in begun),
        _sums(w.method.moved for w in begun),
        _sums(w.metadata.skipped for w in begun),
    )


def _sums(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for some in counts:
        for kind, count in some.items():
            sums[kind] = sums.get(kind, 0) + count
    return sums
