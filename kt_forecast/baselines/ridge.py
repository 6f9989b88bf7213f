"""Ridge regression of the steps ahead on the steps before: solved, not trained.

One matrix, shared by all series, maps the context to the horizon. By default the context's last
value is subtracted from both sides first, so that the level of a series does not matter. The
normal equations are summed over batches of windows, and one eigendecomposition serves every
penalty; the squared error on the validation windows is a quadratic form in the same kind of sums,
so that a pass over the windows decides between all penalties.

Known covariates that the table's owner declared (the calendar's are not among them) enter with one
weight for each of their steps, of the context and ahead, and each step that is predicted.

Departures from the paper:
    - penalty, and if asked context and normalisation, are chosen on the validation windows; the
      paper solves least squares with a small fixed penalty.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from kt_forecast.baselines import Baseline
from kt_forecast.config import Config, tunable
from kt_forecast.errors import InputError
from kt_forecast.nn.system import Paper
from kt_forecast.sequences.series import Forecast, SeriesSet, Window, WindowBatch, WindowShape
from kt_forecast.sequences.windows import Origins, in_order

Normalisation = Literal["last", "mean", "none"]
NORMALISATIONS: tuple[Normalisation, ...] = ("last", "mean", "none")

NUMBERS_PER_BATCH = 1 << 22
"""Numbers that the windows of one batch hold."""

MOST_INPUTS = 4096
"""Inputs beyond which covariates are left out: the decomposition would take minutes."""

OneOrMore = Field(min_length=1)


class RidgeConfig(Config):
    """Settings of `Ridge`; of several values the validation windows choose one.

    Attributes:
        context: steps before the origin.
        normalisation: what is subtracted from context and target: the context's last value, its
            mean, or nothing.
        penalty: on the sum of squared weights, against the sum of squared errors.
        intercept: let each step ahead have a constant of its own, which is not penalised.
        covariates: read the known covariates that the table's owner declared.
        stride: learn from every so many-th training window of each series.
        windows: learn from no more training windows than about so many; the stride grows.
    """

    context: PositiveInt | Annotated[tuple[PositiveInt, ...], OneOrMore] = tunable(
        336, (96, 192, 336, 512, 720)
    )
    normalisation: Normalisation | Annotated[tuple[Normalisation, ...], OneOrMore] = tunable(
        "last", NORMALISATIONS
    )
    penalty: NonNegativeFloat | Annotated[tuple[NonNegativeFloat, ...], OneOrMore] = (
        1.0,
        300.0,
        1e4,
        1e5,
    )
    intercept: bool = True
    covariates: bool = True
    stride: PositiveInt = 1
    windows: PositiveInt = 300_000


@dataclass(frozen=True)
class Solution:
    """One solved map.

    Attributes:
        weight: of each input, for each step ahead.
        intercept: of each step ahead.
        penalty: what it was solved with.
    """

    weight: Float[Tensor, "inputs horizon"]
    intercept: Float[Tensor, " horizon"]
    penalty: float


class Ridge:
    """Linear map from context to horizon with a penalty on its squared weights."""

    def __init__(self, config: RidgeConfig) -> None:
        self.config = config
        self.context = _several(config.context)[0]
        self.normalisation = _several(config.normalisation)[0]
        self.solution = Solution(torch.zeros(self.context, 1), torch.zeros(1), 0.0)
        self.validation_mse = float("nan")

    def fit(
        self, series: SeriesSet, train: Origins, valid: Origins | None, shape: WindowShape
    ) -> Self:
        """Solve on the training windows; the validation windows choose between settings.

        Windows in which a value is missing, or that begin before their series does, teach nothing,
        unless fewer are complete than the map has inputs: then all teach, with the values that
        stand in for the missing ones. Without validation windows the first context and
        normalisation stand, and the strongest penalty.

        Raises:
            InputError: there is no training window.
        """
        if not len(train):
            raise InputError(
                f"ridge: no window with {shape.horizon} steps ahead lies within the training rows;"
                " accepted are longer series or a shorter horizon"
            )
        train = _thinned(train, self.config)
        penalties = _several(self.config.penalty)
        chosen = valid if valid is not None and len(valid) else None
        tried = product(_several(self.config.context), _several(self.config.normalisation))
        for number, (context, normalisation) in enumerate(tried):
            if number and chosen is None:
                break
            plan = _Plan(
                context, shape.horizon, normalisation, self._n_known(series, context, shape)
            )
            sums = plan.sums(series, train, least=plan.inputs)
            solutions = _solved(sums, plan.inputs, penalties, intercept=self.config.intercept)
            if chosen is None:
                best, mse = max(solutions, key=lambda one: one.penalty), float("nan")
            else:
                held_out = plan.sums(series, chosen, least=1)
                errors = [held_out.mse(one) for one in solutions]
                mse = min(errors)
                best = solutions[errors.index(mse)]
            if not number or mse < self.validation_mse:
                self.context, self.normalisation = context, normalisation
                self.solution, self.validation_mse = best, mse
        return self

    def predict(self, batch: WindowBatch) -> Forecast:
        """Return the linear forecast; it has no quantiles."""
        return Forecast(point=self.ahead(batch.window))

    def ahead(self, window: Window) -> Float[Tensor, "batch channels horizon"]:
        """Return one number for each step ahead, from the window's last steps."""
        weight = self.solution.weight.to(window.context)
        intercept = self.solution.intercept.to(window.context)
        x, level = _inputs(window, self._plan())
        return x @ weight + intercept + level

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return weights, intercept and what was chosen."""
        return {
            "weight": self.solution.weight.cpu().numpy(),
            "intercept": self.solution.intercept.cpu().numpy(),
            "context": np.array([self.context]),
            "normalisation": np.array([NORMALISATIONS.index(self.normalisation)]),
            "penalty": np.array([self.solution.penalty]),
            "validation_mse": np.array([self.validation_mse]),
        }

    def restore(self, arrays: dict[str, npt.NDArray[Any]]) -> Self:
        """Take weights, intercept and what was chosen."""
        weight, intercept = (torch.from_numpy(arrays[k]) for k in ("weight", "intercept"))
        self.solution = Solution(weight, intercept, float(arrays["penalty"][0]))
        self.context = int(arrays["context"][0])
        self.normalisation = NORMALISATIONS[int(arrays["normalisation"][0])]
        self.validation_mse = float(arrays["validation_mse"][0])
        return self

    def _plan(self) -> "_Plan":
        inputs, horizon = self.solution.weight.shape
        n_known = (inputs - self.context) // (self.context + horizon)
        return _Plan(self.context, horizon, self.normalisation, n_known)

    def _n_known(self, series: SeriesSet, context: int, shape: WindowShape) -> int:
        """Return how many covariates enter: those that were declared, or none."""
        n_known = series.known.shape[1] if self.config.covariates else 0
        fits = context + n_known * (context + shape.horizon) <= MOST_INPUTS
        return n_known if fits else 0


@dataclass(frozen=True)
class _Sums:
    """Sums over windows that hold all that a squared error and its minimum need.

    Attributes:
        products: of inputs with inputs, and then with targets.
        total: of inputs and then targets.
        squares: of the targets.
        count: how many windows.
    """

    products: Float[Tensor, "inputs both"]
    total: Float[Tensor, " both"]
    squares: Float[Tensor, ""]
    count: int

    def mse(self, found: Solution) -> float:
        """Return the mean squared error of a solution on the windows."""
        weight, intercept = found.weight, found.intercept
        inputs, horizon = weight.shape
        gram, cross = self.products.tensor_split([inputs], 1)
        x, y = self.total.tensor_split([inputs])
        error = self.squares + (weight * (gram @ weight - 2.0 * cross)).sum()
        error += intercept @ (self.count * intercept + 2.0 * (x @ weight - y))
        return error.item() / (self.count * horizon)


@dataclass(frozen=True)
class _Plan:
    """What is read of a window."""

    context: int
    horizon: int
    normalisation: Normalisation
    n_known: int

    @property
    def inputs(self) -> int:
        """Rows of the weight matrix."""
        return self.context + self.n_known * (self.context + self.horizon)

    def sums(self, series: SeriesSet, chosen: Origins, *, least: int) -> _Sums:
        """Return the sums over complete windows, or over all if fewer than ``least`` are."""
        found = self._summed(series, chosen, complete=True)
        return self._summed(series, chosen, complete=False) if found.count < least else found

    def _summed(self, series: SeriesSet, chosen: Origins, *, complete: bool) -> _Sums:
        both = self.inputs + self.horizon
        zeros = torch.zeros(self.inputs + 1, both, dtype=torch.float64, device=series.values.device)
        products, total, squares, count = zeros[1:], zeros[0], zeros[0, 0].clone(), 0
        for pairs, whole in self._pairs(series, chosen):
            kept = pairs[whole] if complete and whole is not None else pairs
            products.addmm_(kept[:, : self.inputs].mT, kept)
            total += kept.sum(0)
            squares += kept[:, self.inputs :].square().sum()
            count += len(kept)
        return _Sums(products, total, squares, count)

    def _pairs(
        self, series: SeriesSet, chosen: Origins
    ) -> Iterator[tuple[Float[Tensor, "windows both"], Bool[Tensor, " windows"] | None]]:
        """Yield inputs beside normalised targets, and which windows are complete, in batches."""
        channels = series.n_series if chosen.mixing else 1
        held = channels * (self.inputs + self.horizon)
        size = max(1, NUMBERS_PER_BATCH // held)
        for batch in in_order(
            series, chosen, context=self.context, horizon=self.horizon, windows_per_batch=size
        ):
            window = replace(batch.window, context=batch.window.context.double())
            x, level = _inputs(window, self)
            pairs = torch.cat([x, batch.target - level], -1).flatten(0, 1)
            yield pairs, None if batch.real is None else batch.real.all(-1).flatten()


def _inputs(
    window: Window, plan: _Plan
) -> tuple[Float[Tensor, "batch channels inputs"], Float[Tensor, "batch channels #context"]]:
    """Return what the map reads, and the level that was subtracted."""
    context = window.context[..., -plan.context :]
    if plan.normalisation == "last":
        level = context[..., -1:]
    elif plan.normalisation == "mean":
        level = context.mean(-1, keepdim=True)
    else:
        level = torch.zeros_like(context[..., -1:])
    known = window.known[:, :, -plan.context - plan.horizon :, : plan.n_known]
    return torch.cat([context - level, known.flatten(-2)], -1), level


def _solved(
    sums: _Sums, inputs: int, penalties: tuple[float, ...], *, intercept: bool
) -> list[Solution]:
    """Return the map of least squared error plus penalty, for each penalty."""
    gram, cross = sums.products.tensor_split([inputs], 1)
    x, y = (sums.total / sums.count if intercept else 0.0 * sums.total).tensor_split([inputs])
    values, vectors = torch.linalg.eigh(gram - sums.count * torch.outer(x, x))
    rotated = vectors.mT @ (cross - sums.count * torch.outer(x, y))
    # Directions in which nothing varies, such as the last value less itself, get no weight.
    nothing = values[-1].clamp_min(0.0) * inputs * torch.finfo(values.dtype).eps
    found = []
    for penalty in penalties:
        scale = values.clamp_min(0.0) + penalty
        inverse = torch.where(scale > nothing, 1.0 / scale, 0.0)
        weight = vectors @ (inverse[:, None] * rotated)
        found.append(Solution(weight, y - x @ weight, penalty))
    return found


def _thinned(train: Origins, config: RidgeConfig) -> Origins:
    """Return every so many-th window of each series."""
    every = max(config.stride, -(-len(train) // config.windows))
    return replace(train, count=-(-train.count // every), stride=train.stride * every)


def _several(value: Any) -> tuple[Any, ...]:  # noqa: ANN401
    return value if isinstance(value, tuple) else (value,)


BASELINE = Baseline(
    task="forecasting",
    config=RidgeConfig,
    build=Ridge,
    paper=Paper(
        title="An Analysis of Linear Time Series Forecasting Models",
        authors="Toner, Darlow",
        year=2024,
        url="https://arxiv.org/abs/2403.14587",
    ),
)
