"""ETC against properties that only a correct one has (specs 16b)."""

import pytest
import torch
import torch.nn.functional as F
from reference.sparse_cases import (
    audited,
    drawn,
    largest_tensor,
    noise,
    refused_where_it_would_leak,
    same_with_gradients,
    slopes,
)

from kt_forecast import zoo
from kt_forecast.audit.cost import growth

SYSTEM = zoo.load("etc")
STEPS, WIDTH, HEADS, SEGMENT = 23, 16, 2, 4
SMALL = {"width": WIDTH, "heads": HEADS, "segment": SEGMENT, "window": 3, "distances": 2}


def mixer(**settings: object):
    return drawn(SYSTEM.build(SYSTEM.config(**SMALL | settings)))


def one_transformer(module, x, *, own=False):
    """Run one Transformer over steps and tokens, with every pair written out.

    A token for every segment is there, also for one that is not full: which steps read it is said
    by the mask. ``own``: let steps read the token of their own segment, which leaks.
    """
    config, labels = module.config, module.labels
    steps, size = x.shape[1], config.segment
    count = -(-steps // size)
    place, number = torch.arange(steps), torch.arange(count)
    ago, apart = place[:, None] - place, number[:, None] - number
    behind = (place // size)[:, None] - number
    if config.published:
        visible = torch.cat(
            [
                torch.cat([ago.abs() < config.window, torch.ones(steps, count).bool()], 1),
                torch.ones(count, steps + count).bool(),
            ]
        )
    else:
        near = (ago >= 0) & (ago < config.window)
        far = (behind >= (0 if own else 1)) & (behind <= config.tokens)
        source = (behind.T <= 0) & (-config.sources < behind.T)
        among = (apart >= 0) & (apart < config.tokens)
        visible = torch.cat([torch.cat([near, far], 1), torch.cat([source, among], 1)])
    kind = torch.cat(
        [
            torch.cat([labels.apart(ago), labels.tokens(behind == 0)], 1),
            torch.cat([labels.tokens(behind.T == 0), labels.apart(apart)], 1),
        ]
    )
    rows = torch.cat([x, module.token.expand(len(x), count, -1)], 1)
    for layer in module.layers:
        q, both = layer.read(rows)
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (q, *both.chunk(2, -1)))
        # A key of its own for each pair: what it holds, and what its label is.
        keys = k[:, :, None] + layer.label[..., kind].permute(0, 2, 3, 1)
        logits = (q[:, :, :, None] * keys).sum(-1) + layer.label_bias[:, 0][:, kind]
        logits = (logits * (WIDTH // HEADS) ** -0.5).masked_fill(~visible, -torch.inf)
        rows = layer.fed(rows, layer.out((logits.softmax(-1) @ v).transpose(1, 2).flatten(2)))
    return module.norm(rows[:, :steps])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"tokens": 2, "sources": 2, "layers": 3},
        {"tokens": 50, "sources": 50},
        {"window": 40, "tokens": 50, "sources": 50},
        {"published": True},
        {"published": True, "layers": 3, "window": 6},
    ],
    ids=str,
)
def test_it_is_one_transformer_over_steps_and_tokens(settings):
    module, x = mixer(**settings), noise(2, STEPS, WIDTH).requires_grad_()
    same_with_gradients(lambda x: module(x)[0], lambda x: one_transformer(module, x), (x,))


def test_parameters_get_the_gradients_of_one_transformer():
    module, x = mixer(sources=2), noise(2, STEPS, WIDTH)
    weight, some = noise(2, STEPS, WIDTH, seed=5), tuple(module.parameters())
    ours = torch.autograd.grad((module(x)[0] * weight).sum(), some)
    wanted = torch.autograd.grad((one_transformer(module, x) * weight).sum(), some)
    for a, b in zip(ours, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


def test_a_wide_window_without_tokens_and_labels_is_full_attention():
    module, x = mixer(window=STEPS, tokens=0), noise(2, STEPS, WIDTH).requires_grad_()
    with torch.no_grad():
        for layer in module.layers:
            layer.label.zero_()
            layer.label_bias.zero_()

    def plain(x):
        for layer in module.layers:
            q, both = layer.read(x)
            q, k, v = (
                t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (q, *both.chunk(2, -1))
            )
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = layer.fed(x, layer.out(y.transpose(1, 2).flatten(2)))
        return module.norm(x)

    same_with_gradients(lambda x: module(x)[0], plain, (x,))


def test_far_steps_are_read_through_tokens():
    """Layers of windows alone reach few steps back."""
    x = noise(1, STEPS, WIDTH)
    reads = slopes(mixer(layers=3), x) > 0
    assert not reads.triu(1).any()
    alone = slopes(mixer(layers=3, tokens=0), x) > 0
    assert not alone[-1, : STEPS - 7].any()
    full = torch.arange(STEPS) < STEPS // SEGMENT * SEGMENT
    assert reads[-1, full].all()


def test_reading_the_token_of_its_own_segment_would_leak():
    module, x = mixer(layers=3), noise(2, STEPS, WIDTH)
    other = torch.cat([x[:, :9], noise(2, STEPS - 9, WIDTH, seed=3)], 1)
    lawful, leaking = (
        (one_transformer(module, x, own=own) - one_transformer(module, other, own=own))[:, :9]
        for own in (False, True)
    )
    assert lawful.abs().max() == 0.0
    assert leaking.abs().max() > 1e-3


def test_as_published_it_cannot_decode():
    """One more step changes what was said of all the steps before."""
    x = noise(1, STEPS, WIDTH)
    for published in (False, True):
        module = mixer(published=published)
        gap = (module(x)[0][:, :-1] - module(x[:, :-1])[0]).abs().amax((0, 2))
        assert bool((gap > 1e-6).all()) == published
        assert bool((gap < 1e-12).all()) != published


def test_the_auditor_finds_the_published_form():
    report = audited(mixer(published=True), noise(2, 19, WIDTH))
    assert report.verdict == "leak", report.summary()


def test_the_published_form_is_refused_where_it_would_leak():
    refused_where_it_would_leak(SYSTEM, SYSTEM.config(width=WIDTH, published=True))


def test_as_published_padding_is_not_read():
    module, x = mixer(published=True), noise(2, 19, WIDTH)
    valid = torch.ones(2, 19, dtype=torch.bool)
    valid[0, 13:] = False
    got = module(x, valid=valid)[0]
    torch.testing.assert_close(got[:1, :13], module(x[:1, :13])[0], atol=1e-10, rtol=0.0)


def test_no_tensor_of_all_pairs_of_steps():
    module = SYSTEM.build(SYSTEM.config(width=8, heads=1, layers=1, expansion=1))
    steps = 4096
    x = torch.randn(1, steps, 8, requires_grad=True)
    assert largest_tensor(lambda: module(x)[0].sum().backward()) < steps**2 / 4


@pytest.mark.slow
def test_cost_grows_with_the_length_up_to_many_steps():
    module = SYSTEM.build(SYSTEM.config(width=32, layers=1, heads=1))
    for low in (1024, 4096, 16384):
        measured = growth(module, 32, streaming=False, lengths=(low, 4 * low))
        assert abs(measured.training_flops - 1) < 0.1, low
        assert abs(measured.training_bytes - 1) < 0.1, low
