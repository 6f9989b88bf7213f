"""What every step-causal system promises as a knowledge tracer, in every token scheme."""

from dataclasses import replace

import pytest
import torch
from contract.systems import STREAMING, SYSTEMS, TRACED, VOCABULARY, interactions, settings, tracer
from safetensors.torch import load_file, save_file

from kt_forecast.errors import InputError
from kt_forecast.tasks.knowledge_tracing import Tracer, TracingConfig
from kt_forecast.tracer.auditing import audit_tracer

ROWS, STEPS = 3, 13
TOLERANCE = {"atol": 1e-10, "rtol": 0.0}
STREAMED = [(name, scheme) for name, scheme in TRACED if name in STREAMING]
BUNDLES = pytest.mark.parametrize("bundles", [False, True], ids=["single", "bundled"])
MODES = pytest.mark.parametrize(
    ("training", "bundles"),
    [
        pytest.param(False, False, id="evaluation-single"),
        pytest.param(True, True, id="training-bundled"),
        pytest.param(False, True, id="evaluation-bundled", marks=pytest.mark.slow),
        pytest.param(True, False, id="training-single", marks=pytest.mark.slow),
    ],
)
IN_EVERY_SCHEME = {"gpt", "dkt"}
"""Systems by which the schemes themselves are tested."""


def own(name):
    """Return the scheme that a system is used with, unless it is told another."""
    return (SYSTEMS[name].tracing or {}).get("scheme", "two_stream")


def each(pairs, *, always=(), never=()):
    """Mark as slow the schemes that a system is not used with by itself."""
    kept = [name not in never and (name in always or own(name) == scheme) for name, scheme in pairs]
    marks = [() if keep else pytest.mark.slow for keep in kept]
    params = [pytest.param(*pair, marks=mark) for pair, mark in zip(pairs, marks, strict=True)]
    return pytest.mark.parametrize(("name", "scheme"), params)


BETWEEN_LAYERS = {"hourglass", "informer", "memory_compressed"}
"""Systems whose layers differ, or meet a shorter sequence: one layer alone is not theirs."""


def one_layer(name):
    """Return the settings of a single layer: what layers leave alone, their sequence does too."""
    return {"layers": 1} if "layers" in SYSTEMS[name].config.model_fields else {}


EACH = each(TRACED, always=IN_EVERY_SCHEME)
EACH_STREAMED = each(STREAMED, always=IN_EVERY_SCHEME)
LONG_AUDITED = {
    "dynamic_sparse_attention",
    "informer",
    "reformer",
    "routing_transformer",
    "sinkhorn_transformer",
    "titans",
}
"""Systems of so many operations a step that auditing them is left to the slow tests."""
SOME = range(1, STEPS, 4)
"""Steps at which inputs are replaced that reach a mixer by the way of others."""
EACH_AUDITED = each(TRACED, never=LONG_AUDITED)


def logits(model, batch):
    torch.manual_seed(5)
    return model(batch)[0].detach()


def other(batch, what, where, scale=1.0):
    """Replace one input of ``batch`` by other values where ``where`` is true."""
    x = getattr(batch, what)
    where = where.reshape(*where.shape, *([1] * (x.ndim - 2))).expand(x.shape)
    if what == "response":
        new = 1 - x
    elif x.is_floating_point():
        new = x + scale * (1 + torch.rand(x.shape, generator=torch.Generator().manual_seed(1)))
    else:
        new = (x + 1 + torch.randint(0, 3, x.shape)) % (int(x.max()) + 1)
    return replace(batch, **{what: torch.where(where, new, x)})


@EACH
def test_one_finite_logit_a_step(name, scheme):
    for steps in (1, STEPS):
        y = logits(tracer(name, scheme), interactions(ROWS, steps))
        assert y.shape == (ROWS, steps)
        assert y.isfinite().all()


@MODES
@EACH
def test_answers_move_only_later_events(name, scheme, training, bundles):
    model, batch = tracer(name, scheme).train(training), interactions(ROWS, STEPS, bundles=bundles)
    base = logits(model, batch)
    for what, scale, steps in (
        ("response", 1.0, range(STEPS)),
        ("extras", 1.0, SOME),
        ("extras", 1e4, SOME),
    ):
        power = 0.0
        for t in steps:
            late = batch.event >= batch.event[:, t : t + 1]
            moved = (logits(model, other(batch, what, late, scale)) - base).abs()
            before = batch.event <= batch.event[:, t : t + 1]
            assert moved[before].max() == 0.0, (what, t)
            power += float(moved.max())
        assert power > 0.0, f"replacing {what} moves nothing: the test has no power"


@MODES
@EACH
def test_what_is_asked_moves_nothing_before_it(name, scheme, training, bundles):
    model, batch = tracer(name, scheme).train(training), interactions(ROWS, STEPS, bundles=bundles)
    base = logits(model, batch)
    for what, steps in (("question", range(STEPS)), ("concepts", SOME), ("seconds", SOME)):
        for t in steps:
            late = batch.event >= batch.event[:, t : t + 1]
            moved = (logits(model, other(batch, what, late)) - base).abs()
            assert moved[~late].sum() == 0.0, (what, t)
            assert moved[late].max() > 0.0, f"replacing {what} moves nothing"


@EACH
def test_the_own_response_does_not_move_its_prediction(name, scheme):
    model, batch = tracer(name, scheme), interactions(ROWS, STEPS)
    base = logits(model, batch)
    for t in range(STEPS):
        only = torch.zeros(ROWS, STEPS, dtype=torch.bool)
        only[:, t] = True
        flipped = logits(model, other(batch, "response", only))
        assert torch.equal(flipped[:, : t + 1], base[:, : t + 1])
        assert t + 1 == STEPS or not torch.equal(flipped, base)


@BUNDLES
@EACH
def test_every_prefix_gives_what_the_whole_gives(name, scheme, bundles):
    model, batch = tracer(name, scheme), interactions(ROWS, STEPS, bundles=bundles)
    whole = logits(model, batch)
    for steps in range(1, STEPS):
        torch.testing.assert_close(
            logits(model, batch.steps(0, steps)), whole[:, :steps], **TOLERANCE
        )


@EACH
def test_right_padding_changes_nothing(name, scheme):
    model, batch = tracer(name, scheme), interactions(ROWS, STEPS)
    whole = logits(model, batch)
    long = interactions(ROWS, STEPS + 6, seed=9)
    real = torch.arange(STEPS + 6)[None].expand(ROWS, -1) < STEPS
    padded = long.map(lambda x: x.clone())
    for field in ("question", "concepts", "response", "event", "seconds", "extras"):
        getattr(padded, field)[:, :STEPS] = getattr(batch, field)
    padded = replace(padded, real=real)
    torch.testing.assert_close(logits(model, padded)[:, :STEPS], whole, **TOLERANCE)
    got, _ = model(padded, model.init_state(ROWS))
    torch.testing.assert_close(got[:, :STEPS], whole, **TOLERANCE)


@EACH_STREAMED
def test_padding_anywhere_leaves_a_stream_as_it_was(name, scheme):
    model, batch = tracer(name, scheme), interactions(ROWS, STEPS, bundles=True)
    _, state = model(batch.steps(0, 6), model.init_state(ROWS))
    nothing = replace(batch.steps(6, 10), real=torch.zeros(ROWS, 4, dtype=torch.bool))
    _, after = model(nothing, state)
    for key, tensor in state.tensors().items():
        assert torch.equal(after.tensors()[key], tensor), key
    keep = [6, 7, 10, 11]
    gaps = replace(
        batch.steps(6, 12), real=torch.tensor([[True, True, False, False, True, True]] * ROWS)
    )
    wanted, clean = model(batch.map(lambda x: x[:, keep]), state)
    got, after = model(gaps, state)
    torch.testing.assert_close(got[:, [0, 1, 4, 5]], wanted, **TOLERANCE)
    for key, tensor in clean.tensors().items():
        torch.testing.assert_close(after.tensors()[key], tensor, **TOLERANCE)


@EACH
def test_a_student_alone_gives_what_it_gives_among_others(name, scheme):
    model, batch = tracer(name, scheme), interactions(ROWS, STEPS, bundles=True)
    together = logits(model, batch)
    for row in range(ROWS):
        alone = batch.map(lambda x, row=row: x[row : row + 1])
        torch.testing.assert_close(logits(model, alone), together[row : row + 1], **TOLERANCE)


@EACH
def test_a_row_of_padding_is_finite(name, scheme):
    model = tracer(name, scheme).train()
    batch = interactions(ROWS, STEPS)
    real = batch.real.clone()
    real[1] = False
    total, count = model.loss(replace(batch, real=real))
    assert count == (ROWS - 1) * STEPS
    total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("parts", "bundles"),
    [
        pytest.param([1] * STEPS, False, id="each-single"),
        pytest.param([1] * STEPS, True, id="each-bundled"),
        pytest.param([5, 1, 1, 6], True, id="some-bundled"),
        pytest.param([6, 7], False, id="two-single", marks=pytest.mark.slow),
        pytest.param([1, 11, 1], False, id="ends-single", marks=pytest.mark.slow),
        pytest.param([6, 7], True, id="two-bundled", marks=pytest.mark.slow),
        pytest.param([1, 11, 1], True, id="ends-bundled", marks=pytest.mark.slow),
    ],
)
@EACH_STREAMED
def test_any_segments_equal_one_pass(name, scheme, parts, bundles):
    model, batch = tracer(name, scheme), interactions(ROWS, STEPS, bundles=bundles)
    state, pieces, at = model.init_state(ROWS), [], 0
    for part in parts:
        y, state = model(batch.steps(at, at + part), state)
        pieces.append(y)
        at += part
    torch.testing.assert_close(torch.cat(pieces, 1), logits(model, batch), **TOLERANCE)


@EACH
def test_every_parameter_gets_a_gradient(name, scheme):
    torch.manual_seed(6)
    model = tracer(name, scheme).train()
    total, _ = model.loss(interactions(ROWS, STEPS))
    total.backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().any()]
    assert silent == []


@EACH
def test_the_same_seed_gives_the_same_bits(name, scheme):
    batch = interactions(ROWS, STEPS)

    def run():
        torch.manual_seed(2)
        model = Tracer(SYSTEMS[name], settings(name), TracingConfig(scheme=scheme), VOCABULARY)
        total, count = model.train().loss(batch.map(lambda x: x))
        return total / count

    assert torch.equal(run(), run())


@EACH
def test_saved_weights_give_the_same_bits(name, scheme, tmp_path):
    model, batch = tracer(name, scheme), interactions(ROWS, STEPS)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    again = tracer(name, scheme)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
    again.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(logits(again, batch), logits(model, batch))


@EACH_AUDITED
def test_the_auditor_finds_nothing(name, scheme):
    model = tracer(name, scheme, own={} if name in BETWEEN_LAYERS else one_layer(name))
    report = audit_tracer(model, interactions(2, 9, bundles=True), moments=1)
    assert report.verdict != "leak", report.summary()
    if name == "gpt":
        assert report.verdict == "conditional", report.summary()


@pytest.mark.slow
@EACH_AUDITED
def test_the_auditor_finds_nothing_in_several_layers(name, scheme):
    report = audit_tracer(tracer(name, scheme), interactions(2, 9, bundles=True), moments=1)
    assert report.verdict != "leak", report.summary()


def test_a_system_that_sees_the_window_is_refused():
    gpt = SYSTEMS["gpt"]
    window = replace(gpt, promises=replace(gpt.promises, causality="window"))
    with pytest.raises(InputError, match="step-causal"):
        Tracer(window, settings("gpt"), TracingConfig(), VOCABULARY)


def test_a_system_without_queries_is_refused_as_two_streams():
    gpt = SYSTEMS["gpt"]
    single = replace(gpt, promises=replace(gpt.promises, two_streams=False))
    with pytest.raises(InputError, match="scheme may be"):
        Tracer(single, settings("gpt"), TracingConfig(scheme="two_stream"), VOCABULARY)
