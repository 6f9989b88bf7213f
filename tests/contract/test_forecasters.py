"""What every system promises as a forecaster, mixers of steps and whole networks alike."""

from dataclasses import replace

import pytest
import torch
from contract.forecasters import (
    ALL,
    CHANNELS,
    CONTEXT,
    HORIZON,
    MIXERS,
    NETWORKS,
    STEP_CAUSAL,
    forecaster,
    shape,
    windows,
)
from safetensors.torch import load_file, save_file

from kt_forecast.errors import InputError
from kt_forecast.forecaster.auditing import audit_forecaster

ROWS = 4
EACH = pytest.mark.parametrize(("name", "own"), ALL)
EACH_MIXER = pytest.mark.parametrize(("name", "own"), MIXERS)


def some(pairs):
    """Mark as slow what is of the task, and so alike in all mixers, of every mixer but one."""
    marks = [pytest.mark.slow if pair in MIXERS and pair[0] != "gpt" else () for pair in pairs]
    params = [pytest.param(*pair, marks=mark) for pair, mark in zip(pairs, marks, strict=True)]
    return pytest.mark.parametrize(("name", "own"), params)


SOME = some(ALL)
SOME_MIXER = some(MIXERS)
SOME_CAUSAL = some(STEP_CAUSAL)
EACH_CAUSAL = pytest.mark.parametrize(("name", "own"), STEP_CAUSAL)
OUTPUTS = ("point", "quantile", "student_t")


def channels(model):
    return CHANNELS if model.task.mixing else 1


def batch_for(model, rows=ROWS, **covariates):
    return windows(rows, channels=channels(model), **covariates)


@pytest.mark.parametrize("output", OUTPUTS)
@SOME
def test_every_output_has_a_number_for_each_step_ahead(name, own, output):
    model = forecaster(name, own, shape(), output=output)
    batch = batch_for(model)
    found = model.predict(batch)
    assert found.point.shape == (ROWS, channels(model), HORIZON)
    assert found.point.isfinite().all()
    if output == "point":
        assert found.quantiles is None
        return
    assert found.quantiles.shape == (*found.point.shape, len(model.task.levels))
    assert (found.quantiles.diff(dim=-1) >= 0).all()
    middle = found.quantiles[..., model.task.levels.index(0.5)]
    torch.testing.assert_close(middle, found.point)


@EACH
def test_what_comes_after_the_origin_has_no_way_in(name, own):
    model = forecaster(name, own, shape(past=1, known=1, static=2))
    batch = batch_for(model, past=1, known=1, static=2)
    dark = replace(batch, values=batch.values.clone(), past=batch.past.clone())
    dark.values[..., CONTEXT:] = float("nan")
    dark.past[:, :, CONTEXT:] = float("nan")
    assert torch.equal(model.predict(dark).point, model.predict(batch).point)


@EACH
def test_the_latest_value_counts(name, own):
    model = forecaster(name, own, shape())
    batch = batch_for(model)
    other = replace(batch, values=batch.values.clone())
    other.values[0, :, CONTEXT - 1] += 1.0
    moved = model.predict(other).point != model.predict(batch).point
    assert moved[0].any()
    assert not moved[1:].any()


@pytest.mark.parametrize("dense", [False, True])
@SOME_MIXER
def test_series_are_read_together_where_they_are_mixed_and_alone_elsewhere(name, own, dense):
    batch = windows(ROWS, channels=CHANNELS, known=1)
    other = replace(batch, values=batch.values.clone())
    other.values[:, 1, CONTEXT - 1] += 1.0
    for mixing in (False, True):
        model = forecaster(name, own, shape(known=1), mixing=mixing, dense=dense)
        base = model.predict(batch).point
        assert base.shape == (ROWS, CHANNELS, HORIZON)
        moved = (model.predict(other).point != base).any(-1).all(0)
        assert moved.tolist() == [mixing, True, mixing]
        total, count = model.loss(batch)
        assert count.item() == ROWS * CHANNELS * model.task.origins * HORIZON
        assert total.isfinite()


@SOME_MIXER
def test_covariates_count_as_far_as_they_are_known(name, own):
    model = forecaster(name, own, shape(past=2, known=2, static=1))
    batch = batch_for(model, past=2, known=2, static=1)
    base = model.predict(batch).point

    def moved(what, place):
        x = getattr(batch, what).clone()
        x[(0, 0, place) if what != "static" else (0, 0)] += 1.0
        return (model.predict(replace(batch, **{what: x})).point != base).any()

    assert moved("past", CONTEXT - 1)
    assert not moved("past", CONTEXT)
    assert moved("known", CONTEXT - 1)
    assert moved("known", CONTEXT + HORIZON - 1)
    assert moved("static", 0)


@SOME
def test_covariates_that_are_not_wanted_are_not_read(name, own):
    model = forecaster(name, own, shape(past=1, known=1, static=1), covariates=False)
    plain = forecaster(name, own, shape(), covariates=False)
    batch = batch_for(model, past=1, known=1, static=1)
    assert torch.equal(model.predict(batch).point, plain.predict(batch).point)


@EACH
def test_a_window_alone_is_forecast_as_among_others(name, own):
    model = forecaster(name, own, shape())
    batch = batch_for(model)
    together = model.predict(batch).point
    for row in range(ROWS):
        alone = batch.map(lambda x, row=row: x[row : row + 1])
        torch.testing.assert_close(
            model.predict(alone).point, together[row : row + 1], atol=1e-10, rtol=0.0
        )


@EACH
def test_a_forecast_is_a_function_of_its_window(name, own):
    model = forecaster(name, own, shape())
    batch = batch_for(model)
    torch.manual_seed(1)
    first = model.predict(batch).point
    torch.manual_seed(2)
    assert torch.equal(model.predict(batch).point, first)


@pytest.mark.parametrize("normalisation", ["last", "window"])
@SOME
def test_a_higher_level_gives_a_higher_forecast(name, own, normalisation):
    model = forecaster(name, own, shape(), normalisation=normalisation)
    batch = batch_for(model)
    raised = replace(batch, values=batch.values + 100.0)
    torch.testing.assert_close(
        model.predict(raised).point, model.predict(batch).point + 100.0, atol=1e-8, rtol=0.0
    )


@EACH
def test_every_parameter_is_trained(name, own):
    model = forecaster(name, own, shape(past=1, known=1, static=1), output="quantile").train()
    total, count = model.loss(batch_for(model, past=1, known=1, static=1))
    assert float(count) == ROWS * channels(model) * HORIZON
    total.backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().any()]
    reads_all = name in {m for m, _ in MIXERS} and not own
    allowed = () if reads_all else ("known", "past", "static", "mark", "covariate", "calendar")
    assert [n for n in silent if not any(word in n for word in allowed)] == []


@pytest.mark.parametrize("normalisation", ["none", "last", "window"])
@pytest.mark.parametrize(
    ("name", "own"),
    [pytest.param(*one, marks=() if one[0] == "gpt" else pytest.mark.slow) for one in STEP_CAUSAL],
)
def test_dense_forecasts_read_nothing_after_their_origin(name, own, normalisation):
    model = forecaster(
        name,
        own,
        shape(past=1, known=1),
        dense=True,
        linear=24,
        normalisation=normalisation,
        dropout=0.1,
    )
    report = audit_forecaster(model, batch_for(model, 2, past=1, known=1), moments=4)
    assert report.findings == ()
    assert report.scope["trials"] > 0


@EACH_CAUSAL
def test_the_last_origin_of_dense_training_is_the_forecast(name, own):
    model = forecaster(name, own, shape(known=1), dense=True, linear=24)
    batch = batch_for(model, known=1)
    every = model(batch.window, origins=model.task.origins)
    assert every.shape[2] == CONTEXT // model.task.patch
    torch.testing.assert_close(every[:, :, -1, :, 0], model.predict(batch).point)


@SOME_CAUSAL
def test_dense_training_scores_the_steps_after_each_origin(name, own):
    model = forecaster(name, own, shape(), dense=True, least=24, loss="mae")
    batch = batch_for(model)
    total, count = model.loss(batch)
    out = model(batch.window, origins=model.task.origins)[..., 0]
    wanted = 0.0
    ends = range(24, CONTEXT + 1, model.task.patch)
    for place, end in enumerate(ends):
        wanted += (out[:, :, place] - batch.values[..., end : end + HORIZON]).abs().sum()
    assert float(count) == len(ends) * ROWS * HORIZON
    torch.testing.assert_close(total, wanted, check_dtype=False, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(("name", "own"), NETWORKS)
def test_a_system_that_reads_whole_windows_is_refused_dense_training(name, own):
    with pytest.raises(InputError, match="dense = false"):
        forecaster(name, own, shape(), dense=True)


@EACH_MIXER
def test_padding_on_the_left_is_not_read_and_missing_values_are_not_scored(name, own):
    model = forecaster(name, own, shape(), normalisation="window")
    batch = batch_for(model)
    real = torch.ones_like(batch.values, dtype=torch.bool)
    real[:, :, :18] = False
    real[:, :, CONTEXT + 3] = False
    short = replace(batch, real=real)
    base = model.predict(short).point
    other = replace(short, values=batch.values.clone())
    other.values[:, :, :18] = 50.0
    torch.testing.assert_close(model.predict(other).point, base, atol=1e-10, rtol=0.0)
    other.values[:, :, CONTEXT + 3] = 1e6
    total, count = model.loss(other)
    assert float(count) == ROWS * (HORIZON - 1)
    assert total.item() < 1e6


@EACH
def test_saved_weights_give_the_same_bits(name, own, tmp_path):
    model = forecaster(name, own, shape())
    batch = batch_for(model)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    other = forecaster(name, own, shape())
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    assert not torch.equal(other.predict(batch).point, model.predict(batch).point)
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(other.predict(batch).point, model.predict(batch).point)


@EACH
def test_the_audit_finds_nothing(name, own):
    model = forecaster(name, own, shape())
    report = audit_forecaster(model, batch_for(model, 3), moments=2)
    assert report.findings == ()


def test_the_audit_sees_a_forecaster_that_reads_ahead():
    model = forecaster("gpt", {}, shape())
    batch = batch_for(model)

    class Peeking:
        def predict(self, given):
            ahead = given.values[..., CONTEXT:].mean(-1, keepdim=True)
            honest = model.predict(given)
            return replace(honest, point=honest.point + 1e-6 * ahead)

    report = audit_forecaster(Peeking(), batch, moments=2)
    assert report.verdict == "leak"
    assert report.findings[0].input == "values"
