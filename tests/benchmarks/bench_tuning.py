"""Trials a minute with one and two processes, and what a search gains over a recipe's own settings.

The rate is of the embedded sample with small models, whole calls with all that they load, and every
trial trained to its end. The gain is of validation rows of ASSISTments 2009 on its published fold,
over the same seeds of both; prints JSON.

    python tests/benchmarks/bench_tuning.py rate --trials 24
    KT_FORECAST_DATA=path python tests/benchmarks/bench_tuning.py gain --hours 2 --workers 2
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does

from kt_forecast.experiment import shipped
from kt_forecast.experiment.tuning import Tuned, tune
from kt_forecast.experiment.which import read_recipe
from kt_forecast.tuning import Search

SMALL = {
    "settings": {"width": [16, 32], "layers": 1, "heads": 2, "expansion": [1, 2]},
    "tracing": {"scheme": "two_stream", "neighbours": 0, "identity": [0, 16]},
    "training": {"steps_per_batch": 2048},
}
"""Fields of the sample's search, so that trials are alike in cost."""


def rate(trials: int, epochs: int, workers: int) -> dict[str, Any]:
    changes = {
        "model": {"settings": {"width": 32, "heads": 2}},
        "training": {"epochs": epochs, "patience": epochs},
        "tracking": {"enabled": False},
        "search": SMALL,
    }
    recipe = read_recipe(shipped("demo")).changed(changes, "bench")
    how = Search(trials=trials, seeds=1, pruner="none", sampler="tpe")
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        found = tune(recipe, how, runs=Path(folder), workers=workers, device="cpu", say=_silent)
        seconds = time.perf_counter() - begun
    study = found.record.study
    return {
        "workers": workers,
        "trials": len(study.trials),
        "completed": study.count("complete"),
        "seconds": round(seconds, 1),
        "trials_a_minute": round(60 * len(study.trials) / seconds, 2),
    }


def gain(
    recipe: str, how: Search, workers: int, sets: list[str], runs: Path, *, bare: bool
) -> dict[str, Any]:
    chosen = read_recipe(shipped(recipe))
    if bare:
        kept = {"model", "tracing", "forecasting", "training", "search", "members"}
        plain = chosen.model_dump(mode="json", exclude_unset=True, exclude=kept)
        chosen = type(chosen).parse(plain | {"model": {"system": chosen.model.system}}, recipe)
    chosen = chosen.with_sets(sets)
    begun = time.perf_counter()
    found: Tuned = tune(chosen, how, runs=runs, workers=workers)
    record, study = found.record, found.record.study
    assert study.best is not None
    assert record.default is not None
    return {
        "recipe": recipe,
        "from": "the system's defaults" if bare else "the recipe's settings",
        "workers": workers,
        "hours": round((time.perf_counter() - begun) / 3600, 3),
        "trials": len(study.trials),
        "pruned": study.count("pruned"),
        "trials_a_minute": round(60 * len(study.trials) / (time.perf_counter() - begun), 3),
        "metric": record.metric,
        "recipe_by_seed": record.default.by_seed,
        "winner_by_seed": study.best.by_seed,
        "gain": round(record.gain, 5),
        "changed": {name: [old, new] for name, old, new in study.changed},
        "report": str(found.folder / "report.html"),
    }


def _silent(sentence: str) -> None:
    del sentence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["rate", "gain"])
    parser.add_argument("--trials", type=int)
    parser.add_argument("--hours", type=float)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--recipe", default="assist2009_gpt")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--finalists", type=int, default=3)
    parser.add_argument(
        "--defaults", action="store_true", help="begin with none of the recipe's own settings"
    )
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("--runs", type=Path, default=Path("mlruns"))
    asked = parser.parse_args()
    if asked.what == "rate":
        found: Any = [rate(asked.trials or 24, asked.epochs, workers) for workers in (1, 2)]
    else:
        how = Search.of(
            {name: getattr(asked, name) for name in ("trials", "hours", "seeds", "finalists")}
        )
        found = gain(asked.recipe, how, asked.workers, asked.sets, asked.runs, bare=asked.defaults)
    print(json.dumps({"cpus": os.cpu_count(), asked.what: found}, indent=1))


if __name__ == "__main__":
    main()
