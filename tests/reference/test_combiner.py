"""Combiner against properties that only a correct one has (specs 4)."""

import math

import pytest
import torch
from reference.sparse_cases import (
    drawn,
    full_attention,
    largest_tensor,
    noise,
    same_with_gradients,
    slopes,
)

from kt_forecast import zoo
from kt_forecast.audit.cost import growth
from kt_forecast.nn.streams import Span

SYSTEM = zoo.load("combiner")
STEPS, WIDTH, HEADS, SEGMENT = 27, 16, 2, 4
FORMS = pytest.mark.parametrize("form", ["fixed", "log", "axial"])


def mixer(**settings: object):
    sizes = {"width": WIDTH, "heads": HEADS, "segment": SEGMENT}
    return drawn(SYSTEM.build(SYSTEM.config(**sizes | settings)))


def past(form, step, segment=SEGMENT):
    """Return the steps that a step reads directly, and the regions of the rest of its past."""
    if form == "fixed":
        begin = step // segment * segment
        regions = [list(range(low, low + segment)) for low in range(0, begin, segment)]
        return list(range(begin, step + 1)), regions
    if form == "log":
        sizes = [1 << bit for bit in range(step.bit_length()) if step >> bit & 1]
        ends = [step // size * size for size in sizes]
        return [step], [list(range(end - size, end)) for end, size in zip(ends, sizes, strict=True)]
    row, column = divmod(step, segment)
    direct = [step - column + c for c in range(column + 1)]
    direct += [r * segment + column for r in range(row)]
    others = [c for c in range(segment) if c != column] if row else []
    return direct, [[r * segment + c for r in range(row)] for c in others]


def written(module, form, x):
    """Do as a layer's attention does, one step and one region at a time."""

    def split(t):
        return t.unflatten(-1, (HEADS, -1)).transpose(1, 2)

    place, scale = torch.arange(x.shape[1])[None], (WIDTH // HEADS) ** -0.5
    q = module.rotary(split(module.query(x)), place)
    k, v = (split(half) for half in module.key_value(x).chunk(2, -1))
    k = module.rotary(k, place)
    rows = []
    for step in range(x.shape[1]):
        direct, regions = past(form, step)
        keys, values = [k[:, :, direct]], [v[:, :, direct]]
        for region in regions:
            asked = q[:, :, region].amax(2, keepdim=True)
            within = (asked @ k[:, :, region].mT * scale).softmax(-1)
            keys.append(k[:, :, region].amax(2, keepdim=True))
            values.append(within @ v[:, :, region])
        logits = q[:, :, step : step + 1] @ torch.cat(keys, 2).mT * scale
        rows.append(logits.softmax(-1) @ torch.cat(values, 2))
    return module.out(torch.cat(rows, 2).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("form", ["fixed", "log", "axial"])
def test_regions_and_direct_steps_are_the_whole_past_once(form):
    for step in range(70):
        direct, regions = past(form, step)
        assert sorted(direct + [i for region in regions for i in region]) == list(range(step + 1))


@FORMS
def test_it_equals_regions_written_out(form):
    attention = mixer(form=form, layers=1).layers[0].mixing
    x = noise(2, STEPS, WIDTH).requires_grad_()

    def ours(x):
        return attention(x, attention.init_state(2), Span.beginning(x))[0]

    same_with_gradients(ours, lambda x: written(attention, form, x), (x,))


@FORMS
def test_weights_formed_again_give_the_same_gradients(form, monkeypatch):
    from kt_forecast.zoo import combiner

    attention = mixer(form=form, layers=1).layers[0].mixing
    x, some = noise(2, 50, WIDTH), tuple(attention.parameters())

    def gradients():
        y = attention(x, attention.init_state(2), Span.beginning(x))[0]
        return torch.autograd.grad((y * noise(*y.shape, seed=5)).sum(), some)

    wanted = gradients()
    monkeypatch.setattr(combiner, "SEGMENTS_KEPT", 3)
    monkeypatch.setattr(combiner, "NUMBERS_AT_ONCE", 3000)
    monkeypatch.setattr(combiner, "STEPS_KEPT", 10)
    for a, b in zip(gradients(), wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


@FORMS
def test_values_of_one_give_one(form):
    """The weights of the past are probabilities."""
    attention, x = mixer(form=form, layers=1).layers[0].mixing, noise(2, STEPS, WIDTH)
    with torch.no_grad():
        attention.key_value.weight[WIDTH:].zero_()
        attention.key_value.bias[WIDTH:].fill_(1.0)
        attention.out.weight.copy_(torch.eye(WIDTH))
        attention.out.bias.zero_()
    y, _ = attention(x, attention.init_state(2), Span.beginning(x))
    assert (y - 1).abs().max() < 1e-13


@FORMS
def test_every_step_of_the_past_counts_and_none_of_the_future(form):
    reads = slopes(mixer(form=form, layers=1), noise(1, STEPS, WIDTH)) > 0
    assert torch.equal(reads, torch.ones(STEPS, STEPS).bool().tril())


@pytest.mark.parametrize("segment", [1, STEPS + 3])
@pytest.mark.parametrize("form", ["fixed", "axial"])
def test_segments_of_one_step_or_of_all_are_full_attention(form, segment):
    module = mixer(form=form, segment=segment)
    x = noise(2, STEPS, WIDTH).requires_grad_()
    plain = full_attention(module, width=WIDTH, heads=HEADS, layers=2)
    same_with_gradients(lambda x: module(x)[0], lambda x: plain(x)[0], (x,))


@FORMS
def test_no_tensor_of_all_pairs_of_steps(form):
    small = {"width": 8, "heads": 1, "layers": 1, "segment": 64, "expansion": 1}
    module = SYSTEM.build(SYSTEM.config(form=form, **small))
    steps = 4096
    x = torch.randn(1, steps, 8, requires_grad=True)
    assert largest_tensor(lambda: module(x)[0].sum().backward()) < steps**2 / 4


def measured(form, lengths, *, values=True, **settings: object):
    def sized(length):
        size = 2 ** round(math.log2(length) / 2)
        plain = {"width": 32, "heads": 1, "layers": 1, "expansion": 1, "segment": size}
        return SYSTEM.build(SYSTEM.config(form=form, **plain | settings))

    return growth(sized, 32, streaming=False, lengths=lengths, values=values)


@pytest.mark.parametrize(("form", "power"), [("axial", 1.5), ("log", 1.0)])
def test_cost_of_the_other_forms(form, power):
    found = measured(form, (1024, 4096))
    assert abs(found.training_flops - power) < 0.2
    assert abs(found.training_bytes - 1) < 0.2


@pytest.mark.slow
@pytest.mark.parametrize(("form", "power"), [("fixed", 1.5), ("axial", 1.5), ("log", 1.0)])
def test_cost_grows_with_the_length_up_to_many_steps(form, power):
    for low in (4096, 16384):
        found = measured(form, (low, 4 * low))
        assert abs(found.training_flops - power) < 0.2, low
        assert abs(found.training_bytes - 1) < 0.2, low


def test_cost_of_segments_that_do_not_grow_is_quadratic_in_the_end(monkeypatch):
    monkeypatch.setattr("kt_forecast.zoo.combiner.NUMBERS_AT_ONCE", 2**40)
    found = measured("fixed", (65536, 131072), segment=8, values=False)
    assert abs(found.training_flops - 2) < 0.2
