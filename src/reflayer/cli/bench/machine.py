"""What was measured on: date, machine and file system, in words for a caption."""

from __future__ import annotations

import os
import time

from reflayer.copy.cpus import usable_cpus


def machine_facts(folder: str) -> dict[str, str]:
    """The date, the processor, the kernel and the file system of ``folder``."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": f"{_processor()}, {usable_cpus()} cores",
        "kernel": f"{os.uname().sysname} {os.uname().release}",
        "file system": file_system(folder),
    }


def file_system(folder: str) -> str:
    """The type of the file system that ``folder`` is on (proc_pid_mountinfo(5))."""
    place = os.path.realpath(folder)
    best, kind = "", "unknown"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            mount, _, rest = line.partition(" - ")
            # Octal escapes stand for space, tab, newline and backslash.
            point = mount.split()[4].encode("utf-8", "surrogateescape").decode("unicode_escape")
            inside = point == "/" or place == point or place.startswith(point + "/")
            if inside and len(point) >= len(best):
                best, kind = point, rest.split()[0]
    return kind


def _processor() -> str:
    with open("/proc/cpuinfo") as table:
        for line in table:
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return os.uname().machine
