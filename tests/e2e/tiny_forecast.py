"""A tiny forecaster trained in a process of its own: run by the test of torchrun."""

import json
import sys
from pathlib import Path

import numpy as np
import polars as pl

from kt_forecast.data.series.load import load
from kt_forecast.data.series.splits import ByLast, split
from kt_forecast.forecaster import fit_plan, plan
from kt_forecast.training import Checkpoint, workers

SETTINGS = {"width": 16, "heads": 2, "dropout": 0.0}
TASK = {"horizon": 4, "context": 16, "patch": 4, "windows_per_batch": 33, "windows_per_epoch": 132}
MEMBERS = ({"system": "ridge", "settings": {"context": 12, "penalty": 1.0}},)


ALONG = {"epochs": 2, "segment": 8, "carried": 2}


def trained(place: Path, form: str) -> dict[str, object]:
    """Train a forecaster by windows or along its series; return what it learnt and forecasts."""
    random = np.random.default_rng(0)
    stamps = np.datetime64("2024-01-01", "us") + np.arange(120) * np.timedelta64(1, "h")
    y = np.sin(np.arange(120) / 3) + random.normal(size=(2, 120)) / 5
    size = [120, 120] if form != "along" else [120, 70]
    frames = [
        pl.DataFrame({"unique_id": f"s{i}", "ds": stamps[:n], "y": y[i, :n]})
        for i, n in enumerate(size)
    ]
    table = load(pl.concat(frames))
    roles = split(table, ByLast(valid=16, test=8))
    chosen = plan("gpt", SETTINGS, TASK, {"epochs": 2}, members=MEMBERS)
    if form == "along":
        chosen = plan("rmt", SETTINGS | {"segment": 4}, TASK | {"dense": True}, ALONG)
    kept = Checkpoint(place, fingerprint="data", resume=True)
    fitted = fit_plan(chosen, table, roles, levels=(0.9,), checkpoint=kept, device="cpu")
    ahead = fitted.forecast(table)
    return {
        "losses": [epoch.loss for epoch in fitted.epochs],
        "metrics": [epoch.metrics["mse"] for epoch in fitted.epochs],
        "point": ahead.point.tolist(),
        "quantiles": ahead.quantiles.tolist(),
    }


def main(folder: Path) -> None:
    with workers("cpu") as group:
        found = {form: trained(folder / form, form) for form in ("windows", "along")}
        told = json.dumps({"world": group.world} | found)
        (folder / f"rank{group.rank}.json").write_text(told)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
