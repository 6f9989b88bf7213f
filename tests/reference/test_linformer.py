"""Linformer against properties that only a correct one has (specs 6)."""

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
from kt_forecast.zoo.linformer import LinformerAttention

SYSTEM = zoo.load("linformer")
WIDTH, STEPS, SLOTS = 16, 23, 5
CLOSE = {"atol": 1e-12, "rtol": 0.0}


def config(**settings):
    sizes = {"width": WIDTH, "heads": 2, "slots": SLOTS, "places": STEPS, "chunk": 4}
    return SYSTEM.config(**sizes | settings)


def attention(**settings):
    return drawn(LinformerAttention(config(**settings)))


def read(module, x):
    return module(x, module.init_state(len(x)), Span.beginning(x))[0]


def heads(module, x):
    parts = module.query_key_value(x).chunk(3, -1)
    q, k, v = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in parts)
    place = torch.arange(x.shape[1])[None]
    return module.rotary(q, place), module.rotary(k, place), v


def whole(module, x):
    """The paper's formula over all of ``x``."""
    q, k, v = heads(module, x)
    of_keys = module.key_shares[: x.shape[1]]
    of_values = of_keys if module.value_shares is None else module.value_shares[: x.shape[1]]
    weight = (q @ (of_keys.T @ k).mT / module.size**0.5).softmax(-1)
    return module.out((weight @ (of_values.T @ v)).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("sharing", ["heads", "keys_values"])
@pytest.mark.parametrize("chunk", [1, 4, 64])
def test_each_step_reads_what_the_published_form_gives_its_prefix(chunk, sharing):
    module = attention(chunk=chunk, sharing=sharing)
    same_with_gradients(
        lambda x, *_: read(module, x),
        lambda x, *_: torch.cat([whole(module, x[:, :t])[:, -1:] for t in range(1, STEPS + 1)], 1),
        (noise(2, STEPS, WIDTH).requires_grad_(), *module.parameters()),
        tolerance=1e-11,
    )


def test_the_published_form_is_the_papers_formula():
    module, x = attention(published=True), noise(2, STEPS, WIDTH)
    torch.testing.assert_close(read(module, x), whole(module, x), **CLOSE)


@pytest.mark.parametrize("published", [False, True])
def test_a_slot_for_each_step_is_full_attention(published):
    module = attention(slots=STEPS, published=published)
    with torch.no_grad():
        module.key_shares.copy_(torch.eye(STEPS))
        module.value_shares.copy_(torch.eye(STEPS))

    def full(x, *_):
        y = F.scaled_dot_product_attention(*heads(module, x), is_causal=not published)
        return module.out(y.transpose(1, 2).flatten(2))

    used = [p for n, p in module.named_parameters() if "shares" not in n]
    x = noise(2, STEPS, WIDTH).requires_grad_()
    same_with_gradients(lambda x, *_: read(module, x), full, (x, *used), tolerance=1e-11)


def test_shares_repeat_after_the_last_place():
    module, longer = attention(places=8), attention(places=STEPS)
    rows = torch.arange(STEPS) % 8
    longer.load_state_dict(
        module.state_dict()
        | {name: getattr(module, name)[rows] for name in ("key_shares", "value_shares")}
    )
    x = noise(2, STEPS, WIDTH)
    torch.testing.assert_close(read(module, x), read(longer, x), **CLOSE)


def test_the_auditor_finds_the_published_mixtures_and_the_tasks_refuse_them():
    settings = config(published=True, layers=1)
    report = audited(drawn(SYSTEM.build(settings)), noise(1, 6, WIDTH))
    assert report.verdict == "leak", report.summary()
    refused_where_it_would_leak(SYSTEM, settings)


def test_the_state_is_two_matrices_a_head():
    module = SYSTEM.build(SYSTEM.config(width=32, heads=4, layers=3, slots=6))
    assert module.init_state(5).numel() == 5 * (3 * 4 * 2 * 6 * 8 + 1)
