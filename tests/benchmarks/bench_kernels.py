"""Recurrences on a GPU: plain operations, our kernels and those of installed packages; prints JSON.

First how long a forward and backward pass of whole systems takes, as they are trained (bf16
autocast, as many steps a batch at every length), as ratios between kinds of kernels timed in turns
in one run. Then, with ``--only``, one layer's recurrence by itself, a streamed step, launches, and
whether all give the same, forward and backward, as plain operations in double precision. Each kind
of kernels has a process of its own: one that hangs or fails is ended and takes nothing along.

    python tests/benchmarks/bench_kernels.py --only times --json kernels.json
"""

import argparse
import json
import multiprocessing as mp
import statistics
import sys
import time
from collections.abc import Callable
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kt_forecast import zoo
from kt_forecast.nn import kernels
from kt_forecast.nn.decayed import decayed
from kt_forecast.nn.scan import selective_scan

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PARTS = ("times", "operations", "steps", "launches", "errors")
KINDS: dict[str, tuple[kernels.Kind, ...]] = {"plain": (), "own": ("own",), "package": ("package",)}
STEPS = 8192
"""Steps of a batch, unless one sequence is longer."""
SYSTEMS = {
    "retnet": ("retnet", {}),
    "mamba1": ("mamba", {"form": "mamba1"}),
    "mamba2": ("mamba", {"form": "mamba2", "state": 64}),
}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def retention(batch: int, steps: int, width: int) -> list[Tensor]:
    """Give tensors as a layer of RetNet does: four heads, decays that nothing learns."""
    heads, keys, values = 4, width // 4, width // 2
    decay = (
        (-torch.logspace(-5, -8, heads, base=2.0)).to(DEVICE)[None, :, None].expand(-1, -1, steps)
    )
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
        -length * torch.linspace(1, 16, heads).to(DEVICE)[:, None],
        noise(batch, heads, states, size, seed=4),
    ]


def scanned(batch: int, steps: int, width: int) -> list[Tensor]:
    """Give tensors as a layer of Mamba-1 does."""
    channels, states = 2 * width, 16
    both = noise(batch, steps, 2 * states, seed=4)
    return [
        noise(batch, steps, channels),
        F.softplus(noise(batch, steps, channels, seed=1) - 3),
        -torch.arange(1.0, states + 1).to(DEVICE).expand(channels, -1).contiguous(),
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


def errors(name: str, kind: str, precision: str, *shape: int) -> list[float]:
    """Return the largest error of each output and gradient, as a share of its largest number."""
    given = OPERATIONS[name][1](*shape)
    with kernels.only():
        wanted = found(name, [x.double() for x in given])
    with rounded(precision):
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


def finish() -> None:
    """Wait for what was launched."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], least: float) -> float:
    """Return the time of one call, launches included, as training sees it."""
    began = time.perf_counter()
    work()
    finish()
    count = max(1, min(50, int(least / max(time.perf_counter() - began, 1e-6))))
    began = time.perf_counter()
    for _ in range(count):
        work()
    finish()
    return (time.perf_counter() - began) / count


def of_operation(name: str, *shape: int) -> Callable[[], object]:
    run = OPERATIONS[name][0]
    given = learned(name, OPERATIONS[name][1](*shape))
    wanted = [x for x in given if x.requires_grad]
    weights = [torch.randn_like(y) for y in run(*given)]

    def work() -> object:
        return torch.autograd.grad(run(*given), wanted, weights)

    return work


def of_system(name: str, batch: int, steps: int, width: int) -> Callable[[], object]:
    system = zoo.load(SYSTEMS[name][0])
    module = system.build(system.config(width=width, **SYSTEMS[name][1])).to(DEVICE)
    x = noise(batch, steps, width)

    def work() -> object:
        with torch.autocast(DEVICE, torch.bfloat16):
            y, _ = module(x)
        return torch.autograd.grad(y.float().square().mean(), list(module.parameters()))

    return work


def of_step(name: str, width: int) -> Callable[[], object]:
    system = zoo.load(SYSTEMS[name][0])
    module = system.build(system.config(width=width, **SYSTEMS[name][1])).to(DEVICE).eval()
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


class RefusedError(Exception):
    """No kernel of the kind that was asked for runs such tensors."""


class LostError(Exception):
    """A kernel broke the GPU's work, and nothing more can be done in its process."""


def watched() -> list[bool]:
    """Note from now on whether kernels of a kind were found for what was asked."""
    found: list[bool] = []
    for name in ("for_decayed", "for_scan"):
        ask = getattr(kernels, name)

        def asked(*given: Any, ask: Callable[..., Any] = ask) -> Any:
            answer = ask(*given)
            if kernels._allowed.get():
                found.append(answer is not None)
            return answer

        setattr(kernels, name, asked)
    return found


def worker(kind: str, pipe: Connection) -> None:
    """Do in a process of its own what is asked, with kernels of one kind only."""
    found = watched()
    work: Callable[[], object] = lambda: None  # noqa: E731
    precision = "ieee"
    makers = {"times": of_system, "operations": of_operation, "steps": of_step}
    while True:
        order, *given = pipe.recv()
        answer: Any = None
        try:
            if order in makers:
                precision = "ieee" if order == "times" else "tf32"
            with kernels.only(*KINDS[kind]), rounded(precision):
                if order in makers:
                    found.clear()
                    work = lambda: None  # noqa: E731
                    finish()
                    if DEVICE == "cuda":
                        torch.cuda.empty_cache()
                    work = makers[order](*given)
                    work()
                    finish()
                elif order == "time":
                    answer = seconds(work, *given)
                elif order == "launches":
                    found.clear()
                    answer = launches(of_system(*given))
                else:
                    found.clear()
                    answer = errors(given[0], kind, *given[1:])
            if not all(found):
                answer = RefusedError("no kernel of this kind runs this")
        except torch.AcceleratorError as error:
            answer = LostError(str(error).partition("\n")[0])
        except Exception as error:  # noqa: BLE001
            answer = RuntimeError(f"{type(error).__name__}: {error}"[:400])
        pipe.send(answer)


class Worker:
    """A process with one kind of kernels, begun anew after it was ended.

    Args:
        kind: of kernels.
        limit: seconds that an answer may take.
    """

    def __init__(self, kind: str, limit: float) -> None:
        self.kind, self.limit = kind, limit
        self.process: Any = None

    def ask(self, *order: Any) -> None:
        """Begin some work."""
        if self.process is None:
            context = mp.get_context("spawn")
            self.pipe, other = context.Pipe()
            self.process = context.Process(target=worker, args=(self.kind, other), daemon=True)
            self.process.start()
            other.close()
        self.pipe.send(order)

    def answer(self) -> Any:
        """Return what came of it; an exception if it failed or took too long."""
        try:
            if self.pipe.poll(self.limit):
                answer = self.pipe.recv()
                if isinstance(answer, LostError):
                    self.end()
                return answer
            why = f"no answer within {self.limit:g} seconds"
        except (EOFError, OSError):
            why = "its process ended"
        self.end()
        return TimeoutError(why)

    def end(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None


class Report:
    """What was found so far, written down after every part.

    Args:
        path: of the file; None for none.
        facts: what is said before.
    """

    def __init__(self, path: Path | None, **facts: Any) -> None:
        self.path, self.found = path, dict(facts)

    def note(self, part: str, name: str, value: Any) -> None:
        """Note what came of some work."""
        self.found.setdefault(part, {})[name] = value
        print(part, name, json.dumps(value), file=sys.stderr, flush=True)
        if self.path is not None:
            self.path.write_text(json.dumps(self.found, indent=1) + "\n")


class Bench:
    """All kinds of kernels, each in its process, and what they were found to do.

    Args:
        report: takes what is found.
        options: of the command line.
    """

    def __init__(self, report: Report, options: argparse.Namespace) -> None:
        self.report, self.options = report, options
        self.until = time.monotonic() + options.seconds
        self.workers = {kind: Worker(kind, options.limit) for kind in options.kinds}
        self.left_out: dict[tuple[str, str, str], str] = {}

    def compared(self, part: str, name: str, *given: int) -> None:
        """Note milliseconds of each kind and their ratios, timed in turns."""
        label = f"{name} {'x'.join(map(str, given))}"
        if time.monotonic() > self.until:
            self.report.note("not reached", f"{part} {label}", f"{self.options.seconds:g} seconds")
            return
        result: dict[str, Any] = {}
        ready = self._each(part, name, list(self.workers), (part, name, *given), result, side=True)
        times: dict[str, list[float]] = {kind: [] for kind in ready}
        for _ in range(self.options.repeats):
            for kind in [kind for kind in ready if kind not in result]:
                order = "time", self.options.least
                times[kind] += self._each(part, name, [kind], order, result).values()
        known = {kind: some for kind, some in times.items() if kind not in result}
        result |= {kind: round(1e3 * statistics.median(some), 4) for kind, some in known.items()}
        for one, other in (("own", "plain"), ("own", "package"), ("plain", "package")):
            if one in known and other in known:
                ratios = [a / b for a, b in zip(known[one], known[other], strict=True)]
                result[f"{one}/{other}"] = round(statistics.median(ratios), 3)
        self.report.note(part, label, result)

    def single(self, part: str, label: str, kind: str, *order: Any) -> None:
        """Note what one kind answers."""
        if time.monotonic() > self.until:
            self.report.note("not reached", f"{part} {label}", f"{self.options.seconds:g} seconds")
            return
        failed: dict[str, Any] = {}
        found = self._each(part, order[1], [kind], order, failed)
        self.report.note(part, label, found.get(kind, failed.get(kind)))

    def _each(
        self,
        part: str,
        name: str,
        kinds: list[str],
        order: tuple[Any, ...],
        failed: dict[str, Any],
        *,
        side: bool = False,
    ) -> dict[str, Any]:
        """Ask kinds at the same time if ``side``; what hangs once is left out from then on."""
        asked, found = [], {}
        for kind in kinds:
            if (part, name, kind) in self.left_out:
                failed[kind] = self.left_out[part, name, kind]
                continue
            self.workers[kind].ask(*order)
            asked.append(kind)
            if not side:
                self._answered(part, name, kind, found, failed)
        for kind in asked if side else ():
            self._answered(part, name, kind, found, failed)
        return found

    def _answered(
        self, part: str, name: str, kind: str, found: dict[str, Any], failed: dict[str, Any]
    ) -> None:
        answer = self.workers[kind].answer()
        if not isinstance(answer, Exception):
            found[kind] = answer
            return
        failed[kind] = str(answer)
        if isinstance(answer, (TimeoutError, RefusedError, LostError)):
            self.left_out[part, name, kind] = failed[kind]

    def times(self) -> None:
        """Time whole systems, the narrowest and the shortest first."""
        for width, steps, name in product(self.options.widths, self.options.lengths, SYSTEMS):
            self.compared("times", name, max(1, STEPS // steps), steps, width)

    def operations(self) -> None:
        """Time one layer's recurrence."""
        for width, steps, name in product(self.options.widths, self.options.lengths, OPERATIONS):
            self.compared("operations", name, max(1, STEPS // steps), steps, width)

    def steps(self) -> None:
        """Time one streamed step."""
        for width, name in product(self.options.widths, SYSTEMS):
            self.compared("steps", name, width)

    def launches(self) -> None:
        """Count launches of a pass."""
        for name, kind in product(SYSTEMS, self.workers):
            self.single("launches", f"{name} {kind}", kind, "launches", name, 8, 1024, 64)

    def errors(self) -> None:
        """Compare with double precision."""
        shapes = ((2, 333, 64), (1, 4096, 256))
        for name, kind, precision, shape in product(
            OPERATIONS, self.workers, ("ieee", "tf32"), shapes
        ):
            if kind != "package" or precision == "tf32" or name == "scan":
                label = f"{name} {kind} {precision} {'x'.join(map(str, shape))}"
                self.single("errors", label, kind, "errors", name, precision, *shape)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=["times", "errors"])
    parser.add_argument("--kinds", nargs="+", choices=[*KINDS], default=[*KINDS])
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 256, 65536])
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--least", type=float, default=0.03, help="seconds that a timing lasts")
    parser.add_argument("--limit", type=float, default=45.0, help="seconds that an answer may take")
    parser.add_argument("--seconds", type=float, default=600.0, help="after them nothing is begun")
    parser.add_argument("--cpu", action="store_true", help="try the command itself without a GPU")
    parser.add_argument("--json", type=Path, help="file to write to as parts are done")
    options = parser.parse_args()
    if DEVICE == "cpu" and not options.cpu:
        print("there is no GPU here, and kernels run on one only: nothing was measured")
        return 0
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"
    report = Report(options.json, device=name, torch=torch.__version__)
    bench = Bench(report, options)
    for part in PARTS:
        if part in options.only:
            getattr(bench, part)()
    for each in bench.workers.values():
        each.end()
    print(json.dumps(report.found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
