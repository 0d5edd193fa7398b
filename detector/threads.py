"""How many threads an inference backend may use: the limit that the user gives, and the CPUs of this process."""

import math
import os
from pathlib import Path

from detector.errors import ConfigError
from detector.wording import shown

_CGROUP_2 = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_1 = (Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us"))
"""Files in which Linux says how much CPU time the processes of a container get: a quota per period."""

_MAX_THREADS = 1024
"""Largest number of threads that can be set: OpenMP ends the process if it has no memory for the threads."""


def check_threads(threads: int | None) -> None:
    """Raise ConfigError unless `threads` is None or from 1 to 1024.

    Raises:
        ConfigError: the number is not a whole number, or is out of range.
    """
    is_whole = isinstance(threads, int) and not isinstance(threads, bool)
    if threads is not None and not (is_whole and 1 <= threads <= _MAX_THREADS):
        raise ConfigError(
            f"threads: expected a whole number of at least 1 and at most {_MAX_THREADS}, or None for the default of "
            f"the runtime, got {shown(threads)}"
        )


def default_limit() -> int | None:
    """Return the largest number of threads of an inference backend for which the user has set no limit.

    This is OMP_NUM_THREADS, if it is set. PyTorch reads this environment variable itself, other libraries ignore it.
    Otherwise it is the number of CPUs of this process, if that is smaller than the number of CPUs of the machine. None:
    there is no limit; each library chooses, usually one thread per CPU core.
    """
    # OpenMP allows a list with a number per nesting level.
    requested = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if requested.isdecimal() and int(requested) > 0:
        return int(requested)
    cpus = available_cpus()
    return cpus if cpus < (os.cpu_count() or 1) else None


def available_cpus() -> int:
    """Return the number of CPUs that this process may use: those of its affinity mask, at most the quota of its cgroup.

    A container with a quota of 1.5 CPUs has two.
    """
    cpus = affinity_cpus()
    quota = _cgroup_quota()
    return cpus if quota is None else max(1, min(cpus, math.ceil(quota)))


def affinity_cpus() -> int:
    """Return the number of CPUs in the affinity mask of this process, or of the machine if the system has no masks."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cgroup_quota() -> float | None:
    """Return the CPU quota of the container of this process, as a number of CPUs; None if there is none."""
    try:
        quota, period = _CGROUP_2.read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        pass
    try:
        quota_us, period_us = (int(file.read_text(encoding="ascii")) for file in _CGROUP_1)
        return quota_us / period_us if quota_us > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
