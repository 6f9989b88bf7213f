"""A memory that learns while it reads: its weights descend, step by step, on what they recall.

The memory is a network from keys to values. Each step shows it a key and a value; the weights move
against the gradient of the squared distance between what it recalls and the value, with momentum
(surprise that lasts) and with decay (forgetting), and then answer the step's query. Gradients are
taken at the weights of the chunk's beginning, so that all steps of a chunk are matrix products:
no step's own weights are ever written out. How steps are cut into chunks is counted from the
sequence's first step, wherever a stream is cut.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kt_forecast.nn.rates import trailing
from kt_forecast.nn.segments import Piece, Segments, chosen
from kt_forecast.nn.streams import Span
from kt_forecast.nn.system import State

MOST_FORGOTTEN = 1.0 - 1e-6
"""A step forgets at most this share, so that the log of the rest is finite."""

MANY = 8
"""Chunks from which on the backward pass forms a chunk's numbers again rather than keeping them."""

Weights = tuple[Float[Tensor, "batch head _ _"], ...]
"""One matrix for each layer of the memory."""


@dataclass(frozen=True)
class Memory(State):
    """The weights of a memory in the middle of its learning; zeros before the first step.

    Attributes:
        weight: as they are now.
        surprise: momentum of each.
        at: as they were at the beginning of the open chunk: gradients are taken there.
    """

    weight: Weights
    surprise: Weights
    at: Weights


@dataclass(frozen=True)
class Rates:
    """How a chunk's steps forget, remember their surprise, and learn.

    Attributes:
        kept: log of the share of the weights that each step keeps.
        lasting: log of the share of the momentum that each step keeps.
        learned: step size.
        real: one, or zero at padding, which adds no momentum to the weights.
    """

    kept: Float[Tensor, "batch head time"]
    lasting: Float[Tensor, "batch head time"]
    learned: Float[Tensor, "batch head time"]
    real: Float[Tensor, "#batch 1 time"]


def recalled(
    weights: Weights, x: Float[Tensor, "batch head time size"]
) -> Float[Tensor, "batch head time size"]:
    """Return what a memory with these weights answers."""
    for i, weight in enumerate(weights):
        x = (x if i == 0 else F.silu(x)) @ weight
    return x


def learned(
    memory: Memory,
    query: Float[Tensor, "batch head time size"],
    key: Float[Tensor, "batch head time size"],
    value: Float[Tensor, "batch head time size"],
    rates: Rates,
) -> tuple[Float[Tensor, "batch head time size"], Weights, Weights]:
    """Learn the steps of a chunk, or of a part of one, and answer each from its own weights.

    Returns:
        Answers, and the weights and their momentum after the last step.
    """
    total, lasting = rates.kept.cumsum(-1), rates.lasting.cumsum(-1)
    kept, momentum = _between(total), _between(lasting)
    moved = (kept * rates.real[..., None, :]) @ momentum * rates.learned[..., None, :]
    share = total.exp()[..., None]
    carried = kept @ (rates.real * lasting.exp())[..., None]
    pushed = (momentum[..., -1, :] * rates.learned)[..., None]
    left = lasting[..., -1, None, None].exp()
    inputs, errors = _gradients(memory.at, key, value)
    weights, surprises = [], []
    for i, (weight, surprise) in enumerate(zip(memory.weight, memory.surprise, strict=True)):
        into, error = inputs[i], errors[i]
        query = query if i == 0 else F.silu(query)
        near = (query @ into.transpose(-1, -2)) * moved
        query = share * (query @ weight) + carried * (query @ surprise) - near @ error
        turned = into.transpose(-1, -2)
        pull = turned @ (moved[..., -1, :, None] * error)
        weights.append(share[..., -1:, :] * weight + carried[..., -1:, :] * surprise - pull)
        surprises.append(left * surprise - turned @ (pushed * error))
    return query, tuple(weights), tuple(surprises)


def _between(total: Tensor) -> Tensor:
    """Return what is left at step t (row) of what there was after step i (column), i up to t."""
    steps = total.shape[-1]
    later = torch.ones(steps, steps, dtype=torch.bool, device=total.device).tril()
    gap = total[..., :, None] - total[..., None, :]
    return gap.masked_fill(~later, float("-inf")).exp()


def _gradients(at: Weights, key: Tensor, value: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return each layer's input, and the squared distance's gradient by each layer's output."""
    inputs, outputs = [key], []
    for i, weight in enumerate(at):
        outputs.append(inputs[-1] @ weight)
        if i + 1 < len(at):
            inputs.append(F.silu(outputs[-1]))
    error = 2.0 * (outputs[-1] - value)
    errors = [error]
    for weight, output in zip(reversed(at[1:]), reversed(outputs[:-1]), strict=True):
        gate = output.sigmoid()
        error = (error @ weight.transpose(-1, -2)) * gate * (1.0 + output * (1.0 - gate))
        errors.append(error)
    return inputs, errors[::-1]


class NeuralMemory(nn.Module):
    """Keys, values, queries and rates of steps, and the memory that learns them.

    Args:
        width: numbers in a step's vector.
        heads: memories side by side; must divide ``width``.
        layers: matrices of a memory.
        expansion: numbers between two matrices per number of a key.
        chunk: steps whose gradients are taken at the same weights.
        kernel: steps that a key, value or query is mixed of, itself included.
        rate: largest step size, which the steps of a chunk, and the times that a surprise
            lasts, share.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        layers: int = 2,
        expansion: int = 2,
        chunk: int = 16,
        kernel: int = 4,
        rate: float = 0.5,
    ) -> None:
        super().__init__()
        self.width, self.heads, self.size = width, heads, width // heads
        self.chunk, self.kernel, self.rate = chunk, kernel, rate
        self.project = nn.Linear(width, 3 * width)
        self.convolution = nn.Conv1d(3 * width, 3 * width, kernel, groups=3 * width)
        self.rates = nn.Linear(width, 3 * heads)
        sizes = [self.size, *[expansion * self.size] * (layers - 1), self.size]
        self.first = nn.ParameterList(
            torch.randn(1, heads, a, b) * a**-0.5 for a, b in pairwise(sizes)
        )
        self.norm = nn.LayerNorm(self.size)
        self.gate = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        with torch.no_grad():
            # Little is forgotten at first, half of a surprise lasts, steps are small.
            self.rates.bias.copy_(torch.tensor([-5.0, 0.0, 0.0]).repeat_interleave(heads))

    def init_state(self, batch: int) -> tuple[Memory, Float[Tensor, "batch kept both"]]:
        """Return a memory of zeros, in whose place the learned one will stand, and no steps."""
        nothing = tuple(w.new_zeros(batch, *w.shape[1:]) for w in self.first)
        kept = self.out.weight.new_zeros(batch, self.kernel - 1, 3 * self.width)
        return Memory(nothing, nothing, nothing), kept

    def begun(
        self,
        memory: Memory,
        kept: Float[Tensor, "batch kept both"],
        rows: Float[Tensor, "1 row width"],
        span: Span,
    ) -> tuple[Memory, Float[Tensor, "batch kept both"]]:
        """Put the memory that a sequence begins with where one begins: it has learned ``rows``."""
        if span.low > 0:
            return memory, kept
        first = tuple(self.first)
        start = Memory(first, tuple(torch.zeros_like(w) for w in first), first)
        before = kept.new_zeros(1, *kept.shape[1:])
        if rows.shape[1]:
            given, before = self.given(rows, before, Span.beginning(rows))
            _, start = self.taught(start, Piece(given, 0, None, full=True))
        begins = None if span.uniform else span.before == 0
        rows_of = len(kept)

        def put(new: Weights, old: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            pairs = zip(new, old, strict=True)
            return tuple(chosen(begins, a.expand(rows_of, -1, -1, -1), b) for a, b in pairs)

        begun = Memory(
            put(start.weight, memory.weight),
            put(start.surprise, memory.surprise),
            put(start.at, memory.at),
        )
        return begun, chosen(begins, before.expand(rows_of, -1, -1), kept)

    def given(
        self,
        x: Float[Tensor, "batch time width"],
        kept: Float[Tensor, "batch kept both"],
        span: Span,
    ) -> tuple[Float[Tensor, "batch time given"], Float[Tensor, "batch kept both"]]:
        """Return queries, keys, values and rates of steps side by side, and what to keep."""
        joined = torch.cat([kept, self.project(x)], 1)
        mixed = F.silu(self.convolution(joined.transpose(1, 2)).transpose(1, 2))
        return torch.cat([mixed, self.rates(x)], -1), trailing(joined, self.kernel - 1, span)

    def taught(
        self, memory: Memory, piece: Piece
    ) -> tuple[Float[Tensor, "batch time width"], Memory]:
        """Learn what `given` made of the steps of one chunk; return answers and the memory."""
        with torch.autocast(piece.x.device.type, enabled=False):
            query, key, value, rates = self._apart(piece)
            read, weight, surprise = learned(memory, query, key, value, rates)
        at = memory.at
        if piece.full:
            at = tuple(chosen(piece.ended(), w, a) for w, a in zip(weight, at, strict=True))
        return self._joined(read).to(piece.x.dtype), Memory(weight, surprise, at)

    def asked(self, weights: Weights, piece: Piece) -> Float[Tensor, "batch time width"]:
        """Return what a memory with these weights answers to the queries of a piece."""
        query = self._joined(self._apart(piece)[0]).to(piece.x.dtype)
        return self.recalled(weights, query)

    def recalled(
        self, weights: Weights, x: Float[Tensor, "batch time width"]
    ) -> Float[Tensor, "batch time width"]:
        """Return what a memory with these weights answers to ``x``, each head of it normalised."""
        with torch.autocast(x.device.type, enabled=False):
            query = x.to(torch.promote_types(x.dtype, torch.float32))
            query = query.unflatten(-1, (self.heads, self.size)).transpose(1, 2)
            return self._joined(recalled(weights, F.normalize(query, dim=-1))).to(x.dtype)

    def answered(
        self, read: Float[Tensor, "batch time width"], x: Float[Tensor, "batch time width"]
    ) -> Float[Tensor, "batch time width"]:
        """Return answers normalised, gated by the steps that asked, and mapped."""
        even = self.norm(read.unflatten(-1, (self.heads, self.size))).flatten(-2)
        return self.out(even * self.gate(x).sigmoid())

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        rows: Float[Tensor, "1 row width"],
        memory: Memory,
        kept: Float[Tensor, "batch kept both"],
        span: Span,
    ) -> tuple[Float[Tensor, "batch time width"], Memory, Float[Tensor, "batch kept both"]]:
        """Learn the steps in turn and answer each; return answers and what to keep."""
        begun, before = self.begun(memory, kept, rows, span)
        given, left = self.given(x, before, span)
        segments, pieces, now = Segments(span, self.chunk), [], begun
        again = torch.is_grad_enabled() and span.length > MANY * self.chunk
        for piece in segments.cut(given):
            if again:
                read, now = checkpoint(self.taught, now, piece, use_reentrant=False)
            else:
                read, now = self.taught(now, piece)
            pieces.append(read)
        y = self.answered(segments.paste(pieces), x)
        return y, *settled((now, left), (memory, kept), span)

    def _apart(self, piece: Piece) -> tuple[Tensor, Tensor, Tensor, Rates]:
        """Take apart what `given` put together; at padding nothing is learned or forgotten."""
        # Products of many rates need more digits than half precision has.
        x = piece.x.to(torch.promote_types(piece.x.dtype, torch.float32))
        mixed, rates = x.split([3 * self.width, 3 * self.heads], -1)
        query, key, value = (
            part.unflatten(-1, (self.heads, self.size)).transpose(1, 2)
            for part in mixed.chunk(3, -1)
        )
        forgotten, lasting, step = (r.transpose(1, 2) for r in rates.chunk(3, -1))
        kept = torch.log1p(-forgotten.sigmoid().clamp_max(MOST_FORGOTTEN))
        # A chunk's gradients add up, for they are taken at the same weights, and so do the pushes
        # of a surprise that lasts: all of them together stay below the largest step.
        step = self.rate / self.chunk * step.sigmoid() * (-lasting).sigmoid()
        lasting = F.logsigmoid(lasting)
        real = x.new_ones(1, 1, x.shape[1])
        if piece.real is not None:
            there = piece.real[:, None]
            kept, lasting, step = (t.masked_fill(~there, 0.0) for t in (kept, lasting, step))
            real = there.to(x.dtype)
        given = Rates(kept, lasting, step, real)
        return F.normalize(query, dim=-1), F.normalize(key, dim=-1), value, given

    def _joined(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(-2)


def settled(
    new: tuple[Memory, Tensor], old: tuple[Memory, Tensor], span: Span
) -> tuple[Memory, Tensor]:
    """Return the new state, and the old one in rows that saw no step."""
    if span.whole:
        return new
    saw = span.count > 0

    def each(a: Weights, b: Weights) -> Weights:
        return tuple(chosen(saw, x, y) for x, y in zip(a, b, strict=True))

    one, other = new[0], old[0]
    memory = Memory(
        each(one.weight, other.weight),
        each(one.surprise, other.surprise),
        each(one.at, other.at),
    )
    return memory, chosen(saw, new[1], old[1])
