"""What every step-causal system promises of its steps, whatever the task."""

import math
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from contract.systems import (
    COUNTED,
    FORM_COSTS,
    LOOPS,
    STEP_CAUSAL,
    STREAMING,
    SYSTEMS,
    WIDTH,
    generic,
    mixer,
    settings,
)
from safetensors.torch import load_file, save_file

from kt_forecast.audit.cost import growth, traffic
from kt_forecast.nn.system import HeadsConfig, auxiliary_loss

STEPS = 23
BORDERS = 120
"""Steps that the small settings' segments, strides and chunks all divide."""
TOLERANCE = {"atol": 1e-10, "rtol": 0.0}


def promised_cost(name):
    return FORM_COSTS.get(name, SYSTEMS[name].promises.cost)


def same(a, b):
    torch.testing.assert_close(a, b, **TOLERANCE)


def same_state(a, b, *, exactly=False):
    first, second = a.tensors(), b.tensors()
    assert first.keys() == second.keys()
    for name in first:
        if exactly:
            assert torch.equal(first[name], second[name]), name
        else:
            torch.testing.assert_close(first[name], second[name], **TOLERANCE)


@pytest.mark.parametrize("name", STEP_CAUSAL)
def test_shape_is_kept_for_one_step_and_for_a_prime_number(name, noise):
    for steps in (1, STEPS):
        assert mixer(name)(noise(2, steps, WIDTH))[0].shape == (2, steps, WIDTH)


@pytest.mark.parametrize(
    ("training", "scale"),
    [
        pytest.param(False, 1.0, id="evaluation-1"),
        pytest.param(True, 1e3, id="training-1000"),
        pytest.param(False, 1e3, id="evaluation-1000", marks=pytest.mark.slow),
        pytest.param(True, 1.0, id="training-1", marks=pytest.mark.slow),
        pytest.param(False, 1e-3, id="evaluation-0.001", marks=pytest.mark.slow),
        pytest.param(True, 1e-3, id="training-0.001", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", STEP_CAUSAL)
def test_replacing_the_future_moves_nothing_before_it(name, scale, training, noise):
    module, x = mixer(name).train(training), noise(2, STEPS, WIDTH)

    def run(steps):
        torch.manual_seed(3)
        return module(steps)[0]

    base = run(x)
    for cut in range(1, STEPS):
        other = torch.cat([x[:, :cut], scale * noise(2, STEPS - cut, WIDTH)], 1)
        moved = run(other)
        assert torch.equal(moved[:, :cut], base[:, :cut])
        assert not torch.equal(moved[:, cut], base[:, cut]), "the replacement has no power"


@pytest.mark.parametrize("name", [n for n in SYSTEMS if n not in STEP_CAUSAL])
def test_a_system_that_promises_less_does_see_the_future(name, noise):
    module, x = mixer(name), noise(2, STEPS, WIDTH)
    other = torch.cat([x[:, :-1], noise(2, 1, WIDTH)], 1)
    assert not torch.equal(module(x)[0][:, :-1], module(other)[0][:, :-1])


@pytest.mark.parametrize("name", STEP_CAUSAL)
def test_every_prefix_gives_what_the_whole_gives(name, noise):
    module, x = mixer(name), noise(2, STEPS, WIDTH)
    whole = module(x)[0]
    for steps in range(1, STEPS):
        same(module(x[:, :steps])[0], whole[:, :steps])


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", STEP_CAUSAL)
def test_a_row_alone_gives_what_it_gives_among_others(name, training, noise):
    module = mixer(name, **without_dropout(name)).train(training)
    x = noise(3, STEPS, WIDTH)
    together = module(x)[0]
    for row in range(3):
        same(module(x[row : row + 1])[0], together[row : row + 1])
    same(module(x.flip(0))[0].flip(0), together)


def without_dropout(name):
    return {"dropout": 0.0} if "dropout" in SYSTEMS[name].config.model_fields else {}


@pytest.mark.parametrize("name", STREAMING)
def test_step_by_step_equals_one_pass(name, noise):
    module, x = mixer(name), noise(2, STEPS, WIDTH)
    state, steps = module.init_state(2), []
    for t in range(STEPS):
        y, state = module(x[:, t : t + 1], state)
        steps.append(y)
    same(torch.cat(steps, 1), module(x)[0])


@pytest.mark.parametrize("parts", [(7, 16), (1, 1, 21), (11, 1, 11), (22, 1)])
@pytest.mark.parametrize("name", STREAMING)
def test_any_segments_equal_one_pass(name, parts, noise):
    module, x = mixer(name), noise(2, STEPS, WIDTH)
    state, pieces = module.init_state(2), []
    for piece in x.split(list(parts), 1):
        y, state = module(piece, state)
        pieces.append(y)
    same(torch.cat(pieces, 1), module(x)[0])
    same_state(state, module(x, module.init_state(2))[1])


@pytest.mark.parametrize("name", STREAMING)
def test_gradients_of_segments_equal_those_of_one_pass(name, noise):
    module, x = mixer(name), noise(2, STEPS, WIDTH)
    weight = noise(2, STEPS, WIDTH)
    parameters, silent = tuple(module.parameters()), {"materialize_grads": True}
    whole = torch.autograd.grad((module(x)[0] * weight).sum(), parameters, **silent)
    first, state = module(x[:, :9], module.init_state(2))
    second, _ = module(x[:, 9:], state)
    pieces = (torch.cat([first, second], 1) * weight).sum()
    for a, b in zip(whole, torch.autograd.grad(pieces, parameters, **silent), strict=True):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("where", ["left", "middle", "right"])
@pytest.mark.parametrize("name", STREAMING)
def test_padding_changes_no_step_and_no_bit_of_the_state(name, where, noise):
    module, x = mixer(name), noise(2, 9, WIDTH)
    at = {"left": 0, "middle": 4, "right": 9}[where]
    padded = torch.cat([x[:, :at], 100 * noise(2, 5, WIDTH), x[:, at:]], 1)
    valid = torch.ones(2, 14, dtype=torch.bool)
    valid[:, at : at + 5] = False
    start = module(noise(2, 6, WIDTH), module.init_state(2))[1]
    wanted, clean = module(x, start)
    got, after = module(padded, start, valid=valid)
    same(got[valid].reshape(2, 9, WIDTH), wanted)
    same_state(after, clean)
    _, untouched = module(
        100 * noise(2, 5, WIDTH), start, valid=torch.zeros(2, 5, dtype=torch.bool)
    )
    same_state(untouched, start, exactly=True)


@pytest.mark.parametrize("name", STREAMING)
def test_padding_may_differ_from_row_to_row(name, noise):
    module, x = mixer(name), noise(3, 12, WIDTH)
    valid = torch.ones(3, 12, dtype=torch.bool)
    valid[0, 5:] = False
    valid[1, :4] = False
    valid[2, 2:9:3] = False
    got, after = module(x, module.init_state(3), valid=valid)
    for row in range(3):
        alone, state = module(x[row : row + 1, valid[row]], module.init_state(1))
        same(got[row : row + 1, valid[row]], alone)
        extra = noise(1, 3, WIDTH)
        follow = extra.expand(3, -1, -1)
        same(module(follow, after)[0][row : row + 1], module(extra, state)[0])


@pytest.mark.parametrize("name", STREAMING)
def test_a_row_of_padding_is_finite(name, noise):
    module = mixer(name).requires_grad_()
    x = noise(2, 5, WIDTH).requires_grad_()
    valid = torch.tensor([[True] * 5, [False] * 5])
    y, _ = module(x, module.init_state(2), valid=valid)
    assert y.isfinite().all()
    y[valid].sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", STREAMING)
def test_a_reset_starts_afresh(name, noise):
    module, x = mixer(name), noise(2, 15, WIDTH)
    reset = torch.zeros(2, 15, dtype=torch.bool)
    reset[0, 6] = True
    reset[1, 0] = True
    carried = module(noise(2, 4, WIDTH), module.init_state(2))[1]
    got, after = module(x, carried, reset=reset)
    alone, end = module(x[:1, 6:], module.init_state(1))
    same(got[:1, 6:], alone)
    same(got[1:], module(x[1:], module.init_state(1))[0])
    extra = noise(2, 1, WIDTH)
    same(module(extra, after)[0][:1], module(extra[:1], end)[0])


@pytest.mark.parametrize("name", STREAMING)
def test_a_state_can_be_cut_off_and_counted(name, noise):
    module = mixer(name)
    _, state = module(noise(2, 5, WIDTH), module.init_state(2))
    assert state.numel() > 0
    assert not any(t.requires_grad for t in state.detach().tensors().values())
    same_state(state.to("cpu"), state)


@pytest.mark.parametrize("name", STEP_CAUSAL)
def test_every_parameter_gets_a_gradient(name, noise):
    module = mixer(name, **without_dropout(name)).train()
    y, _ = module(noise(2, STEPS, WIDTH))
    total = (y * noise(2, STEPS, WIDTH)).sum()
    added = auxiliary_loss(module, None)
    (total if added is None else total + added).backward()
    silent = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.abs().any()]
    assert silent == []


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_same_seed_gives_the_same_bits(name, noise):
    x = noise(2, STEPS, WIDTH)

    def run():
        torch.manual_seed(11)
        module = SYSTEMS[name].build(settings(name)).double().train()
        return module(x)[0]

    assert torch.equal(run(), run())


@pytest.mark.parametrize("name", SYSTEMS)
def test_saved_weights_give_the_same_bits(name, noise, tmp_path):
    module, x = mixer(name), noise(2, STEPS, WIDTH)
    save_file(module.state_dict(), tmp_path / "weights.safetensors")
    other = generic(SYSTEMS[name].build(settings(name)).double(), seed=1).eval()
    assert not torch.equal(other(x)[0], module(x)[0])
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(other(x)[0], module(x)[0])


@pytest.mark.parametrize("name", SYSTEMS)
def test_settings_survive_json_and_refuse_strangers(name):
    config = settings(name)
    assert type(config).model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ValueError, match="widht"):
        type(config).model_validate({"widht": 3})


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_searchable_value_is_a_valid_setting(name):
    config = SYSTEMS[name].config
    for field, space in config.spaces().items():
        values = space if isinstance(space, list) else [space.low, space.high]
        for value in values:
            kind = config.model_fields[field].annotation
            config(**{"width": 64, field: kind(value) if kind in (int, float) else value})


@pytest.mark.parametrize(
    "name", [n for n, system in SYSTEMS.items() if issubclass(system.config, HeadsConfig)]
)
def test_heads_that_do_not_divide_the_width_are_refused(name):
    config = SYSTEMS[name].config
    with pytest.raises(ValueError, match="heads must divide width"):
        config(width=WIDTH, heads=3)
    with pytest.raises(ValueError, match="even sizes") if config.even_heads else nullcontext():
        config(width=12, heads=4)


@pytest.mark.parametrize("name", SYSTEMS)
def test_measured_cost_grows_as_promised(name):
    system = SYSTEMS[name]
    promised = promised_cost(name)

    def sized(length):
        root = {promised.root: math.isqrt(length)} if promised.root else {}
        return system.build(settings(name, **{**COUNTED.get(name, {}), **root}))

    measured = growth(sized, WIDTH, streaming=system.promises.streaming)
    for what in ("training_flops", "training_bytes", "step_flops", "state_bytes"):
        value = getattr(measured, what)
        assert value is None or abs(value - getattr(promised, what)) < 0.2, (what, value)
    # What is launched is sent to a GPU one by one.
    assert measured.moved < max(promised.training_flops, promised.training_bytes) + 0.2
    assert name in LOOPS or abs(measured.launches) < 0.05, measured.launches


@pytest.mark.parametrize("name", [n for n in STREAMING if promised_cost(n).step_flops == 0])
def test_a_step_does_the_same_after_any_history(name, noise):
    """At the same place of whatever the system counts out, far beyond the longest of it."""
    module, x, does = mixer(name), noise(1, BORDERS, WIDTH), []
    with torch.no_grad():
        state = module.init_state(1)
        for _ in range(3):
            _, state = module(x, state)
            found = traffic(partial(module, x[:, :1], state))
            grows = promised_cost(name).state_bytes > 0  # and is copied, if not read
            does.append((found.launches, 0 if grows else found.moved))
    assert does[1] == does[2]
    assert does[2][0] > 0


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_file_names_its_paper_and_its_departures(name):
    system = SYSTEMS[name]
    assert system.paper.url.startswith("https://")
    page = __import__(system.build.__module__, fromlist=["x"]).__doc__
    assert "Departures from the paper:" in page
