"""Compressive Transformer against properties that only a correct one has (specs 2)."""

import math

import pytest
import torch

from kt_forecast import zoo
from kt_forecast.audit.cost import training_cost
from kt_forecast.nn.relative import sinusoids
from kt_forecast.nn.system import auxiliary_loss

SYSTEM, XL = zoo.load("compressive_transformer"), zoo.load("transformer_xl")
STEPS, WIDTH, HEADS = 27, 16, 2
SMALL = {"width": WIDTH, "heads": HEADS, "segment": 4, "memory": 8, "compressed": 3, "rate": 2}


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn(module):
    with torch.no_grad():
        for i, parameter in enumerate(module.double().parameters()):
            parameter.copy_(0.3 * noise(*parameter.shape, seed=i))
    return module.eval()


def mixer(**settings):
    return drawn(SYSTEM.build(SYSTEM.config(**SMALL | settings)))


def same(a, b):
    torch.testing.assert_close(a, b, atol=1e-10, rtol=0.0)


def heads(part):
    return part.unflatten(-1, (HEADS, -1))


def written_out(module, x):
    """The paper's algorithm for one row, list by list: segments, two queues, one step at a time."""
    config, (x,) = module.config, x
    for layer in module.layers:
        a, memory, groups, y = layer.attention, [], [], []
        for segment in x.split(config.segment):
            for t in range(len(segment)):
                slots = [*groups, *memory, *segment[: t + 1]]
                normed = a.norm(torch.stack(slots))
                q = heads(a.query(normed[-1]))
                k, v = (heads(half) for half in a.key_value(normed).chunk(2, -1))
                far = torch.arange(len(slots) - 1, -1, -1)
                r = heads(a.distance(sinusoids(far, WIDTH)))
                logits = ((q + a.content_offset[:, 0]) * k).sum(-1)
                logits = logits + ((q + a.distance_offset[:, 0]) * r).sum(-1)
                weight = (logits / math.sqrt(WIDTH // HEADS)).softmax(0)
                read = a.out((weight[..., None] * v).sum(0).flatten())
                step = segment[t] + read
                y.append(step + layer.feed(layer.feed_norm(step)))
            if len(segment) < config.segment:
                break
            memory += list(segment)
            old, memory = memory[: -config.memory or None], memory[-config.memory or len(memory) :]
            if old and config.compressed:
                groups += list(layer.compression(torch.stack(old)[None])[0])
                groups = groups[-config.compressed :]
        x = torch.stack(y)
    return module.norm(x)[None]


@pytest.mark.parametrize("compression", ["mean", "max", "convolution"])
@pytest.mark.parametrize("sizes", [{}, {"compressed": 0}, {"memory": 0}, {"rate": 4, "memory": 4}])
def test_it_is_the_papers_algorithm(sizes, compression):
    module, x = mixer(compression=compression, **sizes), noise(1, STEPS, WIDTH)
    wanted = written_out(module, x)
    same(module(x)[0], wanted)
    with torch.no_grad():
        same(module(x)[0], wanted)


def test_what_is_kept_after_each_segment():
    """Of steps that hold their own number, five segments leave these in the two queues."""
    module = mixer(compression="mean", layers=1)
    x = torch.arange(20.0, dtype=torch.float64)[None, :, None].expand(1, -1, WIDTH)
    _, state = module(x, module.init_state(1))
    (kept,) = state.layers
    assert kept.recent[0, -8:, 0].tolist() == list(range(12, 20))
    assert kept.compressed[0, :, 0].tolist() == [6.5, 8.5, 10.5]


def test_groups_of_one_step_are_a_longer_memory():
    x = noise(2, STEPS, WIDTH)
    groups = mixer(compression="mean", rate=1, memory=4, compressed=6)
    longer = mixer(compression="mean", rate=1, memory=10, compressed=0)
    longer.load_state_dict(groups.state_dict())
    same(groups(x)[0], longer(x)[0])


def test_without_groups_and_with_segments_of_one_step_it_is_transformer_xl():
    x = noise(2, STEPS, WIDTH)
    module = mixer(segment=1, memory=5, compressed=0, rate=1)
    xl = XL.build(XL.config(width=WIDTH, heads=HEADS, window=6)).double().eval()
    xl.load_state_dict(module.state_dict())
    same(module(x)[0], xl(x)[0])


def test_it_reads_back_as_far_as_its_groups_reach():
    """One layer: groups, memory and segment; what has been forgotten moves nothing."""
    module, x = mixer(layers=1), noise(1, 24, WIDTH)
    base = module(x)[0][:, 20:]
    first = 20 - 8 - 3 * 2
    for place, moves in ((first, True), (first - 1, False)):
        other = x.clone()
        other[:, place] += noise(WIDTH, seed=2)
        assert bool((module(other)[0][:, 20:] != base).any()) is moves


@pytest.mark.parametrize("objective", ["attention", "steps"])
def test_compression_alone_learns_from_its_loss_and_from_nothing_else(objective):
    module, x = mixer(objective=objective).train(), noise(2, STEPS, WIDTH).requires_grad_()
    y, _ = module(x)
    names = [name for name, _ in module.named_parameters()]
    parameters = (*module.parameters(), x)
    of_task = torch.autograd.grad(y.sum(), parameters, allow_unused=True, retain_graph=True)
    of_own = torch.autograd.grad(auxiliary_loss(module, None), parameters, allow_unused=True)
    for name, task, own in zip([*names, "x"], of_task, of_own, strict=True):
        compresses = ".compression." in name
        assert (own is not None and bool(own.any())) is compresses, name
        assert (task is None or not task.any()) is compresses, name
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_the_loss_is_what_attention_misses_of_the_steps_that_leave():
    module, x = mixer(layers=1, compression="convolution").train(), noise(1, STEPS, WIDTH)
    module(x)
    found = module.auxiliary[0]
    layer, wanted = module.layers[0], []
    for t in range(STEPS):
        start = t // 4 * 4 - 8
        if start < 0:
            wanted.append(0.0)
            continue
        old = x[0, start : start + 4]
        reads = []
        for memory in (old, layer.compression(old[None])[0]):
            q = heads(layer.attention.query(layer.attention.norm(x[0, t])))
            both = layer.attention.key_value(layer.attention.norm(memory))
            k, v = (heads(half) for half in both.chunk(2, -1))
            weight = ((q * k).sum(-1) / math.sqrt(WIDTH // HEADS)).softmax(0)
            reads.append((weight[..., None] * v).sum(0))
        wanted.append(float((reads[0] - reads[1]).square().mean().detach()))
    same(found, torch.tensor(wanted, dtype=torch.float64))
    assert found[8:].all()


def test_the_loss_stands_at_its_steps_under_padding():
    module, x = mixer().train(), noise(2, STEPS, WIDTH)
    for layer in module.layers:
        layer.dropout.p = layer.feed.dropout.p = 0.0
    module(x)
    clean, module.auxiliary = module.auxiliary, None
    valid = torch.ones(2, STEPS + 5, dtype=torch.bool)
    valid[0, 3:8] = False
    valid[1, :5] = False
    padded = noise(2, STEPS + 5, WIDTH, seed=4)
    padded[valid] = x.flatten(0, 1)
    module(padded, valid=valid)
    same(module.auxiliary[valid].reshape(2, STEPS), clean)
    module.eval()(x)
    assert not module.auxiliary[~valid].any()


def test_the_mean_of_equal_steps_loses_nothing():
    module = mixer(compression="mean")
    steps = noise(1, 1, WIDTH).expand(1, 6, WIDTH)
    same(module.layers[0].compression(steps), steps[:, :3])


@pytest.mark.parametrize("parts", [[1] * STEPS, [2, 9, 12, 4], [4, 4, 19]], ids=str)
def test_a_stream_without_gradients_equals_one_pass(parts):
    module, x = mixer(), noise(2, STEPS, WIDTH)
    whole, state, pieces = module(x)[0], module.init_state(2), []
    with torch.no_grad():
        for piece in x.split(parts, 1):
            y, state = module(piece, state)
            pieces.append(y)
    same(torch.cat(pieces, 1), whole)
    assert state.numel() == 2 * (1 + 2 * (8 + 4 - 1 + 3) * WIDTH)


def test_two_million_steps_later_it_is_the_same_function():
    module, x = mixer(), noise(2, STEPS, WIDTH)
    _, begun = module(noise(2, 24, WIDTH, seed=2), module.init_state(2))
    moved = type(begun)(begun.position + 4 * torch.tensor([500_000, 500_001]), begun.layers)
    same(module(x, moved)[0], module(x, begun)[0])


@pytest.mark.parametrize(
    "lengths", [(512, 1024), pytest.param((8192, 16384), marks=pytest.mark.slow)]
)
def test_training_cost_is_linear(lengths):
    module = SYSTEM.build(SYSTEM.config(**SMALL)).train()
    short, long = (training_cost(module, torch.randn(1, n, WIDTH)) for n in lengths)
    assert all(b / a < 2**1.1 for a, b in zip(short, long, strict=True))
