"""Informer against properties that only a correct one has, published and causal (specs 17, 18)."""

import math
from dataclasses import replace

import pytest
import torch

from kt_forecast import zoo
from kt_forecast.errors import InputError
from kt_forecast.nn.attention import CausalAttention
from kt_forecast.nn.probsparse import FIRST, ProbSparse, sampled
from kt_forecast.nn.streams import Span
from kt_forecast.sequences.interactions import Vocabulary
from kt_forecast.sequences.series import Window, WindowShape
from kt_forecast.tasks.knowledge_tracing import Tracer, TracingConfig

SYSTEM = zoo.load("informer")
LONG = 150
SHAPE = WindowShape(context=96, horizon=24, channels=3, past=1, known=4, static=2, outputs=2)


def drawn(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.double().parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator).double())
    return module.eval()


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixer(**settings):
    return drawn(SYSTEM.build(SYSTEM.config(**{"width": 16, **settings})))


def sparse(factor):
    return drawn(ProbSparse(16, 2, factor=factor, samples=12))


def read(module, x):
    return module(x, module.init_state(len(x)), Span.beginning(x))[0]


def test_with_every_query_it_is_full_causal_attention():
    module, x = sparse(100), noise(2, LONG, 16)
    full = CausalAttention(16, 2).double()
    full.load_state_dict(module.state_dict())
    torch.testing.assert_close(read(module, x), full(x)[0], atol=1e-12, rtol=0.0)


def test_with_no_query_it_is_the_mean_of_the_values_so_far():
    module, x = sparse(0), noise(2, LONG, 16)
    value = module.key_value(x)[..., 16:]
    mean = value.cumsum(1) / torch.arange(1, LONG + 1)[:, None]
    torch.testing.assert_close(read(module, x), module.out(mean), atol=1e-12, rtol=0.0)


def test_a_query_attends_by_its_rank_among_earlier_blocks():
    module, x = sparse(1), noise(2, LONG, 16)
    full = CausalAttention(16, 2).double()
    full.load_state_dict(module.state_dict())
    module.out.weight.data = full.out.weight.data = torch.eye(16, dtype=torch.float64)
    module.out.bias.data = full.out.bias.data = torch.zeros(16, dtype=torch.float64)
    attended = (read(module, x) - full(x)[0]).abs().unflatten(-1, (2, 8)).amax(-1) < 1e-9
    wanted = torch.zeros_like(attended)
    position = torch.arange(LONG)[None]
    q, k = (x @ w.T + b for w, b in projections(module))
    q, k = (
        module.rotary(p.unflatten(-1, (2, 8)).transpose(1, 2), position).transpose(1, 2)
        for p in (q, k)
    )
    for row in range(2):
        for head in range(2):
            measure = []
            for t, places in enumerate(sampled(position, 12)[0].tolist()):
                assert max(places) <= t
                logits = torch.stack([q[row, t, head] @ k[row, s, head] for s in places])
                measure.append((logits.max() - logits.mean()).item())
            chosen = by_rank(measure)
            wanted[row, chosen, head] = True
    assert torch.equal(attended, wanted)
    assert 0.1 < wanted.double().mean() < 0.5, "the rank decides too little"


def projections(module):
    yield module.query.weight, module.query.bias
    yield module.key_value.weight[:16], module.key_value.bias[:16]


def by_rank(measure):
    """Return the queries that attend, by the rule read off its description."""
    chosen, start, stop = list(range(FIRST)), FIRST, 2 * FIRST
    while start < len(measure):
        rank = math.ceil(math.log(start))
        needed = sorted(measure[:start])[-rank]
        worthy = [t for t in range(start, min(stop, len(measure))) if measure[t] >= needed]
        chosen += worthy[: 2 * rank]
        start, stop = stop, 2 * stop
    return chosen


def test_the_table_of_keys_depends_on_the_place_alone_and_covers_the_past():
    places = torch.arange(4000)[None]
    table = sampled(places, 16)
    assert torch.equal(sampled(places[:, 900:], 16), table[:, 900:])
    assert ((table >= 0) & (table <= places[..., None])).all()
    share = (table[0, 2000:].double() / places[0, 2000:, None]).flatten()
    assert abs(share.mean() - 0.5) < 0.01
    assert abs(share.std() - 12**-0.5) < 0.01
    assert len(table[0, -1].unique()) > 14


@pytest.mark.parametrize("factor", [1, 5])
@pytest.mark.parametrize("layers", [2, 3])
def test_where_few_attend_the_future_still_moves_nothing(factor, layers):
    module, x = mixer(factor=factor, layers=layers, stride=3), noise(2, LONG, 16)
    base = module(x)[0]
    for cut in range(1, LONG, 7):
        for scale in (1e-3, 1.0, 40.0):
            other = torch.cat([x[:, :cut], scale * noise(2, LONG - cut, 16, seed=cut)], 1)
            moved = module(other)[0]
            assert torch.equal(moved[:, :cut], base[:, :cut])
            assert not torch.equal(moved[:, cut], base[:, cut])


@pytest.mark.parametrize("layers", [1, 3])
def test_where_few_attend_rows_at_different_places_equal_one_pass(layers):
    module, x = mixer(factor=1, layers=layers, stride=3), noise(3, LONG, 16)
    whole = module(x)[0]
    draw = torch.Generator().manual_seed(0)
    state, done = module.init_state(3), torch.zeros(3, dtype=torch.int64)
    pieces = [[], [], []]
    while int(done.min()) < LONG:
        steps = int(torch.randint(1, 40, (), generator=draw))
        valid = torch.rand(3, steps, generator=draw) < 0.6
        valid &= done[:, None] + valid.cumsum(1) <= LONG
        x_now = 50 * noise(3, steps, 16, seed=int(done.sum()))
        for row in range(3):
            n = int(valid[row].sum())
            x_now[row, valid[row]] = x[row, done[row] : done[row] + n]
        y, state = module(x_now, state, valid=valid)
        for row in range(3):
            pieces[row].append(y[row, valid[row]])
        done += valid.sum(1)
    for row in range(3):
        torch.testing.assert_close(torch.cat(pieces[row]), whole[row], atol=1e-10, rtol=0.0)


@pytest.mark.parametrize(("stride", "levels"), [(2, 1), (2, 2), (3, 2), (4, 1)])
def test_a_pooled_token_ends_at_the_step_that_makes_it(stride, levels):
    module = mixer(layers=levels + 1, stride=stride)
    x = noise(1, 40, 16).requires_grad_()
    span, y = Span.beginning(x), x
    for one in module.distilling:
        y, _ = one(y, one.init_state(1), span)
        span = span.shortened(stride)
    rate = stride**levels
    assert y.shape[1] == (40 - 1) // rate + 1
    for j in range(y.shape[1]):
        (grad,) = torch.autograd.grad(y[0, j].sum(), x, retain_graph=True)
        used = grad[0].abs().sum(-1).nonzero().flatten()
        assert int(used.max()) - j * rate == 0


def test_without_stride_nothing_is_pooled():
    one = mixer(stride=1).distilling[0]
    x = noise(2, 9, 16)
    y, _ = one(x, one.init_state(2), Span.beginning(x))
    padded = torch.cat([torch.zeros(2, 2, 16), x], 1).transpose(1, 2)
    plain = torch.nn.functional.elu(one.norm(one.convolution(padded).transpose(1, 2)))
    torch.testing.assert_close(y, plain)


def test_a_constant_is_pooled_to_a_constant():
    one = mixer(stride=3).distilling[0]
    x = noise(1, 1, 16).expand(1, 30, 16)
    y = one(x, one.init_state(1), Span.beginning(x))[0][:, 2:]
    torch.testing.assert_close(y, y[:, :1].expand_as(y), msg="beyond the zeros before the start")


def moved(module, x, into):
    """Return which steps of the output move with one step of the input."""
    other = x.clone()
    other[:, into] += 1.0
    return (module(x)[0] - module(other)[0]).abs().amax((0, 2)) > 0


def test_the_published_pooling_reveals_later_steps():
    """The convolution sees one step ahead and wraps round, the pooling adds another step."""
    x = noise(1, 40, 16)
    alone = mixer(pooling="published").distilling[0]
    for step, tokens in ((20, [9, 10, 11]), (21, [10, 11]), (39, [0, 19]), (0, [0, 1, 19])):
        found = moved(lambda x: (alone(x),), x, step).nonzero().flatten().tolist()
        assert found == tokens
    assert int(moved(mixer(), x, 20).nonzero().min()) == 20
    module = mixer(pooling="published")
    assert moved(module, x, 20).all(), "the last step has read step 20, and wraps round to token 0"
    assert moved(module.train(), x, 20).all(), "the statistics of the batch hold all steps"
    valid = torch.arange(40)[None] >= torch.tensor([[0], [7]])
    assert module(noise(2, 40, 16), valid=valid)[0].isfinite().all()


def test_settings_that_leak_say_so_and_are_refused():
    vocabulary = Vocabulary(questions=("a",), concepts=("b",))
    task = TracingConfig(scheme="shifted")
    for settings in ({"published": True}, {"pooling": "published"}):
        config = SYSTEM.config(width=16, **settings)
        with pytest.raises(InputError, match=r"later steps|whole window"):
            Tracer(SYSTEM, config, task, vocabulary)
    assert SYSTEM.config().leak == ""
    assert Tracer(SYSTEM, config, task, vocabulary, unlawful=True)
    with pytest.raises(InputError, match="pooling='causal'"):
        SYSTEM.build(config).init_state(1)
    with pytest.raises(ValueError, match="stride 2"):
        SYSTEM.config(pooling="published", stride=3)


def network(**settings):
    torch.manual_seed(0)
    config = SYSTEM.config(published=True, width=16, **settings)
    assert SYSTEM.is_network(config)
    return SYSTEM.network(config, SHAPE).eval()


def window(seed=0):
    draw = torch.Generator().manual_seed(seed)

    def of(*shape):
        return torch.randn(2, 3, *shape, generator=draw)

    return Window(of(96), None, of(96, 1), of(120, 4), of(2))


def test_the_published_network_is_a_function_of_its_window():
    torch.manual_seed(1)
    first = network()(window())
    torch.manual_seed(2)
    module = network()
    torch.manual_seed(3)
    assert torch.equal(module(window()), first)
    assert first.shape == (2, 3, 24, 2)
    alone = Window(*(None if t is None else t[:1] for t in vars(window()).values()))
    torch.testing.assert_close(module(alone), first[:1], atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("field", ["context", "past", "known", "static"])
def test_the_published_network_reads_all_that_a_window_holds(field):
    module, one = network(), window()
    other = replace(one, **{field: getattr(window(1), field)})
    assert not torch.equal(module(one), module(other))


@pytest.mark.parametrize(
    ("settings", "lengths"),
    [({}, [48]), ({"layers": 3}, [24]), ({"stacks": (3, 2, 1)}, [24, 24, 24])],
)
def test_distilling_shortens_as_published(settings, lengths):
    module = network(**settings)
    assert [one.length for one in module.encoders] == lengths
    assert module._encoded(window()).shape[1] == sum(lengths)


def test_the_published_encoder_reads_both_ways_and_a_calendar_ahead():
    module, one = network(), window()
    known = one.known.clone()
    known[:, :, -1] += 1.0
    ahead = (module(replace(one, known=known)) - module(one)).abs().amax((0, 1, 3))
    assert (ahead[:-1] > 0).any(), "the last stamp may reach steps before it: it is known"


def test_published_attention_selects_masks_and_mixes_as_published():
    torch.manual_seed(0)
    module = network(mix=True).decoder[0].own.double()
    length, x = module.sample.shape[0], noise(2, 72, 16)
    assert length == 72
    assert module.attending == 5 * math.ceil(math.log(72))
    q, k, v = (
        part(x).reshape(2, 72, 4, 4).transpose(1, 2)
        for part in (module.query, module.key, module.value)
    )
    context = v.cumsum(2)
    picked = k[:, :, module.sample]
    logits = (q[:, :, :, None] @ picked.transpose(3, 4))[:, :, :, 0]
    measure = logits.max(-1).values - logits.sum(-1) / 72
    for row, head in ((r, h) for r in range(2) for h in range(4)):
        for t in measure[row, head].topk(module.attending).indices.tolist():
            weight = (q[row, head, t] @ k[row, head, : t + 1].T / 2).softmax(-1)
            context[row, head, t] = weight @ v[row, head, : t + 1]
    torch.testing.assert_close(module(x, x), module.out(context.reshape(2, 72, 16)))
    module.mix = False
    straight = context.transpose(1, 2).reshape(2, 72, 16)
    torch.testing.assert_close(module(x, x), module.out(straight))


def test_the_published_masked_selection_sees_the_future():
    """Why the redesign is needed: no gradient shows it, replacement does."""
    torch.manual_seed(0)
    module = drawn(network(mix=False, factor=1).decoder[0].own)
    x = noise(1, 72, 16)
    y = module(x, x)
    assert int(moved_before(module, x, y).sum()) > 0


def moved_before(module, x, y):
    found = []
    for cut in range(20, 72, 4):
        other = torch.cat([x[:, :cut], noise(1, 72 - cut, 16, seed=cut)], 1)
        found.append(bool((module(other, other) - y)[:, :cut].abs().max() > 1e-9))
    return torch.tensor(found)
