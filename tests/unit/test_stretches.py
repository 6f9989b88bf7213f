"""Stretches of streams: every step once, in order, with little padding; and what training keeps."""

import numpy as np
import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from kt_forecast.errors import InputError
from kt_forecast.sequences.stretches import Stretches, Turns
from kt_forecast.tracer import plan
from kt_forecast.training import Checkpoint, TrainingConfig, fit
from tests.contract.systems import tracer
from tests.stream_cases import students


def many(seed=0, count=300):
    return np.random.default_rng(seed).geometric(1 / 60, count).astype(np.int64)


@pytest.mark.parametrize("world", [1, 3])
def test_every_step_comes_once_and_after_the_one_before_it(world):
    lengths = many()
    turns = Turns(lengths, segment=8, carried=3, steps=480, seed=5)
    counts = {len(list(turns.epoch(number))) for number in range(3)}
    assert counts == {len(turns)}
    seen = [[] for _ in lengths]
    for rank in range(world):
        kept = ()
        for streams, first, idle in turns.epoch(1, rank=rank, world=world):
            if idle:
                continue
            if first:
                assert tuple(streams) == kept
            kept = tuple(streams[lengths[streams] > first + turns.block])
            for stream in streams:
                seen[stream].extend(range(first, min(first + turns.block, lengths[stream])))
    assert seen == [list(range(length)) for length in lengths]


def test_epochs_differ_and_a_run_goes_on_where_it_was():
    turns = Turns(many(), segment=8, carried=2, steps=200)
    told = [[(tuple(s), first) for s, first, _ in turns.epoch(n)] for n in (1, 2)]
    assert told[0] != told[1]
    assert [(tuple(s), first) for s, first, _ in turns.epoch(1, start=7)] == told[0][7:]


def test_little_is_padding_and_no_stretch_is_larger_than_asked():
    sequences = students(*many(3, 200).tolist())
    real = there = 0
    for stretch in Stretches(sequences, segment=16, carried=2, steps_per_batch=640):
        assert stretch.whole.real.numel() <= 640
        for rows, part in stretch.segments():
            assert part.shape[0] == rows
            assert part.real.any(1).all()
            real, there = real + int(part.real.sum()), there + part.real.numel()
    assert real == sequences.n_steps
    assert 1 - real / there < 0.1


@pytest.mark.parametrize("sizes", [{"segment": 0}, {"segment": 4, "carried": 0}])
def test_sizes_that_are_none_are_refused(sizes):
    with pytest.raises(InputError, match="accepted are whole numbers from 1"):
        Stretches(students(5), **sizes)


def test_settings_that_carry_nothing_are_refused():
    with pytest.raises(InputError, match="set segment"):
        plan("rmt", training={"carried": 3})


def run(folder=None, dies=None, **changes):
    """Train a small tracer with chance, on streams of unequal length; return its weights."""
    torch.manual_seed(0)
    model = tracer("rmt", "shifted").float()
    batches = Stretches(students(22, 18, 9, 8, 3), segment=4, carried=2, steps_per_batch=16, seed=2)
    chosen = {"segment": 4, "carried": 2, "epochs": 2, "metric": "none", "check_updates": 1}
    config = TrainingConfig(**chosen, checkpoint_seconds=0.0, **changes)
    place = folder and Checkpoint(folder, fingerprint="data", resume=True)

    class Doomed:
        def __len__(self):
            return len(batches)

        def epoch(self, number, **share):
            for turn, stretch in enumerate(batches.epoch(number, **share), share["start"]):
                if (number, turn) == dies:
                    raise KeyboardInterrupt
                yield stretch

    fit(model, Doomed(), lambda: {"none": 0.0}, config, checkpoint=place, device="cpu")
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_a_run_stopped_within_a_stream_goes_on_to_the_same_bits(tmp_path):
    whole = run()
    batches = Stretches(students(22, 18, 9, 8, 3), segment=4, carried=2, steps_per_batch=16, seed=2)
    within = [turn for turn, stretch in enumerate(batches.epoch(2)) if not stretch.begins]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, dies=(2, within[len(within) // 2]))
    assert torch.equal(run(tmp_path), whole)
    assert not torch.equal(run(seed=1), whole)


@pytest.mark.parametrize("name", ["rmt", "transformer_xl", "mamba"])
def test_bytes_kept_for_an_update_do_not_grow_with_the_history(name):
    def most(steps):
        model, kept, found = tracer(name, "shifted").float(), [0], []
        batches = Stretches(students(steps), segment=8, carried=2)

        def pack(tensor):
            kept[0] += tensor.numel() * tensor.element_size()
            return tensor

        class Counted:
            def __len__(self):
                return len(batches)

            def epoch(self, number, **share):
                for stretch in batches.epoch(number, **share):
                    kept[0] = 0
                    yield stretch
                    found.append(kept[0])

        config = TrainingConfig(epochs=1, segment=8, carried=2, metric="none")
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            fit(model, Counted(), lambda: {"none": 0.0}, config, device="cpu")
        return max(found)

    assert most(256) == most(64) > 0


def test_the_loop_carries_what_an_update_left_to_the_next():
    def loss(segment, carried):
        model = tracer("rmt", "shifted", dropout=0.0, identity_dropout=0.0, next_question=0.0)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        batches = Stretches(students(23, 21, 9), segment=segment, carried=carried)
        config = TrainingConfig(epochs=1, learning_rate=1e-12, segment=segment, metric="none")
        done = fit(model, batches, lambda: {"none": 0.0}, config, device="cpu")
        return done.history[0].loss

    assert loss(4, 2) == pytest.approx(loss(24, 1), rel=1e-5)
