"""Replaces the future and looks whether anything before it moves.

Replacement sees what gradients cannot: sorting, arg-max, top-k routing, rounding, batch
statistics. It samples, so it finds leaks but proves nothing.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kt_forecast.audit.contract import Contract
from kt_forecast.audit.report import Finding, Report

SCALES = (1.0, 100.0)
"""How large replaced numbers are, relative to the spread of the originals."""


def audit(
    model: nn.Module,
    batch: Tensor | Mapping[str, Tensor],
    contract: Contract,
    *,
    call: Callable[[dict[str, Tensor]], Tensor] | None = None,
    modes: tuple[str, ...] = ("evaluation", "training"),
    moments: int = 16,
    seed: int = 0,
) -> Report:
    """Search for outputs that depend on inputs known too late.

    For sampled moments, every input element known later is replaced by another value of its kind,
    one input at a time and all together, in evaluation and training mode, with the model's own
    weights and with generic random ones (a gate that starts at zero hides a leak). Random draws
    inside the model are repeated exactly. Rows are also changed one at a time, the others must
    stay. Nothing of the model is changed when the call returns.

    Args:
        model: the module; used on the device it is on.
        batch: one tensor, or tensors by the names that the contract uses.
        contract: when inputs are known and outputs needed.
        call: from named inputs to the output; by default the model called with them as keywords
            (or with the one tensor).
        modes: ``evaluation``, ``training`` or both; a system whose training couples rows by design
            is audited in evaluation only.
        moments: how many moments to sample; all of them where there are no more.
        seed: of the replacements.

    Returns:
        The report, with one finding for each guilty input: the largest effect seen.
    """
    inputs = {"input": batch} if isinstance(batch, Tensor) else dict(batch)
    if call is None:
        single = isinstance(batch, Tensor)
        call = (lambda x: _first(model(x["input"]))) if single else (lambda x: _first(model(**x)))
    generator = torch.Generator().manual_seed(seed)
    worst: dict[str, Finding] = {}
    trials = 0
    for mode, weights in _settings(model, modes, seed):
        run = _repeatable(model, call, seed)
        for finding in _replaced(run, inputs, contract, moments, generator):
            trials += 1
            if finding is not None:
                _keep_worst(worst, finding, {"mode": mode, "weights": weights})
        for finding in _rows(run, inputs, contract, generator):
            trials += 1
            if finding is not None:
                _keep_worst(worst, finding, {"mode": mode, "weights": weights})
    scope = {
        "contract": contract.name,
        "method": "replacement of the future",
        "modes": list(modes),
        "weights": ["own", "random"],
        "shape": {name: list(x.shape) for name, x in inputs.items()},
        "moments": moments,
        "trials": trials,
        "not_covered": "other lengths and batch sizes; inputs that no replacement drew",
    }
    findings = tuple(sorted(worst.values(), key=lambda f: (f.input.count(","), -f.effect)))
    return Report(verdict="leak" if findings else "unproven", scope=scope, findings=findings)


def _settings(model: nn.Module, modes: tuple[str, ...], seed: int) -> Iterator[tuple[str, str]]:
    """Put the model into each mode and set of weights in turn, and back at the end."""
    was_training = {name: m.training for name, m in model.named_modules()}
    own = {name: t.detach().clone() for name, t in model.state_dict().items()}
    generator = torch.Generator().manual_seed(seed)
    try:
        for weights in ("own", "random"):
            if weights == "random":
                _randomise(model, generator)
            for mode in modes:
                model.train(mode == "training")
                yield mode, weights
    finally:
        model.load_state_dict(own)
        for name, module in model.named_modules():
            module.training = was_training[name]


@torch.no_grad()
def _randomise(model: nn.Module, generator: torch.Generator) -> None:
    for parameter in model.parameters():
        fan = parameter.shape[-1] if parameter.ndim > 1 else 1
        drawn = torch.randn(parameter.shape, generator=generator) * (2.0 / fan) ** 0.5
        parameter.copy_(drawn.to(parameter))


def _repeatable(
    model: nn.Module, call: Callable[[dict[str, Tensor]], Tensor], seed: int
) -> Callable[[dict[str, Tensor]], Tensor]:
    """Wrap a call so that dropout and buffers cannot tell one run from the next."""

    @torch.no_grad()
    def run(inputs: dict[str, Tensor]) -> Tensor:
        with _kept_buffers(model), torch.random.fork_rng():
            torch.manual_seed(seed)
            return call(inputs).detach().clone()

    return run


@contextmanager
def _kept_buffers(model: nn.Module) -> Iterator[None]:
    before = {name: t.clone() for name, t in model.named_buffers()}
    try:
        yield
    finally:
        for name, t in model.named_buffers():
            t.copy_(before[name])


def _replaced(
    run: Callable[[dict[str, Tensor]], Tensor],
    inputs: dict[str, Tensor],
    contract: Contract,
    moments: int,
    generator: torch.Generator,
) -> Iterator[Finding | None]:
    """Yield the outcome of each replacement of what is known after a moment."""
    available, needed = contract.clocks(inputs)
    base = run(inputs)
    due = _spread(needed["output"], base)
    last = max(int(t.max()) for t in available.values())
    ticks = torch.unique(needed["output"])
    if len(ticks) > moments:
        ticks = ticks[torch.randperm(len(ticks), generator=generator)[:moments]]
    groups = [*([name] for name in available), list(available)]
    for tick in ticks.tolist():
        for names in groups:
            for scale in SCALES if any(inputs[n].is_floating_point() for n in names) else (1.0,):
                changed = dict(inputs)
                for name in names:
                    late = _spread(available[name], inputs[name]) > tick
                    other = _another(inputs[name], scale, generator)
                    changed[name] = torch.where(late, other, inputs[name])
                moved = _moved(run(changed), base, due <= tick)
                yield _finding(names, moved, last - tick, {"moment": tick})


def _rows(
    run: Callable[[dict[str, Tensor]], Tensor],
    inputs: dict[str, Tensor],
    contract: Contract,
    generator: torch.Generator,
) -> Iterator[Finding | None]:
    """Yield the outcome of changing one row: the others must stay."""
    available, _ = contract.clocks(inputs)
    base = run(inputs)
    rows = base.shape[0]
    if rows < 2:
        return
    for row in range(rows):
        changed = dict(inputs)
        here = torch.arange(rows, device=base.device) == row
        for name in available:
            own = _spread(here, inputs[name])
            other = _another(inputs[name], 1.0, generator)
            changed[name] = torch.where(own, other, inputs[name])
        moved = _moved(run(changed), base, ~_spread(here, base))
        yield _finding(["another row"], moved, 0, {"row": row})


def _another(x: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    """Return values of the same kind that differ from ``x`` almost everywhere."""
    if x.dtype == torch.bool:
        return ~x
    if x.is_floating_point():
        spread = float(x.std()) if x.numel() > 1 else 1.0
        drawn = torch.randn(x.shape, generator=generator) * scale * max(spread, 1e-3)
        return x + drawn.to(x)
    low, high = (int(x.min()), int(x.max())) if x.numel() else (0, 0)
    if 0 <= low <= high <= 1:
        return 1 - x
    return torch.randint(low, high + 1, x.shape, generator=generator).to(x)


def _spread(moment: Tensor, x: Tensor) -> Tensor:
    """Broadcast moments to the shape of ``x``, axes matched from the left."""
    missing = x.ndim - moment.ndim
    return moment.reshape(*moment.shape, *([1] * missing)).to(x.device).expand(x.shape)


def _moved(after: Tensor, before: Tensor, where: Tensor) -> float:
    change = (after - before).abs().masked_fill(~where, 0.0)
    both_nan = after.isnan() & before.isnan()
    change = change.masked_fill(both_nan, 0.0)
    return float(change.nan_to_num(nan=float("inf")).max()) if change.numel() else 0.0


def _finding(names: list[str], moved: float, ticks: int, where: dict[str, Any]) -> Finding | None:
    if moved == 0.0:
        return None
    return Finding(
        input=", ".join(names),
        output="output",
        ticks=ticks,
        effect=moved,
        method="replacement",
        counterexample=where,
    )


def _keep_worst(worst: dict[str, Finding], finding: Finding, setting: dict[str, str]) -> None:
    known = worst.get(finding.input)
    if known is None or finding.effect > known.effect:
        worst[finding.input] = Finding(
            **{**vars(finding), "counterexample": {**setting, **finding.counterexample}}
        )


def _first(output: Any) -> Tensor:  # noqa: ANN401
    return output if isinstance(output, Tensor) else output[0]
