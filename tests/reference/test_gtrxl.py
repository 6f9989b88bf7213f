"""GTrXL and PS-GTr against properties that only correct ones have (specs 3)."""

import pytest
import torch
import torch.nn.functional as F

from kt_forecast import zoo
from kt_forecast.nn.attention import CausalAttention
from kt_forecast.nn.gating import MAPS, Gate
from kt_forecast.nn.relative import sinusoids

GTRXL, PS_GTR, XL = (zoo.load(name) for name in ("gtrxl", "ps_gtr", "transformer_xl"))
STEPS, WIDTH = 23, 16
SMALL = {"width": WIDTH, "heads": 2, "window": 6, "segment": 4}


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn(module):
    with torch.no_grad():
        for i, parameter in enumerate(module.double().parameters()):
            parameter.copy_(0.3 * noise(*parameter.shape, seed=i))
    return module.eval()


def gtrxl(**settings):
    return drawn(GTRXL.build(GTRXL.config(**SMALL | settings)))


def ps_gtr(**settings):
    return drawn(PS_GTR.build(PS_GTR.config(width=WIDTH, heads=2, **settings)))


def same(a, b):
    torch.testing.assert_close(a, b, atol=1e-10, rtol=0.0)


def test_the_gate_is_a_recurrent_unit_whose_state_is_the_stream():
    gate, cell = drawn(Gate(WIDTH, "gru", shut=2.0)), torch.nn.GRUCell(WIDTH, WIDTH).double()
    x, made = noise(7, WIDTH), noise(7, WIDTH, seed=2)
    with torch.no_grad():
        # torch keeps of the state what its update gate says, and ours what it does not; and torch
        # resets what came of the state, ours the state itself: alike for a diagonal map.
        gate.candidate.weight.copy_(torch.diag(torch.diagonal(gate.candidate.weight)))
        for whole, ours in (
            (cell.weight_ih, gate.made.weight),
            (cell.weight_hh, gate.stream.weight),
        ):
            whole.zero_()[: len(ours)] = ours
            whole[WIDTH : 2 * WIDTH] *= -1
        cell.weight_hh[2 * WIDTH :] = gate.candidate.weight
        cell.bias_hh.zero_()
        cell.bias_ih.zero_()[WIDTH : 2 * WIDTH] = gate.shut
    same(gate(x, made), cell(made, x))


@pytest.mark.parametrize("kind", ["gru", "output", "sigmoid_tanh"])
def test_a_shut_gate_lets_nothing_in_and_an_open_one_the_more(kind):
    gate = drawn(Gate(WIDTH, kind, shut=0.0))
    x, made = noise(7, WIDTH), noise(7, WIDTH, seed=2)
    moved = []
    for shut in (0.0, 2.0, 50.0, 800.0):
        torch.nn.init.constant_(gate.shut, shut)
        moved.append(float((gate(x, made) - x).abs().max().detach()))
    assert moved[0] > moved[1] > moved[2]
    assert moved[2] < 1e-10
    assert moved[3] == 0.0


@pytest.mark.parametrize("kind", MAPS)
def test_the_gates_of_the_paper(kind):
    gate, x, made = drawn(Gate(WIDTH, kind, shut=2.0)), noise(7, WIDTH), noise(7, WIDTH, seed=2)
    stream = getattr(gate.stream, "weight", None)
    into = gate.made.weight.chunk(MAPS[kind][1]) if MAPS[kind][1] else None
    if kind == "gru":
        of = stream.chunk(2)
        reset = torch.sigmoid(made @ into[0].T + x @ of[0].T)
        update = torch.sigmoid(made @ into[1].T + x @ of[1].T - gate.shut)
        new = torch.tanh(made @ into[2].T + (reset * x) @ gate.candidate.weight.T)
        wanted = (1 - update) * x + update * new
    elif kind == "output":
        wanted = x + torch.sigmoid(x @ stream.T - gate.shut) * made
    elif kind == "highway":
        kept = torch.sigmoid(x @ stream.T + gate.shut)
        wanted = kept * x + (1 - kept) * made
    elif kind == "input":
        wanted = torch.sigmoid(x @ stream.T) * x + made
    elif kind == "sigmoid_tanh":
        wanted = x + torch.sigmoid(made @ into[0].T - gate.shut) * torch.tanh(made @ into[1].T)
    else:
        wanted = x + made
    same(gate(x, made), wanted)


@pytest.mark.parametrize("build", [gtrxl, ps_gtr])
def test_with_shut_gates_a_step_passes_as_it_came(build):
    module, x = build(), noise(2, STEPS, WIDTH)
    for name, parameter in module.named_parameters():
        if name.endswith("shut"):
            torch.nn.init.constant_(parameter, 800.0)
    same(module(x)[0], module.norm(x))


def test_with_sums_for_gates_it_is_transformer_xl_with_rectifiers():
    module, x = gtrxl(gate="sum"), noise(2, STEPS, WIDTH)
    xl = XL.build(XL.config(**SMALL)).double().eval()
    xl.load_state_dict(module.state_dict())
    for layer in xl.layers:
        layer.dropout = torch.nn.ReLU()
        layer.feed.dropout = torch.nn.ReLU()
    same(module(x)[0], xl(x)[0])


def test_a_memory_as_long_as_the_stream_is_full_causal_attention():
    """One layer, written out with all pairs of steps; and any cut of the stream gives the same."""
    module, x = gtrxl(layers=1, window=STEPS), noise(2, STEPS, WIDTH)
    layer = module.layers[0]
    attention, normed = layer.attention, layer.attention.norm(x)
    q, k, v = (
        part.unflatten(-1, (2, 8)).transpose(1, 2)
        for part in (attention.query(normed), *attention.key_value(normed).chunk(2, -1))
    )
    far = torch.arange(STEPS)[:, None] - torch.arange(STEPS)
    r = attention.distance(sinusoids(far.clamp_min(0), WIDTH)).unflatten(-1, (2, 8))
    logits = (q + attention.content_offset) @ k.mT
    logits = logits + torch.einsum("bhqe,qkhe->bhqk", q + attention.distance_offset, r)
    weight = (logits / 8**0.5).masked_fill(far < 0, float("-inf")).softmax(-1)
    read = attention.out((weight @ v).transpose(1, 2).flatten(2))
    y = layer.attention_gate(x, F.relu(read))
    y = layer.feed_gate(y, F.relu(layer.feed(layer.feed_norm(y))))
    same(module(x)[0], module.norm(y))
    state, pieces = module.init_state(2), []
    for piece in x.split([5, 1, 8, 9], 1):
        part, state = module(piece, state)
        pieces.append(part)
    same(torch.cat(pieces, 1), module(x)[0])


def test_memory_that_there_is_not_yet_takes_no_weight():
    module, x = gtrxl(layers=1), noise(1, 3, WIDTH)
    attention, seen = module.layers[0].attention, []
    attend = attention.attend
    attention.attend = lambda q, k, v, visible: seen.append(visible) or attend(q, k, v, visible)
    module(x)
    assert seen[0].sum((0, 1, 3))[:3].tolist() == [1, 2, 3]


def test_with_every_query_ps_gtr_is_full_attention_behind_gates():
    module, x = ps_gtr(factor=100), noise(2, 60, WIDTH)
    y = x
    for layer in module.layers:
        full = CausalAttention(WIDTH, 2).double()
        full.load_state_dict(layer.attention.state_dict())
        y = layer.attention_gate(y, F.relu(full(layer.attention_norm(y))[0]))
        y = layer.feed_gate(y, F.relu(layer.feed(layer.feed_norm(y))))
    same(module(x)[0], module.norm(y))


def test_where_few_queries_attend_the_future_still_moves_nothing():
    module, x = ps_gtr(factor=1, samples=8), noise(2, 150, WIDTH)
    base = module(x)[0]
    assert not torch.equal(ps_gtr(factor=100, samples=8)(x)[0], base), "all queries attend"
    for cut in (33, 70, 149):
        for scale in (1.0, 40.0):
            other = torch.cat([x[:, :cut], scale * noise(2, 150 - cut, WIDTH, seed=3)], 1)
            assert torch.equal(module(other)[0][:, :cut], base[:, :cut])
