"""Transformer-XL against properties that only a correct one has (specs 1)."""

import math

import pytest
import torch

from kt_forecast import zoo
from kt_forecast.audit.cost import training_cost
from kt_forecast.nn.relative import SEGMENTS_KEPT, shifted, sinusoids

SYSTEM = zoo.load("transformer_xl")
STEPS, WIDTH, HEADS = 21, 16, 2


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixer(**settings):
    config = SYSTEM.config(**{"width": WIDTH, "heads": HEADS, "window": 6, "segment": 4} | settings)
    module = SYSTEM.build(config).double().eval()
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(0.3 * noise(*parameter.shape, seed=i))
    return module


def same(a, b):
    torch.testing.assert_close(a, b, atol=1e-10, rtol=0.0)


def explicit(attention, x, window):
    """Each step's attention written out: one logit for each pair of a step and an earlier one."""
    size = WIDTH // HEADS
    x = attention.norm(x)

    def heads(part):
        return part.unflatten(-1, (HEADS, size))

    q, k, v = heads(attention.query(x)), *map(heads, attention.key_value(x).chunk(2, -1))
    u, offset = attention.content_offset[:, 0], attention.distance_offset[:, 0]
    out = torch.zeros_like(q)
    for t in range(x.shape[1]):
        seen = range(max(0, t - window + 1), t + 1)
        far = torch.tensor([t - s for s in seen])
        far = far if attention.clamp is None else far.clamp_max(attention.clamp)
        r = heads(attention.distance(sinusoids(far, WIDTH)))
        logits = ((q[:, t, None] + u) * k[:, seen]).sum(-1)
        logits = logits + ((q[:, t, None] + offset) * r).sum(-1)
        weight = (logits / math.sqrt(size)).softmax(1)
        out[:, t] = (weight[..., None] * v[:, seen]).sum(1)
    return attention.out(out.flatten(2))


def explicit_stack(module, x, window, layers):
    for layer in layers:
        read = x + explicit(layer.attention, x, window)
        if layer.attention_norm is None:
            x = read + layer.feed(layer.feed_norm(read))
        else:
            read = layer.attention_norm(read)
            x = layer.feed_norm(read + layer.feed(read))
    return module.norm(x)


@pytest.mark.parametrize("norm", ["before", "after"])
@pytest.mark.parametrize(
    ("window", "segment", "clamp"),
    [(6, 4, None), (6, 4, 2), (1, 3, None), (40, 5, None), (4, 9, 3)],
)
def test_it_is_relative_attention_written_out(window, segment, clamp, norm):
    module = mixer(window=window, segment=segment, clamp=clamp, norm=norm)
    x = noise(2, STEPS, WIDTH)
    wanted = explicit_stack(module, x, window, module.layers)
    same(module(x)[0], wanted)
    with torch.no_grad():
        same(module(x)[0], wanted)


def test_the_shift_is_a_gather_where_keys_are_past():
    queries, keys = 5, 8
    place = noise(3, queries, keys)
    row, key = torch.arange(queries)[:, None], torch.arange(keys)
    distance = keys - queries + row - key
    past = distance >= 0
    column = (keys - 1 - distance).clamp_max(keys - 1)
    gathered = place.gather(2, column.expand(3, -1, -1))
    assert torch.equal(shifted(place)[:, past], gathered[:, past])
    other = place.clone()
    other[:, 1] += 1.0
    seen = (shifted(other) != shifted(place))[0].nonzero().tolist()
    assert any(i == 0 and j > keys - queries for i, j in seen), "the other half is the next query's"


def test_without_positions_it_is_attention_in_a_window():
    module, x = mixer(layers=1), noise(2, STEPS, WIDTH)
    attention = module.layers[0].attention
    with torch.no_grad():
        for part in (attention.distance.weight, attention.content_offset):
            part.zero_()
        got = module(x)[0]
        normed = attention.norm(x)
        q, k, v = (
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for part in (attention.query(normed), *attention.key_value(normed).chunk(2, -1))
        )
        far = torch.arange(STEPS)[:, None] - torch.arange(STEPS)
        read = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=(far >= 0) & (far < 6)
        )
        y = x + attention.out(read.transpose(1, 2).flatten(2))
        layer = module.layers[0]
        same(got, module.norm(y + layer.feed(layer.feed_norm(y))))


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_it_reads_as_far_back_as_its_windows_reach_together(layers):
    module = mixer(layers=layers)
    x = noise(1, 30, WIDTH)
    with torch.no_grad():
        base, reach = module(x)[0][:, -1], layers * 5
        for back, moves in ((reach, True), (reach + 1, False)):
            other = x.clone()
            other[:, -1 - back] += noise(WIDTH, seed=2)
            assert bool((module(other)[0][:, -1] != base).any()) is moves


def test_memories_are_constants_from_segment_to_segment():
    module, x = mixer(layers=2), noise(1, 12, WIDTH).requires_grad_()
    y, _ = module(x)
    for t in range(12):
        (slope,) = torch.autograd.grad(y[:, t].sum(), x, retain_graph=True)
        learned = slope.abs().amax((0, 2)) > 0
        own = torch.arange(12) // 4 == t // 4
        assert torch.equal(learned, own & (torch.arange(12) <= t))


def test_what_reads_a_memory_learns_from_it():
    """The maps of keys and values are no constants, only what they are given."""
    module, x = mixer(layers=1), noise(1, 8, WIDTH)
    weight = module.layers[0].attention.key_value.weight
    got = torch.autograd.grad(module(x)[0][:, 4].square().sum(), weight)[0]
    small = 1e-6
    with torch.no_grad():
        weight[WIDTH, 0] += small
        high = module(x)[0][:, 4].square().sum()
        weight[WIDTH, 0] -= 2 * small
        low = module(x)[0][:, 4].square().sum()
    torch.testing.assert_close(got[WIDTH, 0], (high - low) / (2 * small), atol=1e-6, rtol=1e-6)


def test_a_detached_state_is_what_the_paper_trains_with():
    """Segment by segment with a detached memory: the gradients of one pass over all segments."""
    module, x = mixer(), noise(2, 20, WIDTH)
    weight, state, total = noise(2, 20, WIDTH, seed=3), module.init_state(2), 0.0
    for piece, part in zip(x.split(4, 1), weight.split(4, 1), strict=True):
        y, state = module(piece, state.detach())
        total = total + (y * part).sum()
    parameters = tuple(module.parameters())
    whole = torch.autograd.grad((module(x)[0] * weight).sum(), parameters)
    for a, b in zip(torch.autograd.grad(total, parameters), whole, strict=True):
        same(a, b)


@pytest.mark.parametrize("parts", [[5, 5, 5, 6], [1] * STEPS, [2, 9, 10]], ids=str)
def test_a_stream_without_gradients_equals_one_pass(parts):
    module, x = mixer(), noise(2, STEPS, WIDTH)
    whole, state, pieces = module(x)[0], module.init_state(2), []
    with torch.no_grad():
        for piece in x.split(parts, 1):
            y, state = module(piece, state)
            pieces.append(y)
    same(torch.cat(pieces, 1), whole)
    assert state.numel() == 2 * (1 + 2 * 5 * WIDTH)


def test_two_million_steps_later_it_is_the_same_function():
    module, x = mixer(), noise(2, STEPS, WIDTH)
    far = module.init_state(2)
    _, begun = module(x, far)
    moved = type(begun)(begun.position + torch.tensor([2_000_000, 2_000_003]), begun.memories)
    same(module(x, moved)[0], module(x, begun)[0])
    exact = sinusoids(torch.tensor([2_000_000]), 4)[0]
    same(exact[0], torch.tensor(math.sin(2_000_000), dtype=torch.float64))


def test_many_segments_have_the_gradients_of_few():
    module, x = mixer(segment=2, layers=1), noise(1, 2 * SEGMENTS_KEPT + 3, WIDTH)
    parameters = tuple(module.parameters())
    found = torch.autograd.grad(module(x)[0].square().sum(), parameters)
    y, state = [], module.init_state(1)
    for piece in x.split(8, 1):
        part, state = module(piece, state)
        y.append(part)
    wanted = torch.autograd.grad(torch.cat(y, 1).square().sum(), parameters)
    for a, b in zip(found, wanted, strict=True):
        same(a, b)


@pytest.mark.parametrize(
    "lengths", [(512, 1024), pytest.param((8192, 16384), marks=pytest.mark.slow)]
)
def test_training_cost_is_linear(lengths):
    module = SYSTEM.build(SYSTEM.config(width=8, heads=1, window=8, segment=8))
    short, long = (training_cost(module, torch.randn(1, n, 8)) for n in lengths)
    assert all(b / a < 2**1.1 for a, b in zip(short, long, strict=True))
