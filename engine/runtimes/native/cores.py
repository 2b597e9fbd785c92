"""How many cores this process may compute on."""

import os
import sys
from pathlib import Path

CPUS = Path("/sys/devices/system/cpu")
CONTROL_GROUP = Path("/sys/fs/cgroup")


def physical_cores() -> int:
    """Cores that the process's affinity and the quota of its control group allow, threads of one core counted once.

    Two threads that share a core share its arithmetic units, which one of them can keep busy.
    """
    cores = len({_siblings(cpu) for cpu in _allowed_cpus()})
    return max(1, min(cores, _quota()))


def _allowed_cpus() -> set[int]:
    if sys.platform == "linux":
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _siblings(cpu: int) -> str:
    """The list of threads on the core of this one; the thread itself where the system does not say."""
    try:
        return (CPUS / f"cpu{cpu}" / "topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _quota() -> int:
    """Whole cores' worth of time that the control group gives, in either version of the interface."""
    try:
        limit, period = (CONTROL_GROUP / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit = (CONTROL_GROUP / "cpu/cpu.cfs_quota_us").read_text()
            period = (CONTROL_GROUP / "cpu/cpu.cfs_period_us").read_text()
        except OSError:
            return sys.maxsize
    try:
        return max(1, int(limit) // int(period)) if int(limit) > 0 else sys.maxsize
    except ValueError:  # "max"
        return sys.maxsize
