"""Seconds, bytes and exponents, each as several readings of a machine that is named."""

import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or each reading of memory is announced

import torch

LEAST_REPEATS = 5
READING_SECONDS = 5e-3
"""Shorter than this a reading shall not be, where calls can be repeated."""
MOST_INNER = 32
WILSON = 1.959964
"""Normal deviate of an interval that holds 95 of 100 times."""


@dataclass(frozen=True)
class Timing:
    """Seconds of a call: the median of several, and the least and the most of them."""

    seconds: float
    low: float
    high: float
    repeats: int

    def plain(self) -> dict[str, float]:
        """Return the fields by name."""
        return dict(vars(self))


def machine(device: str, precision: str) -> dict[str, Any]:
    """Return what a figure means nothing without."""
    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device,
        "precision": precision,
    }
    if torch.device(device).type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["gpu"] = properties.name
        found["gpu_bytes"] = properties.total_memory
        found["cuda"] = torch.version.cuda
    return found


def timed(
    call: Callable[[], object],
    device: str,
    *,
    repeats: int = LEAST_REPEATS,
    warm_up: int = 1,
    inner: int = 1,
    least: int = LEAST_REPEATS,
    within: float = math.inf,
) -> Timing:
    """Return how long a call takes.

    Args:
        call: does the work.
        device: what must have finished before a clock is read.
        repeats: readings.
        warm_up: calls that are not read.
        inner: calls of one reading, for work that is over before a clock can be read.
        least: readings that are made even where fewer are asked for, or fit.
        within: seconds after which no further reading begins.
    """
    for _ in range(warm_up):
        call()
    found: list[float] = []
    for _ in range(max(repeats, least)):
        if len(found) >= least and inner * sum(found) >= within:
            break
        finish(device)
        began = time.perf_counter()
        for _ in range(inner):
            call()
        finish(device)
        found.append((time.perf_counter() - began) / inner)
    return Timing(median(found), min(found), max(found), len(found))


def interleaved(
    calls: Sequence[Callable[[], object]], device: str, *, repeats: int
) -> list[Timing]:
    """Return how long each of several short calls takes, read in turn, round after round.

    Whatever slows a machine for a while then slows all of them, and does not look like a difference
    between them. Every other round is read backwards.
    """
    inner = []
    for call in calls:
        once = timed(call, device, repeats=1, warm_up=2, least=2).seconds
        inner.append(max(1, min(MOST_INNER, round(READING_SECONDS / once))))
    found: list[list[Timing]] = [[] for _ in calls]
    for turn in range(max(repeats, LEAST_REPEATS)):
        for i in range(len(calls))[:: -1 if turn % 2 else 1]:
            found[i].append(timed(calls[i], device, repeats=1, least=1, inner=inner[i]))
    return [together(readings) for readings in found]


def together(readings: Sequence[Timing]) -> Timing:
    """Return the median, the least and the most of several readings."""
    seconds = [reading.seconds for reading in readings]
    return Timing(median(seconds), min(seconds), max(seconds), len(seconds))


def finish(device: str) -> None:
    """Wait until the device has nothing left to do."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(call: Callable[[], object], device: str) -> int:
    """Return the most bytes that a call held at a time, beyond what was there before it.

    They are those that torch's allocator gave out: on a GPU by its own count, on a CPU by its
    profiler's.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device)) - before
    activity = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity], profile_memory=True) as profiler:
        call()
    results = profiler.profiler.kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    total = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        most = max(most, total)
    return most


def slope(x: Sequence[int | float], y: Sequence[int | float]) -> float:
    """Return the exponent by which ``y`` grows with ``x``: least squares of their logarithms."""
    pairs = [(math.log(a), math.log(b)) for a, b in zip(x, y, strict=True) if b > 0]
    if len(pairs) < 2:
        return math.nan
    mean = [sum(side) / len(pairs) for side in zip(*pairs, strict=True)]
    across = sum((a - mean[0]) ** 2 for a, _ in pairs)
    return sum((a - mean[0]) * (b - mean[1]) for a, b in pairs) / across


def last_slope(x: Sequence[int | float], y: Sequence[int | float]) -> float:
    """Return the exponent between the last two points, where a machine is busiest."""
    return slope(x[-2:], y[-2:])


def wilson(right: int, count: int) -> tuple[float, float]:
    """Return the interval of a share of independent draws (Wilson 1927), at 95 %."""
    share, square = right / count, WILSON**2
    centre = share + square / (2 * count)
    spread = WILSON * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    below = 1 + square / count
    return max(0.0, (centre - spread) / below), min(1.0, (centre + spread) / below)


def computed_in(device: str, precision: str) -> AbstractContextManager[Any]:
    """Return within what a pass is computed: bf16 beside float32 weights, or float32."""
    if precision == "bf16":
        return torch.autocast(torch.device(device).type, torch.bfloat16)
    return nullcontext()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from a seed, and leave the generators as they were."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
