"""Exact causal attention with a cache, for streams, padding and borders."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kt_forecast.nn.system import State

QUERY_CHUNK = 512
"""Queries attended at a time where a mask or bias must be written out."""


@dataclass(frozen=True)
class Cache(State):
    """Keys and values of the steps a stream has seen, oldest first.

    Attributes:
        keys: rotated to their positions; zero beyond ``length``.
        values: zero beyond ``length``.
        length: how many of the slots are in use.
        position: how many steps the sequence had so far; exceeds ``length`` under a window.
    """

    keys: Float[Tensor, "batch head slot size"]
    values: Float[Tensor, "batch head slot size"]
    length: Int[Tensor, " batch"]
    position: Int[Tensor, " batch"]


Angles = tuple[Float[Tensor, "#batch 1 time half"], Float[Tensor, "#batch 1 time half"]]
"""Cosines and sines."""


def turned(
    x: Float[Tensor, "batch head time size"], angles: Angles
) -> Float[Tensor, "batch head time size"]:
    """Rotate pairs of numbers by angles."""
    cos, sin = (part.to(x.dtype) for part in angles)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class Rotary(nn.Module):
    """Rotary position embedding: logits depend on distance only (Su et al. 2021, RoFormer).

    Angles are formed in float64 from integer positions, so that they stay exact for histories of
    millions of steps.
    """

    rate: Tensor

    def __init__(self, size: int, *, base: float = 10_000.0) -> None:
        super().__init__()
        rate = base ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
        self.register_buffer("rate", rate, persistent=False)

    def forward(
        self, x: Float[Tensor, "batch head time size"], position: Int[Tensor, "#batch time"]
    ) -> Float[Tensor, "batch head time size"]:
        """Rotate pairs of numbers by the angles of their positions."""
        return turned(x, self.angles(position, x.dtype))

    def angles(self, position: Int[Tensor, "#batch time"], dtype: torch.dtype) -> Angles:
        """Return what `turned` rotates by; the same for all heads, keys and queries."""
        angle = position[:, None, :, None].to(torch.float64) * self.rate.to(torch.float64)
        return angle.cos().to(dtype), angle.sin().to(dtype)


class CausalAttention(nn.Module):
    """Multi-head attention over the steps up to each step.

    No attention weight is ever dropped: fused kernels that do so are missing on the CPU, and
    without one the weights of all pairs of steps would have to be kept.

    Args:
        width: numbers in a step's vector.
        heads: must divide ``width``.
        forgetting: lower each logit by a learned slope times the log of the distance, instead of
            rotating by position.
        window: how many steps back a step reads, itself included; None for all.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        forgetting: bool = False,
        window: int | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.window = window
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.rotary = None if forgetting else Rotary(self.size)
        self.log_slope = nn.Parameter(torch.linspace(-3.0, 0.5, heads)) if forgetting else None

    def init_state(self, batch: int) -> Cache:
        """Return an empty cache for ``batch`` sequences."""
        weight = self.out.weight
        empty = weight.new_zeros(batch, self.heads, 0, self.size)
        count = torch.zeros(batch, dtype=torch.int64, device=weight.device)
        return Cache(keys=empty, values=empty, length=count, position=count)

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        state: Cache | None = None,
        *,
        query: Float[Tensor, "batch time width"] | None = None,
        valid: Bool[Tensor, "batch time"] | None = None,
        reset: Bool[Tensor, "batch time"] | None = None,
    ) -> tuple[Float[Tensor, "batch time width"], Cache | None]:
        """Let each step read the steps up to itself; see `kt_forecast.nn.system.Mixer`.

        Args:
            x: steps that are read.
            state: cache of the steps before.
            query: steps that read, one for each of ``x``; by default ``x`` reads itself.
            valid: False at padding.
            reset: True at the first step of a new sequence.

        Returns:
            What each step read, and the cache afterwards (None for a pass without ``state``).
        """
        q = self._split(self.query(x if query is None else query))
        k, v = (self._split(half) for half in self.key_value(x).chunk(2, dim=-1))
        if state is None and valid is None and reset is None:
            return self._one_pass(q, k, v), None
        batch, steps = x.shape[:2]
        if valid is None:
            valid = torch.ones(batch, steps, dtype=torch.bool, device=x.device)
        if reset is None:
            reset = torch.zeros_like(valid)
        carried = self.init_state(batch) if state is None else state
        return self._continue(q, k, v, carried, valid, reset)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.size)).transpose(1, 2)

    def _merge(self, x: Tensor) -> Tensor:
        return self.out(x.transpose(1, 2).flatten(-2))

    def _one_pass(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend within one uninterrupted sequence a row."""
        steps = q.shape[2]
        position = torch.arange(steps, device=q.device)[None]
        q, k = self._rotate(q, position), self._rotate(k, position)
        if self.log_slope is None and self.window is None:
            return self._merge(F.scaled_dot_product_attention(q, k, v, is_causal=True))
        sequence = torch.zeros_like(position)
        everywhere = torch.ones_like(position, dtype=torch.bool)
        key = (position, sequence, everywhere)
        return self._merge(self._masked(q, k, v, (position, sequence), key, dense=True))

    def _continue(
        self, q: Tensor, k: Tensor, v: Tensor, state: Cache, valid: Tensor, reset: Tensor
    ) -> tuple[Tensor, Cache]:
        """Attend to cached and new steps, across padding and borders."""
        slots = state.keys.shape[2]
        sequence = reset.long().cumsum(1)
        position = _positions(valid, reset, sequence, state.position)
        q, k = self._rotate(q, position), self._rotate(k, position)
        slot = torch.arange(slots, device=q.device)[None]
        used = slot < state.length[:, None]
        cached_position = (state.position - state.length)[:, None] + slot
        keys, values = torch.cat([state.keys, k], 2), torch.cat([state.values, v], 2)
        key_position = torch.cat([cached_position, position], 1)
        key_sequence = torch.cat([torch.zeros_like(cached_position), sequence], 1)
        key_real = torch.cat([used, valid], 1)
        y = self._masked(
            q, keys, values, (position, sequence), (key_position, key_sequence, key_real)
        )
        last = sequence[:, -1:]
        kept = key_real & (key_sequence == last)
        seen = torch.where(
            last[:, 0] > 0,
            (valid & (sequence == last)).sum(1),
            state.position + valid.sum(1),
        )
        if self.window is not None:
            kept &= key_position > seen[:, None] - self.window
        return self._merge(y), _compact(keys, values, kept, seen)

    def _rotate(self, x: Tensor, position: Tensor) -> Tensor:
        return x if self.rotary is None else self.rotary(x, position)

    def _masked(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        reader: tuple[Tensor, Tensor],
        read: tuple[Tensor, Tensor, Tensor],
        *,
        dense: bool = False,
    ) -> Tensor:
        """Attend where sequence, order and window allow, a chunk of queries at a time.

        A chunk's weights are formed again for the backward pass rather than kept. ``dense``: no
        padding, no borders, no cache.
        """
        steps, before = q.shape[2], k.shape[2] - q.shape[2]
        chunks = []
        for start in range(0, steps, QUERY_CHUNK):
            stop = min(start + QUERY_CHUNK, steps)
            # Without padding or borders the window also bounds which keys a chunk can reach.
            first = max(0, start - self.window + 1) if dense and self.window else 0
            reached = slice(first, before + stop)
            args = (
                q[:, :, start:stop],
                k[:, :, reached],
                v[:, :, reached],
                *(part[:, start:stop] for part in reader),
                *(part[:, reached] for part in read),
            )
            if steps > QUERY_CHUNK and torch.is_grad_enabled():
                chunks.append(checkpoint(self._chunk, *args, use_reentrant=False))
            else:
                chunks.append(self._chunk(*args))
        return chunks[0] if len(chunks) == 1 else torch.cat(chunks, 2)

    def _chunk(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        position: Tensor,
        sequence: Tensor,
        key_position: Tensor,
        key_sequence: Tensor,
        key_real: Tensor,
    ) -> Tensor:
        count, keys = q.shape[2], k.shape[2]
        rank = torch.arange(keys, device=q.device)
        own = rank[keys - count :, None]
        distance = position[:, :, None] - key_position[:, None, :]
        visible = key_real[:, None, :] & (sequence[:, :, None] == key_sequence[:, None, :])
        visible &= rank <= own
        if self.window is not None:
            visible &= distance < self.window
        # A padded step reads itself, else its softmax would be over nothing.
        visible = (visible | (rank == own))[:, None]
        if self.log_slope is None:
            mask = visible
        else:
            lost = self.log_slope.to(q.dtype).exp()[None, :, None, None]
            lost = lost * distance.clamp_min(0)[:, None].to(q.dtype).log1p()
            mask = (-lost).masked_fill(~visible, float("-inf"))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _positions(valid: Tensor, reset: Tensor, sequence: Tensor, before: Tensor) -> Tensor:
    """Return each step's place in its own sequence, padding not counted."""
    count = valid.long().cumsum(1)
    at_border = torch.where(reset, count - valid.long(), 0).cummax(1).values
    return torch.where(sequence > 0, count - at_border, before[:, None] + count) - 1


def _compact(keys: Tensor, values: Tensor, kept: Tensor, position: Tensor) -> Cache:
    """Move the kept slots to the front, in order, and drop the rest.

    An exported program cannot look at numbers to choose sizes: there the rest stay, empty.
    """
    length = kept.sum(1)
    exporting = torch.compiler.is_exporting()
    slots = kept.shape[1] if exporting else int(length.max())
    if not exporting and bool(kept[:, -slots:].all()) and slots > 0:
        keys, values = keys[:, :, -slots:], values[:, :, -slots:]
    else:
        order = torch.argsort((~kept).int(), dim=1, stable=True)[:, :slots]
        live = torch.arange(slots, device=keys.device) < length[:, None]
        index = order[:, None, :, None].expand(-1, keys.shape[1], -1, keys.shape[3])
        scale = live[:, None, :, None]
        keys = keys.gather(2, index) * scale
        values = values.gather(2, index) * scale
    return Cache(keys=keys, values=values, length=length, position=position)
