"""Reformer against properties that only a correct one has (specs 7)."""

import pytest
import torch
import torch.nn.functional as F
from reference.sparse_cases import (
    audited,
    close_under_autocast,
    has_slopes_ahead,
    moved_before_cuts,
    refused_where_it_would_leak,
)

from kt_forecast import zoo
from kt_forecast.audit.cost import growth, training_cost
from kt_forecast.nn.streams import Span
from kt_forecast.zoo.reformer import ITSELF, HashedAttention

SYSTEM = zoo.load("reformer")
STEPS, WIDTH, HEADS = 29, 16, 2


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def same(a, b):
    torch.testing.assert_close(a, b, atol=1e-10, rtol=0.0)


def config(**settings: object):
    given = {"width": WIDTH, "heads": HEADS, "buckets": 4, "window": 3, "dropout": 0.0}
    return SYSTEM.config(**(given | settings))


def attention(**settings: object):
    torch.manual_seed(4)
    return HashedAttention(config(**settings)).double()


def mixer(**settings: object):
    torch.manual_seed(4)
    return SYSTEM.build(config(**settings)).double().eval()


def read(module, x, **given):
    return module(x, module.init_state(len(x)), Span.beginning(x), **given)[0]


def by_pairs(module, x):
    """Attend over all pairs that read each other in any round, written out."""
    bucket = module.hashed(module._split(module.query(x))).long()
    bucket = bucket.unflatten(1, (module.heads, module.rounds))
    same_bucket = bucket[..., :, None] == bucket[..., None, :]
    steps = x.shape[1]
    past = torch.ones(steps, steps, dtype=torch.bool).tril()
    between = (same_bucket & past).long().flip(-1).cumsum(-1).flip(-1)
    seen = (same_bucket & past & (between <= module.window)).any(2)
    return over(module, x, seen)


def over(module, x, seen):
    q, v = (module._split(part(x)) for part in (module.query, module.value))
    q = module.rotary(q, torch.arange(x.shape[1])[None])
    logits = q @ F.normalize(q, dim=-1).transpose(-1, -2)
    logits = logits.masked_fill(~seen, float("-inf"))
    itself = torch.eye(x.shape[1], dtype=torch.bool)
    logits = torch.where(itself, torch.tensor(ITSELF, dtype=torch.float64), logits)
    return module.out((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))


def slopes(y, module, x):
    return torch.autograd.grad((y * noise(*y.shape, seed=6)).sum(), (x, *module.parameters()))


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_one_bucket_as_wide_as_the_sequence_is_full_attention(rounds, published):
    steps = 24
    module = attention(rounds=rounds, window=steps, published=published)
    module.rotations.zero_()
    x = noise(2, steps, WIDTH).requires_grad_()
    got = read(module, x)
    wanted = over(module, x, torch.ones(steps, steps, dtype=torch.bool).tril())
    same(got, wanted)
    if not published:
        for a, b in zip(slopes(got, module, x), slopes(wanted, module, x), strict=True):
            same(a, b)


@pytest.mark.parametrize("settings", [{"rounds": 1}, {"rounds": 3}, {"rounds": 4, "window": 6}])
def test_rounds_together_read_every_pair_once(settings):
    module = attention(**settings)
    x = noise(2, STEPS, WIDTH).requires_grad_()
    got, wanted = read(module, x), by_pairs(module, x)
    same(got, wanted)
    for a, b in zip(slopes(got, module, x), slopes(wanted, module, x), strict=True):
        same(a, b)


def test_the_first_step_reads_its_own_value():
    module, x = attention(), noise(2, STEPS, WIDTH)
    same(read(module, x)[:, 0], module.out(module.value(x[:, 0])))


def test_more_rounds_come_nearer_to_full_attention():
    x = noise(4, 64, WIDTH)
    seen = torch.ones(64, 64, dtype=torch.bool).tril()
    gaps = []
    for rounds in (1, 4, 16):
        module = attention(rounds=rounds, window=16)
        gaps.append(float((read(module, x) - over(module, x, seen)).detach().abs().mean()))
    assert gaps[0] > 1.3 * gaps[1] > 1.3 * gaps[2]


@pytest.mark.parametrize("scale", [1.0, 3.0, 40.0])
@pytest.mark.parametrize("published", [False, True])
def test_only_the_published_chunks_see_the_future(published, scale):
    moved = moved_before_cuts(mixer(published=published), noise(2, STEPS, WIDTH), scale)
    assert moved > 0.1 if published else moved == 0.0


def test_a_later_step_that_is_no_number_changes_nothing_before_it():
    x = noise(2, STEPS, WIDTH)
    spoilt = x.clone()
    spoilt[:, -1] = torch.nan
    with torch.no_grad():
        before, after = (mixer()(each)[0] for each in (x, spoilt))
    assert torch.equal(before[:, :-1], after[:, :-1])
    assert after[:, -1].isnan().all()


def test_no_slope_shows_what_the_published_chunks_reveal():
    assert not has_slopes_ahead(mixer(published=True), noise(1, STEPS, WIDTH))


def test_the_auditor_finds_the_published_chunks():
    module = mixer(published=True, layers=1)
    report = audited(module, noise(2, 13, WIDTH))
    assert report.verdict == "leak", report.summary()


def test_the_published_chunks_are_refused_where_they_would_leak():
    refused_where_it_would_leak(SYSTEM, config(published=True))


def test_odd_buckets_are_refused():
    with pytest.raises(ValueError, match="buckets must be even"):
        config(buckets=3)


def test_training_gives_the_slopes_of_kept_activations():
    module = mixer(layers=3, rounds=2)
    x = noise(2, STEPS, WIDTH).requires_grad_()
    kept = slopes(module(x)[0], module, x)
    found = slopes(module.train()(x)[0], module, x)
    for a, b in zip(found, kept, strict=True):
        same(a, b)


def test_training_keeps_of_a_further_layer_its_buckets_alone():
    x = noise(1, 256, WIDTH)
    kept = [training_cost(mixer(layers=layers).train(), x)[1] for layers in (2, 4)]
    assert kept[1] - kept[0] == 2 * 256 * HEADS * config().rounds


def test_training_forms_nothing_of_all_pairs():
    largest = 0

    def look(tensor):
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    module, steps = mixer(), 2048
    x = noise(1, steps, WIDTH).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(look, lambda tensor: tensor):
        module(x)[0].sum().backward()
    assert largest < steps**2 // 8


def test_half_precision_gives_about_the_same_slopes():
    close_under_autocast(mixer(layers=1), noise(2, STEPS, WIDTH))


@pytest.mark.slow
def test_cost_grows_with_the_length_up_to_the_longest():
    module = SYSTEM.build(config(buckets=8, window=32))
    found = growth(module, WIDTH, streaming=False, lengths=(4096, 65536))
    assert abs(found.training_flops - 1) < 0.05
    assert abs(found.training_bytes - 1) < 0.05
