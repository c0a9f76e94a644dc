"""The legacy way to copy a tree: packed and unpacked through a pipe, kept to compare with.

One thread packs the source as a pax archive (pax(1), POSIX.1-2001) and this one unpacks it as it
comes. All that a tar can hold is kept, in the records that GNU tar and star know: nanosecond times,
``SCHILY.xattr.*``, ``GNU.sparse`` 1.0 for holes, hard links of every type. Sockets it cannot hold.
"""

from __future__ import annotations

import os
import tarfile
import threading

from reflayer.copy.tar_pack import Packer
from reflayer.copy.tar_unpack import Unpacker
from reflayer.errors import CopyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from reflayer.copy.birth import Birth
    from reflayer.copy.folder import Folder
    from reflayer.copy.job import Job


def copy_as_tar(
    job: Job, root: Folder, birth: Birth, progress: Callable[[int, int], None] | None
) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Copy ``root``, its own metadata too, and close it.

    Returns:
        Entries by type, bytes by method and what was left out, as ``CopyReport`` has them.

    Raises:
        CopyError: something failed; what was made so far stays.
    """
    try:
        reading, writing = os.pipe()
    except OSError as error:
        root.close()
        raise CopyError.from_os_error(error, job.source, "make a pipe") from error
    packer = Packer(job, writing)
    unpacker = Unpacker(job, birth, os.dup(root.dst), progress)
    failures: list[BaseException] = []

    def pack() -> None:
        try:
            packer.pack(root)
        except BaseException as error:  # raised again by the thread that waits for this one
            failures.append(error)
        finally:
            root.close()
            os.close(writing)

    thread = threading.Thread(target=pack, name="reflayer-tar", daemon=True)
    thread.start()
    try:
        unpacker.unpack(reading)
    except tarfile.ReadError:  # the archive ends early: the thread knows why
        pass
    finally:
        os.close(reading)  # the thread, if it is still writing, learns that nobody reads
        thread.join()
        unpacker.close()
    if failures:
        raise failures[0]
    for kind, count in packer.skipped.items():
        unpacker.metadata.skipped[kind] = unpacker.metadata.skipped.get(kind, 0) + count
    if progress is not None:
        progress(*unpacker.count())
    return unpacker.made, {"tar": unpacker.moved}, unpacker.metadata.skipped
