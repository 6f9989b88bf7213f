"""Routing Transformer against properties that only a correct one has (specs 11)."""

import math

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
from kt_forecast.nn.system import auxiliary_loss
from kt_forecast.zoo.routing_transformer import RoutedAttention

SYSTEM = zoo.load("routing_transformer")
STEPS, WIDTH, HEADS = 29, 16, 2


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def same(a, b):
    torch.testing.assert_close(a, b, atol=1e-10, rtol=0.0)


def config(**settings: object):
    given = {"width": WIDTH, "heads": HEADS, "clusters": 4, "window": 3, "dropout": 0.0}
    return SYSTEM.config(**(given | settings))


def attention(**settings: object):
    torch.manual_seed(4)
    return RoutedAttention(config(**settings)).double().eval()


def mixer(**settings: object):
    torch.manual_seed(4)
    return SYSTEM.build(config(**settings)).double().eval()


def read(module, x):
    return module(x, module.init_state(len(x)), Span.beginning(x))[0]


def parts(module, x):
    heads = (
        t.unflatten(-1, (-1, module.size)).transpose(1, 2)
        for t in (module.query(x), module.key(x), module.value(x))
    )
    q, k, v = heads
    routed = F.layer_norm(q[:, module.local :], (module.size,))
    return q[:, : module.local], k, routed, v


def by_pairs(module, x, seen):
    """Attend over written-out masks: of the routed heads as given, of the others the window."""
    place = torch.arange(x.shape[1])
    q, k, routed, v = parts(module, x)
    ago = place[:, None] - place
    near = (ago >= 0) & (ago < module.window)
    found = []
    for queries, keys, values, mask in (
        (q, k, v[:, : module.local], near),
        (routed, routed, v[:, module.local :], seen),
    ):
        turned = [module.rotary(t, place[None]) for t in (queries, keys)]
        logits = turned[0] @ turned[1].transpose(-1, -2) * module.size**-0.5
        found.append(logits.masked_fill(~mask, float("-inf")).softmax(-1) @ values)
    return module.out(torch.cat(found, 1).transpose(1, 2).flatten(2))


def last_of_cluster(module, x):
    cluster = module.nearness(parts(module, x)[2]).argmax(-1)
    past = (cluster[..., :, None] == cluster[..., None, :]).tril()
    between = past.long().flip(-1).cumsum(-1).flip(-1)
    return past & (between <= module.window)


def slopes(y, module, x):
    wanted = [p for name, p in module.named_parameters() if name != "centroids"]
    return torch.autograd.grad((y * noise(*y.shape, seed=6)).sum(), (x, *wanted))


@pytest.mark.parametrize("published", [False, True])
def test_one_cluster_as_wide_as_the_sequence_is_full_attention(published):
    module = attention(clusters=1, window=STEPS, published=published)
    x = noise(2, STEPS, WIDTH).requires_grad_()
    got = read(module, x)
    wanted = by_pairs(module, x, torch.ones(STEPS, STEPS, dtype=torch.bool).tril())
    same(got, wanted)
    for a, b in zip(slopes(got, module, x), slopes(wanted, module, x), strict=True):
        same(a, b)


@pytest.mark.parametrize("settings", [{}, {"clusters": 3, "window": 6}])
def test_each_step_reads_the_last_of_its_cluster(settings):
    module = attention(**settings)
    x = noise(2, STEPS, WIDTH).requires_grad_()
    seen = last_of_cluster(module, x)
    assert seen.diagonal(dim1=-2, dim2=-1).all(), "a step reads itself"
    assert seen.sum() < STEPS * STEPS, "not everything is read"
    got, wanted = read(module, x), by_pairs(module, x, seen)
    same(got, wanted)
    for a, b in zip(slopes(got, module, x), slopes(wanted, module, x), strict=True):
        same(a, b)


@pytest.mark.parametrize("scale", [1.0, 3.0, 40.0])
@pytest.mark.parametrize("published", [False, True])
def test_only_the_published_clusters_see_the_future(published, scale):
    moved = moved_before_cuts(mixer(published=published), noise(2, STEPS, WIDTH), scale)
    assert moved > 0.1 if published else moved == 0.0


def test_no_slope_shows_what_the_published_clusters_reveal():
    assert not has_slopes_ahead(mixer(published=True), noise(1, STEPS, WIDTH))


def test_the_auditor_finds_the_published_clusters():
    module = mixer(published=True, layers=1)
    report = audited(module, noise(2, 13, WIDTH))
    assert report.verdict == "leak", report.summary()


def test_the_published_clusters_are_refused_where_they_would_leak():
    refused_where_it_would_leak(SYSTEM, config(published=True))


def test_only_the_optimiser_moves_centroids():
    module, x = mixer().train(), noise(3, STEPS, WIDTH)
    before = [layer.mixing.centroids.detach().clone() for layer in module.layers]
    module(x)
    auxiliary_loss(module, None).backward()
    after = [layer.mixing.centroids for layer in module.layers]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert all(p.grad.abs().max() > 0.0 for p in after)
    with torch.no_grad():
        module(x)
    assert module.auxiliary is None


def test_steps_and_centroids_draw_nearer():
    module, x = mixer(layers=1, commitment=1.0).train(), noise(3, STEPS, WIDTH)
    optimiser = torch.optim.SGD([module.layers[0].mixing.centroids], lr=20.0)
    lost = []
    for _ in range(20):
        module(x)
        optimiser.zero_grad()
        loss = auxiliary_loss(module, None)
        loss.backward()
        optimiser.step()
        lost.append(loss.item())
    assert lost[-1] < 0.9 * lost[0]


def test_what_a_step_loses_depends_on_no_later_step_and_no_other_row():
    module, x = mixer().train(), noise(3, STEPS, WIDTH)
    module(x)
    whole = module.auxiliary
    module(torch.cat([x[:1, :11], noise(1, 5, WIDTH)], 1))
    same(module.auxiliary[:, :11], whole[:1, :11])
    valid = torch.ones(3, STEPS, dtype=torch.bool)
    valid[1, 4:9] = False
    module(x, valid=valid)
    same(module.auxiliary[0], whole[0])
    assert (module.auxiliary[1, 9:] - whole[1, 9:]).abs().max() > 0.0


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
    module = SYSTEM.build(config(clusters=8, window=32))
    found = growth(module, WIDTH, streaming=False, lengths=(4096, 65536))
    assert abs(found.training_flops - 1) < 0.05
    assert abs(found.training_bytes - 1) < 0.05


@pytest.mark.slow
def test_at_the_published_budget_cost_grows_as_the_length_and_its_root():
    spent = []
    for steps in (4096, 65536):
        root = math.isqrt(steps)
        module = SYSTEM.build(config(clusters=root, window=root))
        spent.append(training_cost(module, noise(1, steps, WIDTH).float())[0])
    assert abs(math.log(spent[1] / spent[0], 16) - 1.5) < 0.1
