"""ProbSparse attention (Zhou et al. 2021, Informer) in which nothing later has a say.

Some queries attend to all steps up to theirs; the others take the mean of the values up to theirs.
Which ones attend is decided by a measure: how far the highest of a query's logits lies above their
mean, over a few sampled keys. Three things let the published selection see the future, though no
gradient shows it: keys sampled from all steps, a rank among all queries, and draws that depend on
the length. Here keys are sampled from the past by a table of hashed positions, and a query competes
with earlier queries only.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from kt_forecast.nn.attention import Rotary
from kt_forecast.nn.plain import Slowly
from kt_forecast.nn.streams import Span, appended
from kt_forecast.nn.system import State

FIRST = 32
"""Queries of the first block, all of which attend; every further block doubles the length."""
LONGEST = 2**31
"""Steps for which the highest measures are kept, and for which hashed places are exact."""
QUERY_CHUNK = 256
"""Queries measured at a time."""
SLACK = 2
"""Attending queries a block may have, in multiples of the number that its threshold lets expect."""

Chosen = list[tuple[Bool[Tensor, "batch head time"], int, int]]
"""For each block which queries attend, how many of it may, and how many slots they can reach."""


@dataclass(frozen=True)
class Seen(State):
    """What the steps so far left behind.

    Attributes:
        keys: rotated to their positions; zero beyond each row's steps.
        values: zero beyond each row's steps.
        total: sum of all values.
        best: the highest measures so far, highest first; zero beyond each row's steps.
        least: measure that a query of the open block must reach.
        used: queries of the open block that attended.
    """

    keys: Float[Tensor, "batch head slot size"]
    values: Float[Tensor, "batch head slot size"]
    total: Float[Tensor, "batch head size"]
    best: Float[Tensor, "batch head rank"]
    least: Float[Tensor, "batch head"]
    used: Int[Tensor, "batch head"]


class ProbSparse(nn.Module):
    """Causal ProbSparse attention; ``T log T`` in the number of steps.

    Blocks of queries double in length. A query of the block that begins at step s attends if its
    measure is among the ``factor * ceil(ln s)`` highest of all steps before s, and if fewer than
    `SLACK` times as many did so in its block before it.

    Args:
        width: numbers in a step's vector.
        heads: must divide ``width`` into even sizes.
        factor: how many queries attend, in multiples of the logarithm of the length.
        samples: keys that a query is measured by.

    Attributes:
        slowly: see `kt_forecast.nn.plain.plainly`.
    """

    slowly = Slowly({"_attend": "_attend_all"})

    def __init__(self, width: int, heads: int, *, factor: int, samples: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.factor, self.samples = factor, samples
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.rotary = Rotary(self.size)

    def init_state(self, batch: int) -> Seen:
        """Return what is left behind by no step."""
        weight = self.out.weight
        empty = weight.new_zeros(batch, self.heads, 0, self.size)
        count = weight.new_zeros(batch, self.heads)
        return Seen(
            keys=empty,
            values=empty,
            total=weight.new_zeros(batch, self.heads, self.size),
            best=weight.new_zeros(batch, self.heads, self._rank(LONGEST)),
            least=count,
            used=count.long(),
        )

    def forward(
        self, x: Float[Tensor, "batch time width"], state: Seen, span: Span
    ) -> tuple[Float[Tensor, "batch time width"], Seen]:
        """Let each step read the steps up to itself.

        Args:
            x: steps.
            state: what the steps before left behind.
            span: where the steps stand.

        Returns:
            What each step read, and what all steps so far leave behind.
        """
        q = self._split(self.query(x))
        k, v = (self._split(half) for half in self.key_value(x).chunk(2, dim=-1))
        position = span.position
        q, k = self.rotary(q, position), self.rotary(k, position)
        keys, values = appended(state.keys, k, span), appended(state.values, v, span)
        real = span.real[:, None, :, None]
        sums = state.total[:, :, None] + (v * real).to(state.total.dtype).cumsum(2)
        mean = (sums / (position + 1)[:, None, :, None]).to(v.dtype)
        chosen, best, least, used = self._choose(q.detach(), keys.detach(), state, span)
        y = self._attend(q, keys, values, mean, chosen, position)
        after = Seen(keys, values, sums[:, :, -1], best, least, used)
        return self.out(y.transpose(1, 2).flatten(-2)), after

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.size)).transpose(1, 2)

    def _rank(self, steps: int) -> int:
        """Return how many of so many queries shall attend."""
        return self.factor * math.ceil(math.log(steps))

    @torch.no_grad()
    def _choose(
        self, q: Tensor, keys: Tensor, state: Seen, span: Span
    ) -> tuple[Chosen, Tensor, Tensor, Tensor]:
        """Decide which queries attend.

        Returns:
            For each block which queries attend, how many of it may, and how many slots they can
            reach; and the state's ``best``, ``least`` and ``used``.
        """
        best, least, used = state.best, state.least, state.used
        if self.factor == 0:
            return [], best, least, used
        nothing = float("-inf")
        place = torch.arange(best.shape[2], device=q.device)
        past = best.masked_fill(place >= span.before[:, None, None], nothing)
        position, real = span.position[:, None], span.real[:, None]
        measure = self._measure(q, keys, span).to(best.dtype).masked_fill(~real, nothing)
        chosen = []
        for start, stop in _blocks(span.low, span.high + span.length):
            inside = real & (position >= start) & (position < stop)
            goes_on = (span.before > start)[:, None]
            if start == 0:
                most, needed = FIRST, torch.full_like(least, nothing)
            else:
                most = min(SLACK * self._rank(start), stop - start)
                earlier = measure.masked_fill(position >= start, nothing)
                rivals = torch.cat([past, earlier], -1).topk(self._rank(start)).values
                needed = torch.where(goes_on, least, rivals[..., -1])
            worthy = inside & (measure >= needed[..., None])
            already = torch.where(goes_on, used, 0)
            attends = worthy & (already[..., None] + worthy.cumsum(-1) <= most)
            chosen.append((attends, min(most, span.length), stop))
            here = inside.any(-1)
            least = torch.where(here, needed, least)
            used = torch.where(here, already + attends.sum(-1), used)
        best = torch.cat([past, measure], -1).topk(best.shape[2]).values
        seen = (span.before + span.count)[:, None, None]
        return chosen, best.masked_fill(place >= seen, 0), least, used

    def _measure(self, q: Tensor, keys: Tensor, span: Span) -> Tensor:
        """Return how far the highest of the sampled logits lies above their mean."""
        found = []
        position = span.position[:1] if span.uniform else span.position
        # Padding at the right of a row may stand beyond the last slot.
        drawn = sampled(position, self.samples).clamp_max(keys.shape[2] - 1)
        for part, places in zip(q.split(QUERY_CHUNK, 2), drawn.split(QUERY_CHUNK, 1), strict=True):
            if span.uniform:
                key = keys.index_select(2, places[0].flatten())
            else:
                index = places.flatten(1)[:, None, :, None]
                key = keys.gather(2, index.expand(-1, self.heads, -1, self.size))
            key = key.unflatten(2, (part.shape[2], self.samples))
            logits = (part[:, :, :, None] * key).sum(-1)
            found.append(logits.amax(-1) - logits.mean(-1))
        return torch.cat(found, 2)

    def _attend(
        self,
        q: Tensor,
        keys: Tensor,
        values: Tensor,
        mean: Tensor,
        chosen: Chosen,
        position: Tensor,
    ) -> Tensor:
        """Replace the means of the chosen queries by what these attend to."""
        places, found = [], []
        aside = mean.shape[2]
        for attends, most, stop in chosen:
            column, taken = _columns(attends, most)
            query = q.gather(2, column[..., None].expand(-1, -1, -1, self.size))
            own = position[:, None].expand(-1, self.heads, -1).gather(2, column)
            reach = min(stop, keys.shape[2])
            visible = torch.arange(reach, device=q.device) <= own[..., None]
            found.append(
                F.scaled_dot_product_attention(
                    query,
                    keys[:, :, :reach].to(q.dtype),
                    values[:, :, :reach].to(q.dtype),
                    attn_mask=visible,
                )
            )
            places.append(torch.where(taken, column, aside))
        if not found:
            return mean
        place = torch.cat(places, 2)[..., None].expand(-1, -1, -1, self.size)
        room = torch.cat([mean, torch.zeros_like(mean[:, :, :1])], 2)
        return room.scatter(2, place, torch.cat(found, 2).to(mean.dtype))[:, :, :aside]

    def _attend_all(
        self,
        q: Tensor,
        keys: Tensor,
        values: Tensor,
        mean: Tensor,
        chosen: Chosen,
        position: Tensor,
    ) -> Tensor:
        """Let all queries attend, and take what the chosen ones read."""
        visible = torch.arange(keys.shape[2], device=q.device) <= position[:, None, :, None]
        y = F.scaled_dot_product_attention(
            q, keys.to(q.dtype), values.to(q.dtype), attn_mask=visible
        )
        attends = torch.zeros_like(mean[..., 0], dtype=torch.bool)
        for one, _, _ in chosen:
            attends = attends | one
        return torch.where(attends[..., None], y.to(mean.dtype), mean)


def sampled(position: Int[Tensor, "batch time"], samples: int) -> Int[Tensor, "batch time sample"]:
    """Return, for each step, places between 0 and its own: ``floor(r (i + 1))``, r a hash of i."""
    draw = torch.arange(1, samples + 1, device=position.device)
    share = _mixed(_mixed(position)[..., None] ^ _mixed(draw)) >> 1
    return (share * (position[..., None] + 1)) >> 31


def _mixed(x: Tensor) -> Tensor:
    """Return a hash of 32 bits; no product leaves 63 bits."""
    x = (x + 0x3C6EF372) & 0xFFFFFFFF
    for factor in (0x7FEB352D, 0x31848BAB, 0x6C8E9CF5):
        x = (((x ^ (x >> 16)) * factor) & 0xFFFFFFFF) ^ (x >> 13)
    return x ^ (x >> 15)


def _blocks(low: int, high: int) -> Iterator[tuple[int, int]]:
    """Yield the blocks that hold a position from ``low`` to ``high`` (excluded)."""
    start, stop = 0, FIRST
    while start < high:
        if stop > low:
            yield start, stop
        start, stop = stop, 2 * stop


def _columns(attends: Tensor, places: int) -> tuple[Tensor, Tensor]:
    """Return where a row is True, in order, at most ``places`` times; and which places are taken.

    A place's number depends only on what stands before it.
    """
    order = (attends.cumsum(-1) - 1).masked_fill(~attends, places)
    column = torch.arange(attends.shape[-1], device=attends.device).expand(attends.shape)
    room = column.new_zeros(*attends.shape[:-1], places + 1)
    number = torch.arange(places, device=attends.device)
    taken = number < attends.sum(-1, keepdim=True)
    return room.scatter(-1, order, column)[..., :places], taken
