"""The Set Transformer against properties that only a correct one has (specs 10)."""

import math

import pytest
import torch
from reference.sparse_cases import (
    audited,
    drawn,
    noise,
    refused_where_it_would_leak,
    same_with_gradients,
)

from kt_forecast import zoo
from kt_forecast.nn.running import COMPARED, NOTHING, softmax_before
from kt_forecast.nn.streams import Span
from kt_forecast.zoo import set_transformer
from kt_forecast.zoo.set_transformer import InducedLayer

SYSTEM = zoo.load("set_transformer")
WIDTH, STEPS = 16, 23
CLOSE = {"atol": 1e-12, "rtol": 0.0}


def config(**settings):
    sizes = {"width": WIDTH, "heads": 2, "points": 3, "chunk": 4, "dropout": 0.0}
    return SYSTEM.config(**sizes | settings)


def layer(**settings):
    return drawn(InducedLayer(config(**settings)))


def read(module, x):
    return module(x, module.init_state(len(x)), Span.beginning(x))[0]


def block(maps, x, y):
    """The paper's multihead attention block, as its code has it."""
    q = maps.query(x)
    k, v = maps.key_value(y).chunk(2, -1)
    q_, k_, v_ = (torch.cat(part.split(part.shape[-1] // 2, -1)) for part in (q, k, v))
    weight = (q_ @ k_.mT / math.sqrt(q.shape[-1])).softmax(-1)
    o = torch.cat((q_ + weight @ v_).split(len(x)), -1)
    o = maps.norms[0](o)
    return maps.norms[1](o + maps.feed(o).relu())


def pooled(module, x):
    return block(module.gather, module.points.expand(len(x), -1, -1), x)


def induced(module, x):
    return block(module.give, x, pooled(module, x))


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("chunk", [1, 4, 64])
def test_each_step_is_what_the_published_form_gives_its_prefix(chunk, normed):
    module = layer(chunk=chunk, normed=normed)
    same_with_gradients(
        lambda x, *_: read(module, x),
        lambda x, *_: torch.cat([induced(module, x[:, :t])[:, -1:] for t in range(1, 10)], 1),
        (noise(2, 9, WIDTH).requires_grad_(), *module.parameters()),
        tolerance=1e-10,
    )


def test_the_published_form_is_the_papers_code():
    module = layer(published=True)
    same_with_gradients(
        lambda x, *_: read(module, x),
        lambda x, *_: induced(module, x),
        (noise(2, STEPS, WIDTH).requires_grad_(), *module.parameters()),
        tolerance=1e-11,
    )


def test_order_counts_in_time_only():
    order = torch.randperm(STEPS, generator=torch.Generator().manual_seed(0))
    x = noise(2, STEPS, WIDTH)
    whole, own = layer(published=True), layer()
    torch.testing.assert_close(read(whole, x[:, order]), read(whole, x)[:, order], **CLOSE)
    assert (read(own, x[:, order]) - read(own, x)[:, order]).abs().max() > 1e-3
    _, state = own(x, own.init_state(2), Span.beginning(x))
    _, other = own(x[:, order], own.init_state(2), Span.beginning(x))
    torch.testing.assert_close(other.read, state.read, **CLOSE)
    torch.testing.assert_close(other.mass, state.mass, **CLOSE)


def test_points_pool_the_past_whatever_its_order():
    module, x = layer(), noise(2, STEPS, WIDTH)
    other = torch.cat([x[:, :-1].flip(1), x[:, -1:]], 1)
    torch.testing.assert_close(read(module, other)[:, -1], read(module, x)[:, -1], **CLOSE)


@pytest.mark.parametrize("chunks", [1, 3, COMPARED, COMPARED + 1, COMPARED**2 + 3])
def test_what_stands_before_a_chunk_is_a_softmax_of_its_past(chunks):
    logits, value = 30 * noise(2, 2, chunks, 2, 3), noise(2, 2, chunks, 2, 4, seed=2)
    read_, mass = torch.zeros(2, 2, 3, 4).double(), torch.full((2, 2, 3), NOTHING).double()
    first = softmax_before(logits[:, :, :1], value[:, :, :1], read_, mass)
    *_, read_, mass = first
    reads, masses, read_, mass = softmax_before(logits[:, :, 1:], value[:, :, 1:], read_, mass)
    reads, masses = (torch.cat([a, b], 2) for a, b in zip(first, (reads, masses), strict=False))
    for k in range(1, chunks, 1 + chunks // 99):
        told, given = logits[:, :, :k].flatten(2, 3), value[:, :, :k].flatten(2, 3)
        torch.testing.assert_close(reads[:, :, k], told.softmax(2).mT @ given, **CLOSE)
        torch.testing.assert_close(masses[:, :, k], told.logsumexp(2), **CLOSE)
    told, given = logits.flatten(2, 3), value.flatten(2, 3)
    torch.testing.assert_close(read_, told.softmax(2).mT @ given, **CLOSE)
    torch.testing.assert_close(mass, told.logsumexp(2), **CLOSE)


@pytest.mark.parametrize("chunks", [2, COMPARED + 2])
def test_a_later_logit_however_large_hides_no_earlier_chunk(chunks):
    logits, value = noise(1, 1, chunks, 3, 2).float(), noise(1, 1, chunks, 3, 4, seed=2).float()
    empty = torch.zeros(1, 1, 2, 4), torch.full((1, 1, 2), NOTHING)
    calm = softmax_before(logits, value, *empty)[0]
    logits[:, :, -1, -1] = 1e4
    loud = softmax_before(logits, value, *empty)
    assert torch.equal(loud[0], calm)
    torch.testing.assert_close(loud[2], value[:, :, -1, -1:].expand(-1, -1, 2, -1))


@pytest.mark.parametrize("normed", [True, False])
def test_steps_done_piece_by_piece_give_the_same(normed, monkeypatch):
    module = layer(normed=normed)
    x = noise(2, STEPS, WIDTH).requires_grad_()
    weight = noise(2, STEPS, WIDTH, seed=4)
    inputs = x, *module.parameters()
    whole = read(module, x)
    slopes = torch.autograd.grad((whole * weight).sum(), inputs)
    monkeypatch.setattr(set_transformer, "NUMBERS_AT_ONCE", 1)
    pieces = read(module, x)
    torch.testing.assert_close(pieces, whole, **CLOSE)
    found = torch.autograd.grad((pieces * weight).sum(), inputs)
    for got, wanted in zip(found, slopes, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-10, rtol=0.0)


@pytest.mark.parametrize("chunk", [2, 64])
def test_a_later_step_however_loud_hides_no_earlier_one(chunk):
    module, x = layer(chunk=chunk), noise(1, 7, WIDTH)
    calm = read(module, x)
    loud = read(module, torch.cat([x[:, :-1], 1e5 * x[:, -1:]], 1))
    torch.testing.assert_close(loud[:, :-1], calm[:, :-1], **CLOSE)
    assert loud.isfinite().all()


def test_the_auditor_finds_the_published_points_and_the_tasks_refuse_them():
    settings = config(published=True, layers=1)
    report = audited(drawn(SYSTEM.build(settings)), noise(1, 6, WIDTH))
    assert report.verdict == "leak", report.summary()
    refused_where_it_would_leak(SYSTEM, settings)


def test_padding_is_not_in_the_published_set():
    module, x = drawn(SYSTEM.build(config(published=True))), noise(2, 9, WIDTH)
    valid = torch.arange(9) < torch.tensor([[6], [9]])
    got = module(x, valid=valid)[0]
    torch.testing.assert_close(got[:1, :6], module(x[:1, :6])[0], **CLOSE)
    torch.testing.assert_close(got[1:], module(x[1:])[0], **CLOSE)


def test_the_state_is_a_vector_and_a_number_a_point():
    module = SYSTEM.build(SYSTEM.config(width=32, heads=4, layers=3, points=6))
    assert module.init_state(5).numel() == 5 * (3 * 6 * (32 + 4) + 1)
