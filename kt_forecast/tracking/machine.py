"""The machine that a run was made on, and what the run took of it."""

import os
import platform
import sys

import psutil

_MIB = 1 << 20


def machine() -> dict[str, str]:
    """Return what a run was made on."""
    found = {
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0),
        "memory": f"{psutil.virtual_memory().total // _MIB} MiB",
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def usage() -> dict[str, float]:
    """Return what this process takes now: memory, share of one core, memory of the GPU."""
    process = psutil.Process()
    found = {
        "system/memory_mib": process.memory_info().rss / _MIB,
        "system/peak_memory_mib": peak_memory(),
        "system/cpu_seconds": sum(process.cpu_times()[:2]),
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        found["system/gpu_memory_mib"] = torch.cuda.max_memory_allocated() / _MIB
    return found


def peak_memory() -> float:
    """Return the most memory that this process has held, in MiB."""
    now = psutil.Process().memory_info().rss / _MIB
    try:
        import resource
    except ImportError:
        return now
    unit = 1 if sys.platform == "darwin" else 1024
    return max(now, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MIB)
