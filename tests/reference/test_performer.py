"""The Performer against properties that only a correct one has (specs 15)."""

import math

import pytest
import torch
import torch.nn.functional as F
from reference.sparse_cases import (
    audited,
    drawn,
    noise,
    refused_where_it_would_leak,
    same_with_gradients,
)

from kt_forecast import zoo
from kt_forecast.nn.streams import Span
from kt_forecast.zoo.performer import (
    PUBLISHED_EPSILON,
    FavorAttention,
    directions,
    of_keys,
    of_queries,
    published,
    rectified,
)

SYSTEM = zoo.load("performer")
WIDTH, STEPS = 16, 23
CLOSE = {"atol": 1e-12, "rtol": 0.0}
KERNELS = pytest.mark.parametrize("kernel", ["softmax", "relu"])


def config(**settings):
    return SYSTEM.config(**{"width": WIDTH, "heads": 2, "features": 12, "chunk": 4, **settings})


def attention(**settings):
    torch.manual_seed(0)
    return drawn(FavorAttention(config(**settings)))


def read(module, x):
    return module(x, module.init_state(len(x)), Span.beginning(x))[0]


def heads(module, x):
    q, k, v = (
        part.unflatten(-1, (2, -1)).transpose(1, 2)
        for part in module.query_key_value(x).chunk(3, -1)
    )
    place = torch.arange(x.shape[1])[None]
    return module.rotary(q, place), module.rotary(k, place), v


def plain(x, w):
    """The features of the paper, without anything to keep them in range."""
    x = x * x.shape[-1] ** -0.25
    return (x @ w.T - x.square().sum(-1, keepdim=True) / 2).exp()


def by_pairs(module, x, features):
    q, k, v = heads(module, x)
    weight = (features(q, module.directions) @ features(k, module.directions).mT).tril()
    y = weight / weight.sum(-1, keepdim=True) @ v
    return module.out(y.transpose(1, 2).flatten(2))


@KERNELS
@pytest.mark.parametrize("chunk", [1, 4, STEPS, 64])
def test_chunks_equal_the_weights_of_the_plain_features_with_gradients(chunk, kernel):
    module, features = attention(chunk=chunk, kernel=kernel), plain
    if kernel == "relu":
        features = rectified
    x = noise(2, STEPS, WIDTH).requires_grad_()
    same_with_gradients(
        lambda x, *_: read(module, x),
        lambda x, *_: by_pairs(module, x, features),
        (x, *module.parameters()),
        tolerance=1e-11,
    )


def test_weights_sum_to_one():
    module, x = attention(), noise(2, STEPS, WIDTH)
    with torch.no_grad():
        module.query_key_value.weight[-WIDTH:] = 0.0
        module.query_key_value.bias[-WIDTH:] = 1.0
        module.out.weight.copy_(torch.eye(WIDTH))
        module.out.bias.zero_()
    got = read(module, x)
    torch.testing.assert_close(got, torch.ones_like(got), **CLOSE)


def error(w, q, k, v):
    """Return the root mean square distance to softmax attention over the steps so far."""
    weight = (of_queries(q, w) @ of_keys(k, w).mT).tril()
    got = weight / weight.sum(-1, keepdim=True) @ v
    return (got - F.scaled_dot_product_attention(q, k, v, is_causal=True)).square().mean().sqrt()


def test_the_error_falls_with_the_root_of_the_features_and_right_angles_help():
    few, many, size = 32, 2048, 8
    errors = {"free": [0.0, 0.0], "orthogonal": [0.0, 0.0]}
    for seed in range(6):
        torch.manual_seed(seed)
        q, k = (0.5 * noise(1, 4, 64, size, seed=10 * seed + i) for i in range(2))
        v = noise(1, 4, 64, size, seed=10 * seed + 2)
        for i, count in enumerate((few, many)):
            free = torch.randn(count, size, dtype=torch.float64)
            errors["free"][i] += error(free, q, k, v).item() / 6
            errors["orthogonal"][i] += error(directions(count, size).double(), q, k, v).item() / 6
    for least, most in errors.values():
        slope = math.log(most / least) / math.log(many / few)
        assert -0.65 < slope < -0.3, errors
    assert errors["orthogonal"][0] < errors["free"][0], errors
    assert errors["orthogonal"][1] < errors["free"][1], errors


def test_directions_are_orthogonal_and_uniform():
    torch.manual_seed(0)
    w = directions(8 * 4000, 8).double()
    blocks = F.normalize(w, dim=-1).unflatten(0, (-1, 8))
    eye = torch.eye(8).double().expand(len(blocks), -1, -1)
    torch.testing.assert_close(blocks @ blocks.mT, eye, atol=1e-5, rtol=0.0)
    # The factor without mended signs has a mean diagonal far below zero.
    assert blocks.diagonal(dim1=-2, dim2=-1).mean().abs() < 0.02
    assert w.square().sum(-1).mean().item() == pytest.approx(8, rel=0.02)
    assert w.square().sum(-1).var().item() == pytest.approx(16, rel=0.1)
    same = directions(10, 8, same_length=True)
    torch.testing.assert_close(same.square().sum(-1), torch.full((10,), 8.0))


def test_a_large_key_in_single_precision_hides_no_other():
    q, k, v = (noise(1, 1, 64, 16, seed=i).float() for i in range(3))
    w = directions(64, 16)
    k[:, :, -1] *= 60
    kept = {}
    for name, features in (("own", of_keys(k, w)), ("whole", plain(k, w) / plain(k, w).max())):
        weight = (of_queries(q, w) @ features.mT).tril()
        kept[name] = (weight.sum(-1) > 1e-20).sum().item()
    assert kept["own"] == 64
    weight = (of_queries(q, w) @ of_keys(k, w).mT).tril()
    got = weight / weight.sum(-1, keepdim=True) @ v
    exact = (of_queries(q.double(), w.double()) @ of_keys(k.double(), w.double()).mT).tril()
    exact = exact / exact.sum(-1, keepdim=True) @ v.double()
    torch.testing.assert_close(got.double(), exact, atol=1e-3, rtol=0.0)


def test_a_key_out_of_reach_reads_zero_with_finite_gradients():
    module = attention().float()
    x = noise(1, 5, WIDTH).float().requires_grad_()
    with torch.no_grad():
        module.query_key_value.weight.mul_(1e4)
    y = read(module, x)
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("scale", [1.0, 3.0, 40.0])
def test_a_later_key_moves_earlier_steps_as_published_only(scale):
    x = noise(1, STEPS, WIDTH)
    other = torch.cat([x[:, :-1], scale * noise(1, 1, WIDTH, seed=5)], 1)
    own, leaking = attention(), attention(published=True)
    assert torch.equal(read(own, other)[:, :-1], read(own, x)[:, :-1])
    moved = read(leaking, other)[:, :-1] - read(leaking, x)[:, :-1]
    assert scale < 40 or moved.abs().max() > 1e-3


def test_the_published_features_without_what_is_added_are_the_same_attention():
    torch.manual_seed(0)
    w = directions(12, 8).double()
    q, k, v = (noise(1, 2, STEPS, 8, seed=i) for i in range(3))
    of_q, of_k = published(q, k, w, None)
    raw = ((of_q - PUBLISHED_EPSILON) @ (of_k - PUBLISHED_EPSILON).mT).tril()
    own = (of_queries(q, w) @ of_keys(k, w).mT).tril()
    raw, own = (weight / weight.sum(-1, keepdim=True) @ v for weight in (raw, own))
    torch.testing.assert_close(raw, own, atol=1e-9, rtol=0.0)


def test_the_auditor_finds_the_published_divisor_and_the_tasks_refuse_it():
    settings = config(published=True, layers=1)
    report = audited(drawn(SYSTEM.build(settings)), noise(1, 6, WIDTH))
    assert report.verdict == "leak", report.summary()
    refused_where_it_would_leak(SYSTEM, settings)


def test_rectified_features_have_no_divisor_to_leak():
    assert config(published=True, kernel="relu").leak == ""


def test_the_state_is_a_matrix_a_head():
    module = SYSTEM.build(SYSTEM.config(width=32, heads=4, layers=3, features=20))
    assert module.init_state(5).numel() == 5 * (3 * 4 * 20 * (8 + 1) + 1)
