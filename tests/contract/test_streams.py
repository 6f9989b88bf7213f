"""What every system that streams keeps when histories are trained on and predicted in segments."""

import numpy as np
import pytest
import torch

from kt_forecast.sequences.stretches import Stretches
from kt_forecast.tasks.prediction import predict, stream
from kt_forecast.training import TrainingConfig, fit
from kt_forecast.training.loop import Loss
from tests.contract.systems import STREAMING, SYSTEMS, tracer
from tests.stream_cases import students

SEGMENT = 5
LENGTHS = (17, 1, 5, 12, 3, 10)
CONSTANT = {"compressive_transformer", "gtrxl", "transformer_xl"}
"""Systems to which what lies before their own segment is a constant, however far gradients flow."""
NEAR = {"routing_transformer"}
"""What reads the last few steps of a cluster need not reach back over two segments."""


def scheme(name):
    return "two_stream" if SYSTEMS[name].promises.two_streams else "shifted"


def plain(name):
    """Return a tracer without chance: nothing is dropped or sampled."""
    model = tracer(name, scheme(name), dropout=0.0, identity_dropout=0.0, next_question=0.0)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


@pytest.mark.parametrize("name", STREAMING)
def test_a_stream_in_segments_equals_one_pass(name):
    model, sequences = plain(name), students(*LENGTHS)
    whole = predict(model, sequences)
    for segment in (1, SEGMENT):
        found = stream(model, sequences, segment=segment, steps_per_batch=2 * segment)
        np.testing.assert_allclose(found, whole, rtol=0, atol=1e-10)
    assert whole.std() > 0.01


@pytest.mark.parametrize("name", STREAMING)
def test_gradients_through_all_segments_are_those_of_one_pass(name):
    model, sequences = plain(name).train(), students(17, 16, 17)

    def gradients(**sizes):
        model.zero_grad()
        (stretch,) = Stretches(sequences, steps_per_batch=200, shuffle=False, **sizes)
        total, count, _ = Loss(model)(stretch)
        total.backward()
        flat = [torch.zeros(1) if p.grad is None else p.grad for p in model.parameters()]
        return total.item(), count.item(), torch.cat([g.double().flatten() for g in flat])

    whole = gradients(segment=20)
    parts = gradients(segment=SEGMENT, carried=4)
    assert parts[:2] == pytest.approx(whole[:2], rel=1e-10)
    assert whole[2].abs().max() > 1e-3
    torch.testing.assert_close(parts[2], whole[2], rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", STREAMING)
def test_training_cuts_gradients_off_after_as_many_segments_as_it_says(name):
    sequences = students(3 * SEGMENT)
    sequences.scored[: 2 * SEGMENT] = False

    def reaches(carried):
        model, seen = plain(name), []

        def keep(_, given):
            given[0].retain_grad()
            seen.append(given[0])

        model.mixer.register_forward_pre_hook(keep)
        config = TrainingConfig(
            epochs=1, learning_rate=1e-9, segment=SEGMENT, carried=carried, metric="none"
        )
        batches = Stretches(sequences, segment=SEGMENT, carried=carried)
        fit(model, batches, lambda: {"none": 0.0}, config, device="cpu")
        assert len(seen) == 3
        return [x.grad is not None and bool((x.grad != 0).any()) for x in seen]

    assert reaches(1) == [False, False, True]
    first, _, last = reaches(3)
    assert last
    if name not in NEAR:
        assert first == (name not in CONSTANT)
