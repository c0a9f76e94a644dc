"""How many processors this process may use."""

from __future__ import annotations

import os

_CGROUP_ROOT = "/sys/fs/cgroup"


def usable_cpus() -> int:
    """Processors by affinity (sched_getaffinity(2)) and cgroup quota, rounded up; at least 1."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:
        count = os.cpu_count() or 1
    quota = _quota()
    return max(1, count if quota is None else min(count, -int(-quota // 1)))


def _quota() -> float | None:
    """The tightest quota of this process's cgroup and those above it (cgroups(7), cpu.max)."""
    try:
        with open("/proc/self/cgroup") as table:
            path = next(line[3:].rstrip("\n") for line in table if line.startswith("0::"))
    except (OSError, StopIteration):
        return None
    quotas = []
    while True:
        try:
            with open(f"{_CGROUP_ROOT}{path.rstrip('/')}/cpu.max") as limit:
                quota, period = limit.read().split()
            if quota != "max":
                quotas.append(int(quota) / int(period))
        except (OSError, ValueError):
            pass  # the root cgroup has none
        if path in ("/", ""):
            return min(quotas, default=None)
        path = os.path.dirname(path)
