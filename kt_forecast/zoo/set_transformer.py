"""Set Transformer: a few learned queries read the set of all steps, and each step reads them.

The induced points gather what they find among the steps, whatever its order, and a step then reads
the points instead of all steps. As published the points read the whole set, and through them each
step knows the steps after it. Here the points of a step have read the steps up to it: what the
published form would give it if the set ended there. ``published=True`` gives the published reading,
to show what it reveals; it may not be trained for knowledge tracing or for forecasts from every
origin.

What the points have gathered is carried as one vector a point and the sum of its weights, in a form
that cannot overflow, so a student is known by a state of fixed size.

Departures from the paper:
    - points read the steps so far, as said above; so the order of steps counts, since each step
      reads the set up to itself;
    - two induced layers by default, and no pooling to a vector of the set: one vector for each step
      is what the tasks ask for; the points themselves are such a pooling of the past;
    - what a step reads may be dropped while training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from kt_forecast.config import Range, tunable
from kt_forecast.nn.running import NOTHING, past, softmax_before
from kt_forecast.nn.stack import Stack
from kt_forecast.nn.streams import Span
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, State, System

CHUNK = 16
"""Steps compared pair by pair."""
NUMBERS_AT_ONCE = 2**27
"""Numbers of points of steps that are written out at a time."""


class SetTransformerConfig(HeadsConfig):
    """Settings of the Set Transformer.

    Attributes:
        width: numbers in a step's vector.
        heads: attention heads; must divide ``width``.
        layers: induced attention blocks.
        points: induced points of each.
        normed: normalise what a block adds up, as the paper has it and its code only on demand.
        published: let points read the whole set, which leaks.
        dropout: probability of dropping a number of what a step reads.
        chunk: steps compared pair by pair; changes cost, and results by rounding only.
    """

    even_heads: ClassVar[bool] = False

    layers: int = tunable(2, (1, 2, 4), gt=0)
    points: int = tunable(16, (4, 8, 16, 32), gt=0)
    normed: bool = True
    published: bool = False
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)
    chunk: int = Field(CHUNK, gt=0)

    @property
    def leak(self) -> str:
        """How these settings read later steps."""
        if self.published:
            return "Set Transformer as published (published=true) lets points read the whole set"
        return ""


class Block(nn.Module):
    """What is read is added to a map of what reads, and then a network of the sum (their MAB)."""

    def __init__(self, config: SetTransformerConfig) -> None:
        super().__init__()
        width = config.width
        # The published code divides logits by the root of the width of all heads together.
        self.heads, self.scale = config.heads, width**-0.5
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.feed = nn.Linear(width, width)
        self.norms = nn.ModuleList(
            nn.LayerNorm(width) if config.normed else nn.Identity() for _ in range(2)
        )

    def completed(
        self, asked: Float[Tensor, "*some width"], read: Float[Tensor, "*several width"]
    ) -> Float[Tensor, "*several width"]:
        """Return the block's result from mapped queries and from what they read."""
        y = self.norms[0](asked + read)
        return self.norms[1](y + F.relu(self.feed(y)))

    def split(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch head size"]:
        """Return each vector as one vector a head."""
        return x.unflatten(-1, (self.heads, -1))


@dataclass(frozen=True)
class PointsState(State):
    """What each point has gathered, and the logarithm of the sum of its weights; zero at first."""

    read: Float[Tensor, "batch head point size"]
    mass: Float[Tensor, "batch head point"]


class InducedLayer(nn.Module):
    """Steps that read points that read steps (their ISAB); see `kt_forecast.nn.stack.Mixing`."""

    def __init__(self, config: SetTransformerConfig) -> None:
        super().__init__()
        self.published, self.chunk = config.published, config.chunk
        self.points = nn.Parameter(torch.empty(config.points, config.width))
        nn.init.xavier_uniform_(self.points)
        self.gather, self.give = Block(config), Block(config)
        self.dropout = nn.Dropout(config.dropout)

    def init_state(self, batch: int) -> PointsState:
        """Return points that have gathered nothing."""
        sizes = batch, self.gather.heads, len(self.points)
        size = self.points.shape[1] // self.gather.heads
        new = self.points.new_zeros
        return PointsState(new(*sizes, size), new(sizes))

    def forward(
        self, x: Float[Tensor, "batch time width"], state: PointsState, span: Span
    ) -> tuple[Float[Tensor, "batch time width"], PointsState]:
        """Return each step after reading its points, and the points after the last step."""
        real = None if span.whole else span.real
        if self.published:
            return self._given_all(x, real), state
        read, mass = state.read, state.mass
        mass = mass.masked_fill((span.before == 0)[:, None, None], NOTHING)
        some = max(NUMBERS_AT_ONCE // (len(x) * self.points.numel() * self.chunk), 1) * self.chunk
        parts = x.split(some, 1)
        marks = [None] * len(parts) if real is None else real.split(some, 1)
        pieces = []
        for steps, mark in zip(parts, marks, strict=True):
            y, read, mass = self._piece(steps, read, mass, mark)
            pieces.append(y)
        nothing = (span.before + span.count == 0)[:, None, None]
        y = pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)
        return y, PointsState(read, mass.masked_fill(nothing, 0.0))

    def _piece(
        self, x: Tensor, read: Tensor, mass: Tensor, real: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Do some chunks of steps, whose points are all written out."""
        steps = x.shape[1]
        size = min(self.chunk, steps)
        missing = -steps % size
        if missing:
            real = x.new_ones(x.shape[:2], dtype=torch.bool) if real is None else real
            x, real = F.pad(x, (0, 0, 0, missing)), F.pad(real, (0, missing))
        logits, value = self._told(x)
        if real is not None:
            logits = logits.masked_fill(~real[..., None, None], NOTHING)
            value = value.masked_fill(~real[..., None, None], 0.0)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        each, of_each = (a.unflatten(1, (-1, size)) for a in (logits.to(dtype), value))
        with torch.autocast(x.device.type, enabled=False):
            earlier, carried, read, mass = softmax_before(
                each.permute(0, 3, 1, 2, 4),
                of_each.to(dtype).permute(0, 3, 1, 2, 4),
                read.to(dtype),
                mass.to(dtype),
            )
        asked, found = self._given(x, each, of_each, carried, earlier)
        y = self.give.completed(asked[:, :steps], self.dropout(found[:, :steps]))
        return y, read, mass

    def _told(
        self, x: Float[Tensor, "batch time width"]
    ) -> tuple[Float[Tensor, "batch time head point"], Float[Tensor, "batch time head size"]]:
        """Return the logits of steps for each point, and their values."""
        block = self.gather
        to_key, to_value = block.key_value.weight.chunk(2)
        of_key, of_value = block.key_value.bias.chunk(2)
        asked = block.split(block.query(self.points)).transpose(0, 1) * block.scale
        # The key map is applied to what few points ask instead of to all steps.
        seen = asked @ block.split(to_key.mT).permute(1, 2, 0).to(asked.dtype)
        known = asked @ of_key.unflatten(0, (block.heads, -1))[..., None].to(asked.dtype)
        logits = F.linear(x, seen.flatten(0, 1), known.flatten())
        return logits.unflatten(-1, asked.shape[:2]), block.split(F.linear(x, to_value, of_value))

    def _given(
        self,
        x: Float[Tensor, "batch time width"],
        each: Float[Tensor, "batch chunk size head point"],
        value: Float[Tensor, "batch chunk size head part"],
        carried: Float[Tensor, "batch head chunk point"],
        earlier: Float[Tensor, "batch head chunk point part"],
    ) -> tuple[Float[Tensor, "batch time width"], Float[Tensor, "batch time width"]]:
        """Return what each step asks its own points, and what it reads of them."""
        gather, give = self.gather, self.give
        asked = give.query(x)
        to_key, to_value = give.key_value.weight.chunk(2)
        bias = give.key_value.bias.chunk(2)[1]
        first, second = gather.norms
        if isinstance(second, nn.LayerNorm):
            # Weights sum to one, so that what all points share is added to what is read.
            bias = bias + to_value @ second.bias
            to_key, to_value = to_key * second.weight, to_value * second.weight
        # Keys and values are maps of points: a step asks, and is answered, in terms of points.
        to_key, to_value = (
            a.unflatten(0, (give.heads, -1)).to(asked.dtype) for a in (to_key, to_value)
        )
        looked = give.split(asked * give.scale).flatten(0, 1).transpose(0, 1) @ to_key
        norm = (first.weight, first.bias) if isinstance(first, nn.LayerNorm) else (None, None)
        read = _Reading.apply(  # type: ignore[no-untyped-call]
            first.eps if isinstance(first, nn.LayerNorm) else 0.0,
            looked.transpose(0, 1),
            each.permute(0, 1, 4, 3, 2).flatten(0, 1).contiguous(),
            value.flatten(0, 1).transpose(1, 2).contiguous(),
            carried.permute(0, 2, 3, 1).flatten(0, 1).contiguous(),
            earlier.permute(0, 2, 3, 1, 4).to(asked.dtype).flatten(0, 1).contiguous(),
            gather.split(gather.query(self.points)),
            gather.feed.weight,
            gather.feed.bias,
            *norm,
        )
        read = (read.transpose(0, 1) @ to_value.mT).transpose(0, 1).reshape(asked.shape)
        return asked, read + bias.to(read.dtype)

    def _given_all(
        self, x: Float[Tensor, "batch time width"], real: Tensor | None
    ) -> Float[Tensor, "batch time width"]:
        """Let all steps read the same points, which read all steps."""
        gather, give = self.gather, self.give
        logits, value = self._told(x)
        if real is not None:
            logits = logits.masked_fill(~real[..., None, None], NOTHING)
        gathered = logits.softmax(1).permute(0, 2, 3, 1) @ value.transpose(1, 2)
        points = gather.completed(gather.query(self.points), gathered.transpose(1, 2).flatten(2))
        key, value = (
            give.split(part).transpose(1, 2) for part in give.key_value(points).chunk(2, -1)
        )
        asked = give.query(x)
        weight = (give.split(asked).transpose(1, 2) @ key.mT * give.scale).softmax(-1)
        return give.completed(asked, self.dropout((weight @ value).transpose(1, 2).flatten(2)))


Given = Sequence[Any]
"""Logits and values of steps, what was carried, what points ask, and the maps of points."""


@dataclass(frozen=True)
class _Points:
    """The points of some chunks, as they come to be."""

    weight: Float[Tensor, "chunk point time head earlier"]
    share: Float[Tensor, "chunk point time head"]
    room: Float[Tensor, "chunk rows width"]
    summed: Float[Tensor, "chunk point time width"]
    of_summed: tuple[Tensor, ...]
    normed: Float[Tensor, "chunk point time width"]
    fed: Float[Tensor, "chunk point time width"]
    completed: Float[Tensor, "chunk time point width"]
    of_completed: tuple[Tensor, ...]
    points: Float[Tensor, "chunk time point width"]


def _made(given: Given, eps: float) -> _Points:
    """Return the points of every step; all steps of a chunk are weighed pair by pair."""
    each, value, carried, earlier, asked, feed, bias, gain, shift = given
    dtype = value.dtype
    total = torch.logaddexp(carried[..., None], each.logcumsumexp(-1)).mT.contiguous()
    weight = each[:, :, None] - total[..., None]
    weight = weight.masked_fill_(~past(each)[:, None], -torch.inf).exp_().to(dtype)
    share = (carried[:, :, None] - total).exp().to(dtype)
    room = _apart(value).flatten(1, 2)
    summed = torch.addcmul(asked[:, None], share[..., None], earlier[:, :, None])
    shape = *summed.shape[:3], room.shape[-1]
    summed = summed.reshape(shape[0], -1, shape[-1])
    summed = summed.baddbmm_(weight.flatten(3).flatten(1, 2), room).view(shape)
    normed, *of_summed = _normal(summed, gain, shift, eps)
    fed = torch.addmm(bias.to(dtype), normed.flatten(0, 2), feed.to(dtype).mT)
    fed = fed.relu_().view(shape)
    completed = fed.new_empty(shape[0], shape[2], shape[1], shape[3])
    torch.add(fed.transpose(1, 2), normed.transpose(1, 2), out=completed)
    points, *of_completed = _normal(completed, None, None, eps)
    return _Points(
        weight,
        share,
        room,
        summed,
        tuple(of_summed),
        normed,
        fed,
        completed,
        tuple(of_completed),
        points,
    )


def _normal(x: Tensor, gain: Tensor | None, shift: Tensor | None, eps: float) -> tuple[Tensor, ...]:
    """Return vectors normalised, and by what; as they are where there is no epsilon."""
    if not eps:
        return (x,)
    gain, shift = (None if a is None else a.to(x.dtype) for a in (gain, shift))
    return torch.native_layer_norm(x, x.shape[-1:], gain, shift, eps)


def _apart(x: Float[Tensor, "batch head some size"]) -> Float[Tensor, "batch head some width"]:
    """Return each head's numbers where they stand among those of all heads, beside zeros."""
    one = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    return (x[..., None, :] * one[:, None, :, None]).flatten(3)


def _together(x: Float[Tensor, "batch head some width"]) -> Float[Tensor, "batch head some size"]:
    """Return of each head's row the head's own numbers."""
    return x.unflatten(-1, (x.shape[1], -1)).diagonal(0, 1, 3).movedim(-1, 1)


class _Reading(torch.autograd.Function):
    """What steps read of their points, for each head; points are formed again for the slopes."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        eps: float,
        looked: Tensor,
        *given: Tensor | None,
    ) -> Tensor:
        with torch.autocast(looked.device.type, enabled=False):
            points = _made(given, eps).points.flatten(0, 1)
            weight = (looked @ points.mT).softmax(-1)
            ctx.eps = eps
            ctx.save_for_backward(looked, weight, *given)
            return weight @ points

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        looked, weight, *given = ctx.saved_tensors
        with torch.autocast(slope.device.type, enabled=False):
            made = _made(given, ctx.eps)
            to_looked, to_completed = _to_points(made, slope, looked, weight)
            to_summed, *to_maps = _to_summed(made, to_completed, given)
            return None, to_looked, *_to_steps(made, to_summed, given), *to_maps


def _to_points(
    made: _Points, slope: Tensor, looked: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the slopes of what steps ask, and of points before they are normalised."""
    points = made.points.flatten(0, 1)
    to_weight = slope @ points.mT
    to_logits = torch.ops.aten._softmax_backward_data(to_weight, weight, -1, weight.dtype)  # noqa: SLF001
    both = torch.cat([weight, to_logits], 1).mT
    to_points = (both @ torch.cat([slope, looked], 1)).view_as(made.points)
    to_completed = to_points
    if made.of_completed:
        to_completed = torch.ops.aten.native_layer_norm_backward(
            to_points,
            made.completed,
            made.completed.shape[-1:],
            *made.of_completed,
            None,
            None,
            [True, False, False],
        )[0]
    return to_logits @ points, to_completed.transpose(1, 2)


def _to_summed(made: _Points, slope: Tensor, given: Given) -> tuple[Any, ...]:
    """Return the slopes of what was gathered, of the feed-forward network, and of the norm."""
    *_, feed, _, gain, shift = given
    to_fed = torch.ops.aten.threshold_backward(slope, made.fed, 0).flatten(0, 2)
    to_feed, to_bias = to_fed.mT @ made.normed.flatten(0, 2), to_fed.sum(0)
    to_normed = (to_fed @ feed.to(slope.dtype)).view_as(made.normed).add_(slope)
    if not made.of_summed:
        return to_normed, to_feed, to_bias, None, None
    own = (a.to(slope.dtype) for a in (gain, shift))
    to_summed, *to_norm = torch.ops.aten.native_layer_norm_backward(
        to_normed, made.summed, gain.shape, *made.of_summed, *own, [True, True, True]
    )
    return to_summed, to_feed, to_bias, *to_norm


def _to_steps(made: _Points, slope: Tensor, given: Given) -> tuple[Tensor, ...]:
    """Return the slopes of logits and values of steps, of what was carried, and of queries."""
    each, _, _, earlier, asked, *_ = given
    chunks, points, steps = slope.shape[:3]
    rows = slope.flatten(1, 2)
    weight, share = made.weight, made.share
    to_room = weight.flatten(3).flatten(1, 2).mT @ rows
    to_value = _together(to_room.unflatten(1, (-1, steps)))
    to_weight = (rows @ made.room.mT).view_as(weight).to(each.dtype).mul_(weight)
    own = slope.flatten(0, 1)
    shares = F.pad(share, (0, 1), value=1.0).flatten(0, 1)
    found = (shares.mT @ own).unflatten(0, (chunks, points))
    to_asked = found[:, :, -1].sum(0).view_as(asked)
    to_earlier = _together(found[:, :, :-1, None].flatten(0, 1)).view_as(earlier)
    before = _apart(earlier.flatten(0, 1)[:, :, None]).flatten(1, 2)
    to_share = (own @ before.mT).view_as(share).to(each.dtype).mul_(share)
    total = to_weight.sum(-1).add_(to_share)
    to_each = to_weight.addcmul_(weight, total[..., None], value=-1).sum(2)
    to_carried = to_share.addcmul_(share, total, value=-1).sum(2)
    return to_each, to_value, to_carried, to_earlier, to_asked


def build(config: SetTransformerConfig) -> Stack:
    """Return the mixer."""
    norm = nn.Identity() if config.normed else nn.LayerNorm(config.width)
    layers = (InducedLayer(config) for _ in range(config.layers))
    return Stack(layers, norm, leak=config.leak)


SYSTEM = System(
    family="sets",
    config=SetTransformerConfig,
    build=build,
    paper=Paper(
        title="Set Transformer: A Framework for Attention-based Permutation-Invariant Neural "
        "Networks",
        authors="Lee, Lee, Kim, Kosiorek, Choi, Teh",
        year=2019,
        url="https://arxiv.org/abs/1810.00825",
    ),
    promises=Promises(
        causality="step by change",
        streaming=True,
        two_streams=False,
        cost=Cost(training_flops=1, training_bytes=1, step_flops=0, state_bytes=0),
    ),
    tracing={"scheme": "shifted"},
    forecasting={"dense": True},
)
