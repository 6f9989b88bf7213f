"""Streams along series: equal to one pass, cut off where the settings say, trained end to end."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from kt_forecast.data.series.load import load
from kt_forecast.data.series.splits import ByLast, split
from kt_forecast.errors import InputError
from kt_forecast.evaluation.predicting import hidden, predict, predicted
from kt_forecast.evaluation.streaming import Streamed
from kt_forecast.forecaster import fit_plan, plan
from kt_forecast.sequences.series import SeriesSet, WindowShape
from kt_forecast.sequences.stretches import SeriesStretches, along, on_rows
from kt_forecast.sequences.windows import Origins, gather
from kt_forecast.tasks.forecasting import ForecastingConfig, SeriesForecaster
from kt_forecast.training.loop import Loss
from tests.contract.systems import STREAMING, SYSTEMS, generic, settings

QUICK = {
    "compressive_transformer",
    "gpt",
    "mamba",
    "rmt",
    "transformer_xl",
    "universal_transformer",
}
SOME = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in STREAMING]
"""Mixers are held to their states on their own; some of each kind show that the task is too."""

PATCH, HORIZON, LENGTHS = 4, 3, (45, 30)


def drawn(*, gaps=False):
    draw = torch.Generator().manual_seed(0)

    def number(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    rows = sum(LENGTHS)
    return SeriesSet(
        values=number(rows) + 3.0,
        observed=torch.rand(rows, generator=draw) > 0.2 if gaps else None,
        start=torch.tensor([0, *LENGTHS]).cumsum(0),
        past=number(rows, 1),
        known=number(rows, 1),
        clock=number(100, 2),
        tick=torch.tensor([0, 5]),
        static=number(len(LENGTHS), 2),
        shift=torch.zeros(len(LENGTHS)),
        spread=torch.ones(len(LENGTHS)),
    )


def forecaster(name, *, gaps=False, mixing=False, **changes):
    asked = {"context": 40, "horizon": HORIZON, "patch": PATCH, "dense": True, "mixing": mixing}
    task = ForecastingConfig.model_validate(asked | changes)
    shape = WindowShape(
        context=40,
        horizon=HORIZON,
        past=1,
        known=3,
        static=2,
        gaps=gaps,
        channels=2 if mixing else 1,
    )
    torch.manual_seed(0)
    model = SeriesForecaster(SYSTEMS[name], settings(name), task, shape)
    return generic(model.double()).eval()


def in_one_pass(model, series, chosen):
    """Forecast each window with all patches before it as its context."""
    found, context = [], model.context
    for number in np.arange(len(chosen)):
        _, row = chosen.at(np.array([number]))
        model.context = -(-int(row[0]) // PATCH) * PATCH
        shape = {"context": model.context, "horizon": HORIZON}
        batch = hidden(gather(series, chosen, np.array([number]), **shape))
        found.append(model.predict(batch).point.detach())
    model.context = context
    return torch.cat(found)


CHOSEN = Origins(np.array([1, 2]), np.array([42, 26]), stride=1)


@pytest.mark.parametrize("name", SOME)
def test_forecasts_along_series_equal_one_pass(name):
    model, series = forecaster(name), drawn()
    expected = in_one_pass(model, series, CHOSEN)
    found = torch.full_like(expected, torch.nan)
    for seen in predicted(Streamed(model, segment=8), series, CHOSEN, horizon=HORIZON):
        found[seen.numbers] = seen.forecast.point
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert expected.std() > 0.01


@pytest.mark.parametrize(
    "changes",
    [
        {"normalisation": "none"},
        {"normalisation": "last", "linear": 6},
        {"gaps": True, "linear": 6},
        {"output": "quantile", "levels": (0.1, 0.5, 0.9)},
        {"covariates": False},
    ],
)
def test_every_way_to_forecast_goes_along_series(changes):
    model, series = forecaster("rmt", **changes), drawn(gaps=changes.get("gaps", False))
    numbers = np.array([40, 3, 66])
    found = predict(Streamed(model, segment=8), series, CHOSEN, numbers, horizon=HORIZON)
    expected = in_one_pass(model, series, CHOSEN)[numbers]
    torch.testing.assert_close(found.forecast.point, expected, rtol=0, atol=1e-10)
    assert torch.equal(found.target, predict(model, series, CHOSEN, numbers, horizon=3).target)


def test_series_that_share_tokens_go_along_together():
    model, series = forecaster("rmt", mixing=True), drawn()
    even = replace(series, start=torch.tensor([0, 30, 60]), tick=torch.zeros(2).long())
    chosen = Origins(np.array([1]), np.array([27]), mixing=True)
    found = [p.forecast.point for p in predicted(Streamed(model), even, chosen, horizon=HORIZON)]
    numbers = [p.numbers for p in predicted(Streamed(model), even, chosen, horizon=HORIZON)]
    expected = in_one_pass(model, even, chosen)[np.concatenate(numbers)]
    torch.testing.assert_close(torch.cat(found), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", SOME)
def test_gradients_through_all_segments_of_series_are_those_of_one(name):
    model, series = forecaster(name).train(), drawn()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    streams = along(series, np.array(LENGTHS), patch=PATCH, horizon=HORIZON, mixing=False)

    def gradients(segment, carried):
        model.zero_grad()
        sizes = {"segment": segment, "carried": carried, "steps": 2 * segment * carried}
        total, count, state = 0.0, 0.0, None
        for stretch in SeriesStretches(streams, patch=PATCH, **sizes).epoch(1):
            part, number, state = Loss(model)(stretch, state)
            state = on_rows(state, stretch.stays, torch.Tensor.detach)
            part.backward()
            total, count = total + part.item(), count + number.item()
        flat = [torch.zeros(1) if p.grad is None else p.grad for p in model.parameters()]
        return total, count, torch.cat([g.double().flatten() for g in flat])

    whole, parts = gradients(48, 1), gradients(8, 6)
    assert parts[:2] == pytest.approx(whole[:2], rel=1e-10)
    assert whole[1] == sum((n - HORIZON) // PATCH for n in LENGTHS) * HORIZON
    torch.testing.assert_close(parts[2], whole[2], rtol=1e-7, atol=1e-8)
    cut = gradients(8, 1)
    assert cut[0] == pytest.approx(whole[0], rel=1e-10)
    assert (cut[2] - whole[2]).abs().max() > 1e-6


def table(rows=160):
    random = np.random.default_rng(0)
    stamps = np.datetime64("2024-01-01", "us") + np.arange(rows) * np.timedelta64(1, "h")
    frames = [
        pl.DataFrame(
            {
                "unique_id": f"s{i}",
                "ds": stamps[: rows - 20 * i],
                "y": np.sin(np.arange(rows - 20 * i) / 4) + random.normal(size=rows - 20 * i) / 5,
            }
        )
        for i in range(2)
    ]
    return load(pl.concat(frames))


TASK = {"horizon": 4, "context": 16, "patch": 4, "dense": True, "windows_per_batch": 8}
CARRIED = {"epochs": 3, "segment": 16, "carried": 2}


def test_a_forecaster_trained_along_series_is_judged_and_asked_along_them():
    series = table()
    roles = split(series, ByLast(valid=16, test=8))
    fitted = fit_plan(
        plan("rmt", {"width": 16, "heads": 2, "segment": 4}, TASK, CARRIED),
        series,
        roles,
        levels=(0.9,),
        device="cpu",
    )
    assert fitted.carries
    assert fitted.epochs[-1].loss < fitted.epochs[0].loss
    ahead = fitted.forecast(series)
    assert np.isfinite(ahead.point).all()
    assert (ahead.quantiles[..., 0] < ahead.quantiles[..., -1]).all()
    # What lies further back than the context still tells.
    y = series.y.copy()
    y[:100] += 3.0
    assert np.abs(fitted.forecast(replace(series, y=y)).point[0] - ahead.point[0]).max() > 1e-4


@pytest.mark.parametrize(
    ("system", "task", "message"),
    [
        ("rmt", TASK | {"dense": False}, "accept dense = true"),
        ("rmt", TASK | {"patch": 3}, "accepted are multiples of forecasting.patch"),
        ("dlinear", {"horizon": 4, "context": 16}, "keeps no state"),
    ],
)
def test_what_cannot_go_along_series_is_refused(system, task, message):
    with pytest.raises(InputError, match=message):
        plan(system, None, task, CARRIED)
