"""Series, predictors and plain loops for the tests of forecasts' scores."""

import numpy as np
import torch

from kt_forecast.sequences.series import Forecast, SeriesSet

LEVELS = (0.05, 0.1, 0.5, 0.9, 0.95)


def series_set(columns, *, train=None, observed=None, tick=None):
    """Standardise columns by their first ``train`` rows, as the door does."""
    columns = [np.asarray(column, dtype=np.float64) for column in columns]
    train = train or min(len(column) for column in columns)
    shift = np.array([column[:train].mean() for column in columns])
    spread = np.array([column[:train].std() or 1.0 for column in columns])
    parts = zip(columns, shift, spread, strict=True)
    values = np.concatenate([(column - a) / b for column, a, b in parts])
    rows = len(values)
    return SeriesSet(
        values=torch.from_numpy(values).float(),
        observed=None if observed is None else torch.from_numpy(np.concatenate(observed)),
        start=torch.from_numpy(np.cumsum([0, *map(len, columns)])),
        past=torch.zeros(rows, 0),
        known=torch.zeros(rows, 0),
        clock=torch.zeros(rows, 0),
        tick=torch.tensor(tick or [0] * len(columns)),
        static=torch.zeros(len(columns), 0),
        shift=torch.from_numpy(shift).float(),
        spread=torch.from_numpy(spread).float(),
    )


def seasonal(n, season=12, seed=0, noise=0.3):
    random = np.random.default_rng(seed)
    return 5 + np.sin(2 * np.pi * np.arange(n) / season + seed) + noise * random.normal(size=n)


class Naive:
    """Repeats the last season; spreads quantiles around it when asked."""

    def __init__(self, horizon, season=12, levels=(), width=1.0):
        self.context, self.horizon = season, horizon
        self.levels, self.width = levels, width

    def predict(self, batch):
        last = batch.window.context[..., -self.context :]
        times = -(-self.horizon // self.context)
        point = last.repeat(1, 1, times)[..., : self.horizon]
        if not self.levels:
            return Forecast(point)
        normal = torch.distributions.Normal(0.0, 1.0)
        offset = self.width * normal.icdf(torch.tensor(self.levels))
        return Forecast(point, point[..., None] + offset, self.levels)
