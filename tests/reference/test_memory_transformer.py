"""Memory Transformer against properties that only a correct one has (specs 4)."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from kt_forecast import zoo
from kt_forecast.audit import audit, causal
from kt_forecast.errors import InputError
from kt_forecast.nn.streams import Span
from kt_forecast.tasks.forecasting import ForecastingConfig, refuse_unfit
from kt_forecast.tasks.knowledge_tracing import TracingConfig, refuse_illegal

SYSTEM = zoo.load("memory_transformer")
STEPS, WIDTH = 23, 16
FORMS = pytest.mark.parametrize("memory", ["own", "blocks"])


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def same(a, b):
    torch.testing.assert_close(a, b, atol=1e-10, rtol=0.0)


def drawn(module):
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(0.3 * noise(*parameter.shape, seed=i))
    return module.double().eval()


def mixer(**settings: object):
    return drawn(
        SYSTEM.build(
            SYSTEM.config(**{"width": WIDTH, "heads": 2, "slots": 3, "every": 4} | settings)
        )
    )


def same_weights(source, target):
    """Copy a Memory Transformer's layers into a GPT of the same sizes."""
    with torch.no_grad():
        own = dict(source.named_parameters())
        for name, parameter in target.named_parameters():
            parameter.copy_(own[name])
    return target


def stream(module, x, *, seed=0):
    """Feed each row's steps at its own pace, among padding; return them in one piece."""
    rows, steps = x.shape[:2]
    state, done, pieces = module.init_state(rows), [0] * rows, [[] for _ in range(rows)]
    draw = torch.Generator().manual_seed(seed)
    while min(done) < steps:
        valid = torch.rand(rows, 5, generator=draw) < 0.6
        given = 50 * noise(rows, 5, x.shape[2], seed=sum(done))
        for row in range(rows):
            for column in valid[row].nonzero().flatten().tolist():
                if done[row] == steps:
                    valid[row, column] = False
                    continue
                given[row, column] = x[row, done[row]]
                done[row] += 1
        y, state = module(given, state, valid=valid)
        for row in range(rows):
            pieces[row].append(y[row, valid[row]])
    return torch.stack([torch.cat(piece) for piece in pieces])


@FORMS
def test_without_memory_it_is_gpt(memory):
    module, x = mixer(slots=0, memory=memory), noise(2, STEPS, WIDTH)
    gpt = zoo.load("gpt")
    plain = gpt.build(gpt.config(width=WIDTH, heads=2, layers=2)).double().eval()
    same(module(x)[0], same_weights(module, plain)(x)[0])


def test_memory_that_no_step_reads_changes_nothing():
    """Values of zero and logits of minus infinity leave the softmax of the steps."""
    module, x = mixer(layers=1).layers[0].attention, noise(2, STEPS, WIDTH)
    span, nothing = Span.beginning(x), x.new_zeros(1, 0, WIDTH)
    with torch.no_grad():
        module.key_value.bias.zero_()
        module.query.weight.zero_()
    without = module(x, nothing, module.init_state(2), span)[0]
    key = torch.linalg.lstsq(module.key_value.weight[:WIDTH], -1e6 * module.query.bias[:, None])
    far = key.solution.T[None]
    with torch.no_grad():
        value = module.key_value.weight[WIDTH:] @ key.solution
    assert value.abs().max() > 1.0, "what is not read is worth reading"
    same(module(x, far, module.init_state(2), span)[0], without)


@pytest.mark.parametrize("layers", [1, 3])
def test_own_memory_is_a_prefix_of_keys_and_values(layers):
    """Plain attention over written-out keys: memory first, unrotated both sides, then steps."""
    module, x = mixer(layers=layers), noise(2, STEPS, WIDTH)
    memory, y = module.memory, x
    mask = torch.ones(STEPS, STEPS, dtype=torch.bool).tril()
    for layer in module.layers:
        attention = layer.attention
        place = torch.arange(STEPS)[None]

        def heads(t):
            return t.unflatten(-1, (2, WIDTH // 2)).transpose(1, 2)

        h, m = layer.attention_norm(y), layer.attention_norm(memory)
        q = heads(attention.query(h))
        k, v = (heads(t) for t in attention.key_value(h).chunk(2, -1))
        mk, mv = (heads(t) for t in attention.key_value(m).chunk(2, -1))
        turned = attention.rotary(q, place) @ attention.rotary(k, place).transpose(-1, -2)
        logits = torch.cat([q @ mk.transpose(-1, -2), turned.masked_fill(~mask, -torch.inf)], -1)
        read = (logits * (WIDTH // 2) ** -0.5).softmax(-1) @ torch.cat(
            [mv.expand(2, -1, -1, -1), v], 2
        )
        own = scaled_dot_product_attention(heads(attention.query(m)), mk, mv)

        def out(t, layer=layer):
            return layer.attention.out(t.transpose(1, 2).flatten(-2))

        y, memory = layer.fed(y, out(read)), layer.fed(memory, out(own))
    same(module(x)[0], module.norm(y))


def test_the_order_of_memory_tokens_does_not_count():
    module, x = mixer(), noise(2, STEPS, WIDTH)
    base = module(x)[0]
    with torch.no_grad():
        module.memory.copy_(module.memory.flip(1))
    same(module(x)[0], base)


def test_blocks_are_tokens_that_stand_among_the_steps():
    module, x = mixer(memory="blocks"), noise(2, STEPS, WIDTH)
    gpt = zoo.load("gpt")
    plain = gpt.build(gpt.config(width=WIDTH, heads=2, layers=2)).double().eval()
    block, pieces, places = module.memory.expand(2, -1, -1), [], []
    for number, part in enumerate(x.split(4, 1)):
        pieces += [block, part]
        places += [number * 7 + 3 + i for i in range(part.shape[1])]
    longer = same_weights(module, plain)(torch.cat(pieces, 1))[0]
    same(module(x)[0], longer[:, places])


@FORMS
def test_rows_at_different_places_equal_one_pass(memory):
    module, x = mixer(memory=memory), noise(3, STEPS, WIDTH)
    same(stream(module, x), module(x)[0])


@FORMS
def test_single_precision_streams_too(memory):
    module, x = mixer(memory=memory).float(), noise(2, STEPS, WIDTH).float()
    gap = stream_of_single(module, x) - module(x)[0]
    assert gap.abs().max() < 1e-4


def stream_of_single(module, x):
    state, pieces = module.init_state(len(x)), []
    for part in x.split([1, 7, 2, x.shape[1] - 10], 1):
        y, state = module(part, state)
        pieces.append(y)
    return torch.cat(pieces, 1)


@pytest.mark.parametrize("settings", [{}, {"memory": "blocks"}, {"published": True}], ids=str)
def test_only_the_published_memory_sees_the_future(settings):
    module = mixer(**settings)
    x = noise(1, 9, WIDTH).requires_grad_()
    slope = (
        torch.autograd.functional.jacobian(lambda t: module(t)[0].sum((0, 2)), x)[:, 0]
        .abs()
        .sum(-1)
    )
    assert (slope.tril() > 0).sum() == 9 * 10 // 2
    assert bool((slope.triu(1) > 0).any()) == bool(settings.get("published"))


def test_the_auditor_finds_the_published_memory():
    module = mixer(published=True)
    report = audit(
        module,
        noise(2, 11, WIDTH),
        causal(axis=1),
        call=lambda inputs: module(*inputs.values())[0],
        modes=("evaluation",),
        moments=2,
    )
    assert report.verdict == "leak", report.summary()


def test_the_published_memory_is_refused_where_it_would_leak():
    settings = SYSTEM.config(width=WIDTH, published=True)
    with pytest.raises(InputError, match="published=true"):
        refuse_illegal(SYSTEM, settings, TracingConfig(scheme="shifted"))
    with pytest.raises(InputError, match="dense = false"):
        refuse_unfit(SYSTEM, settings, ForecastingConfig(dense=True))
    refuse_unfit(SYSTEM, settings, ForecastingConfig(dense=False))
    with pytest.raises(InputError, match="published = false"):
        SYSTEM.build(settings).init_state(1)


def test_heads_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="heads must divide width"):
        SYSTEM.config(width=16, heads=3)
