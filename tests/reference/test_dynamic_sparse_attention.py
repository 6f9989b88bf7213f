"""Dynamic Sparse Attention against properties that only a correct one has (specs 18)."""

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
from kt_forecast.audit.cost import growth
from kt_forecast.nn import picked
from kt_forecast.nn.streams import Span
from kt_forecast.nn.system import auxiliary_loss
from kt_forecast.zoo import dynamic_sparse_attention
from kt_forecast.zoo.dynamic_sparse_attention import (
    PredictedAttention,
    largest,
    projected,
    raised,
    rounded,
    slots_of,
)

SYSTEM = zoo.load("dynamic_sparse_attention")
STEPS, WIDTH, HEADS = 29, 16, 2


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def same(a, b):
    torch.testing.assert_close(a, b, atol=1e-10, rtol=0.0)


def config(**settings: object):
    given = {"width": WIDTH, "heads": HEADS, "kept": 4, "codes": 8, "dropout": 0.0}
    return SYSTEM.config(**(given | settings))


def attention(**settings: object):
    torch.manual_seed(4)
    return PredictedAttention(config(**settings)).double().eval()


def mixer(**settings: object):
    torch.manual_seed(4)
    return SYSTEM.build(config(**settings)).double().eval()


def read(module, x):
    return module(x, module.init_state(len(x)), Span.beginning(x))[0]


def logits_and_values(module, x):
    some = (module.query(x), *module.key_value(x).chunk(2, -1))
    q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in some)
    place = torch.arange(x.shape[1])[None]
    q, k = module.rotary(q, place), module.rotary(k, place)
    past = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
    logits = q @ k.transpose(-1, -2) * module.size**-0.5
    return logits.masked_fill(~past, float("-inf")), v


def attended(module, logits, v):
    return module.out((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))


def highest(scores, kept):
    """Return the logits' mask of the highest scores of each row, later ones first among equals."""
    order = scores.argsort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, order[..., :kept], value=True)


def slopes(y, module, x):
    wanted = [p for name, p in module.named_parameters() if not name.startswith("code_")]
    return torch.autograd.grad((y * noise(*y.shape, seed=6)).sum(), (x, *wanted))


@pytest.mark.parametrize("published", [False, True])
def test_as_many_as_there_are_steps_is_full_attention(published):
    module = attention(kept=STEPS, published=published)
    x = noise(2, STEPS, WIDTH).requires_grad_()
    got, wanted = read(module, x), attended(module, *logits_and_values(module, x))
    same(got, wanted)
    for a, b in zip(slopes(got, module, x), slopes(wanted, module, x), strict=True):
        same(a, b)


def exact(module, monkeypatch, x):
    """Let the prediction be the logits themselves."""
    told = logits_and_values(module, x)[0].detach()

    def of_logits(asking, codes, span):
        chosen = told.topk(min(module.most, told.shape[-1])).indices
        return chosen, chosen <= span.position[:, None, :, None]

    monkeypatch.setattr(module, "highest", of_logits)


def test_a_perfect_prediction_keeps_the_heaviest_steps(monkeypatch):
    module, x = attention(), noise(2, STEPS, WIDTH)
    logits, v = logits_and_values(module, x)
    exact(module, monkeypatch, x)
    wanted = highest(logits, module.most)
    same(read(module, x), attended(module, logits.masked_fill(~wanted, float("-inf")), v))
    weights = logits.softmax(-1)
    mass = (weights * wanted).sum(-1)
    for seed in range(5):
        other = highest(noise(*logits.shape, seed=seed).where(logits.isfinite(), -1e9), module.most)
        assert ((weights * other).sum(-1) <= mass + 1e-12).all()


def test_each_step_reads_what_is_predicted_highest():
    module = attention()
    x = noise(2, STEPS, WIDTH).requires_grad_()
    place = torch.arange(STEPS)[None]
    short = (x @ module.projection).detach()
    asking, codes = (
        rounded(module.turned(part(short).unflatten(-1, (HEADS, -1)).transpose(1, 2), place), 127)
        for part in (module.code_query, module.code_key)
    )
    logits, v = logits_and_values(module, x)
    told = (asking @ codes.transpose(-1, -2)).masked_fill(~logits.isfinite(), float("-inf"))
    seen = highest(told, module.most)
    assert (seen.diagonal(dim1=-2, dim2=-1).sum(-1) < STEPS).all(), "a choice was made"
    got = read(module, x)
    wanted = attended(module, logits.masked_fill(~seen, float("-inf")), v)
    same(got, wanted)
    for a, b in zip(slopes(got, module, x), slopes(wanted, module, x), strict=True):
        same(a, b)


def in_parts(monkeypatch):
    monkeypatch.setattr(dynamic_sparse_attention, "LEAST", 4)
    monkeypatch.setattr(dynamic_sparse_attention, "PARTS", 100)
    monkeypatch.setattr(dynamic_sparse_attention, "TOGETHER", 2)
    monkeypatch.setattr(dynamic_sparse_attention, "NUMBERS_AT_ONCE", 250)
    monkeypatch.setattr(picked, "NUMBERS_AT_ONCE", 500)


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("kept", [2, 4, 10, 20])
def test_reading_in_parts_is_reading_at_once(monkeypatch, kept, published):
    module = mixer(kept=kept, published=published).train()
    x = noise(2, STEPS, WIDTH).requires_grad_()

    def learned():
        y = module(x)[0]
        total = (y * noise(*y.shape, seed=6)).sum() + auxiliary_loss(module, None)
        return y, torch.autograd.grad(total, (x, *module.parameters()))

    whole, wanted = learned()
    in_parts(monkeypatch)
    parted, found = learned()
    same(parted, whole)
    for a, b in zip(found, wanted, strict=True):
        assert b.abs().max() > 0.0
        same(a, b)


@pytest.mark.parametrize("budget", [1, 100, 1000, 10**9])
def test_steps_choose_together_as_long_as_what_they_compare_fits(monkeypatch, budget):
    monkeypatch.setattr(dynamic_sparse_attention, "NUMBERS_AT_ONCE", budget)
    monkeypatch.setattr(dynamic_sparse_attention, "LEAST", STEPS)
    codes = noise(2, HEADS, STEPS, 8)
    ends = list(attention()._some(Span.beginning(codes[:, 0]), codes))
    assert [low for low, _ in ends] == [0, *(high for _, high in ends[:-1])]
    assert ends[-1][1] == STEPS
    for low, high in ends:
        assert high == low + 1 or 2 * HEADS * (high - low) * high <= budget
        more = high + 1 - low
        assert high == STEPS or 2 * HEADS * more * (high + 1) > budget


@pytest.mark.parametrize("same_for_all", [False, True])
def test_what_is_named_is_read_with_true_slopes(monkeypatch, same_for_all):
    monkeypatch.setattr(picked, "NUMBERS_AT_ONCE", 100)
    steps, some, slots, size = 5, 3, 7, 4
    shape = (1, 1) if same_for_all else (2, HEADS)
    place = torch.randint(slots, (*shape, steps, some), generator=torch.Generator().manual_seed(0))
    q, weight = noise(2, HEADS, steps, size), noise(2, HEADS, steps, some)
    x = noise(2, slots, HEADS, size).transpose(1, 2)
    rows = place.expand(2, HEADS, -1, -1).flatten(2)[..., None].expand(-1, -1, -1, size)
    named = x.gather(2, rows).unflatten(2, (steps, some))
    same(picked.products(q, x, place), torch.einsum("bhtd,bhtkd->bhtk", q, named))
    same(picked.blended(weight, x, place), torch.einsum("bhtk,bhtkd->bhtd", weight, named))
    given = (q.requires_grad_(), x.requires_grad_(), weight.requires_grad_())
    assert torch.autograd.gradcheck(lambda q, x, _: picked.products(q, x, place), given)
    assert torch.autograd.gradcheck(lambda _, x, weight: picked.blended(weight, x, place), given)
    for needed in (q, x):
        asked = (given[0], given[1].detach()) if needed is q else (given[0].detach(), given[1])
        (alone,) = torch.autograd.grad(picked.products(*asked, place).sum(), needed)
        assert torch.equal(
            alone, torch.autograd.grad(picked.products(q, x, place).sum(), needed)[0]
        )


@pytest.mark.parametrize("scale", [1.0, 3.0, 40.0])
@pytest.mark.parametrize("published", [False, True])
def test_only_a_mask_after_the_choice_sees_the_future(published, scale):
    moved = moved_before_cuts(mixer(published=published), noise(2, STEPS, WIDTH), scale)
    assert moved > 0.1 if published else moved == 0.0


def test_no_slope_shows_what_a_mask_after_the_choice_reveals():
    assert not has_slopes_ahead(mixer(published=True), noise(1, STEPS, WIDTH))


def test_the_auditor_finds_a_mask_after_the_choice():
    module = mixer(published=True, layers=1)
    report = audited(module, noise(2, 13, WIDTH))
    assert report.verdict == "leak", report.summary()


def test_a_mask_after_the_choice_is_refused_where_it_would_leak():
    refused_where_it_would_leak(SYSTEM, config(published=True))


def test_projections_keep_products_on_average():
    torch.manual_seed(0)
    a, b = noise(2, 12).float()
    found = torch.stack([(a @ p) @ (b @ p) for p in (projected(12, 4) for _ in range(3000))])
    error = found.std() / 3000**0.5
    assert abs(found.mean() - a @ b) < 4 * error
    assert error < abs(a @ b) / 4


def test_rounding_leaves_few_levels_and_no_step_knows_of_another():
    x = noise(5, 40, 6)
    found = rounded(x, 7)
    step = x.abs().amax(-1, keepdim=True) / 7
    same(found / step, (found / step).round())
    assert (found - x).abs().max() <= step.max() / 2 + 1e-12
    same(rounded(torch.cat([x[:, :20], 99 * x[:, 20:]], 1), 7)[:, :20], found[:, :20])
    x = x.requires_grad_()
    (slope,) = torch.autograd.grad(rounded(x, 7).sum(), x)
    assert torch.equal(slope, torch.ones_like(slope))


def test_predictions_learn():
    """What is read by learned predictions weighs more than what is read by drawn ones."""
    module, x = mixer(layers=1, prediction=1.0).train(), noise(4, STEPS, WIDTH)
    mixing = module.layers[0].mixing
    optimiser = torch.optim.Adam([mixing.code_query.weight, mixing.code_key.weight], lr=0.02)
    lost = []
    for _ in range(60):
        module(x)
        loss = auxiliary_loss(module, None)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        lost.append(loss.item())
    assert lost[-1] < 0.8 * lost[0]


def test_the_largest_are_found_among_those_that_stand_beside_large_ones():
    score = noise(2, 3, 5, 640).masked_fill(noise(2, 3, 5, 640, seed=2) > 0.0, float("-inf"))
    score[..., 200:] = float("-inf")
    score[..., 7:12] = 9.0 + torch.arange(5.0)
    for kept in (1, 6, 9):
        found = slots_of(*largest(score, kept, apart=True))
        same(score.gather(3, found).sort(-1).values, score.topk(kept).values.flip(-1))
        assert torch.equal(found.sort().values, largest(score, kept, apart=False)[0].sort().values)
    found = slots_of(*largest(score, 5, apart=True))
    assert (found.sort(-1).values == torch.arange(7, 12)).all()


def test_what_raises_later_steps_is_exact_in_eleven_digits():
    found = raised(torch.arange(2**19))
    kept_by_tf32 = ~((1 << 13) - 1)
    bits = found.float().view(torch.int32)
    assert torch.equal(bits, bits & kept_by_tf32)
    assert torch.equal(found.float().double(), found)
    assert found.sum(-1).diff().unique().tolist() == [dynamic_sparse_attention.RECENT]


def test_odd_codes_are_refused():
    with pytest.raises(ValueError, match="codes must be even"):
        config(codes=3)


def test_training_keeps_nothing_of_all_pairs():
    largest = 0

    def look(tensor):
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    module, steps = mixer(layers=1), 1024
    x = noise(1, steps, WIDTH).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(look, lambda tensor: tensor):
        module(x)[0].sum().backward()
    assert largest < steps**2 // 8


def test_half_precision_gives_about_the_same_slopes():
    close_under_autocast(mixer(layers=1), noise(2, STEPS, WIDTH))


@pytest.mark.slow
def test_memory_grows_with_the_length_up_to_long_ones():
    module = SYSTEM.build(config(layers=1))
    found = growth(module, WIDTH, streaming=False, lengths=(4096, 65536))
    assert abs(found.training_bytes - 1) < 0.05
    assert found.training_flops > 1.7


def test_equal_predictions_choose_the_later():
    module = attention(kept=2)
    codes = torch.zeros(1, HEADS, 5, 8, dtype=torch.float64)
    chosen, past = module.highest(codes, codes, Span.beginning(codes[:, 0]))
    assert past[:, :, 1:].all()
    assert chosen[0, 0, 3:].sort(-1).values.tolist() == [[2, 3], [3, 4]]
    assert F.one_hot(chosen[0, 0, 0], 5)[..., 0].any()
