"""Ridge on the real sets lands on the published figures: loaders, borders, scale and windows."""

import os
from pathlib import Path

import pytest
from benchmarks.ridge_table import HORIZONS, PENALTY, PUBLISHED, TOLERANCE, measured

DATA = Path(os.environ.get("KT_FORECAST_DATA", Path(__file__).parents[3] / "shared" / "data"))
CELLS = [
    pytest.param(name, horizon, marks=[] if (name, horizon) == ("etth1", 96) else pytest.mark.slow)
    for name in PUBLISHED
    for horizon in HORIZONS
]
WINDOWS = {"etth1": 2880, "etth2": 2880, "ettm1": 11520, "ettm2": 11520, "weather": 10539}


@pytest.mark.parametrize(("name", "horizon"), CELLS)
def test_ridge_reaches_the_published_score(name, horizon, monkeypatch):
    if not (DATA / "series" / name).is_dir():
        pytest.skip(f"the data set {name} is not here")
    monkeypatch.setenv("KT_FORECAST_DATA", str(DATA))
    cell = measured(name, horizon, PENALTY.get((name, horizon)))
    assert cell.windows == WINDOWS[name] - horizon + 1
    published = PUBLISHED[name][HORIZONS.index(horizon)]
    assert cell.mse == pytest.approx(published, abs=TOLERANCE)
    if (name, horizon) in PENALTY:
        chosen = measured(name, horizon)
        assert chosen.validation_mse < cell.validation_mse
        assert chosen.mse < cell.mse
