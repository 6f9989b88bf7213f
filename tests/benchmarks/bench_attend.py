"""Exact attention on a GPU: every kernel against plain operations, then times; prints JSON.

First whether each kernel gives what attention in double precision on the CPU gives, forward and
backward. Then how long a forward and backward pass takes, in batches of as many steps at every
length (``--tokens``), as in training: each pattern by each kernel beside full causal attention, and
whole efficient systems beside the one of exact attention at equal width. For every system the
length from which it is faster, and the shares of the machine's rate of products and of its
bandwidth (``--rate``, ``--bandwidth``) that it reaches by counted operations and bytes: as torch
counts them, so that causal attention computes all pairs, in single precision, each operation a
launch of its own. What tells most comes first, so that ``--seconds`` may end it early: all systems
at the longest sequences, kernels where their crossing is looked for. ``--only shares --json FILE``
completes a file of times where there is no GPU, for counting needs none; ``--only counts`` prints
how many operations a forward and backward pass launches and what they move, by the kernels of the
CPU.

    python tests/benchmarks/bench_attend.py
    python tests/benchmarks/bench_attend.py --only counts
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from kt_forecast import zoo
from kt_forecast.audit.cost import training_cost, training_traffic
from kt_forecast.nn.attend import Kernel, attend, attend_beside, attend_weighed
from kt_forecast.nn.system import modules_in

EXACT = "flash_attention"
TWO_LAYERS = {"memory_compressed"}
"""Systems that have no fewer."""
OTHER_FAMILIES = {"decoder", "hierarchy", "memory", "recurrent"}
HEADS, SIZE = 4, 32
ROWS = 10
KERNELS: dict[str, tuple[Kernel, ...]] = {
    "causal": ("auto",),
    "window": ("exact", "flex", "varying", "blocks", "auto"),
    "documents": ("exact", "varying", "flex", "blocks", "auto"),
    "weighed": ("flex", "blocks", "auto"),
    "beside": ("flex", "blocks", "auto"),
    "dilated": ("flex", "blocks", "auto"),
}
LONGEST_EXACT = 4096
"""Steps up to which a mask of all pairs is written."""
COUNTED = (1024, 4096)
"""Steps at which operations and bytes are counted of what looks at values."""
SLOW = 0.2
"""Seconds of a call from which on it is timed once."""
KERNEL_LENGTHS = (1024, 512, 2048, 256, 4096, 16384, 65536)
SYSTEM_LENGTHS = (65536, 16384, 4096, 1024, 256)
COUNTED_LENGTHS = (1024, 4096, 16384, 65536)


def tensors(
    steps: int, *, batch: int = 1, heads: int = HEADS, size: int = SIZE, seed: int = 0
) -> tuple[Tensor, ...]:
    drawn = torch.Generator().manual_seed(seed)
    steps_of = (torch.randn(batch, heads, steps, size, generator=drawn) for _ in range(3))
    rows = (torch.randn(1, heads, ROWS, size, generator=drawn) for _ in range(2))
    return *steps_of, torch.randn(heads, 128, generator=drawn), *rows


def pattern(name: str, window: int, kernel: Kernel) -> Callable[..., Tensor]:
    """Return what attends by a pattern."""

    def documents(q: Tensor, k: Tensor, v: Tensor, *_: Tensor) -> Tensor:
        document = (torch.arange(q.shape[2], device=q.device) // 300).expand(len(q), -1)
        return attend(q, k, v, window, document=document, kernel=kernel)

    return {
        "causal": lambda q, k, v, *_: attend(q, k, v, kernel=kernel),
        "window": lambda q, k, v, *_: attend(q, k, v, window, kernel=kernel),
        "dilated": lambda q, k, v, *_: attend(q, k, v, window, dilation=3, kernel=kernel),
        "documents": documents,
        "weighed": lambda q, k, v, b, *_: attend_weighed(q, k, v, b[:, :window], kernel=kernel),
        "beside": lambda q, k, v, _, *r: attend_beside(q, k, v, window, tuple(r), kernel=kernel),
    }[name]


def with_gradients(run: Callable[..., Tensor], given: tuple[Tensor, ...]) -> list[Tensor]:
    given = tuple(x.detach().requires_grad_() for x in given)
    y = run(*given)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(9))
    gradients = torch.autograd.grad((y * weight.to(y)).sum(), given, allow_unused=True)
    return [y.detach(), *(g for g in gradients if g is not None)]


def errors(name: str, kernel: Kernel, kind: torch.dtype, steps: int, window: int) -> list[float]:
    """Return the largest error of the output and each gradient, as a share of the largest number.

    Raises:
        ValueError: it is larger than rounding makes it.
    """
    given = tuple(x.to(kind) for x in tensors(steps, batch=2))
    wanted = with_gradients(pattern(name, window, "blocks"), tuple(x.double() for x in given))
    got = with_gradients(pattern(name, window, kernel), tuple(x.cuda() for x in given))
    pairs = [(a.cpu().double(), b) for a, b in zip(got, wanted, strict=True)]
    found = [float((a - b).abs().max() / b.abs().max()) for a, b in pairs]
    if max(found) > (2e-2 if kind == torch.bfloat16 else 1e-4):
        raise ValueError(f"errors {found}")
    return [float(f"{error:.2g}") for error in found]


def seconds(work: Callable[[], object], least: float, repeats: int) -> float:
    """Return the median time of one call, launches included, as training sees it."""
    work()
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    took = time.perf_counter() - began
    if took > SLOW:
        return took
    count = max(1, min(50, int(least / max(took, 1e-6))))
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        for _ in range(count):
            work()
        torch.cuda.synchronize()
        found.append((time.perf_counter() - began) / count)
    return statistics.median(found)


def of_pattern(
    name: str, kernel: Kernel, steps: int, options: argparse.Namespace
) -> Callable[[], object]:
    drawn = tensors(steps, batch=rows_of(steps, options))
    given = [x.cuda().bfloat16().requires_grad_() for x in drawn]
    run = pattern(name, options.window, kernel)
    weight = torch.randn_like(run(*given))
    return lambda: torch.autograd.grad(run(*given), given, weight, allow_unused=True)


def made(name: str, width: int, length: int) -> Any:
    """Return a system's mixer of one layer."""
    system = zoo.load(name)
    layers = 2 if name in TWO_LAYERS else 1
    chosen: dict[str, Any] = {"width": width, "heads": 4, "layers": layers, "dropout": 0.0}
    chosen = {key: value for key, value in chosen.items() if key in system.config.model_fields}
    root = system.promises.cost.root
    return system.build(system.config(**chosen, **({root: math.isqrt(length)} if root else {})))


def rows_of(steps: int, options: argparse.Namespace) -> int:
    """Return how many sequences a batch of so many steps has."""
    return int(max(1, options.tokens // steps))


def of_system(name: str, width: int, steps: int, rows: int) -> Callable[[], object]:
    module = made(name, width, steps).cuda().train()
    x = torch.randn(rows, steps, width, device="cuda")

    def work() -> object:
        with torch.autocast("cuda", torch.bfloat16):
            y, _ = module(x)
        y.float().square().mean().backward()
        return module.zero_grad(set_to_none=True)

    return work


def peak(work: Callable[[], object]) -> int:
    """Return the bytes that a call holds at most beyond what was there."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return torch.cuda.max_memory_allocated() - before


def pattern_time(name: str, kernel: Kernel, steps: int, options: argparse.Namespace) -> float:
    work = of_pattern(name, kernel, steps, options)
    return round(1e3 * seconds(work, options.least, options.repeats), 4)


def system_times(
    name: str, width: int, steps: int, options: argparse.Namespace
) -> dict[str, float]:
    """Return time and peak memory."""
    work = of_system(name, width, steps, rows_of(steps, options))
    took = seconds(work, options.least, options.repeats)
    return {"ms": round(1e3 * took, 4), "peak_mib": round(peak(work) / 2**20, 1)}


def shares(name: str, width: int, steps: int, ms: float, options: argparse.Namespace) -> Any:
    """Return what of the machine's rate and bandwidth is reached."""
    flops, moved = counted(name, width, steps)
    per_second = 1e3 * rows_of(steps, options) / ms
    return {
        "of_rate": float(f"{per_second * flops / options.rate:.3g}"),
        "of_bandwidth": float(f"{per_second * moved / options.bandwidth:.3g}"),
    }


def counted(name: str, width: int, steps: int) -> tuple[float, float]:
    """Return operations of a pass of one sequence, and the bytes that it moves in single precision.

    What looks at values is counted with values at shorter lengths, whose growth it is said to keep.
    """
    try:
        with FakeTensorMode():
            flops, _ = training_cost(made(name, width, steps), torch.empty(1, steps, width))
        return flops, training_traffic(partial(made, name, width, steps), (1, steps, width)).moved
    except DataDependentOutputException:
        few, many = (with_values(name, width, some) for some in COUNTED)
    apart = math.log(COUNTED[1] / COUNTED[0])
    further = math.log(steps / COUNTED[1])
    less, more = (b * (b / a) ** (further / apart) for a, b in zip(few, many, strict=True))
    return less, more


def with_values(name: str, width: int, steps: int) -> tuple[int, int]:
    """Return operations and moved bytes of a pass of one drawn sequence."""
    module, x = made(name, width, steps), torch.randn(1, steps, width)
    return training_cost(module, x)[0], training_traffic(module, x).moved


def crossings(found: dict[str, Any], names: list[str], widths: list[int]) -> dict[str, Any]:
    """Return the least length from which on a system is faster than exact attention."""
    answers: dict[str, Any] = {}
    for name, width in product(names, widths):
        lengths = [int(k.split()[-1]) for k in found if k.startswith(f"{name} {width} ")]
        faster = None
        for steps in sorted(lengths, reverse=True):
            own, exact = (found.get(f"{n} {width} {steps}") for n in (name, EXACT))
            if not (isinstance(own, dict) and isinstance(exact, dict) and own["ms"] < exact["ms"]):
                break
            faster = steps
        slower = f"slower up to {max(lengths)}" if lengths else "not measured"
        answers[f"{name} {width}"] = faster or slower
    return answers


class Report:
    """What was found so far, written down after every part."""

    def __init__(self, path: Path | None, seconds: float) -> None:
        self.path, self.until = path, time.monotonic() + seconds
        self.found: dict[str, Any] = {"failed": 0}
        if torch.cuda.is_available():
            self.found["device"] = torch.cuda.get_device_name()
        elif path is not None:
            self.found = json.loads(path.read_text())

    def tried(self, part: str, name: str, work: Callable[[], Any]) -> Any:
        """Note what came of some work, or how it failed, and go on."""
        if part != "crossings" and time.monotonic() > self.until:
            self.found.setdefault("not reached", []).append(f"{part} {name}")
            return None
        try:
            value = work()
        except Exception as error:  # noqa: BLE001
            value = f"{type(error).__name__}: {error}"[:400]
            self.found["failed"] += 1
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.found.setdefault(part, {})[name] = value
        print(part, name, json.dumps(value), file=sys.stderr, flush=True)
        if self.path is not None:
            self.path.write_text(json.dumps(self.found, indent=1) + "\n")
        return value


def measure_errors(report: Report) -> None:
    shapes = ((700, 50), (1500, 128))
    kinds = (torch.float32, torch.bfloat16)
    for (name, kernels), kind, (steps, window) in product(KERNELS.items(), kinds, shapes):
        for kernel in kernels:
            if kernel == "varying" and kind == torch.float32:
                continue
            work = partial(errors, name, kernel, kind, steps, window)
            report.tried("errors", f"{name} {kernel} {kind} {steps} {window}", work)


def measure_kernels(report: Report, options: argparse.Namespace) -> None:
    for steps, (name, kernels) in product(options.lengths or KERNEL_LENGTHS, KERNELS.items()):
        for kernel in kernels:
            chosen = kernel == "auto" and len(kernels) > 1
            if not chosen and (kernel != "exact" or steps <= LONGEST_EXACT):
                work = partial(pattern_time, name, kernel, steps, options)
                report.tried("kernels", f"{name} {kernel} {steps}", work)


def chosen_systems(options: argparse.Namespace) -> list[str]:
    known = options.systems or [
        name
        for name in modules_in("kt_forecast.zoo")
        if (system := zoo.load(name)).build is not None and system.family not in OTHER_FAMILIES
    ]
    return [EXACT, *(name for name in known if name != EXACT)]


def launches(name: str, width: int, steps: int) -> dict[str, float]:
    """Return what a pass sends to a device, by steps without values if nothing looks at them."""
    try:
        found = training_traffic(partial(made, name, width, steps), (1, steps, width))
    except DataDependentOutputException:
        found = training_traffic(made(name, width, steps), torch.randn(1, steps, width))
    return {"launches": found.launches, "moved_mib": round(found.moved / 2**20, 1)}


def measure_counts(report: Report, options: argparse.Namespace) -> None:
    lengths = sorted(options.lengths or COUNTED_LENGTHS)
    for width in options.widths:
        print(f"launches and MiB moved, width {width}:", *lengths, sep="\t")
        for name in chosen_systems(options):
            row = []
            for steps in lengths:
                work = partial(launches, name, width, steps)
                found = report.tried("counts", f"{name} {width} {steps}", work)
                row.append(" ".join(map(str, found.values())) if isinstance(found, dict) else "-")
            print(name, *row, sep="\t")


def measure_systems(report: Report, options: argparse.Namespace) -> None:
    names = chosen_systems(options)
    for width, steps in product(options.widths, options.lengths or SYSTEM_LENGTHS):
        for name in names:
            work = partial(system_times, name, width, steps, options)
            report.tried("systems", f"{name} {width} {steps}", work)
        found = report.found.get("systems", {})
        for other, crossed in crossings(found, names[1:], [width]).items():
            report.tried("crossings", other, partial(str, crossed))


def measure_shares(report: Report, options: argparse.Namespace) -> None:
    """Set times beside counts, which need no GPU."""
    for key, found in list(report.found.get("systems", {}).items()):
        if isinstance(found, dict):
            name, width, steps = key.split()
            work = partial(shares, name, int(width), int(steps), found["ms"], options)
            report.tried("shares", key, work)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", help="in the order of their measuring")
    parser.add_argument("--widths", type=int, nargs="+", default=[128])
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument(
        "--tokens", type=int, default=65536, help="steps of all sequences of a batch"
    )
    parser.add_argument("--systems", nargs="+", help="all of the efficient families by default")
    parser.add_argument("--only", nargs="+", default=["errors", "kernels", "systems", "shares"])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--least", type=float, default=0.03, help="seconds that a timing lasts")
    parser.add_argument("--rate", type=float, default=989e12, help="operations a second, bf16")
    parser.add_argument("--bandwidth", type=float, default=4.8e12, help="bytes a second")
    parser.add_argument("--seconds", type=float, default=1200.0, help="after them nothing is begun")
    parser.add_argument("--json", type=Path, help="file to write to as parts are done")
    options = parser.parse_args()
    if options.only == ["counts"]:
        measure_counts(Report(None, options.seconds), options)
        return 0
    beside = options.only == ["shares"] and options.json is not None and options.json.is_file()
    if not torch.cuda.is_available() and not beside:
        print("there is no GPU here, and kernels run on one only: nothing was measured")
        return 0
    report = Report(options.json, options.seconds)
    if "errors" in options.only:
        measure_errors(report)
    if "kernels" in options.only:
        measure_kernels(report, options)
    if "systems" in options.only:
        measure_systems(report, options)
    if "shares" in options.only:
        measure_shares(report, options)
    print(json.dumps(report.found, indent=1))
    return int(any(isinstance(v, str) for v in report.found.get("errors", {}).values()))


if __name__ == "__main__":
    sys.exit(main())
