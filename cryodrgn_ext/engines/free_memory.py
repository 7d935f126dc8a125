"""How much memory is free where an engine computes: of the machine, within the limits of a queue, or of a GPU."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import torch

#: Where Linux tells how much a group of processes may use and uses (cgroup version 2 and 1), below the group's folder.
_LIMITS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
_CGROUPS = Path("/sys/fs/cgroup")


def free_memory(device: torch.device) -> float:
    """Bytes that a process may still allocate on a device, as far as can be told; infinite where it cannot."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return min(_machine(), _group(), _process())


def _machine(path: Path = Path("/proc/meminfo")) -> float:
    """Bytes that the machine can give without swapping: of all, where the system does not say what is free."""
    try:
        words = dict(line.split(":", 1) for line in path.read_text(encoding="ascii").splitlines())
        return 1024.0 * int(words["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _group(membership: Path = Path("/proc/self/cgroup"), root: Path = _CGROUPS) -> float:
    """Bytes left of what a queue or container allows: the least along the way from this process's group to the top."""
    try:
        lines = [line.split(":", 2) for line in membership.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return float("inf")
    left = float("inf")
    for _, controllers, name in lines:
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "memory" if controllers else root
        folder = top / name.lstrip("/")
        for each in (folder, *folder.parents):
            if each == top.parent:
                break
            left = min(left, *(_left(each / limit, each / usage) for limit, usage in _LIMITS))
    return left


def _left(limit: Path, usage: Path) -> float:
    try:
        return max(0.0, float(limit.read_text()) - float(usage.read_text()))
    except (OSError, ValueError):  # no such file, or the word "max"
        return float("inf")


def _process() -> float:
    """Bytes left of this process's own limit of address space (ulimit -v)."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return float("inf")
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError):
        return float(limit)
    return max(0.0, float(limit) - float(pages * os.sysconf("SC_PAGE_SIZE")))
