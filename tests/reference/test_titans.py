"""Titans against properties that only a correct one has (specs 8)."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from reference.test_memory_transformer import drawn, noise, same, stream, stream_of_single

from kt_forecast import zoo
from kt_forecast.audit import audit, causal
from kt_forecast.audit.cost import training_cost
from kt_forecast.errors import InputError
from kt_forecast.nn import neural_memory
from kt_forecast.nn.descent import Faded, Rates, course, faded, read, recalled, slopes
from kt_forecast.nn.neural_memory import Memory
from kt_forecast.tasks.forecasting import ForecastingConfig, refuse_unfit
from kt_forecast.tasks.knowledge_tracing import TracingConfig, refuse_illegal

SYSTEM = zoo.load("titans")
STEPS, WIDTH, SIZE = 22, 16, 5
FORMS = pytest.mark.parametrize("form", ["mag", "mac", "mal", "lmm"])


def mixer(**settings: object):
    given = {"width": WIDTH, "heads": 2, "slots": 3, "chunk": 6, "window": 5}
    return drawn(SYSTEM.build(SYSTEM.config(**given | settings)))


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def learning(steps=STEPS, layers=2, seed=0):
    """Return first weights, queries, keys, values, and the logits of three rates."""
    sizes = [SIZE, *[7] * (layers - 1), SIZE]
    first = tuple(
        0.5 * noise(2, 3, a, b, seed=seed + i) for i, (a, b) in enumerate(pairwise(sizes))
    )
    q, k, v = (noise(2, 3, steps, SIZE, seed=seed + 10 + i) for i in range(3))
    return first, unit(q), unit(k), v, noise(3, 2, 3, steps, seed=seed + 20).sigmoid()


def in_chunks(first, q, k, v, rates, size, real=None):
    """Learn a chunk beside the other, as the library does."""
    steps, rows = q.shape[2], q.shape[0] * q.shape[1]
    real = torch.ones(steps, dtype=torch.float64) if real is None else real
    forget, last, step = rates
    given = [(real * torch.log1p(-forget)), real * last.log(), real * step, real.expand_as(step)]

    def laid(x):
        x = x.flatten(0, 1)
        return F.pad(x, (0, 0) * (x.ndim - 2) + (0, -steps % size)).unflatten(1, (-1, size))

    query, key, value = map(laid, (q, k, v))
    fading = faded(Rates(*map(laid, given)))
    flat = [w.flatten(0, 1) for w in first]
    moving = tuple(torch.stack([w, torch.zeros_like(w)], 1) for w in flat)
    found = course(moving, tuple(flat), key, value, fading, None)
    starts, at = ([x.flatten(0, 1) for x in part] for part in (found.starts, found.at))
    slope = slopes(tuple(at), key.flatten(0, 1), value.flatten(0, 1))
    each = Faded(**{name: x.flatten(0, 1) for name, x in vars(fading).items()})
    answers = read(tuple(starts), slope, each, query.flatten(0, 1))
    answers = answers.unflatten(0, (rows, -1)).flatten(1, 2)[:, :steps]
    end = tuple(x.unflatten(0, q.shape[:2]) for x in found.end)
    return answers.unflatten(0, q.shape[:2]), Memory(end, tuple(x[:, :, 0] for x in end))


def step_by_step(first, q, k, v, rates, size):
    """Write out every step's weights; gradients are autograd's."""
    weight, answers = list(first), []
    surprise = [torch.zeros_like(w) for w in first]
    for t in range(q.shape[2]):
        forget, last, step = (r[..., t, None, None] for r in rates)
        if t % size == 0:
            at = tuple(weight)
        leaf = tuple(w if w.requires_grad else w.clone().requires_grad_() for w in at)
        one = slice(t, t + 1)
        loss = (recalled(leaf, k[:, :, one]) - v[:, :, one]).square().sum()
        slopes = torch.autograd.grad(loss, leaf, create_graph=True)
        surprise = [last * s - step * g for s, g in zip(surprise, slopes, strict=True)]
        weight = [(1 - forget) * w + s for w, s in zip(weight, surprise, strict=True)]
        answers.append(recalled(tuple(weight), q[:, :, one]))
    moving = (torch.stack(pair, 2) for pair in zip(weight, surprise, strict=True))
    return torch.cat(answers, 2), Memory(tuple(moving), tuple(weight))


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 6])
def test_chunks_equal_steps_and_so_do_their_gradients(size, layers):
    first, q, k, v, rates = learning(layers=layers)
    rates = rates * torch.tensor([0.3, 1.0, 0.05]).reshape(3, 1, 1, 1).double()
    inputs = tuple(t.requires_grad_() for t in (*first, q, k, v, rates))
    found, after = in_chunks(first, q, k, v, rates, size)
    wanted, end = step_by_step(first, q, k, v, rates, size)
    same(found, wanted)
    for a, b in zip(after.tensors().values(), end.tensors().values(), strict=True):
        same(a, b)
    weight = noise(*found.shape, seed=5)
    slopes = torch.autograd.grad((found * weight).sum(), inputs)
    for a, b in zip(slopes, torch.autograd.grad((wanted * weight).sum(), inputs), strict=True):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-8)


def test_padding_adds_no_momentum():
    first, q, k, v, rates = learning()
    rates = rates * 0.1
    real = torch.ones(STEPS, dtype=torch.float64)
    real[[2, 3, 9, 20, 21]] = 0.0
    keep = real.bool()
    size = STEPS
    found, after = in_chunks(first, q, k, v, rates, size, real)
    wanted, end = in_chunks(
        first, q[:, :, keep], k[:, :, keep], v[:, :, keep], rates[..., keep], size
    )
    same(found[:, :, keep], wanted)
    for a, b in zip(after.moving, end.moving, strict=True):
        same(a, b)


def test_a_matrix_without_momentum_is_the_delta_rule():
    (first,), q, k, v, rates = learning(layers=1)
    rates = torch.stack([rates[0], torch.full_like(rates[1], 1e-300), rates[2]])
    found, _ = in_chunks((first,), q, k, v, rates, 1)
    weight = first
    for t in range(STEPS):
        key, value = k[:, :, t, None], v[:, :, t, None]
        forget, _, step = (r[..., t, None, None] for r in rates)
        weight = (1 - forget) * weight + 2 * step * key.mT @ (value - key @ weight)
        same(found[:, :, t, None], q[:, :, t, None] @ weight)


def test_a_matrix_from_nothing_that_forgets_nothing_is_linear_attention():
    (first,), q, k, v, rates = learning(layers=1)
    rates = torch.stack([torch.zeros_like(rates[0]), torch.full_like(rates[1], 1e-300), rates[2]])
    found, _ = in_chunks((torch.zeros_like(first),), q, k, v, rates, STEPS)
    logits = (q @ k.mT).tril() * 2 * rates[2][..., None, :]
    same(found, logits @ v)


def test_who_learns_nothing_only_forgets():
    first, q, k, v, rates = learning()
    rates = torch.stack([rates[0], rates[1], torch.zeros_like(rates[2])])
    found, after = in_chunks(first, q, k, v, rates, 6)
    share = (1 - rates[0]).prod(-1)[..., None, None]
    for weight, start in zip(after.weight, first, strict=True):
        same(weight, share * start)
    alone = tuple((1 - rates[0][..., 0, None, None]) * w for w in first)
    same(found[:, :, :1], recalled(alone, q[:, :, :1]))


@FORMS
def test_rows_at_different_places_equal_one_pass(form):
    module, x = mixer(form=form), noise(3, STEPS, WIDTH)
    same(stream(module, x), module(x)[0])


@FORMS
def test_segments_borders_and_padding_equal_one_pass(form):
    module, x = mixer(form=form), noise(2, STEPS, WIDTH)
    whole, state, pieces = module(x)[0], module.init_state(2), []
    for part in x.split([1, 4, 1, 9, 7], 1):
        y, state = module(part, state)
        pieces.append(y)
    same(torch.cat(pieces, 1), whole)
    _, untouched = module(x, state, valid=torch.zeros(2, STEPS, dtype=torch.bool))
    half = torch.tensor([[True], [False]])
    _, mixed = module(x[:, :1], state, valid=half)
    _, one = module(x[:, :1], state)
    for name, tensor in state.tensors().items():
        assert torch.equal(untouched.tensors()[name], tensor)
        assert torch.equal(mixed.tensors()[name][1], tensor[1]), name
        same(mixed.tensors()[name][0], one.tensors()[name][0])
    reset = torch.zeros(2, STEPS, dtype=torch.bool)
    reset[:, 0] = True
    same(module(x, state, reset=reset)[0], whole)
    fresh = module.init_state(2)
    _, nothing = module(x[:, :1], fresh, valid=half)
    assert not any(tensor[1].any() for tensor in nothing.tensors().values())


@FORMS
def test_gradients_of_steps_equal_those_of_one_pass(form):
    module, x = mixer(form=form), noise(1, 8, WIDTH)
    weight = noise(1, 8, WIDTH, seed=3)
    state, pieces = module.init_state(1), []
    for part in x.split(1, 1):
        y, state = module(part, state)
        pieces.append(y)
    parameters = tuple(module.parameters())
    whole = torch.autograd.grad((module(x)[0] * weight).sum(), parameters)
    steps = torch.autograd.grad((torch.cat(pieces, 1) * weight).sum(), parameters)
    assert all(slope.any() for slope in whole)
    for a, b in zip(whole, steps, strict=True):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-8)


def test_gradients_of_rows_at_different_places_equal_those_of_rows_alone():
    module, x, extra = mixer(form="lmm", layers=1), noise(2, 20, WIDTH), noise(2, 8, WIDTH, seed=1)
    valid = torch.ones(2, 20, dtype=torch.bool)
    valid[0, 2:9] = False
    parameters = tuple(module.parameters())
    _, state = module(x, module.init_state(2), valid=valid)
    found = torch.autograd.grad(module(extra, state)[0].square().sum(), parameters)
    alone = torch.zeros((), dtype=torch.float64)
    for row in (0, 1):
        _, state = module(x[row : row + 1, valid[row]], module.init_state(1))
        alone = alone + module(extra[row : row + 1], state)[0].square().sum()
    for a, b in zip(found, torch.autograd.grad(alone, parameters), strict=True):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-8)


def test_chunks_that_are_formed_again_give_the_same_gradients(monkeypatch):
    module, x = mixer(chunk=2), noise(1, STEPS, WIDTH)
    found = []
    for many in (1, STEPS):
        monkeypatch.setattr(neural_memory, "MANY", many)
        loss = (module(x)[0] * noise(1, STEPS, WIDTH, seed=3)).sum()
        found.append(torch.autograd.grad(loss, tuple(module.parameters())))
    for a, b in zip(*found, strict=True):
        same(a, b)


@FORMS
def test_single_precision_streams_too(form):
    module, x = mixer(form=form).float(), noise(2, STEPS, WIDTH).float()
    assert (stream_of_single(module, x) - module(x)[0]).abs().max() < 1e-4


def test_the_largest_steps_and_the_longest_surprise_do_not_overshoot():
    torch.manual_seed(0)
    module, x = SYSTEM.build(SYSTEM.config(width=WIDTH)), noise(1, 400, WIDTH).float()
    with torch.no_grad():
        for layer in module.layers:
            memory = layer.mixing.memory
            memory.project.weight.mul_(4.0)
            memory.rates.bias.copy_(torch.tensor([-9.0, 3.0, 9.0]).repeat_interleave(4))
        _, state = module(x, module.init_state(1))
    assert max(w.abs().max() for layer in state.layers for w in layer.memory.weight) < 10.0


@pytest.mark.parametrize("settings", [{}, {"memory_layers": 1, "kernel": 1}, {"slots": 0}], ids=str)
def test_any_settings_stream(settings):
    module, x = mixer(**settings), noise(2, STEPS, WIDTH)
    same(stream(module, x), module(x)[0])


@pytest.mark.parametrize("published", [False, True])
def test_only_the_published_context_sees_the_future(published):
    module = mixer(form="mac", published=published, layers=1)
    x = noise(1, 14, WIDTH).requires_grad_()
    slope = torch.autograd.functional.jacobian(lambda t: module(t)[0].sum((0, 2)), x)
    reached = slope[:, 0].abs().sum(-1) > 0
    assert reached.tril().sum() == 14 * 15 // 2
    segment = torch.arange(14) // 6
    allowed = (segment[:, None] == segment) & published
    assert torch.equal(reached.triu(1), allowed.triu(1))


@FORMS
def test_no_form_sees_the_future(form):
    module, x = mixer(form=form), noise(1, 14, WIDTH)
    base = module(x)[0]
    for cut in range(1, 14):
        other = torch.cat([x[:, :cut], 10 * noise(1, 14 - cut, WIDTH, seed=cut)], 1)
        moved = module(other)[0]
        assert torch.equal(moved[:, :cut], base[:, :cut])
        assert not torch.equal(moved[:, cut], base[:, cut])


def test_the_auditor_finds_the_published_context():
    module = mixer(form="mac", published=True, layers=1)
    report = audit(
        module,
        noise(2, 9, WIDTH),
        causal(axis=1),
        call=lambda inputs: module(*inputs.values())[0],
        modes=("evaluation",),
        moments=2,
    )
    assert report.verdict == "leak", report.summary()


def test_the_published_context_is_refused_where_it_would_leak():
    settings = SYSTEM.config(width=WIDTH, form="mac", published=True)
    with pytest.raises(InputError, match="published=true"):
        refuse_illegal(SYSTEM, settings, TracingConfig(scheme="shifted"))
    with pytest.raises(InputError, match="dense = false"):
        refuse_unfit(SYSTEM, settings, ForecastingConfig(dense=True))
    with pytest.raises(InputError, match="published = false"):
        SYSTEM.build(settings).init_state(1)
    with pytest.raises(ValueError, match="only form='mac'"):
        SYSTEM.config(published=True)


@FORMS
def test_the_state_holds_three_times_the_memory_and_a_window(form):
    module, x = mixer(form=form, layers=1), noise(1, 40, WIDTH)
    sizes = {module(x[:, :n], module.init_state(1))[1].numel() for n in (1, 7, 40)}
    memory = 3 * sum(w.numel() for w in module.layers[0].mixing.memory.first)
    kernel = 0 if form == "mac" else 3 * 3 * WIDTH
    kept = {"lmm": 0, "mac": 6 * 4 * WIDTH}.get(form, 4 * 2 * WIDTH)
    assert sizes == {1 + memory + kernel + kept}


@pytest.mark.slow
@FORMS
def test_training_cost_grows_with_the_length_up_to_sixty_four_thousand_steps(form):
    module = SYSTEM.build(SYSTEM.config(width=WIDTH, chunk=128, form=form))
    short, long = (training_cost(module, noise(1, n, WIDTH).float()) for n in (1024, 65536))
    assert all(b / a <= 64**1.1 for a, b in zip(short, long, strict=True))
