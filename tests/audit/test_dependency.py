"""What each element may depend on: exact labels by family, and honest code that comes close."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kt_forecast.audit.dependency import NEVER, track

T = 7
STEPS = torch.arange(T)
PAST = torch.ones(T, T, dtype=torch.bool).tril()


def tracked(call, *, width=4, rows=2, model=None, dtype=torch.float32, **options):
    torch.manual_seed(0)
    x = torch.randn(rows, T, width).to(dtype)
    model = model if model is not None else (call if isinstance(call, nn.Module) else None)
    return track(lambda i: call(i["x"]), {"x": x}, {"x": STEPS[None]}, model=model, **options)


def by_step(call, **options):
    """Return the latest moment by step, the second axis of the output."""
    labels = tracked(call, **options).outputs["output"]
    return labels.amax([a for a in range(labels.ndim) if a != 1]).tolist()


def known(call):
    """Return the labels of a call that makes its output of constants and parameters."""
    return by_step(call)


FOURIER = "a Fourier transform mixes its axis: a causal convolution through it cannot be proved so"
CAUSAL = list(range(T))
ALL = [T - 1] * T


def scores(x):
    return x @ x.mT


def attended(x, weights):
    return weights @ x


class Attention(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.mask = mask
        self.heads = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        return self.heads(x, x, x, attn_mask=self.mask, need_weights=False)[0]


class Weighted(Attention):
    def forward(self, x):
        return self.heads(x, x, x, attn_mask=self.mask, need_weights=True)[0]


class Encoder(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.mask = mask
        layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x):
        return self.layers(x, mask=self.mask)


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.cells = kind(4, 4, batch_first=True, **options)

    def forward(self, x):
        return self.cells(x)[0]


class Convolved(nn.Module):
    def __init__(self, left, right, **options):
        super().__init__()
        self.pads = (left, right)
        self.layer = nn.Conv1d(4, 4, 3, **options)

    def forward(self, x):
        return self.layer(F.pad(x.mT, self.pads)).mT


def in_channels(layer):
    return lambda x: layer(x.mT).mT


FAMILIES = {
    "linear": (nn.Linear(4, 4), CAUSAL),
    "layer norm of a step": (nn.LayerNorm(4), CAUSAL),
    "layer norm of all steps": (nn.LayerNorm([T, 4]), ALL),
    "batch norm in training": (in_channels(nn.BatchNorm1d(4)), ALL),
    "batch norm in evaluation": (in_channels(nn.BatchNorm1d(4).eval()), CAUSAL),
    "instance norm": (in_channels(nn.InstanceNorm1d(4)), ALL),
    "group norm": (in_channels(nn.GroupNorm(2, 4)), ALL),
    "rms norm": (nn.RMSNorm(4), CAUSAL),
    "attention, no mask": (Attention(None), ALL),
    "attention, boolean mask": (Attention(~PAST), CAUSAL),
    "attention, additive mask": (
        Attention(nn.Transformer.generate_square_subsequent_mask(T)),
        CAUSAL,
    ),
    "attention, mask inverted": (Attention(PAST.tril(-1)), ALL),
    "attention with weights returned": (Weighted(~PAST), CAUSAL),
    "encoder, masked": (Encoder(~PAST), CAUSAL),
    "encoder in evaluation": (Encoder(~PAST).eval(), CAUSAL),
    "encoder, no mask": (Encoder(None), ALL),
    "lstm": (Recurrent(nn.LSTM), CAUSAL),
    "gru": (Recurrent(nn.GRU), CAUSAL),
    "rnn": (Recurrent(nn.RNN), CAUSAL),
    "two-way lstm": (Recurrent(nn.LSTM, bidirectional=True), ALL),
    "causal convolution": (Convolved(2, 0), CAUSAL),
    "same convolution": (Convolved(1, 1), [1, 2, 3, 4, 5, 6, 6]),
    "convolution that reads two ahead": (Convolved(0, 2), [2, 3, 4, 5, 6, 6, 6]),
    "dilated convolution": (Convolved(4, 0, dilation=2), CAUSAL),
    "grouped convolution": (Convolved(2, 0, groups=2), CAUSAL),
    "circular convolution": (
        in_channels(nn.Conv1d(4, 4, 3, padding=1, padding_mode="circular")),
        [6, 2, 3, 4, 5, 6, 6],
    ),
    "reflecting convolution": (
        in_channels(nn.Conv1d(4, 4, 3, padding=1, padding_mode="reflect")),
        [1, 2, 3, 4, 5, 6, 6],
    ),
    "transposed convolution": (
        in_channels(lambda x: nn.ConvTranspose1d(4, 4, 3)(x)[..., :T]),
        CAUSAL,
    ),
    "strided convolution": (in_channels(nn.Conv1d(4, 4, 3, stride=2)), [2, 4, 6]),
    "max pooling": (in_channels(nn.MaxPool1d(3, 1, padding=1)), [1, 2, 3, 4, 5, 6, 6]),
    "mean pooling": (in_channels(nn.AvgPool1d(2)), [1, 3, 5]),
    "adaptive pooling": (in_channels(nn.AdaptiveAvgPool1d(3)), [2, 4, 6]),
    "upsampling": (in_channels(lambda x: F.interpolate(x, scale_factor=2)), sorted(CAUSAL * 2)),
    "cumulated sum": (lambda x: x.cumsum(1), CAUSAL),
    "cumulated sum from the end": (lambda x: x.flip(1).cumsum(1).flip(1), ALL),
    "cumulated log-sum-exp": (lambda x: x.logcumsumexp(1), CAUSAL),
    "cumulated maximum": (lambda x: x.cummax(1).values, CAUSAL),
    "mean over steps": (lambda x: x - x.mean(1, keepdim=True), ALL),
    "standard deviation": (lambda x: x / x.std(1, keepdim=True), ALL),
    "roll by one": (lambda x: x.roll(1, 1), [6, 0, 1, 2, 3, 4, 5]),
    "token shift": (lambda x: F.pad(x, (0, 0, 1, -1)), [NEVER, 0, 1, 2, 3, 4, 5]),
    "unfold": (lambda x: x.unfold(1, 3, 2), [2, 4, 6]),
    "flip": (lambda x: x.flip(1), CAUSAL[::-1]),
    "sort": (lambda x: x.sort(1).values, ALL),
    "rank": (lambda x: x.argsort(1).argsort(1), ALL),
    "top-k indices": (lambda x: x.topk(T, 1).indices, ALL),
    "argmax": (lambda x: x.argmax(1, keepdim=True).expand(-1, T, -1), ALL),
    "one-hot routing": (
        lambda x: torch.zeros_like(x).scatter(1, x.topk(2, 1).indices, 1.0) * x,
        ALL,
    ),
    "rounding": (lambda x: x.round().detach(), CAUSAL),
    "fft": (lambda x: torch.fft.fft(x, dim=1).real, ALL),
    "fft of channels": (lambda x: torch.fft.fft(x, dim=2).real, CAUSAL),
    "einsum with a triangle": (
        lambda x: torch.einsum("st,btc->bsc", PAST.float(), x),
        CAUSAL,
    ),
    "linear attention": (
        lambda x: torch.einsum("btd,btde->bte", x, torch.einsum("btd,bte->btde", x, x).cumsum(1)),
        CAUSAL,
    ),
    "sdpa, causal": (
        lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
        CAUSAL,
    ),
    "sdpa, mask inverted": (
        lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=~PAST | torch.eye(T).bool()),
        ALL,
    ),
    "dropout": (lambda x: F.dropout(x, 0.5), CAUSAL),
    "gather, known": (
        lambda x: x.gather(1, STEPS.flip(0)[None, :, None].expand_as(x)),
        CAUSAL[::-1],
    ),
    "index, known": (lambda x: x[:, [0, 0, 2]], [0, 0, 2]),
    "index, computed": (lambda x: x[:, x[0, 2].argmax().reshape(1)], [6]),
    "distances": (lambda x: torch.cdist(x, x).tril(), CAUSAL),
    "solve of each step": (
        lambda x: torch.linalg.solve(x[..., None] * x[..., None, :] + torch.eye(4), x),
        CAUSAL,
    ),
    "triangular solve": (
        lambda x: torch.linalg.solve_triangular(PAST.float().expand(2, T, T), x, upper=False),
        CAUSAL,
    ),
    "packed": (
        lambda x: nn.utils.rnn.pad_packed_sequence(
            nn.utils.rnn.pack_padded_sequence(x, torch.tensor([T, T - 2]), batch_first=True),
            batch_first=True,
        )[0],
        CAUSAL,
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_labels_of_a_family_are_exact(name):
    call, expected = FAMILIES[name]
    found = tracked(call)
    labels = found.outputs["output"]
    axes = [a for a in range(labels.ndim) if a != 1]
    assert found.notes == ([FOURIER] if name == "fft" else [])
    assert labels.amax(axes).tolist() == expected
    assert found.unknown == []
    assert found.escapes == []
    assert found.conditions == []


def test_embedded_tokens_keep_their_moments():
    table = nn.Embedding(5, 3)
    tokens = torch.randint(0, 5, (2, T))
    found = track(lambda i: table(i["x"]), {"x": tokens}, {"x": STEPS[None]}, model=table)
    assert found.outputs["output"].tolist() == STEPS[None, :, None].expand(2, T, 3).tolist()


# What must not be accused: the traps that cost a wrong verdict once, and honest models.

KEPT = torch.arange(T * T).reshape(T, T) % 5


class Detached(nn.Module):
    """Reads a parameter by ways that torch's dispatcher does not see."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x + self.gate.data * x.mean(1, keepdim=True)


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(1))
        self.register_buffer("closed", torch.zeros(1))

    def forward(self, x):
        return x + self.closed * x.mean(1, keepdim=True)


class LeakyGate(Gated):
    def forward(self, x):
        return x + self.gate * x.mean(1, keepdim=True)


def filled_by_hand(x):
    mask = torch.zeros(T, T, dtype=torch.bool)
    for i in range(T):
        mask[i, i + 1 :] = True
    return attended(x, scores(x).masked_fill(mask, float("-inf")).softmax(-1))


def filled_twice(x):
    """A top-k among what is visible: the two branches of the second mask are both masks."""
    low = torch.finfo(x.dtype).min
    s = scores(x).masked_fill(~PAST, low)
    third = s.topk(3, -1).values[..., -1:]
    return attended(x, s.masked_fill(s < third, low).masked_fill(~PAST, low).softmax(-1))


def from_numpy(x):
    mask = torch.from_numpy(np.triu(np.ones((T, T)), 1).astype(bool))
    return attended(x, scores(x).masked_fill(mask, -torch.inf).softmax(-1))


def by_index(x):
    s = scores(x)
    s[:, ~PAST] = -torch.inf
    return attended(x, s.softmax(-1))


def written_step_by_step(x):
    out = torch.empty_like(x)
    memory = torch.zeros_like(x[:, 0])
    for t in range(T):
        memory = 0.9 * memory + x[:, t]
        out[:, t] = memory
    return out


def written_through_a_view(x):
    out = torch.zeros_like(x)
    last = out.transpose(0, 1)[-1]
    last += x[:, 0]
    return out


def late_write(x):
    out = torch.zeros_like(x)
    early = out[:, 0]
    out[:, 1:] = x[:, 1:]
    early.add_(x[:, -1])
    return out


def by_hand(x):
    s = scores(x) + torch.zeros(T, T).masked_fill(~PAST, -torch.inf)
    s = (s - s.amax(-1, keepdim=True)).exp()
    return attended(x, s / s.sum(-1, keepdim=True))


def cut_and_multiplied(x):
    return attended(x, scores(x) * PAST)


def token_choice(x):
    gate = nn.functional.one_hot(x.argmax(-1), 4)
    return (x[..., None, :] * gate[..., None]).sum(-2)


def clipped_in_place(x):
    y = x * 1.0
    y[y < 0] = 0.0
    y.transpose_(1, 2).mul_(2.0)
    return y.mT


def chunked(x):
    carry, out = torch.zeros_like(x[:, :1]), []
    for part in x.split(3, 1):
        here = part.cumsum(1) + carry
        out.append(here)
        carry = here[:, -1:]
    return torch.cat(out, 1)


def cumulative_norm(x):
    n = torch.arange(1, T + 1)[:, None]
    mean = x.cumsum(1) / n
    return (x - mean) / ((x**2).cumsum(1) / n - mean**2).clamp_min(1e-5).sqrt()


def retention(x):
    distance = (STEPS[:, None] - STEPS[None]).float()
    decay = torch.where(distance >= 0, 0.9**distance, 0.0)
    return attended(x, scores(x) * decay)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


HONEST = {
    "mask filled by hand with python values": filled_by_hand,
    "mask from numpy": from_numpy,
    "mask by indexing": by_index,
    "top-k among the past": filled_twice,
    "softmax by hand": by_hand,
    "steps written one by one": written_step_by_step,
    "values clipped in place": clipped_in_place,
    "products cut by a triangle": cut_and_multiplied,
    "nearest of the past": lambda x: (
        x + torch.cdist(x, x).masked_fill(~PAST, torch.inf).amin(-1, keepdim=True)
    ),
    "token choice routing": token_choice,
    "closed constant gate": Gated(),
    "chunked scan": chunked,
    "cumulative norm": cumulative_norm,
    "retention": retention,
    "double precision": lambda x: filled_by_hand(x.double()).float(),
    "half of the channels by view": lambda x: torch.stack(x.chunk(2, -1), -1).flatten(2),
    "custom autograd function": Doubled.apply,
    "distributions that check their values": lambda x: torch.distributions.Normal(
        x, x.exp(), validate_args=True
    ).log_prob(x),
    "floor division of a number": lambda x: torch.floor_divide(3, x),
    "floor division": lambda x: (x * 10).floor_divide(3),
    "vmap": torch.vmap(lambda row: row.cumsum(0)),
    "printing": lambda x: x + len(f"{x}") * 0,
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_code_is_not_accused(name):
    found = tracked(HONEST[name])
    labels = found.outputs["output"].amax((0, 2))
    assert found.notes == []
    assert labels.tolist() == CAUSAL
    assert found.unknown == []
    assert found.escapes == []
    assert found.conditions == []


def test_a_parameter_never_hides_a_dependence():
    assert by_step(LeakyGate()) == ALL
    assert by_step(Detached()) == ALL
    assert by_step(Gated()) == CAUSAL


def test_a_view_sees_what_is_written_to_its_base_and_the_base_what_is_written_to_a_view():
    assert by_step(written_through_a_view) == [NEVER] * (T - 1) + [0]
    assert by_step(late_write) == [T - 1, *CAUSAL[1:]]


def test_a_write_does_not_reach_what_was_computed_before():
    def early(x):
        buffer = x * 1.0
        before = torch.relu(buffer)
        buffer.copy_(x.flip(1))
        return before

    assert by_step(early) == CAUSAL


def test_a_row_of_masks_is_uniform_and_reads_all():
    def all_masked(x):
        s = scores(x).masked_fill(~PAST.tril(-1), torch.finfo(x.dtype).min)
        return attended(x, s.softmax(-1))

    assert by_step(all_masked) == [T - 1, *range(1, T)]


def masked_at(value):
    return lambda x: attended(x, scores(x).masked_fill(~PAST, value).softmax(-1))


@pytest.mark.parametrize("value", [-torch.inf, torch.finfo(torch.float32).min, -1e30])
def test_a_structural_mask_is_no_condition(value):
    found = tracked(masked_at(value))
    assert found.outputs["output"].amax((0, 2)).tolist() == CAUSAL
    assert found.conditions == []


@pytest.mark.parametrize("value", [-1e9, -1e4])
def test_a_finite_mask_is_a_condition_that_names_it(value):
    found = tracked(masked_at(value))
    assert found.outputs["output"].amax((0, 2)).tolist() == CAUSAL
    assert found.unconditional["output"].amax((0, 2)).tolist() == ALL
    assert len(found.conditions) == 1
    assert f"{value:g}" in found.conditions[0]
    assert "test_dependency.py" in found.conditions[0]


def test_a_low_number_that_is_no_score_hides_nothing():
    found = tracked(lambda x: F.relu(x.sum(1, keepdim=True) - 1e5 * torch.ones(T, 1)) + x)
    assert found.outputs["output"].amax((0, 2)).tolist() == ALL
    assert found.conditions == []


def test_a_weak_mask_that_is_added_is_a_condition():
    low = torch.zeros(T, T).masked_fill(~PAST, -1e9)
    for call in (
        lambda x: attended(x, (scores(x) + low).softmax(-1)),
        lambda x: attended(x, torch.baddbmm(low, x, x.mT).double().softmax(-1).float()),
        lambda x: attended(x, (scores(x)[:, None] + low).add_(1.0).softmax(-1)[:, 0]),
    ):
        found = tracked(call)
        assert found.outputs["output"].amax((0, 2)).tolist() == CAUSAL
        assert len(found.conditions) == 1


def test_a_weak_mask_is_none():
    found = tracked(masked_at(-10.0))
    assert found.outputs["output"].amax((0, 2)).tolist() == ALL
    assert found.conditions == []


def test_a_mask_that_the_caller_gives_counts_only_where_it_is_declared_constant():
    x = torch.randn(1, T, 4)
    inputs, available = {"x": x, "mask": PAST}, {"x": STEPS[None]}

    def call(i):
        return attended(i["x"], scores(i["x"]).masked_fill(~i["mask"], -torch.inf).softmax(-1))

    free = track(call, inputs, available)
    fixed = track(call, inputs, available, constants=["mask"])
    assert free.outputs["output"].amax((0, 2)).tolist() == ALL
    assert fixed.outputs["output"].amax((0, 2)).tolist() == CAUSAL
    assert fixed.conditions == ["input mask keeps its values"]


# What leaves torch.


def scaled(x):
    return x * x.mean().item()


def branching(x):
    return x if x[:, 3].sum() > 0 else -x


def through_numpy(x):
    return torch.from_numpy(x.numpy().copy())


def through_a_list(x):
    return torch.tensor(x.tolist())


def through_array(x):
    return torch.as_tensor(np.asarray(x) * 2)


def through_dlpack(x):
    return torch.from_numpy(np.from_dlpack(x).copy())


def by_nonzero(x):
    return x.masked_fill(x > 0, 0.0)[:, : max(1, len(x[0, :, 0].nonzero()))]


def by_mask(x):
    return x[x > 0]


ESCAPES = {
    scaled: ("item", T - 1),
    branching: ("item", 3),
    through_numpy: ("numpy", T - 1),
    through_a_list: ("tolist", T - 1),
    through_array: ("__array__", T - 1),
    through_dlpack: ("__dlpack__", T - 1),
    by_nonzero: ("the shape of nonzero", T - 1),
    by_mask: ("the shape of index", T - 1),
}


@pytest.mark.parametrize("call", ESCAPES, ids=lambda call: call.__name__)
def test_data_that_leaves_torch_is_recorded_with_its_line(call):
    what, moment = ESCAPES[call]
    escapes = tracked(call).escapes
    assert (what, moment) in [(e.what, e.moment) for e in escapes]
    line = call.__code__.co_firstlineno + 1
    assert {e.source.split("/")[-1] for e in escapes} == {f"test_dependency.py:{line}"}
    assert "test_dependency.py" in str(escapes[0])


@pytest.mark.parametrize("call", [scaled, through_numpy, through_a_list, through_array])
def test_what_comes_back_carries_what_left(call):
    assert by_step(call) == ALL


def test_constants_made_before_anything_left_stay_constants():
    mask = ~PAST

    def call(x):
        _ = x[:, -1].sum().item()
        return attended(x, scores(x).masked_fill(mask, -torch.inf).softmax(-1))

    found = tracked(call)
    assert found.outputs["output"].amax((0, 2)).tolist() == CAUSAL
    assert [e.moment for e in found.escapes] == [T - 1]


def test_nothing_is_recorded_for_what_is_known_always():
    x = torch.randn(1, T, 4)
    found = track(
        lambda i: i["x"][:, : int(i["n"].item())],
        {"x": x, "n": torch.tensor(3)},
        {"x": STEPS[None]},
    )
    assert found.escapes == []


# Interface.


@dataclass
class Forecast:
    mean: Tensor
    parts: list


def test_outputs_of_any_nest_have_paths():
    def call(x):
        return {"a": (x, x.sum()), "b": Forecast(x[:, 0], [x[:, 1]]), "c": None, "d": 1}

    labels = tracked(call).outputs
    assert {path: int(x.max()) for path, x in labels.items()} == {
        "a.0": T - 1,
        "a.1": T - 1,
        "b.mean": 0,
        "b.parts.0": 1,
    }


def test_moments_may_be_any_integers_and_one_input_can_be_asked_for_alone():
    inputs = {"question": torch.randn(1, T), "response": torch.randn(1, T)}
    available = {"question": 2 * STEPS[None] - 1000, "response": 2 * STEPS[None] - 999}

    def call(i):
        return i["question"] + F.pad(i["response"], (1, -1))

    def labels(only):
        return track(call, inputs, available, only=only).outputs["output"][0].tolist()

    assert labels(None) == (2 * STEPS - 1000).tolist()
    assert labels("response") == [NEVER, *(2 * STEPS[:-1] - 999).tolist()]


def test_a_clock_without_its_input_is_refused():
    with pytest.raises(ValueError, match=r"\['y'\].*\['x'\]"):
        track(lambda i: i["x"], {"x": torch.zeros(1)}, {"y": torch.zeros(1, dtype=torch.int64)})


def test_the_model_is_as_before():
    model = nn.Sequential(nn.BatchNorm1d(T), nn.Dropout()).train()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    x = torch.randn(3, T, 4)
    random = torch.get_rng_state()
    track(lambda i: model(i["x"]), {"x": x}, {"x": STEPS[None]}, model=model)
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training
    assert not model[0]._forward_hooks
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


class Remembers(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))
        self.last = torch.zeros(4)

    def forward(self, x):
        out = x + self.mean + self.last
        self.mean.copy_(x.mean((0, 1)))
        self.last = x[0, 3]
        return out


def test_state_that_the_model_keeps_is_labelled_and_read_by_a_second_call():
    model = Remembers()
    found = tracked(model)
    assert found.state == {"mean": T - 1, "last": 3}
    assert found.outputs["output"].amax((0, 2)).tolist() == CAUSAL
    model = Remembers()
    assert by_step(model, calls=2) == ALL


def test_a_buffer_that_the_model_writes_is_no_constant():
    class Opens(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("gate", torch.zeros(1))

        def forward(self, x):
            y = x + self.gate * x.mean(1, keepdim=True)
            self.gate.add_(1.0)
            return y

    assert by_step(Opens()) == ALL


def test_an_operation_without_a_rule_mixes_everything_and_is_named():
    found = tracked(
        lambda x: F.grid_sample(x[:, None, None], torch.zeros(2, 1, T, 4, 3), align_corners=False)
    )
    assert found.unknown == ["grid_sampler_3d"]
    assert int(found.outputs["output"].min()) == T - 1


def test_computed_routing_can_be_frozen_as_a_condition():
    def call(x):
        order = x[..., 0].argsort(1)
        back = order.argsort(1)
        ordered = x.gather(1, order[..., None].expand_as(x)) * 2
        return ordered.gather(1, back[..., None].expand_as(x))

    assert by_step(call) == ALL
    found = tracked(call, freeze_routing=True)
    assert found.outputs["output"].amax((0, 2)).tolist() == CAUSAL
    assert any("indices of gather" in condition for condition in found.conditions)


# Origins.


class Block(nn.Module):
    def __init__(self, leak):
        super().__init__()
        self.first = Attention(~PAST)
        self.leak = leak
        self.last = Attention(~PAST)

    def forward(self, x):
        return self.last(self.leak(self.first(x)))


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


ORIGINS = {
    "no mask": (Attention(None), "leak.heads (MultiheadAttention)", "_safe_softmax"),
    "same padding": (Convolved(1, 1), "leak.layer (Conv1d)", "convolution"),
    "mean": (Function(lambda x: x - x.mean(1, keepdim=True)), "leak (Function)", "mean"),
    "chosen": (
        Function(lambda x: x.gather(1, x[..., 0].topk(T // 2, 1).indices[..., :1, None]) + x),
        "leak (Function)",
        "topk",
    ),
    "roll": (Function(lambda x: x + x.roll(-1, 1)), "leak (Function)", "roll"),
    "sort": (Function(lambda x: x.sort(1).values), "leak (Function)", "sort"),
    "batch norm": (
        Function(in_channels(nn.BatchNorm1d(4))),
        "leak (Function)",
        "native_batch_norm",
    ),
    "written back": (Function(late_write), "leak (Function)", "add_"),
}


@pytest.mark.parametrize("name", ORIGINS)
@pytest.mark.parametrize("rows", [1, 2])
def test_the_module_and_the_operation_are_named(name, rows):
    leak, module, op = ORIGINS[name]
    model = Block(leak)
    found = tracked(model, rows=rows, locate=True)
    (origin, *others) = found.origin("output", STEPS[None])
    assert others == []
    assert origin.module == module
    assert origin.op.startswith(op)
    assert "test_dependency.py" in origin.source
    assert origin.moment == T - 1
    modules = [link.module.split(".")[0].split(" ")[0] for link in origin.chain]
    assert modules.index("leak") < modules.index("last")


def test_what_is_late_in_one_row_only_is_judged_by_that_row():
    class Padded(nn.Module):
        def forward(self, x):
            return (x @ x.mT).masked_fill(~PAST, -torch.inf).softmax(-1) @ x

    x = torch.randn(2, T, 4, generator=torch.Generator().manual_seed(0))
    moments = torch.arange(T).expand(2, -1).clone()
    moments[1, :3] = 99
    found = track(lambda i: Padded()(i["x"]), {"x": x}, {"x": moments}, locate=True)
    (origin,) = found.origin("output", moments)
    assert origin.op == "_softmax"


def test_where_values_leave_torch_the_module_is_named():
    model = Block(Function(lambda x: x * 2 if x.sum().item() > 1e9 else x))
    (escape, *_) = tracked(model).escapes
    assert escape.module == "leak (Function)"


def test_independent_leaks_are_each_named():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = Convolved(1, 1), Attention(None)

        def forward(self, x):
            return self.one(x) + self.two(x)

    found = tracked(Two(), locate=True).origin("output", STEPS[None])
    assert {o.module for o in found} == {"one.layer (Conv1d)", "two.heads (MultiheadAttention)"}
    assert found[0].op == "_safe_softmax" or found[0].moment == found[1].moment


def test_an_output_within_its_limit_has_no_origin_and_a_run_without_traces_says_so():
    found = tracked(Encoder(~PAST), locate=True)
    assert found.origin("output", STEPS[None]) == []
    with pytest.raises(ValueError, match="locate=True"):
        tracked(Encoder(None)).origin("output", STEPS[None])


class Tracer(nn.Module):
    def __init__(self, shift):
        super().__init__()
        self.shift = shift
        self.question, self.done = nn.Embedding(5, 4), nn.Embedding(10, 4)
        self.memory = nn.GRU(4, 4, batch_first=True)

    def forward(self, question, response):
        done = self.done(question + 5 * response)
        if self.shift:
            done = F.pad(done, (0, 0, 1, -1))
        return (self.memory(done)[0] * self.question(question)).sum(-1)


@pytest.mark.parametrize("shift", [True, False])
def test_an_answer_read_too_early_is_traced_to_where_it_is_read(shift):
    inputs = {"question": torch.randint(0, 5, (2, T)), "response": torch.randint(0, 2, (2, T))}
    model = Tracer(shift)
    found = track(
        lambda i: model(**i),
        inputs,
        {"question": 2 * STEPS[None], "response": 2 * STEPS[None] + 1},
        model=model,
        locate=True,
    )
    late = found.outputs["output"] - 2 * STEPS
    assert int(late.max()) == (0 if shift else 1)
    origins = found.origin("output", 2 * STEPS[None])
    assert [(o.module, o.op) for o in origins] == ([] if shift else [("<model> (Tracer)", "mul")])


def test_a_forecast_that_reads_its_horizon_is_traced():
    past, future = torch.randn(2, 11), torch.randn(2, 5)
    available = {"past": torch.arange(11)[None], "future": torch.arange(11, 16)[None]}

    def call(i):
        normal = i["past"] - i["past"].mean(1, keepdim=True)
        return normal[:, -1:] + i["future"].cumsum(1)

    found = track(call, {"past": past, "future": future}, available, locate=True)
    (origin,) = found.origin("output", 10)
    assert origin.op == "cumsum"
    assert origin.moment == 15


# Against replacement: whatever moves must be covered.


def random_step(draw):
    """Return one random layer on rows by steps by four channels."""
    width = 4
    choices = [
        nn.Linear(width, width),
        nn.LayerNorm(width),
        Attention(~PAST if draw() < 0.5 else None),
        Recurrent([nn.LSTM, nn.GRU, nn.RNN][int(draw() * 3)]),
        Convolved(2, 0),
        Convolved(1, 1),
        Function(lambda x: x.roll(int(draw() * 3) - 1, 1)),
        Function(lambda x: x.cumsum(1) / T),
        Function(lambda x: torch.where(x > 0, x, x.flip(1)) if draw() < 0.3 else F.gelu(x)),
        Function(lambda x: x * x.softmax([1, 2][int(draw() * 2)])),
        Function(lambda x: x.index_fill(1, torch.tensor([int(draw() * T)]), 0.0)),
        Function(written_step_by_step),
        Function(late_write),
        Function(clipped_in_place),
        Function(lambda x: torch.cat([x[:, 1:], x[:, :1]], 1)),
        Function(lambda x: x + x.gather(1, x.argsort(1)) * PAST[int(draw() * T)][:, None]),
        Function(filled_twice),
    ]
    return choices[int(draw() * len(choices))]


@pytest.mark.parametrize("seed", range(30))
def test_whatever_replacement_moves_is_covered_by_the_labels(seed):
    generator = torch.Generator().manual_seed(seed)

    def draw():
        return float(torch.rand((), generator=generator))

    torch.manual_seed(seed)
    steps = [random_step(draw) for _ in range(4)]
    state = generator.get_state()

    def call(x):
        generator.set_state(state)
        for step in steps:
            x = step(x)
        return x

    model = nn.ModuleList(steps).eval()
    x = torch.randn(2, T, 4)
    found = track(lambda i: call(i["x"]), {"x": x}, {"x": STEPS[None]}, model=model)
    assert (found.unknown, found.notes) == ([], [])
    with torch.no_grad():
        before = call(x)
        for cut in range(T):
            for scale in (1.0, 30.0):
                late = (cut <= STEPS)[None, :, None]
                after = call(torch.where(late, x + scale * torch.randn_like(x), x))
                moved = after != before
                assert bool((found.outputs["output"][moved] >= cut).all()), cut


def own_hidden_by_a_finite_mask(x):
    s = x.mean(-1)[:, None].expand(-1, T, -1).masked_fill(~PAST.tril(-1), -1e4)
    s = s.masked_fill(~PAST, -torch.inf)
    return attended(x, s.softmax(-1))


def test_what_is_enough_to_know_needs_no_trust_in_finite_masks():
    found = tracked(own_hidden_by_a_finite_mask)
    assert len(found.conditions) == 1
    assert by_step(own_hidden_by_a_finite_mask)[1:] == CAUSAL[:-1]
    due = STEPS[None, :, None].expand(2, T, 4)
    enough = tracked(own_hidden_by_a_finite_mask, enough={"output": due})
    assert enough.conditions == []
    assert torch.equal(enough.outputs["output"], due)
    asked = tracked(own_hidden_by_a_finite_mask, enough={"output": due - 1})
    assert len(asked.conditions) == 1
