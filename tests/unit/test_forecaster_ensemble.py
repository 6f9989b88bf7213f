import json

import numpy as np
import polars as pl
import pytest
import torch

from kt_forecast.data.series.load import load as load_series
from kt_forecast.data.series.splits import ByLast, split
from kt_forecast.errors import InputError
from kt_forecast.experiment.forecasting import plans
from kt_forecast.experiment.recipe_forecast import ForecastRecipe
from kt_forecast.forecaster import Forecaster, load
from kt_forecast.forecaster.auditing import audit_forecaster
from kt_forecast.forecaster.ensemble import Ensemble
from kt_forecast.forecaster.fitting import Fitted, fit_plan, valid_origins
from kt_forecast.forecaster.systems import plan
from kt_forecast.sequences.windows import gather

H = 6
TASK = {"horizon": H, "context": 24, "patch": 6, "windows_per_epoch": 256, "windows_per_batch": 64}
LOOP = {"epochs": 1, "learning_rate": 3e-3}
SMALL = {"width": 16, "heads": 2}
MEMBERS = (
    {"forecasting": {"normalisation": "last", "context": 36}},
    {"system": "ridge", "settings": {"context": 30, "penalty": 10.0}},
    {
        "system": "nlinear",
        "training": {"epochs": 1},
        "forecasting": {"context": 24, "windows_per_epoch": 128},
    },
)


def chosen(members=MEMBERS, seed=0):
    return plan("gpt", SMALL, TASK, LOOP, seed=seed, members=members)


@pytest.fixture(scope="module")
def frame():
    random = np.random.default_rng(0)
    n = 140
    parts = []
    for i in range(3):
        y = 20 + 5 * np.sin(2 * np.pi * np.arange(n) / 12) + random.normal(size=n)
        stamps = np.datetime64("2024-01-01", "us") + np.arange(n) * np.timedelta64(1, "h")
        parts.append(pl.DataFrame({"unique_id": [f"s{i}"] * n, "ds": stamps, "y": y}))
    return pl.concat(parts)


@pytest.fixture(scope="module")
def fitted(frame):
    table = load_series(frame)
    return fit_plan(chosen(), table, split(table, ByLast(valid=20, test=20)), levels=(0.9,))


def batch_of(fitted, frame):
    table = load_series(frame)
    roles = split(table, ByLast(valid=20, test=20))
    series = fitted.build(table)
    valid = valid_origins(fitted.plan, series, roles)
    places = np.arange(4, dtype=np.int64)
    return gather(series, valid, places, context=fitted.context, horizon=H)


def test_the_forecast_is_the_mean_of_members_that_were_trained_each_by_itself(fitted, frame):
    assert isinstance(fitted.model, Ensemble)
    assert fitted.context == 36
    batch = batch_of(fitted, frame)
    found = fitted.predict(batch).point
    alone = []
    table = load_series(frame)
    roles = split(table, ByLast(valid=20, test=20))
    for member in (fitted.plan, *fitted.plan.members):
        one = fit_plan(plan(**(member.plain() | {"members": ()})), table, roles, levels=())
        alone.append(one.predict(batch).point)
    assert len(alone) == 4
    assert not torch.equal(alone[0], alone[1])
    torch.testing.assert_close(found, torch.stack(alone).mean(0))
    assert [part["system"] for part in fitted.facts["members"]] == [
        "gpt",
        "gpt",
        "ridge",
        "nlinear",
    ]


def test_members_of_the_same_settings_differ_by_their_seeds():
    one = plan("gpt", SMALL, TASK, LOOP, members=[{}, {"seed": 7}])
    seeds = [one.seed, *(member.seed for member in one.members)]
    assert len(set(seeds)) == 3
    assert seeds[2] == 7
    others = plan("gpt", SMALL, TASK, LOOP, seed=1, members=[{}])
    assert not {others.seed, others.members[0].seed} & set(seeds)


def test_a_member_of_another_system_takes_over_the_horizon_alone():
    ridge, linear = chosen().members[1:]
    assert (ridge.horizon, ridge.forecasting.context, ridge.training) == (H, 30, None)
    assert linear.forecasting.patch != TASK["patch"]
    assert linear.training.epochs == 1


def test_an_ensemble_comes_back_with_the_same_bits(fitted, frame, tmp_path):
    fitted.save(tmp_path)
    again = Fitted.load(tmp_path, device="cpu")
    assert again.plan == fitted.plan
    batch = batch_of(fitted, frame)
    assert torch.equal(again.predict(batch).point, fitted.predict(batch).point)
    assert again.n_parameters == fitted.n_parameters
    assert json.dumps(again.facts["members"]) == json.dumps(fitted.facts["members"])


def test_an_ensemble_is_audited_through_every_member(fitted, frame):
    batch = batch_of(fitted, frame)
    assert audit_forecaster(fitted.model, batch).verdict in {"proved", "conditional"}

    class Peeks:
        context = 24

        def predict(self, batch):
            found = fitted.model.models[2].predict(batch)
            return type(found)(found.point + 1e-3 * batch.values[..., -1:])

    leaking = Ensemble((*fitted.model.models, Peeks()))
    assert audit_forecaster(leaking, batch).verdict == "leak"


def test_a_forecaster_takes_members_and_keeps_its_intervals(frame, tmp_path):
    forecaster = Forecaster(
        "gpt", H, context=24, settings=SMALL, forecasting={"patch": 6}, training=LOOP,
        members=[{"system": "ridge"}], season=12,
    ).fit(frame)  # fmt: skip
    found = forecaster.predict()
    assert {"gpt", "gpt-lo-90", "gpt-hi-90"} <= set(found.columns)
    forecaster.save(tmp_path)
    assert load(tmp_path).predict(frame).equals(found)


@pytest.mark.parametrize(
    ("members", "task", "sentence"),
    [
        ([["ridge"]], {}, r"members\[1\]"),
        ([{"sytem": "ridge"}], {}, r"members\[1\]: .*'system'"),
        ([{}], {"output": "quantile"}, "accepted is 'point'"),
        ([{}, {"forecasting": {"calendar": True}}], {}, r"members\[2\]: forecasting.calendar"),
        ([{"system": "item_mean"}], {}, "item_mean"),
    ],
)
def test_members_that_cannot_be_averaged_are_refused(members, task, sentence):
    with pytest.raises(InputError, match=sentence):
        plan("gpt", SMALL, TASK | task, LOOP, members=members)


def test_a_recipe_names_members_and_another_system_leaves_them_behind(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        """
task = "forecasting"
[data]
source = "series_sample"
[model]
system = "gpt"
[forecasting]
horizon = 6
[[members]]
system = "ridge"
[[members]]
forecasting = {normalisation = "last"}
"""
    )
    recipe = ForecastRecipe.read(path)
    found, _ = plans(recipe)
    assert [member.name for member in found.members] == ["ridge", "gpt"]
    assert found.members[1].forecasting.normalisation == "last"
    path.write_text(recipe.to_toml())
    assert plans(ForecastRecipe.read(path))[0] == found
    assert plans(recipe.with_system("nlinear", trained=True))[0].members == ()
