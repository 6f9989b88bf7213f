"""Fair coin flips for labels: nobody can predict them, so who does has seen them.

Each event has one flip: what shares a row and a moment shares its label. A prediction that keeps
to the contract is made before its flip falls, so that the number of right ones is a martingale and
how far it strays from one half is bounded whatever the model is; no sample of models is needed.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kt_forecast.audit.dependency.analysis import spread
from kt_forecast.audit.running import TRAINING, Call, Outputs, Runner, Setting, kept, seeded
from kt_forecast.audit.training import OPEN, PREDICTION, RETURNED, TARGET, trained

FAR = 5.0
"""Standard deviations beyond which chance is no explanation."""

STEPS, RATE = 80, 3e-2
"""Updates on fresh flips, and their size: enough to find a way to the label if there is one."""

FLIPS, RUNS = 2000, 32
"""Flips to predict at least, and runs at most."""

SCORES = 8
"""Scores of a pipeline, each with other flips; twice as many where they look too good."""

QUANTILE = 4.785
"""Of Student's distribution with one degree of freedom less than `SCORES`: one in a thousand."""

LEAST = 0.02
"""A mean score closer to chance than this is taken for chance."""


@dataclass(frozen=True)
class Flipped:
    """How well coin flips were predicted.

    Attributes:
        share: of right predictions, or the mean score.
        far: standard deviations above chance; far below it, labels are known as well.
        count: flips predicted, or scores.
        mode: of the model when they were predicted.
    """

    share: float
    far: float
    count: int
    mode: str = ""

    @property
    def found(self) -> bool:
        """Whether chance is no explanation."""
        return abs(self.far) > FAR

    def __str__(self) -> str:
        """Say it in a few words."""
        where = f" in {self.mode}" if self.mode else ""
        return f"{self.share:.3f} of {self.count}{where}, {self.far:.1f} deviations above chance"


class Tosses:
    """Draws labels, and remembers what was drawn.

    Args:
        inputs: tensors by name.
        labels: names of the inputs that hold labels, and of those equal to them.
        draw: gives other labels, by name.
    """

    def __init__(
        self, inputs: dict[str, Tensor], labels: list[str], draw: Callable[[], dict[str, Tensor]]
    ) -> None:
        self.inputs = inputs
        self.labels = labels
        self.sides = _sides(inputs[labels[0]])
        self._draw = draw
        self._drawn: list[dict[str, Tensor]] = []

    def toss(self) -> dict[str, Tensor]:
        """Return the inputs with other labels."""
        self._drawn.append(self._draw())
        return self.inputs | self._drawn[-1]

    @property
    def drawn(self) -> dict[str, Tensor]:
        """What was drawn, by name; the first axis counts the draws."""
        return {n: torch.stack([one[n] for one in self._drawn]).cpu() for n in self.labels}


def coins(
    inputs: dict[str, Tensor],
    labels: list[str],
    available: dict[str, Tensor],
    generator: torch.Generator,
) -> Tosses:
    """Return what draws labels: one fair flip for each row and moment.

    Args:
        inputs: tensors by name.
        labels: names of the inputs that hold labels, and of those equal to them.
        available: when they are known, spread to their shapes; where it says nothing of the first,
            each of its elements has a flip of its own.
        generator: of flips.
    """
    first = inputs[labels[0]]
    low, high = _sides(first)
    if labels[0] not in available:

        def independent() -> dict[str, Tensor]:
            flips = torch.randint(0, 2, first.shape, generator=generator)
            return {labels[0]: torch.where(flips > 0, high, low).to(first)}

        return Tosses(inputs, labels[:1], independent)
    moments = torch.cat([available[n].reshape(-1) for n in labels]).unique()
    rows = max(len(inputs[n]) for n in labels)

    def shared() -> dict[str, Tensor]:
        flips = torch.randint(0, 2, (rows, len(moments)), generator=generator)
        found = {}
        for name in labels:
            x = inputs[name]
            rank = torch.searchsorted(moments, available[name].contiguous())
            row = spread(torch.arange(len(x)), x.shape)
            side = torch.tensor((low, high), dtype=x.dtype)
            found[name] = side[flips[row, rank]].to(x.device)
        return found

    return Tosses(inputs, labels, shared)


def _sides(x: Tensor) -> tuple[float, float]:
    """Return two values that a label may have."""
    if not x.is_floating_point():
        low, high = float(x.min()), float(x.max())
        return (low, high) if low != high else (0.0, 1.0)
    if bool(((x == 0) | (x == 1)).all()):
        return 0.0, 1.0
    middle, width = float(x.mean()), float(x.std()) if x.numel() > 1 else 1.0
    return middle - (width or 1.0), middle + (width or 1.0)


def predicted(
    runner: Runner, coins: Tosses, due: dict[str, Tensor], modes: tuple[str, ...]
) -> list[Flipped]:
    """Train a model on coin flips, and count how many of the next ones it predicts.

    Args:
        runner: runs the training step, see `kt_forecast.audit.training.watched`.
        coins: draw the labels.
        due: when each prediction is needed; what is weighed against nothing is not counted.
        modes: in which the model then predicts.
    """
    with _learnable(runner.model), runner.set(Setting(TRAINING)), seeded(runner.seed):
        _train(runner.model, runner.call, coins)
        return [_count(runner, coins, due, mode) for mode in modes]


@contextmanager
def _learnable(model: nn.Module) -> Iterator[None]:
    grads = [(p, p.grad) for p in model.parameters()]
    with kept(model):
        try:
            yield
        finally:
            for p, grad in grads:
                p.grad = grad


def _train(model: nn.Module, call: Call, coins: Tosses) -> None:
    parameters = trained(model)
    if not parameters:
        return
    optimiser = torch.optim.Adam(parameters, RATE)
    for _ in range(STEPS):
        with torch.enable_grad():
            loss = _loss(call(coins.toss()))
            if loss is None:
                return
            optimiser.zero_grad()
            loss.backward()
        optimiser.step()


def _loss(out: dict[str, Any]) -> Tensor | None:
    """Return what to make small: the first number with a gradient, or the mean of many."""
    found = [x for path, x in out.items() if path.startswith(RETURNED)]
    usable = [x for x in found if isinstance(x, Tensor) and x.requires_grad]
    single = [x for x in usable if x.ndim == 0]
    return single[0] if single else usable[0].mean() if usable else None


@torch.no_grad()
def _count(runner: Runner, coins: Tosses, due: dict[str, Tensor], mode: str) -> Flipped:
    runner.model.train(mode == TRAINING)
    number = next(iter(due))
    target = number.replace(PREDICTION, TARGET)
    judged = due[number] < OPEN
    middle = _margins(runner.call(coins.toss()), number, target, coins.sides)[0].median()
    right, variance, count = 0.0, 0.0, 0
    for _ in range(RUNS):
        margin, side, moment = _margins(
            runner.call(coins.toss()), number, target, coins.sides, due[number], judged
        )
        hits = ((margin > middle) == side).double() - 0.5
        _, event = moment.unique(return_inverse=True)
        size = torch.zeros(int(event.max()) + 1 if event.numel() else 0, dtype=torch.float64)
        sums = size.clone().index_add(0, event, hits)
        sizes = size.index_add(0, event, torch.ones_like(hits))
        right += float(sums.sum())
        variance += float((sizes**2).sum()) / 4
        count += hits.numel()
        if count >= FLIPS:
            break
    far = right / math.sqrt(variance) if variance else 0.0
    return Flipped(0.5 + right / max(count, 1), far, count, mode)


def _margins(
    out: Outputs | dict[str, Any],
    number: str,
    target: str,
    sides: tuple[float, float],
    due: Tensor | None = None,
    judged: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return how far each prediction leans to the second side, which side fell, and its event."""
    prediction, y = out[number].detach().cpu(), out[target].detach().cpu()
    classes = prediction.ndim == y.ndim + 1
    if classes:
        low, high = (int(side) for side in sides)
        prediction = prediction.select(min(1, y.ndim), high) - prediction.select(
            min(1, y.ndim), low
        )
    side = y.expand(prediction.shape) > sum(sides) / 2
    if due is None or judged is None:
        return prediction.reshape(-1).double(), side.reshape(-1), torch.empty(0)
    if classes:
        due, judged = due.select(min(1, y.ndim), 0), judged.select(min(1, y.ndim), 0)
    return prediction[judged].double(), side[judged], due[judged]


def scored(pipeline: Callable[[Tensor], float], coins: Tosses, count: int = 0) -> Flipped:
    """Run a whole pipeline on coin flips again and again; its mean score must be chance, one half.

    Args:
        pipeline: from labels to a score that is one half for who knows nothing.
        coins: draw the labels.
        count: how often; by default as often as it takes.
    """
    scores: list[float] = []
    for many in (count,) if count else (SCORES, 2 * SCORES):
        scores += [
            float(pipeline(coins.toss()[coins.labels[0]])) for _ in range(many - len(scores))
        ]
        x = torch.tensor(scores, dtype=torch.float64) - 0.5
        error = max(float(x.std()) / math.sqrt(many), 1e-12)
        mean = float(x.mean())
        if mean < LEAST or mean / error < QUANTILE:
            return Flipped(0.5 + mean, min(mean / error, FAR), many)
    return Flipped(0.5 + mean, max(mean / error, 2 * FAR), many)
