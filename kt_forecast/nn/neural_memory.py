"""A memory that learns while it reads: its weights descend, step by step, on what they recall.

The memory is a network from keys to values. Each step shows it a key and a value; the weights move
against the gradient of the squared distance between what it recalls and the value, with momentum
(surprise that lasts) and with decay (forgetting), and then answer the step's query. Gradients are
taken at the weights of the chunk's beginning, so that all steps of a chunk are matrix products
(`kt_forecast.nn.descent`): no step's own weights are ever written out. How steps are cut into
chunks is counted from the sequence's first step, wherever a stream is cut.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kt_forecast.nn.descent import (
    Course,
    Faded,
    Rates,
    Weights,
    course,
    faded,
    read,
    recalled,
    slopes,
)
from kt_forecast.nn.rates import trailing
from kt_forecast.nn.segments import Laid, Segments, chosen
from kt_forecast.nn.streams import Span
from kt_forecast.nn.system import State

LEAST_KEPT = math.log(1e-6)
"""Log of the share of the weights that a step keeps at least, so that the log is finite."""

MANY = 64
"""Chunks of which the backward pass keeps all numbers; of more, a group at a time is run again."""


@dataclass(frozen=True)
class Memory(State):
    """The weights of a memory in the middle of its learning; zeros before the first step.

    Attributes:
        moving: each layer's weights as they are now, and their momentum.
        at: weights as they were at the beginning of the open chunk: gradients are taken there.
    """

    moving: tuple[Float[Tensor, "batch head 2 _ _"], ...]
    at: tuple[Float[Tensor, "batch head _ _"], ...]

    @property
    def weight(self) -> tuple[Float[Tensor, "batch head _ _"], ...]:
        """Return the weights as they are now."""
        return tuple(moving[:, :, 0] for moving in self.moving)


@dataclass(frozen=True)
class Given:
    """What steps show a memory and ask it, and how they change it; a row for each head.

    Attributes:
        query: what each step asks by; of length one.
        key: what it should recall by; of length one.
        value: what it should recall.
        fading: what is left of what it learned.
    """

    query: Float[Tensor, "row chunk time size"]
    key: Float[Tensor, "row chunk time size"]
    value: Float[Tensor, "row chunk time size"]
    fading: Faded

    @classmethod
    def joined(cls, parts: "list[Given]") -> "Given":
        """Return the chunks of all of them."""
        if len(parts) == 1:
            return parts[0]
        query, key, value = (
            torch.cat([getattr(part, name) for part in parts], 1)
            for name in ("query", "key", "value")
        )
        fadings = [vars(part.fading) for part in parts]
        together = {name: torch.cat([x[name] for x in fadings], 1) for name in fadings[0]}
        return cls(query, key, value, Faded(**together))


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
        at = tuple(w.new_zeros(batch, *w.shape[1:]) for w in self.first)
        moving = tuple(w.new_zeros(*w.shape[:2], 2, *w.shape[2:]) for w in at)
        kept = self.out.weight.new_zeros(batch, self.kernel - 1, 3 * self.width)
        return Memory(moving, at), kept

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
        start = Memory(tuple(torch.stack([w, torch.zeros_like(w)], 2) for w in first), first)
        before = kept.new_zeros(1, *kept.shape[1:])
        if rows.shape[1]:
            given, before = self.given(rows, before, Span.beginning(rows))
            laid = Laid(given[:, None], 0, None, None, full=True)
            with torch.autocast(rows.device.type, enabled=False):
                start = self.moved(start, self.apart(laid), laid)[1]
        begins, rows_of = None if span.uniform else span.before == 0, len(kept)

        def put(new: Tensor, old: Tensor) -> Tensor:
            return chosen(begins, new.expand(rows_of, *new.shape[1:]), old)

        return Memory(
            tuple(map(put, start.moving, memory.moving)), tuple(map(put, start.at, memory.at))
        ), put(before, kept)

    def given(
        self,
        x: Float[Tensor, "batch time width"],
        kept: Float[Tensor, "batch kept both"],
        span: Span,
    ) -> tuple[Float[Tensor, "batch time given"], Float[Tensor, "batch kept both"]]:
        """Return queries, keys, values and rates of steps side by side, and what to keep."""
        joined = torch.cat([kept, self.project(x)], 1)
        if self.kernel == 1:
            scale, shift = self.convolution.parameters()
            mixed = joined * scale[:, 0, 0] + shift
        else:
            mixed = self.convolution(joined.transpose(1, 2)).transpose(1, 2)
        return torch.cat([F.silu(mixed), self.rates(x)], -1), trailing(
            joined, self.kernel - 1, span
        )

    def taught(
        self, memory: Memory, laid: Laid
    ) -> tuple[Float[Tensor, "batch chunk time width"], Memory]:
        """Learn what `given` made of steps; return answers, each by its step's weights."""
        with torch.autocast(laid.x.device.type, enabled=False):
            given = self.apart(laid)
            found, memory = self.moved(memory, given, laid)
            return self.read(found, given).to(laid.x.dtype), memory

    def moved(self, memory: Memory, given: Given, laid: Laid) -> tuple[Course, Memory]:
        """Learn what steps show; return what the weights came through, and the memory."""
        batch, heads = len(laid.x), self.heads
        ended = None if laid.ended is None else laid.ended.repeat_interleave(heads, 0)
        moving, at = ([x.flatten(0, 1) for x in part] for part in (memory.moving, memory.at))
        key, value = given.key, given.value
        found = course(tuple(moving), tuple(at), key, value, given.fading, ended)
        last = None if ended is None else ended[:, -1]
        now = tuple(
            chosen(last, end[:, 0], old[:, -1]) if laid.full else old[:, -1]
            for end, old in zip(found.end, found.at, strict=True)
        )
        apart = (batch, heads)
        return found, Memory(
            tuple(x.unflatten(0, apart) for x in found.end),
            tuple(x.unflatten(0, apart) for x in now),
        )

    def read(self, found: Course, given: Given) -> Float[Tensor, "batch chunk time width"]:
        """Return what each step's own weights answer to it."""
        flat = {name: x.flatten(0, 1) for name, x in vars(given.fading).items()}
        query, key, value = (x.flatten(0, 1) for x in (given.query, given.key, given.value))
        starts, at = ([x.flatten(0, 1) for x in part] for part in (found.starts, found.at))
        slope = found.found or slopes(tuple(at), key, value)
        answer = read(tuple(starts), slope, Faded(**flat), query)
        return self._joined(answer.unflatten(0, (-1, self.heads, given.query.shape[1])))

    def asked(
        self, weights: Weights, query: Float[Tensor, "row time size"]
    ) -> Float[Tensor, "batch chunk time width"]:
        """Return what a memory with these weights answers to the queries of one chunk."""
        read = recalled(weights, query.unflatten(0, (-1, self.heads)))
        return self._joined(read[:, :, None])

    def recalled(
        self, weights: Weights, x: Float[Tensor, "batch time width"]
    ) -> Float[Tensor, "batch time width"]:
        """Return what a memory with these weights answers to ``x``, each head of it normalised."""
        with torch.autocast(x.device.type, enabled=False):
            query = x.to(torch.promote_types(x.dtype, torch.float32))
            query = query.unflatten(-1, (self.heads, self.size)).transpose(1, 2)
            read = recalled(weights, F.normalize(query, dim=-1))
            return read.transpose(1, 2).flatten(-2).to(x.dtype)

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
        groups = segments.laid(given).groups(MANY)
        for group in groups:
            if torch.is_grad_enabled() and len(groups) > 1:
                answer, now = checkpoint(self.taught, now, group, use_reentrant=False)
            else:
                answer, now = self.taught(now, group)
            pieces.append(answer)
        answers = segments.lifted(pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1))
        return self.answered(answers, x), *settled((now, left), (memory, kept), span)

    def apart(self, laid: Laid) -> Given:
        """Take apart what `given` put together; at padding nothing is learned or forgotten."""
        # Products of many rates need more digits than half precision has.
        x = laid.x.to(torch.promote_types(laid.x.dtype, torch.float32))
        mixed, rates = x.split([3 * self.width, 3 * self.heads], -1)
        mixed = mixed.unflatten(-1, (3, self.heads, self.size)).permute(3, 0, 4, 1, 2, 5)
        mixed = mixed.flatten(1, 2)
        query, key = F.normalize(mixed[:2], dim=-1)
        rates = rates.unflatten(-1, (3, self.heads)).permute(3, 0, 4, 1, 2).flatten(1, 2)
        forgotten, lasting, step = rates
        # A chunk's gradients add up, for they are taken at the same weights, and so do the pushes
        # of a surprise that lasts: all of them together stay below the largest step.
        step = self.rate / self.chunk * step.sigmoid() * (-lasting).sigmoid()
        kept = F.logsigmoid(-forgotten).clamp_min(LEAST_KEPT)
        lasting, real = F.logsigmoid(lasting), None
        if laid.real is not None:
            there = laid.real.expand(len(x), -1, -1).repeat_interleave(self.heads, 0)
            kept, lasting, step = (t.masked_fill(~there, 0.0) for t in (kept, lasting, step))
            real = there.to(x.dtype)
        return Given(query, key, mixed[2], faded(Rates(kept, lasting, step, real)))

    def _joined(self, x: Float[Tensor, "batch head chunk time size"]) -> Tensor:
        return x.permute(0, 2, 3, 1, 4).flatten(-2)


def settled(
    new: tuple[Memory, Tensor], old: tuple[Memory, Tensor], span: Span
) -> tuple[Memory, Tensor]:
    """Return the new state, and the old one in rows that saw no step."""
    if span.whole:
        return new
    saw = span.count > 0

    def each(a: Tensor, b: Tensor) -> Tensor:
        return chosen(saw, a, b)

    one, other = new[0], old[0]
    memory = Memory(tuple(map(each, one.moving, other.moving)), tuple(map(each, one.at, other.at)))
    return memory, each(new[1], old[1])
