"""The loop: what chooses the weights, what it refuses, and the arithmetic of one update."""

import errno
import json
import math
import struct
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from kt_forecast.errors import InputError, TrainingError
from kt_forecast.training import (
    Checkpoint,
    TrainingConfig,
    fit,
    parameter_groups,
    read_tensors,
    write_tensors,
)
from tests.e2e.tiny_training import PLACE, SETTINGS, TinyBatches, TinyModel, validation


def settings(**changes):
    return TrainingConfig(**(SETTINGS | changes))


def weights(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def test_training_lowers_the_loss_and_reports_every_epoch():
    model, told = TinyModel(), []
    done = fit(
        model,
        TinyBatches(),
        validation(model),
        settings(epochs=5),
        callbacks=[told.append],
        device="cpu",
    )
    assert tuple(told) == done.history
    assert [e.number for e in told] == [1, 2, 3, 4, 5]
    assert told[-1].loss < 0.8 * told[0].loss
    assert all(e.seconds > 0 and e.steps_per_second > 0 and e.learning_rate > 0 for e in told)
    assert not model.training


def test_updates_equal_those_of_the_plain_recipe():
    train, ours, hand = TinyBatches(count=4), TinyModel(), TinyModel()
    config = settings(epochs=1, warmup=0.0, schedule="constant", clip=0.1, weight_decay=0.3)
    done = fit(ours, train, validation(ours), config, device="cpu")

    groups = [
        {"params": [hand.head.weight], "weight_decay": 0.3},
        {"params": [hand.table.weight, hand.head.bias], "weight_decay": 0.0},
    ]
    plain, sums, norms = torch.optim.AdamW(groups, lr=config.learning_rate), [], []
    for batch in train.epoch(1):
        plain.zero_grad()
        total, count = hand.loss(batch)
        (total / count).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(hand.parameters(), 0.1)))
        plain.step()
        sums.append((float(total.detach()), float(count)))
    assert min(norms) > 0.1
    assert max(norms) > 1.1 * min(norms)
    mean = sum(s for s, _ in sums) / sum(n for _, n in sums)
    assert done.history[0].loss == pytest.approx(mean, rel=1e-6)
    torch.testing.assert_close(weights(ours), weights(hand), rtol=1e-5, atol=1e-7)


def test_averaging_watches_the_weights_and_does_not_disturb_them():
    def losses(ema):
        model = TinyModel()
        done = fit(model, TinyBatches(), validation(model), settings(ema=ema), device="cpu")
        return [e.loss for e in done.history]

    assert losses(0.9) == losses(0.0)


def test_weights_of_the_best_epoch_come_back_and_patience_stops():
    model, scores, seen = TinyModel(), iter([0.6, 0.5, 0.7, 0.65, 0.65, 0.9]), []

    def validate():
        seen.append(weights(model).clone())
        return {"auc": next(scores), "nll": 1.0}

    config = settings(metric="auc", direction="max", patience=2, epochs=9)
    done = fit(model, TinyBatches(), validate, config, device="cpu")
    assert (done.stopped, done.best.number, len(done.history)) == ("patience", 3, 5)
    assert torch.equal(weights(model), seen[2])
    assert not torch.equal(seen[2], seen[4])


def test_validation_and_result_use_the_averaged_weights():
    model, seen = TinyModel(), []
    score = validation(model)

    def validate():
        seen.append(weights(model).clone())
        return score()

    config = settings(epochs=1, ema=0.5)
    fit(model, TinyBatches(count=2), validate, config, device="cpu")
    first = TinyModel()
    start = weights(first).clone()
    fit(first, TinyBatches(count=2), validation(first), settings(epochs=1), device="cpu")
    after_two = weights(first)
    assert torch.equal(weights(model), seen[0])
    lowest, highest = torch.minimum(start, after_two), torch.maximum(start, after_two)
    moved = start != after_two
    assert not torch.equal(seen[0], after_two)
    inside = (seen[0] > lowest - 0.05) & (seen[0] < highest + 0.05)
    assert bool(inside[moved].all())


def test_same_seed_same_bits_other_seed_other_bits_and_caller_keeps_its_random_numbers():
    def run(seed):
        model = TinyModel(dropout=0.3)
        before = torch.get_rng_state()
        fit(model, TinyBatches(), validation(model), settings(seed=seed, epochs=1), device="cpu")
        assert torch.equal(torch.get_rng_state(), before)
        return weights(model)

    first = run(0)
    assert torch.equal(first, run(0))
    assert not torch.equal(first, run(1))


def test_learning_rate_rises_then_falls_along_the_cosine():
    model, told = TinyModel(), []
    config = settings(epochs=10, warmup=0.3, patience=99)
    batches = TinyBatches(count=1)
    fit(model, batches, validation(model), config, callbacks=[told.append], device="cpu")
    rates = [e.learning_rate / config.learning_rate for e in told]
    assert rates[:4] == pytest.approx([1 / 3, 2 / 3, 1.0, 1.0])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] == pytest.approx(0.5 + 0.5 * math.cos(math.pi * 6 / 7))


def test_only_matrices_decay_and_a_model_may_group_its_own_parameters():
    model, config = TinyModel(), settings(weight_decay=0.2)
    groups = parameter_groups(model, config)
    decaying = [p.shape for g in groups if g["weight_decay"] for p in g["params"]]
    assert decaying == [model.head.weight.shape]

    class Grouped(TinyModel):
        def parameter_groups(self, config):
            return [
                {"params": [self.table.weight], "lr": 0.0, "weight_decay": 0.0},
                {"params": list(self.head.parameters()), "weight_decay": 0.0},
            ]

    model, start = Grouped(), TinyModel()
    fit(model, TinyBatches(), validation(model), config, device="cpu")
    assert torch.equal(model.table.weight, start.table.weight)
    assert not torch.equal(model.head.weight, start.head.weight)


class Poisoned(TinyBatches):
    """The second epoch's fourth batch holds a value that is not a number."""

    def change(self, epoch, batch, rows):
        if (epoch, batch) == (2, 3):
            rows.y[0, 0] = float("nan")
        return rows


@pytest.mark.parametrize("check_updates", [1, 50])
def test_a_loss_that_is_not_finite_stops_and_names_epoch_batch_and_rows(check_updates, tmp_path):
    model, train = TinyModel(), Poisoned()
    with pytest.raises(TrainingError, match="loss is not finite in epoch 2, batch 3") as caught:
        fit(
            model,
            train,
            validation(model),
            settings(check_updates=check_updates, checkpoint_seconds=0),
            checkpoint=Checkpoint(tmp_path, "data"),
            device="cpu",
        )
    batch = list(train.epoch(2))[3]
    rows = [row[row >= 0] for row in batch.place]
    assert caught.value.spans == tuple((int(r[0]), int(r[-1])) for r in rows)
    assert str(caught.value.spans[0][0]) in str(caught.value)
    saved, _ = read_tensors(tmp_path / "checkpoint.safetensors")
    assert all(torch.isfinite(t).all() for t in saved.values() if t.is_floating_point())


def test_a_gradient_that_is_not_finite_is_told_from_a_loss():
    class Cliff(TinyModel):
        def loss(self, batch):
            total, count = super().loss(batch)
            return total + (self.head.weight * 0.0).sum().sqrt(), count

    model = Cliff()
    with pytest.raises(TrainingError, match="gradient is not finite in epoch 1, batch 0"):
        fit(model, TinyBatches(), validation(model), settings(), device="cpu")


def test_an_early_loss_that_is_not_finite_explains_a_later_failure_of_the_model():
    class Strict(TinyModel):
        def loss(self, batch):
            if bool(self.head.weight.isnan().any()):
                raise RuntimeError("weights are broken")
            return super().loss(batch)

    model = Strict()
    with pytest.raises(TrainingError, match="epoch 2, batch 3"):
        fit(model, Poisoned(), validation(model), settings(), device="cpu")


def test_a_metric_that_is_missing_or_not_finite_is_refused():
    model = TinyModel()
    with pytest.raises(InputError, match=r"no metric 'auc'; metric may be one of: nll"):
        fit(model, TinyBatches(), lambda: {"nll": 0.5}, settings(metric="auc"), device="cpu")
    with pytest.raises(TrainingError, match="'nll' is nan in epoch 1"):
        fit(model, TinyBatches(), lambda: {"nll": math.nan}, settings(), device="cpu")


class KilledError(Exception):
    """Stands for the end of the process."""


def interrupted(model, folder, config, *, epoch, batch):
    class Ending(TinyBatches):
        def change(self, number, position, rows):
            if (number, position) == (epoch, batch):
                raise KilledError
            return rows

    with pytest.raises(KilledError):
        fit(
            model,
            Ending(),
            validation(model),
            config,
            checkpoint=Checkpoint(folder, "data"),
            device="cpu",
        )


def resumed(folder, config, fingerprint="data", told=()):
    model = TinyModel(dropout=0.2)
    place = Checkpoint(folder, fingerprint, resume=True)
    done = fit(
        model,
        TinyBatches(),
        validation(model),
        config,
        checkpoint=place,
        callbacks=told,
        device="cpu",
    )
    return weights(model), done


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, ema):
    config = settings(ema=ema, **PLACE)
    whole, told = resumed(tmp_path / "whole", config)
    interrupted(TinyModel(dropout=0.2), tmp_path / "cut", config, epoch=2, batch=4)
    reports = []
    again, retold = resumed(tmp_path / "cut", config, told=[reports.append])
    assert torch.equal(whole, again)
    assert [(e.loss, e.metrics) for e in retold.history] == [
        (e.loss, e.metrics) for e in told.history
    ]
    assert [e.number for e in reports] == [1, 2, 3]
    finished, _ = resumed(tmp_path / "cut", config)
    assert torch.equal(whole, finished)


@pytest.mark.parametrize(
    ("changes", "fingerprint", "named"),
    [
        ({"learning_rate": 0.01}, "data", "learning_rate is 0.05, this run's is 0.01"),
        ({}, "other data", "fingerprint is 'data', this run's is 'other data'"),
    ],
)
def test_the_checkpoint_of_another_run_is_refused(tmp_path, changes, fingerprint, named):
    config = settings(**PLACE)
    interrupted(TinyModel(dropout=0.2), tmp_path, config, epoch=2, batch=1)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(InputError, match="checkpoint of another run") as caught:
        resumed(tmp_path, config.model_copy(update=changes), fingerprint)
    assert named in str(caught.value)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def test_a_torn_or_foreign_checkpoint_is_refused_in_one_sentence(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    write_tensors(path, {"a": torch.ones(3)}, {"run": {}})
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        resumed(tmp_path, settings())
    header = json.dumps({"__metadata__": {"other": "1"}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(InputError, match="not a whole safetensors file"):
        resumed(tmp_path, settings())


class Bomb:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_reading_a_file_never_executes_it(tmp_path):
    mark, path = tmp_path / "executed", tmp_path / "checkpoint.safetensors"
    torch.save({"weights": Bomb(mark)}, path)
    with pytest.raises(InputError):
        resumed(tmp_path, settings())
    assert not mark.exists()
    torch.load(path.rename(tmp_path / "weights.pt"), weights_only=False)  # noqa: TID251
    assert mark.exists(), "the file would have been able to"


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "x.safetensors"
    shared = torch.arange(4.0)
    write_tensors(path, {"a": shared, "b": shared[:2], "c": torch.tensor(7)}, {"n": 0.1 + 0.2})
    tensors, facts = read_tensors(path)
    assert torch.equal(tensors["b"], shared[:2])
    assert facts == {"n": 0.1 + 0.2}

    def stop(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", stop)
    with pytest.raises(OSError, match="disk full"):
        write_tensors(path, {"a": torch.zeros(9)}, {})
    assert torch.equal(read_tensors(path)[0]["a"], shared)


def test_a_full_disk_is_an_error_of_the_machine_that_names_the_file(tmp_path, monkeypatch):
    def full(_tensors, part, **_options):
        part.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("kt_forecast.training.files.save_file", full)
    path = tmp_path / "m.safetensors"
    with pytest.raises(OSError, match="No space left") as error:
        write_tensors(path, {"a": torch.zeros(9)}, {})
    assert error.value.errno == errno.ENOSPC
    assert error.value.filename == str(path)
    assert not list(tmp_path.iterdir())


def test_the_loop_waits_for_the_device_only_at_its_checks(monkeypatch):
    waits = []
    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "cpu", "numpy"):
        real = getattr(torch.Tensor, name)

        def counted(self, *args, real=real, **kwargs):
            waits.append(1)
            return real(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counted)

    def count(batches):
        waits.clear()
        model = TinyModel()
        config = settings(epochs=1, check_updates=1000, ema=0.9)
        fit(model, batches, lambda: {"nll": 0.0}, config, device="cpu")
        return len(waits)

    assert count(TinyBatches(count=4)) == count(TinyBatches(count=40)) > 0


def test_bf16_on_request_changes_the_arithmetic_and_still_learns():
    def run(precision):
        model = TinyModel()
        config = settings(precision=precision)
        done = fit(model, TinyBatches(), validation(model), config, device="cpu")
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        return done

    plain, short = run("auto"), run("bf16")
    assert plain.history[-1].loss != short.history[-1].loss
    assert short.history[-1].loss == pytest.approx(plain.history[-1].loss, rel=0.02)


@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_no_gradient_comes_from_cudnn_attention_and_the_caller_keeps_it(allowed, fails):
    seen = []

    class Asking(TinyModel):
        def loss(self, batch):
            seen.append(torch.backends.cuda.cudnn_sdp_enabled())
            total, count = super().loss(batch)
            return (total * math.nan if fails else total), count

    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(allowed)
    try:
        with pytest.raises(TrainingError) if fails else nullcontext():
            fit(Asking(), TinyBatches(), lambda: {"nll": 0.0}, settings(), device="cpu")
        assert torch.backends.cuda.cudnn_sdp_enabled() is allowed
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
    assert set(seen) == {False}


def test_settings_refuse_nonsense():
    with pytest.raises(InputError, match="did you mean 'learning_rate'"):
        TrainingConfig.parse({"learning_rat": 1e-3}, "recipe.toml")
    with pytest.raises(InputError, match="epochs"):
        TrainingConfig.parse({"epochs": 0}, "recipe.toml")
    assert "learning_rate" in TrainingConfig.spaces()


def test_frozen_parameters_stay():
    model, start = TinyModel(), TinyModel()
    model.table.weight.requires_grad_(False)
    fit(model, TinyBatches(), validation(model), settings(), device="cpu")
    assert torch.equal(model.table.weight, start.table.weight)
    assert not torch.equal(model.head.weight, start.head.weight)
    assert isinstance(model, nn.Module)
