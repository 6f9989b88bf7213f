"""Fast forms against the slow ones that audits follow: every way to put a few steps in groups."""

from itertools import product

import pytest
import torch

from kt_forecast.nn.probsparse import ProbSparse
from kt_forecast.nn.streams import Span
from kt_forecast.zoo.reformer import HashedAttention, ReformerConfig
from kt_forecast.zoo.routing_transformer import RoutedAttention, RoutingConfig

STEPS, GROUPS, SIZE = 6, 3, 4
EVERY = torch.tensor(list(product(range(GROUPS), repeat=STEPS)))
"""Each row puts the steps into groups in another way."""
WINDOWS = pytest.mark.parametrize("window", [1, 2, 4, 9])


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def span_of(real):
    """Return the span of steps that begin sequences; in each row so many are real."""
    zero = torch.zeros(len(EVERY), dtype=torch.int64)
    count = zero + STEPS if real is None else (torch.arange(len(EVERY)) % real) + 1
    return Span(zero, count, STEPS, 0, 0, whole=real is None)


def alike(fast, slow, group, streams, real, state):
    span = span_of(real)
    where = span.real[:, None, :, None]
    found = []
    for form in (fast, slow):
        q, v = (x.requires_grad_() for x in noise(2, len(EVERY), streams, STEPS, SIZE))
        y = form(q, v, group, state, span)[0]
        kept = torch.where(where, y, 0.0)
        weight = noise(*y.shape).cos()
        found.append((kept.detach(), *torch.autograd.grad((kept * weight).sum(), (q, v))))
    for a, b in zip(*found, strict=True):
        assert a.isfinite().all()
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0.0)


@WINDOWS
@pytest.mark.parametrize("real", [None, STEPS], ids=["whole", "padded"])
def test_steps_of_a_cluster(window, real):
    config = RoutingConfig(width=2 * SIZE, heads=2, clusters=GROUPS, window=window)
    mixing = RoutedAttention(config).double()
    state = mixing.init_state(len(EVERY)).clusters
    alike(mixing._routed, mixing._among_all, EVERY[:, None], 1, real, state)


@WINDOWS
@pytest.mark.parametrize("real", [None, STEPS], ids=["whole", "padded"])
@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_steps_of_a_bucket(window, real, rounds):
    config = ReformerConfig(width=SIZE, heads=1, buckets=4, rounds=rounds, window=window)
    mixing = HashedAttention(config).double()
    shifted = [EVERY.roll(97 * i, 0) for i in range(rounds)]
    state = mixing.init_state(len(EVERY))
    alike(mixing._in_buckets, mixing._among_all, torch.stack(shifted, 1), 1, real, state)


@pytest.mark.parametrize("padded", [False, True])
def test_queries_that_attend(padded):
    rows, steps = 3, 90
    mixing = ProbSparse(2 * SIZE, 2, factor=2, samples=5).double()
    count = torch.tensor([steps, 41, 7] if padded else [steps] * rows)
    span = Span(0 * count, count, steps, 0, 0, whole=not padded)
    x = noise(rows, steps, 2 * SIZE)
    found = []
    for attend in (mixing._attend, mixing._attend_all):
        share = []
        mixing._attend = lambda *given, form=attend, share=share: (
            share.append(given) or form(*given)
        )
        y = mixing(x, mixing.init_state(rows), span)[0][span.real]
        found.append(
            (y, *torch.autograd.grad((y * noise(*y.shape).cos()).sum(), mixing.parameters()))
        )
    attends = torch.stack([one for one, _, _ in share[0][4]]).any(0)
    assert 0.2 < attends.double().mean() < 0.8, "some attend and some do not"
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0.0)


@pytest.mark.parametrize("kind", [HashedAttention, RoutedAttention, ProbSparse])
def test_the_slow_forms_exist(kind):
    for fast, slow in kind.slowly.forms.items():
        assert callable(getattr(kind, fast))
        assert callable(getattr(kind, slow))
