"""Recurrent Memory Transformer against properties that only a correct one has (specs 5)."""

from dataclasses import replace

import pytest
import torch
from reference.test_memory_transformer import drawn, noise, same, stream, stream_of_single
from reference.test_memory_transformer import mixer as memory_transformer

from kt_forecast import zoo
from kt_forecast.audit.cost import training_cost

SYSTEM = zoo.load("rmt")
SEGMENT, STEPS, WIDTH = 5, 23, 16


def mixer(**settings: object):
    given = {"width": WIDTH, "heads": 2, "slots": 3, "segment": SEGMENT}
    return drawn(SYSTEM.build(SYSTEM.config(**given | settings)))


def copied(source, target, renamed=lambda name: name):
    own = dict(source.named_parameters())
    with torch.no_grad():
        for name, parameter in target.named_parameters():
            parameter.copy_(own[renamed(name)])
    return target


def test_without_memory_segments_are_independent():
    module, x = mixer(slots=0), noise(2, STEPS, WIDTH)
    gpt = zoo.load("gpt")
    plain = gpt.build(gpt.config(width=WIDTH, heads=2, layers=2)).double().eval()
    names = {"attention.query": "query", "attention.key_value": "key_value", "attention.out": "out"}

    def renamed(name):
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        return name

    plain = copied(module, plain, renamed)
    same(module(x)[0], torch.cat([plain(part)[0] for part in x.split(SEGMENT, 1)], 1))


def test_one_segment_is_the_memory_transformer():
    """Without positions, which the two count differently for memory tokens."""
    module, other = mixer(segment=STEPS), memory_transformer()
    for part in (*module.modules(), *other.modules()):
        if hasattr(part, "rate"):
            part.rate.zero_()
    copied(module, other, lambda name: name.replace("attention.", ""))
    x = noise(2, STEPS, WIDTH)
    same(module(x)[0], other(x)[0])


def as_published(module, x):
    """Run all of [read, steps, write] at once under one mask, segment after segment."""
    memory, slots, pieces = module.memory.expand(len(x), -1, -1), module.memory.shape[1], []
    for part in x.split(SEGMENT, 1):
        steps = part.shape[1]
        group = torch.tensor([0] * slots + [1] * steps + [2] * slots)
        order = torch.arange(len(group))
        place = torch.cat([order[:slots] * 0, 1 + order[:steps], order[:slots] * 0 + SEGMENT + 1])
        visible = (group[:, None] > group) | (
            (group[:, None] == group) & ((group != 1) | (order <= order[:, None]))
        )
        tokens = torch.cat([memory, part, memory], 1)
        angles = module.rotary.angles(place[None], x.dtype)
        for layer in module.layers:
            tokens, _ = layer(tokens, part.new_zeros(len(x), 0, 2 * WIDTH), angles, visible)
        tokens = module.norm(tokens)
        pieces.append(tokens[:, slots : slots + steps])
        memory = tokens[:, slots + steps :]
    return torch.cat(pieces, 1)


@pytest.mark.parametrize("steps", [STEPS, 4 * SEGMENT])
def test_it_is_read_steps_write_under_one_mask(steps):
    module, x = mixer(), noise(2, steps, WIDTH)
    same(module(x)[0], as_published(module, x))


def test_a_full_segment_writes_and_a_part_of_one_does_not():
    module, x = mixer(), noise(2, SEGMENT, WIDTH)
    _, part = module(x[:, :-1], module.init_state(2))
    assert not part.memory.any()
    _, full = module(x[:, -1:], part)
    assert full.memory.abs().max() > 0.1
    assert not any(kept.any() for kept in full.layers)
    _, next_part = module(x[:, :-1], full)
    assert torch.equal(next_part.memory, full.memory)


def test_the_past_is_read_through_the_memory_only():
    module, x = mixer(), noise(1, 3 * SEGMENT, WIDTH)
    _, first = module(x[:, :SEGMENT], module.init_state(1))
    _, second = module(x[:, SEGMENT : 2 * SEGMENT], first)
    other = replace(first, memory=first.memory + noise(1, 3, WIDTH))
    assert not torch.allclose(module(x[:, SEGMENT : 2 * SEGMENT], other)[1].memory, second.memory)
    same(module(x[:, 2 * SEGMENT :], second)[0], module(x)[0][:, 2 * SEGMENT :])
    assert second.numel() == 1 + 3 * WIDTH + 2 * (3 + SEGMENT) * 2 * WIDTH


@pytest.mark.parametrize("cut", [False, True])
def test_what_is_cut_off_gets_no_gradient(cut):
    module, x = mixer(), noise(1, 3 * SEGMENT, WIDTH).requires_grad_()
    state = module.init_state(1)
    for part in x.split(SEGMENT, 1):
        state = state.detach() if cut else state
        y, state = module(part, state)
    (slope,) = torch.autograd.grad(y.square().sum(), x)
    assert bool(slope[:, : 2 * SEGMENT].any()) != cut
    assert slope[:, 2 * SEGMENT :].any()


def test_rows_at_different_places_equal_one_pass():
    module, x = mixer(), noise(3, STEPS, WIDTH)
    for seed in range(3):
        same(stream(module, x, seed=seed), module(x)[0])


def test_single_precision_streams_too():
    module, x = mixer().float(), noise(2, STEPS, WIDTH).float()
    assert (stream_of_single(module, x) - module(x)[0]).abs().max() < 1e-4


def test_millions_of_steps_before_make_no_difference_to_positions():
    module, x = mixer(), noise(1, 2 * SEGMENT, WIDTH)
    _, state = module(x, module.init_state(1))
    late = replace(state, position=state.position + 400_000 * SEGMENT)
    assert torch.equal(module(x, late)[0], module(x, state)[0])


@pytest.mark.slow
def test_training_cost_grows_with_the_length_up_to_sixty_four_thousand_steps():
    module = SYSTEM.build(SYSTEM.config(width=WIDTH, segment=128))
    short, long = (training_cost(module, noise(1, n, WIDTH).float()) for n in (1024, 65536))
    assert all(b / a <= 64**1.1 for a, b in zip(short, long, strict=True))


def test_heads_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="heads must divide width"):
        SYSTEM.config(width=16, heads=3)
