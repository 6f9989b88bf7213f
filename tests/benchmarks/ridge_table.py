"""Closed-form ridge beside the figures found elsewhere: published, ours, difference.

All test windows are scored, in standardised units. A star marks a difference above the tolerance.

    python tests/benchmarks/ridge_table.py --data FOLDER [--sets etth1] [--penalty 300]
"""

import argparse
import os
import time
from dataclasses import dataclass

import numpy as np
import torch

from kt_forecast.baselines.ridge import Ridge, RidgeConfig
from kt_forecast.data.series.load import load
from kt_forecast.data.series.splits import ByProtocol, SeriesSplit, split
from kt_forecast.data.series.table import SeriesTable
from kt_forecast.sequences.series import SeriesSet, WindowShape
from kt_forecast.sequences.windows import in_order, origins

CONTEXT = 336
TOLERANCE = 0.003
HORIZONS = (96, 192, 336, 720)
PUBLISHED = {
    "etth1": (0.370, 0.403, 0.426, 0.430),
    "etth2": (0.272, 0.334, 0.359, 0.393),
    "ettm1": (0.301, 0.337, 0.371, 0.427),
    "ettm2": (0.165, 0.220, 0.280, 0.374),
    "weather": (0.175, 0.219, 0.266, 0.335),
}
STRIDE = {"etth1": 1, "etth2": 1, "ettm1": 4, "ettm2": 4, "weather": 4}
PENALTY = {("ettm2", 336): 300.0, ("ettm2", 720): 300.0}
"""Cells whose figure is that of this penalty: validation prefers another, which tests better."""


@dataclass(frozen=True)
class Cell:
    """One fitted and scored ridge."""

    mse: float
    windows: int
    penalty: float
    validation_mse: float
    seconds: float


def standardised(table: SeriesTable, roles: SeriesSplit) -> SeriesSet:
    """Return the series measured by mean and standard deviation of their training rows."""
    parts = np.split(table.y.astype(np.float64), table.start[1:-1])
    trained = [part[:end] for part, end in zip(parts, roles.train_end, strict=True)]
    shift, spread = np.array([[part.mean(), part.std()] for part in trained]).T
    values = [(part - a) / b for part, a, b in zip(parts, shift, spread, strict=True)]
    rows, n_series = len(table.y), len(parts)
    return SeriesSet(
        values=torch.from_numpy(np.concatenate(values)).float(),
        observed=None,
        start=torch.from_numpy(table.start),
        past=torch.zeros(rows, 0),
        known=torch.zeros(rows, 0),
        clock=torch.zeros(rows, 0),
        tick=torch.zeros(n_series, dtype=torch.int64),
        static=torch.zeros(n_series, 0),
        shift=torch.from_numpy(shift).float(),
        spread=torch.from_numpy(spread).float(),
    )


def measured(name: str, horizon: int, penalty: float | None = None) -> Cell:
    """Return the score of ridge on all test windows of a data set."""
    table = load(name)
    roles = split(table, ByProtocol())
    series = standardised(table, roles)
    begin = np.zeros_like(roles.train_end)
    train = origins(series, begin, roles.train_end, horizon=horizon, least=CONTEXT)
    valid = origins(series, roles.train_end, roles.valid_end, horizon=horizon)
    test = origins(series, roles.valid_end, roles.test_end, horizon=horizon)
    chosen = {} if penalty is None else {"penalty": penalty}
    started = time.perf_counter()
    ridge = Ridge(RidgeConfig(context=CONTEXT, stride=STRIDE[name], **chosen))
    ridge.fit(series, train, valid, WindowShape(context=CONTEXT, horizon=horizon))
    seconds = time.perf_counter() - started
    squares = 0.0
    for batch in in_order(series, test, context=CONTEXT, horizon=horizon):
        squares += (ridge.predict(batch).point - batch.target).double().square().sum().item()
    mse = squares / (len(test) * horizon)
    return Cell(mse, int(test.count[0]), ridge.solution.penalty, ridge.validation_mse, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="folder of the data sets; else KT_FORECAST_DATA")
    parser.add_argument("--sets", nargs="+", default=list(PUBLISHED))
    parser.add_argument("--horizons", nargs="+", type=int, default=list(HORIZONS))
    parser.add_argument("--penalty", type=float)
    args = parser.parse_args()
    if args.data:
        os.environ["KT_FORECAST_DATA"] = args.data
    print("set      ahead  windows  published  ours    difference  penalty  valid   fit s")
    for name in args.sets:
        for horizon in args.horizons:
            cell = measured(name, horizon, args.penalty)
            published = PUBLISHED[name][HORIZONS.index(horizon)]
            away = cell.mse - published
            star = "*" if abs(away) > TOLERANCE else " "
            print(
                f"{name:8} {horizon:5} {cell.windows:8}  {published:.3f}      {cell.mse:.4f}"
                f"  {away:+.4f}{star}    {cell.penalty:<7g}  {cell.validation_mse:.4f}"
                f"  {cell.seconds:.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
