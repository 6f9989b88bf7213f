"""Recipes with segments, from the file to the report: trained, audited, scored as streams."""

import json

import pytest

from kt_forecast.errors import InputError
from kt_forecast.experiment import flow, forecasting
from kt_forecast.experiment.recipe import Recipe
from kt_forecast.experiment.recipe_base import shipped
from kt_forecast.experiment.recipe_forecast import ForecastRecipe

QUICK = {"tracking": {"enabled": False}, "evaluation": {"bootstraps": 20}}


def told(run):
    audit = json.loads((run.folder / "audit.json").read_text())
    record = json.loads((run.folder / "record.json").read_text())
    return audit, {one["name"]: one["model"] for one in record["protocols"]}, record


@pytest.mark.slow
def test_students_in_segments_are_audited_and_score_as_in_one_pass(tmp_path):
    changes = {
        "model": {"system": "rmt", "settings": {"width": 16, "heads": 2, "segment": 8}},
        "tracing": {"scheme": "shifted", "neighbours": 0, "identity": 0},
        "training": {"epochs": 1, "segment": 12, "carried": 2},
        "evaluation": {"protocols": ["full", "stream"]},
        "baselines": {"systems": []},
    }
    recipe = Recipe.read(shipped("demo")).changed(QUICK, "test").changed(changes, "test")
    run = flow.run_one(recipe, runs=tmp_path, device="cpu", say=lambda _: None)
    audit, scores, record = told(run)
    assert audit["verdict"] != "leak"
    assert record["settings"]["training"]["segment"] == 12
    assert scores["stream"]["auc"]["value"] == pytest.approx(
        scores["full"]["auc"]["value"], abs=1e-5
    )


def test_series_in_segments_are_audited_and_scored_along_them(tmp_path):
    changes = {
        "model": {"system": "rmt", "settings": {"width": 16, "heads": 2, "segment": 2}},
        "forecasting": {"dense": True, "linear": 24},
        "training": {"epochs": 1, "segment": 96, "carried": 2},
        "evaluation": {"protocols": ["stream"]},
        "baselines": {"systems": []},
    }
    recipe = ForecastRecipe.read(shipped("demo_forecast"))
    recipe = recipe.changed(QUICK, "test").changed(changes, "test")
    run = forecasting.run_one(recipe, runs=tmp_path, device="cpu", say=lambda _: None)
    audit, scores, _ = told(run)
    assert audit["verdict"] != "leak"
    stages = {one["name"]: one["outcome"] for one in audit["stages"]}
    assert stages["scoring: along series"] == "passed"
    (score,) = scores.values()
    assert 0.0 < score["mse"]["value"] < 3.0


def test_protocol_stream_is_refused_for_what_keeps_no_state():
    recipe = ForecastRecipe.read(shipped("demo_forecast"))
    changes = {"evaluation": {"protocols": ["stream"]}, "forecasting": {"dense": False}}
    with pytest.raises(InputError, match="dense = true"):
        forecasting.plans(recipe.changed(changes, "test"))
