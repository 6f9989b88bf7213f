"""The Synthesizer against properties that only a correct one has (specs 13)."""

import pytest
import torch
import torch.nn.functional as F
from reference.sparse_cases import drawn, noise, same_with_gradients

from kt_forecast import zoo
from kt_forecast.audit.cost import growth
from kt_forecast.nn.streams import Span
from kt_forecast.zoo import synthesizer
from kt_forecast.zoo.synthesizer import SynthesizedAttention

SYSTEM = zoo.load("synthesizer")
WIDTH, STEPS = 16, 23
CLOSE = {"atol": 1e-12, "rtol": 0.0}
FORMS = ["dense", "random", "factorised_dense", "factorised_random"]
EACH = pytest.mark.parametrize(
    "form",
    [{"form": form} for form in FORMS]
    + [{"form": form, "columns": "ago"} for form in FORMS[:3]]
    + [{"form": "dense", "mixed": True}],
    ids=lambda form: "-".join(map(str, form.values())),
)


def config(**settings):
    return SYSTEM.config(**{"width": WIDTH, "heads": 2, "reach": STEPS, "rank": 3} | settings)


def attention(**settings):
    return drawn(SynthesizedAttention(config(**settings)))


def read(module, x):
    return module(x, module.init_state(len(x)), Span.beginning(x))[0]


def split(x):
    return x.unflatten(-1, (2, -1)).transpose(1, 2)


def made(module, x, t, back):
    """Write out the logit that step ``t`` gives the step ``back`` steps before it, by the paper."""
    reach, weights = module.reach, module.weights
    column = (t - back) % reach if module.by_place else back
    if weights.form == "random":
        table = weights.tables[0]
        return table[:, t % len(table[0]), column].expand(len(x), -1)
    if weights.form == "factorised_random":
        first, second = weights.tables
        return (first[:, t % reach] * second[:, column]).sum(-1).expand(len(x), -1)
    hidden = split(weights.hidden(x[:, t : t + 1]).relu())[:, :, 0]
    if weights.form == "dense":
        return (hidden * weights.tables[0][:, column]).sum(-1)
    first, second = weights.tables
    long = first.shape[1]
    of_first = (hidden * first[:, column % long]).sum(-1)
    return of_first * (hidden * second[:, column // long]).sum(-1)


def by_steps(module, x):
    value, found = split(module.value(x)), []
    for t in range(x.shape[1]):
        backs = range(min(t + 1, module.reach))
        logits = torch.stack([made(module, x, t, back) for back in backs], -1)
        if module.query_key is not None:
            q, k = (split(part) for part in module.query_key(x).chunk(2, -1))
            share = module.proportion.sigmoid()[:, None]
            near = torch.stack([(q[:, :, t] * k[:, :, t - back]).sum(-1) for back in backs], -1)
            logits = (1 - share) * near * q.shape[-1] ** -0.5 + share * logits
        of = torch.stack([value[:, :, t - back] for back in backs], 2)
        found.append((logits.softmax(-1)[..., None] * of).sum(2).flatten(1))
    return module.out(torch.stack(found, 1))


@pytest.mark.parametrize("reach", [5, STEPS + 4])
@EACH
def test_it_is_what_the_paper_writes_down_with_gradients(form, reach, monkeypatch):
    monkeypatch.setattr(synthesizer, "QUERY_CHUNK", 6)
    module = attention(reach=reach, **form)
    same_with_gradients(
        lambda x, *_: read(module, x),
        lambda x, *_: by_steps(module, x),
        (noise(2, 13, WIDTH).requires_grad_(), *module.parameters()),
        tolerance=1e-11,
    )


@EACH
def test_streams_equal_one_pass(form):
    module, x = drawn(SYSTEM.build(config(reach=6, **form))), noise(3, STEPS, WIDTH)
    state, pieces = module.init_state(3), []
    for piece in x.split([1, 1, 2, 9, 1, 9], 1):
        y, state = module(piece, state)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 1), module(x)[0], **CLOSE)
    assert state.layers[0].kept.shape[1] == 5


@pytest.mark.parametrize("form", FORMS)
def test_tables_of_zero_give_the_mean_of_the_past(form):
    module, x = attention(form=form), noise(2, STEPS, WIDTH)
    with torch.no_grad():
        module.weights.tables[0].zero_()
    mean = module.value(x).cumsum(1) / torch.arange(1, STEPS + 1)[:, None]
    torch.testing.assert_close(read(module, x), module.out(mean), **CLOSE)


def test_without_its_share_of_the_mixture_it_is_dot_product_attention():
    module, x = attention(mixed=True), noise(2, STEPS, WIDTH)
    torch.nn.init.constant_(module.proportion, -1e4)
    q, k = (split(part) for part in module.query_key(x).chunk(2, -1))
    y = F.scaled_dot_product_attention(q, k, split(module.value(x)), is_causal=True)
    got = read(module, x)
    torch.testing.assert_close(got, module.out(y.transpose(1, 2).flatten(2)), **CLOSE)


def test_a_mixture_begins_with_equal_shares():
    module = SynthesizedAttention(config(mixed=True))
    torch.testing.assert_close(module.proportion.sigmoid(), torch.full((2,), 0.5))


def test_factors_of_full_rank_can_be_any_table():
    whole = attention(form="random")
    parts = attention(form="factorised_random", rank=STEPS)
    named = {n: v for n, v in whole.state_dict().items() if "tables" not in n}
    eye = torch.eye(STEPS).double().expand(2, -1, -1)
    tables = {"weights.tables.0": whole.weights.tables[0], "weights.tables.1": eye}
    parts.load_state_dict(named | tables)
    x = noise(2, STEPS, WIDTH)
    torch.testing.assert_close(read(parts, x), read(whole, x), **CLOSE)


def test_random_weights_by_distance_are_one_curve():
    module = attention(form="random", columns="ago", reach=4)
    assert module.weights.tables[0].shape == (2, 1, 4)
    x = noise(1, STEPS, WIDTH)
    later = torch.cat([noise(1, 5, WIDTH, seed=3), x], 1)
    torch.testing.assert_close(read(module, later)[:, 8:], read(module, x)[:, 3:], **CLOSE)


def test_factors_need_places():
    with pytest.raises(ValueError, match="columns = 'place'"):
        config(form="factorised_random", columns="ago")


def test_cost_beyond_reach_is_linear():
    module = SYSTEM.build(config(reach=32, layers=1))
    measured = growth(module, WIDTH, streaming=True, lengths=(512, 1024))
    assert measured.training_flops == pytest.approx(1.0, abs=0.1)
    assert (measured.step_flops, measured.state_bytes) == (0.0, 0.0)
