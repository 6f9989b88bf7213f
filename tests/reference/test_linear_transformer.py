"""The Linear Transformer against properties that only a correct one has (specs 14)."""

import pytest
import torch
from reference.sparse_cases import drawn, noise, same_with_gradients

from kt_forecast import zoo
from kt_forecast.nn.running import running_sums
from kt_forecast.nn.streams import Span
from kt_forecast.zoo.linear_transformer import EPSILON, LinearAttention

SYSTEM = zoo.load("linear_transformer")
WIDTH, STEPS = 16, 23
CLOSE = {"atol": 1e-12, "rtol": 0.0}
CHUNKS = pytest.mark.parametrize("chunk", [1, 4, STEPS, 64])
POSITIONS = pytest.mark.parametrize("positions", ["rotary", "none"])


def config(**settings):
    return SYSTEM.config(**{"width": WIDTH, "heads": 2, "chunk": 4, **settings})


def attention(**settings):
    return drawn(LinearAttention(config(**settings)))


def read(module, x):
    return module(x, module.init_state(len(x)), Span.beginning(x))[0]


def positive(x):
    """The paper's features: elu and one."""
    return torch.where(x > 0, x + 1, x.exp())


def by_pairs(module, x):
    """Write out the weights of all pairs of steps."""
    q, k, v = (
        part.unflatten(-1, (2, -1)).transpose(1, 2)
        for part in module.query_key_value(x).chunk(3, -1)
    )
    q, k = positive(q), positive(k)
    total = (q @ k.transpose(-1, -2)).tril().sum(-1, keepdim=True) + EPSILON
    if module.rotary is not None:
        place = torch.arange(x.shape[1])[None]
        q, k = module.rotary(q, place), module.rotary(k, place)
    y = (q @ k.transpose(-1, -2)).tril() @ v / total
    return module.out(y.transpose(1, 2).flatten(2))


def by_steps(q, k, v, state):
    """Carry the sums from step to step."""
    found = []
    for t in range(v.shape[2]):
        state = state + k[:, :, t, :, None] * v[:, :, t, None]
        found.append((q[:, :, t, None] @ state)[:, :, 0])
    return torch.stack(found, 2), state


@CHUNKS
def test_running_sums_are_carried_sums_with_gradients(chunk):
    inputs = noise(2, 3, STEPS, 4), noise(2, 3, STEPS, 4, seed=2), noise(2, 3, STEPS, 5, seed=3)
    inputs = tuple(x.requires_grad_() for x in (*inputs, noise(2, 3, 4, 5, seed=4)))
    worth = noise(2, 3, STEPS, 5, seed=6), noise(2, 3, 4, 5, seed=7)
    ways = running_sums(*inputs, chunk=chunk), by_steps(*inputs)
    for fast, slow in zip(*ways, strict=True):
        torch.testing.assert_close(fast, slow, **CLOSE)
    sums = (sum((y * w).sum() for y, w in zip(way, worth, strict=True)) for way in ways)
    for fast, slow in zip(*(torch.autograd.grad(s, inputs) for s in sums), strict=True):
        torch.testing.assert_close(fast, slow, **CLOSE)


@POSITIONS
@CHUNKS
def test_chunks_equal_the_weights_of_all_pairs_with_gradients(chunk, positions):
    module = attention(chunk=chunk, positions=positions)
    x = noise(2, STEPS, WIDTH).requires_grad_()
    same_with_gradients(
        lambda x, *_: read(module, x),
        lambda x, *_: by_pairs(module, x),
        (x, *module.parameters()),
        tolerance=1e-11,
    )


def weighted(module, x):
    """Return what heads read before the last map."""
    with torch.no_grad():
        module.out.weight.copy_(torch.eye(WIDTH))
        module.out.bias.zero_()
    return read(module, x)


def test_weights_sum_to_one():
    module, x = attention(positions="none"), noise(2, STEPS, WIDTH)
    with torch.no_grad():
        module.query_key_value.weight[-WIDTH:] = 0.0
        module.query_key_value.bias[-WIDTH:] = 1.0
    got = weighted(module, x)
    torch.testing.assert_close(got, torch.ones_like(got), atol=1e-5, rtol=0.0)


def test_the_scale_of_all_keys_does_not_count():
    q, k, v = (positive(noise(1, 2, STEPS, 4, seed=i)) for i in range(3))
    empty, none = torch.zeros(1, 2, 4, 4).double(), torch.zeros(1, 2, 4, 1).double()

    def mixed(k):
        weights, _ = running_sums(q, k, torch.ones_like(v[..., :1]), none)
        return running_sums(q, k, v, empty)[0] / weights

    torch.testing.assert_close(mixed(7.3 * k), mixed(k), **CLOSE)


def test_without_positions_the_order_of_the_past_does_not_count():
    x = noise(1, STEPS, WIDTH)
    other = torch.cat([x[:, :-1].flip(1), x[:, -1:]], 1)
    free, turned = attention(positions="none"), attention()
    torch.testing.assert_close(read(free, other)[:, -1], read(free, x)[:, -1], **CLOSE)
    assert (read(turned, other)[:, -1] - read(turned, x)[:, -1]).abs().max() > 1e-4


def test_half_precision_sums_in_single():
    module, x = attention().float(), noise(1, 512, WIDTH).float()
    with torch.autocast("cpu", torch.bfloat16):
        _, state = module(x, module.init_state(1), Span.beginning(x))
    assert state.memory.dtype == state.total.dtype == torch.float32


def test_the_state_is_a_matrix_and_a_vector_a_head():
    module = SYSTEM.build(SYSTEM.config(width=32, heads=4, layers=3))
    assert module.init_state(5).numel() == 5 * (3 * 4 * 8 * (8 + 1) + 1)
