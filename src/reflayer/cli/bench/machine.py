"""What was measured on: date, machine and file system, in words for a caption."""

from __future__ import annotations

import os
import time

from reflayer.errors import OperationError
from reflayer.linux.statfs import file_system_name
from reflayer.workers.pool import usable_cpus


def machine_facts(folder: str) -> dict[str, str]:
    """The date, the processor, the kernel and the file system of ``folder``."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": f"{_processor()}, {usable_cpus()} cores",
        "kernel": f"{os.uname().sysname} {os.uname().release}",
        "file system": file_system(folder),
    }


def file_system(folder: str) -> str:
    """The type of the file system that ``folder`` is on.

    Raises:
        OperationError: it cannot be looked at.
    """
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return file_system_name(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(folder), "look at") from error


def _processor() -> str:
    with open("/proc/cpuinfo") as table:
        for line in table:
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return os.uname().machine
