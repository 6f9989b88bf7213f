"""Recurrences on a GPU: plain operations, our kernels and those of installed packages; prints JSON.

First whether all give the same, forward and backward, against plain operations in double precision.
Then how long a forward and backward pass takes, one layer's recurrence by itself and whole systems
as they are trained (bf16 autocast, as many steps a batch at every length), each as the ratio to the
packages' kernels, timed in turns in one run; then a streamed step.

    python tests/benchmarks/bench_kernels.py
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kt_forecast import zoo
from kt_forecast.nn import kernels
from kt_forecast.nn.decayed import decayed
from kt_forecast.nn.scan import selective_scan

KINDS: dict[str, tuple[kernels.Kind, ...]] = {"plain": (), "own": ("own",), "package": ("package",)}
STEPS = 8192
"""Steps of a batch, unless one sequence is longer."""
SYSTEMS = {
    "retnet": ("retnet", {}),
    "mamba1": ("mamba", {"form": "mamba1"}),
    "mamba2": ("mamba", {"form": "mamba2", "state": 64}),
}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).cuda()


def retention(batch: int, steps: int, width: int) -> list[Tensor]:
    """Give tensors as a layer of RetNet does: four heads, decays that nothing learns."""
    heads, keys, values = 4, width // 4, width // 2
    decay = (-torch.logspace(-5, -8, heads, base=2.0)).cuda()[None, :, None].expand(-1, -1, steps)
    return [
        noise(batch, steps, heads, keys).transpose(1, 2),
        noise(batch, steps, heads, keys, seed=1).transpose(1, 2) * keys**-0.5,
        noise(batch, steps, heads, values, seed=2).transpose(1, 2),
        decay,
        noise(batch, heads, keys, values, seed=3),
    ]


def dual(batch: int, steps: int, width: int) -> list[Tensor]:
    """Give tensors as a layer of Mamba-2 does: four heads, one group, learned decays."""
    heads, states, size = 4, 64, width // 2
    length = F.softplus(noise(batch, heads, steps, seed=3) - 3)
    return [
        noise(batch, 1, steps, states) * states**-0.5,
        noise(batch, 1, steps, states, seed=1),
        noise(batch, steps, heads, size, seed=2).transpose(1, 2) * length[..., None],
        -length * torch.linspace(1, 16, heads).cuda()[:, None],
        noise(batch, heads, states, size, seed=4),
    ]


def scanned(batch: int, steps: int, width: int) -> list[Tensor]:
    """Give tensors as a layer of Mamba-1 does."""
    channels, states = 2 * width, 16
    both = noise(batch, steps, 2 * states, seed=4)
    return [
        noise(batch, steps, channels),
        F.softplus(noise(batch, steps, channels, seed=1) - 3),
        -torch.arange(1.0, states + 1).cuda().expand(channels, -1).contiguous(),
        both[..., :states],
        both[..., states:],
        noise(batch, channels, states, seed=5),
    ]


OPERATIONS: dict[str, tuple[Callable[..., Any], Callable[..., list[Tensor]]]] = {
    "retention": (decayed, retention),
    "dual": (decayed, dual),
    "scan": (selective_scan, scanned),
}


def learned(name: str, given: list[Tensor]) -> list[Tensor]:
    steady = {3} if name == "retention" else set()
    return [x.detach().requires_grad_(i not in steady) for i, x in enumerate(given)]


def found(name: str, given: list[Tensor]) -> list[Tensor]:
    """Return outputs and gradients."""
    given = learned(name, given)
    outputs = OPERATIONS[name][0](*given)
    worth = sum((y * noise(*y.shape, seed=9)).sum() for y in outputs)
    wanted = [x for x in given if x.requires_grad]
    return [*outputs, *torch.autograd.grad(worth, wanted)]


def errors(name: str, kind: str, precision: str, batch: int, steps: int, width: int) -> list[float]:
    """Return the largest error of each output and gradient, as a share of its largest number."""
    given = OPERATIONS[name][1](batch, steps, width)
    with kernels.only():
        wanted = found(name, [x.double() for x in given])
    with rounded(precision), kernels.only(*KINDS[kind]):
        got = found(name, given)
    pairs = zip(got, wanted, strict=True)
    return [round(float(((a - b).abs().max() / b.abs().max()).detach()), 9) for a, b in pairs]


class rounded:  # noqa: N801 - used as a word
    """Let products of single-precision matrices be rounded, or not."""

    def __init__(self, precision: str) -> None:
        self.precision = precision

    def __enter__(self) -> None:
        torch.backends.cuda.matmul.fp32_precision = self.precision

    def __exit__(self, *_: object) -> None:
        torch.backends.cuda.matmul.fp32_precision = "ieee"


def seconds(work: Callable[[], object], least: float) -> float:
    """Return the time of one call, launches included, as training sees it."""
    work()
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    count = max(2, min(50, int(least / max(time.perf_counter() - began, 1e-6))))
    began = time.perf_counter()
    for _ in range(count):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / count


def compared(
    works: dict[str, Callable[[], object]], least: float, repeats: int
) -> dict[str, float | None]:
    """Return milliseconds of each, and ratios to the package's kernel, timed in turns."""
    times: dict[str, list[float]] = {kind: [] for kind in works}
    for _ in range(repeats):
        for kind, work in works.items():
            with kernels.only(*KINDS[kind]):
                times[kind].append(seconds(work, least))
    result: dict[str, float | None] = {
        kind: round(1e3 * statistics.median(some), 4) for kind, some in times.items()
    }
    for kind in ("plain", "own"):
        ratios = [a / b for a, b in zip(times[kind], times.get("package", []), strict=False)]
        result[f"{kind}/package"] = round(statistics.median(ratios), 3) if ratios else None
    pairs = zip(times["plain"], times["own"], strict=True)
    result["plain/own"] = round(statistics.median(a / b for a, b in pairs), 3)
    return result


def of_operation(name: str, given: list[Tensor]) -> Callable[[], object]:
    run = OPERATIONS[name][0]
    given = learned(name, given)
    wanted = [x for x in given if x.requires_grad]
    weights = [torch.randn_like(y) for y in run(*given)]

    def work() -> object:
        return torch.autograd.grad(run(*given), wanted, weights)

    return work


def of_system(name: str, batch: int, steps: int, width: int) -> Callable[[], object]:
    system = zoo.load(SYSTEMS[name][0])
    module = system.build(system.config(width=width, **SYSTEMS[name][1])).cuda()
    x = noise(batch, steps, width)

    def work() -> object:
        with torch.autocast("cuda", torch.bfloat16):
            y, _ = module(x)
        return torch.autograd.grad(y.float().square().mean(), list(module.parameters()))

    return work


def of_step(name: str, width: int) -> Callable[[], object]:
    system = zoo.load(SYSTEMS[name][0])
    module = system.build(system.config(width=width, **SYSTEMS[name][1])).cuda().eval()
    x, state = noise(1, 1, width), module.init_state(1)

    @torch.no_grad()
    def work() -> object:
        return module(x, state)

    return work


def launches(work: Callable[[], object]) -> int:
    """Return how many kernels one call launches."""
    work()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        torch.cuda.synchronize()
    device = torch.autograd.DeviceType.CUDA
    return sum(event.count for event in profile.key_averages() if event.device_type == device)


class Report:
    """What was found so far, written down after every part."""

    def __init__(self, path: Path | None, **facts: Any) -> None:
        self.path, self.found = path, dict(facts)

    def tried(self, part: str, name: str, work: Callable[[], Any]) -> None:
        """Note what came of some work, or how it failed, and go on."""
        try:
            value = work()
        except Exception as error:  # noqa: BLE001
            value = f"{type(error).__name__}: {error}"[:400]
        torch.cuda.empty_cache()
        self.found.setdefault(part, {})[name] = value
        print(part, name, json.dumps(value), file=sys.stderr, flush=True)
        if self.path is not None:
            self.path.write_text(json.dumps(self.found, indent=1) + "\n")


def available() -> dict[str, list[str]]:
    """Return the kinds of kernels that there are for every operation and system."""
    _, key, value, decay, _ = retention(1, 2, 64)
    with rounded("tf32"), kernels.only("package"):
        products = kernels.for_decayed(key, value, decay) is not None
        scans = kernels.for_scan(value[:, 0], 16) is not None
    found = {}
    for name in (*OPERATIONS, *SYSTEMS):
        there = scans if name in {"scan", "mamba1"} else products
        found[name] = ["plain", "own", *(["package"] if there else [])]
    return found


def measure_errors(report: Report, kinds: dict[str, list[str]]) -> None:
    for name in OPERATIONS:
        for kind, precision in product(kinds[name], ("ieee", "tf32")):
            if kind == "package" and precision == "ieee" and name != "scan":
                continue
            for shape in ((2, 333, 64), (1, 4096, 256)):
                label = f"{name} {kind} {precision} {'x'.join(map(str, shape))}"
                report.tried("errors", label, partial(errors, name, kind, precision, *shape))


def measure_launches(report: Report, kinds: dict[str, list[str]]) -> None:
    for name in SYSTEMS:
        for kind in kinds[name]:
            with kernels.only(*KINDS[kind]):
                count = partial(launches, of_system(name, 8, 1024, 64))
                report.tried("launches", f"{name} {kind}", count)


def operation_times(
    name: str, kinds: list[str], shape: tuple[int, int, int], least: float, repeats: int
) -> dict[str, float | None]:
    with rounded("tf32"):
        given = OPERATIONS[name][1](*shape)
        return compared(dict.fromkeys(kinds, of_operation(name, given)), least, repeats)


def system_times(
    name: str, kinds: list[str], shape: tuple[int, int, int], least: float, repeats: int
) -> dict[str, float | None]:
    return compared(dict.fromkeys(kinds, of_system(name, *shape)), least, repeats)


def step_times(name: str, kinds: list[str], width: int) -> dict[str, float | None]:
    return compared(dict.fromkeys(kinds, of_step(name, width)), 0.03, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 1024, 4096, 16384, 65536])
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--least", type=float, default=0.05, help="seconds that a timing lasts")
    parser.add_argument("--json", type=Path, help="file to write to as parts are done")
    options = parser.parse_args()
    kinds = available()
    report = Report(
        options.json,
        device=torch.cuda.get_device_name(),
        torch=torch.__version__,
        kinds=kinds,
    )
    measure_errors(report, kinds)
    measure_launches(report, kinds)
    timing = options.least, options.repeats
    for width, steps in product(options.widths, options.lengths):
        shape = max(1, STEPS // steps), steps, width
        label = "x".join(map(str, shape))
        for part, names, times in (
            ("operations", OPERATIONS, operation_times),
            ("systems", SYSTEMS, system_times),
        ):
            for name in names:
                work = partial(times, name, kinds[name], shape, *timing)
                report.tried(part, f"{name} {label}", work)
    for name, width in product(SYSTEMS, options.widths):
        report.tried("steps", f"{name} {width}", partial(step_times, name, kinds[name], width))
    print(json.dumps(report.found, indent=1))


if __name__ == "__main__":
    main()
