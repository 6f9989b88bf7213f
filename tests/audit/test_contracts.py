"""Contracts on every shape of batch: nests, tokens, masks, lengths, shifts, two streams."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import ContractError, audit, causal, clock, kt, strict
from kt_forecast.audit.axes import harvested

STEPS = 9
TIME = torch.arange(STEPS)[None]
QUICK = {"modes": ("evaluation",), "moments": 4, "skip": ("compiled",)}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tokens(*shape, below=7):
    return torch.randint(0, below, shape, generator=torch.Generator().manual_seed(0))


def behind(x, steps=1):
    return F.pad(x, (0, 0, steps, 0))[:, : x.shape[1]]


class Pair(NamedTuple):
    past: torch.Tensor
    now: torch.Tensor


@dataclass
class Nested:
    pair: Pair
    parts: dict
    scale: float = 2.0


class Reads(nn.Module):
    """Reads a nest and returns one; what is in ``parts`` must be read a step late."""

    def __init__(self, honest):
        super().__init__()
        self.honest = honest

    def forward(self, batch):
        other = batch.parts["other"]
        late = behind(other) if self.honest else other
        y = (batch.pair.past + batch.pair.now).cumsum(1) + late
        return {"a": [y * batch.scale], "b": Pair(y, y + 1)}


@pytest.mark.parametrize("honest", [True, False])
def test_a_nest_of_tuples_mappings_and_dataclasses_goes_in_and_out(honest):
    batch = Nested(Pair(drawn(2, STEPS, 3), drawn(2, STEPS, 3)), {"other": drawn(2, STEPS, 3)})
    known = {"pair.past": TIME, "pair.now": TIME, "parts.other": TIME + 1}
    report = audit(Reads(honest), batch, clock(known, {"a.0": TIME, "b.now": TIME}), **QUICK)
    assert report.verdict == ("proved" if honest else "leak"), report.text()
    assert report.scope["judged"] == ["a.0", "b.now"]
    assert report.scope["not_judged"] == ["b.past"]
    assert {f.input for f in report.findings} == (set() if honest else {"parts.other"})


class Tokens(nn.Module):
    """A language model: row t of its logits is for token t + 1."""

    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.embed, self.out = nn.Embedding(7, 6), nn.Linear(6, 7)
        self.memory = nn.GRU(6, 6, batch_first=True)

    def forward(self, ids):
        states = self.memory(self.embed(ids))[0]
        return self.out(states if self.honest else states.roll(-1, 1))


@pytest.mark.parametrize("honest", [True, False])
def test_shifted_outputs_of_integer_tokens(honest):
    torch.manual_seed(0)
    report = audit(Tokens(honest), {"ids": tokens(2, STEPS)}, causal(), **QUICK)
    assert report.verdict == ("proved" if honest else "leak"), report.text()
    assert audit(Tokens(True), {"ids": tokens(2, STEPS)}, strict(), **QUICK).verdict == "leak"


class Translates(nn.Module):
    """A decoder that sees all of its source and the past of its target."""

    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.layer = nn.TransformerDecoderLayer(8, 2, 8, batch_first=True)

    def forward(self, source, target):
        n = target.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(n) if self.honest else None
        return self.layer(target, source, tgt_mask=mask)


@pytest.mark.parametrize("honest", [True, False])
def test_an_encoder_and_decoder_have_a_clock_each(honest):
    batch = {"source": drawn(2, 5, 8), "target": drawn(2, STEPS, 8, seed=1)}
    report = audit(Translates(honest), batch, clock({"target": TIME}, TIME), **QUICK)
    assert report.verdict == ("proved" if honest else "leak"), report.text()
    assert report.scope["known_always"] == ["source"]


class Packed(nn.Module):
    """Runs backwards in time over real steps, or over padding too."""

    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.memory = nn.GRU(3, 3, batch_first=True)

    def forward(self, x, lengths):
        if self.honest:
            real = torch.arange(x.shape[1]) < lengths[:, None]
            return self.memory(x * real[..., None])[0]
        return self.memory(x.flip(1))[0].flip(1)


@pytest.mark.parametrize("honest", [True, False])
def test_lengths_say_what_is_padding(honest):
    lengths = torch.tensor([STEPS, 5])
    late = TIME.expand(2, -1).masked_fill(lengths[:, None] <= TIME, 99)
    batch = (drawn(2, STEPS, 3), lengths)
    report = audit(Packed(honest), batch, clock({"0": late}, late), **QUICK)
    assert (report.verdict == "leak") is not honest, report.text()
    said = next(s.detail for s in report.stages if s.name == "padding")
    assert "1 holds lengths (by its values)" in said


class Masked(nn.Module):
    """Adds up real steps; the mask says which of them are padding."""

    def __init__(self, honest):
        super().__init__()
        self.honest = honest

    def forward(self, x, src_key_padding_mask):
        real = ~src_key_padding_mask if self.honest else torch.ones_like(src_key_padding_mask)
        return (x * real[..., None]).cumsum(1)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("honest", [True, False])
def test_masks_of_padding_on_both_sides(side, honest):
    lengths = torch.tensor([[STEPS], [5]])
    padded = STEPS - lengths > TIME if side == "left" else lengths <= TIME
    late = TIME.expand(2, -1).masked_fill(padded, 99)
    batch = {"x": drawn(2, STEPS, 3), "src_key_padding_mask": padded}
    report = audit(Masked(honest), batch, clock({"x": late}, late), **QUICK)
    leaks = side == "left" and not honest
    assert (report.verdict == "leak") is leaks, report.text()
    said = next(s.detail for s in report.stages if s.name == "padding")
    assert f"src_key_padding_mask is a mask of padding, padded on the {side} (by its name)" in said


def test_knowledge_tracing_names_its_inputs():
    class Own(nn.Module):
        def forward(self, item, correct):
            return (item + behind(correct[..., None])[..., 0]).cumsum(1)

    batch = {"item": drawn(2, STEPS), "correct": tokens(2, STEPS, below=2).float()}
    contract = kt(asked=["item"], answered=["correct"])
    assert audit(Own(), batch, contract, **QUICK).verdict == "proved"
    with pytest.raises(ContractError, match="kt\\(\\) knows the inputs"):
        audit(Own(), batch, kt(), **QUICK)


def test_axes_are_found_and_printed_and_fixed_lengths_are_said():
    class Channels(nn.Module):
        def forward(self, x):
            return x.cumsum(2)

    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Parameter(drawn(STEPS, STEPS))

        def forward(self, x):
            return self.mix.tril() @ x

    found = audit(Channels(), drawn(2, 5, STEPS), causal(axis=2), **QUICK)
    assert found.scope["axes"]["how"] == "declared"
    looked = audit(nn.GRU(3, 3, batch_first=True), drawn(2, STEPS, 3), causal(), **QUICK)
    assert looked.scope["axes"]["inputs"] == {"input": 1}
    assert "axis 1 was found by taking one step off" in looked.text()
    with pytest.raises(ContractError, match="time may be axis 2"):
        audit(Fixed(), drawn(2, STEPS, 3), causal(), **QUICK)
    fixed = audit(Fixed(), drawn(2, STEPS, 3), causal(axis=1), **QUICK)
    assert fixed.verdict == "proved"
    assert "the model takes no other length" in fixed.text()
    with pytest.raises(ContractError, match="no output has a time axis"):
        audit(nn.Sequential(nn.Flatten(0)), drawn(2, STEPS, 3), causal(), **QUICK)


def test_sizes_are_found_in_attributes_and_in_configurations():
    model = nn.Sequential(nn.Conv1d(1, 1, 5))
    model.config = SimpleNamespace(chunk_size=16, hidden_size=99)
    model[0].args = {"window": (3, 4)}
    expected = {"0.kernel_size": 5, "config.chunk_size": 16, "0.args.window": 4}
    assert harvested(model) == expected
