"""Simulated demand: the same for a seed, small, and worth reading covariates for."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from kt_forecast.data.cards import CARDS_VARIABLE
from kt_forecast.data.series.load import load
from kt_forecast.data.series.simulate import SeriesSimulation, simulate, write
from kt_forecast.data.series.splits import ByShare, split

DATASETS = Path(__file__).parents[2] / "datasets"
HORIZON, CONTEXT, DAY = 48, 168, 24


def test_the_embedded_sample_is_the_simulation_of_its_defaults(tmp_path, monkeypatch):
    monkeypatch.setenv(CARDS_VARIABLE, str(DATASETS))
    write(simulate(SeriesSimulation()), tmp_path / "demand.csv.gz")
    kept = DATASETS / "series_sample" / "demand.csv.gz"
    assert kept.stat().st_size < 400_000
    again, embedded = (pl.read_csv(path) for path in (tmp_path / "demand.csv.gz", kept))
    assert again.equals(embedded)
    table = load("series_sample")
    assert (table.n_series, table.n_rows, table.frequency.text) == (12, 12 * 90 * 24, "1h")
    assert table.future_names == ("temperature", "holiday")
    assert table.static_names == ("building=home", "building=office", "building=shop")
    assert table.notes == ()
    found = split(table, ByShare())
    holiday = table.future[:, 1][: table.length[0]]
    assert holiday[: found.train_end[0]].any()
    assert holiday[found.valid_end[0] :].any()


def test_a_seed_makes_the_series():
    small = SeriesSimulation(series=2, days=14)
    assert simulate(small).equals(simulate(small))
    assert not simulate(small).equals(simulate(SeriesSimulation(series=2, days=14, seed=1)))
    assert simulate(small).height == 2 * 14 * 24


@pytest.fixture(scope="module")
def windows():
    """Standardised windows: context, target, and what was known in advance, train and test."""
    frame = simulate(SeriesSimulation())
    n_series = frame["unique_id"].n_unique()
    y = frame["y"].to_numpy().reshape(n_series, -1)
    cut = int(0.7 * y.shape[1])
    y = (y - y[:, :cut].mean(1, keepdims=True)) / y[:, :cut].std(1, keepdims=True)
    known = frame.select("temperature", "holiday").to_numpy().reshape(n_series, -1, 2)
    roles = (
        range(CONTEXT, cut - HORIZON, 3),
        range(int(0.8 * y.shape[1]), y.shape[1] - HORIZON, 3),
    )
    found = []
    for role in roles:
        pairs = [(series, origin) for series in range(n_series) for origin in role]
        context = np.stack([y[s, o - CONTEXT : o] for s, o in pairs])
        target = np.stack([y[s, o : o + HORIZON] for s, o in pairs])
        ahead = np.stack([known[s, o - DAY : o + HORIZON] for s, o in pairs])
        found.append((context, target, ahead, np.array([o % 168 for _, o in pairs])))
    return found


def ridge(train, test, penalty=10.0):
    (x, y), x_test = train, test
    return x_test @ np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)


def test_what_is_known_in_advance_is_worth_reading(windows):
    """Regress what a ridge leaves on the covariates' change since the last day, by clock hour."""
    (x, y, ahead, place), (x_test, y_test, ahead_test, place_test) = windows

    def change(known, place):
        now, before = known[:, DAY:], np.tile(known[:, :DAY], (1, HORIZON // DAY, 1))
        bent = [
            np.stack(
                [np.maximum(0, part[..., 0] - 21), np.maximum(0, 13 - part[..., 0]), part[..., 1]]
            )
            for part in (now, before)
        ]
        features = np.moveaxis(bent[0] - bent[1], 0, -1)[..., None, :]
        clock = np.eye(DAY)[(place[:, None] + np.arange(HORIZON)) % DAY][..., None]
        return (clock * features).reshape(-1, DAY * 3)

    def alone(context):
        last = context[:, -1:]
        return last + ridge((x - x[:, -1:], y - x[:, -1:]), context - last)

    rest = (y - alone(x)).reshape(-1, 1)
    read = ridge((change(ahead, place), rest), change(ahead_test, place_test))
    guesses = {
        "naive": np.tile(x_test[:, -DAY:], HORIZON // DAY),
        "alone": alone(x_test),
        "aware": alone(x_test) + read.reshape(-1, HORIZON),
    }
    error = {name: float(((guess - y_test) ** 2).mean()) for name, guess in guesses.items()}
    assert error["alone"] < error["naive"]
    assert error["aware"] < 0.8 * error["alone"]
