"""Reformer: each step attends to the last steps that hash to the same bucket.

Queries are keys too (keys are normalised). A few times, with other random rotations each time, a
step is hashed: the rotated axis along which it lies farthest is its bucket. In each round it reads
the last steps of its bucket, and the rounds are merged as if all pairs that met in any of them had
been read at once. It reads itself only where it meets nobody else. Layers are reversible, and the
feed-forward network takes a slice of steps at a time, so that training keeps the activations of one
layer, not of all (`kt_forecast.nn.reversible`).

As published all steps are sorted by bucket and cut into chunks: a later step of a lower bucket
shifts every chunk border behind it, and so decides what earlier steps read. Here each bucket counts
its own steps (`kt_forecast.nn.grouped`). ``published=True`` gives the sorted chunks, to show what
they reveal; no slope shows it.

Departures from the paper:
    - what a step reads are the last steps of its bucket, as said above, by as many buckets as a
      setting says, where the paper's number grows with the length;
    - rotary positions, after hashing, instead of axial position embeddings;
    - a pair that meets in several rounds counts once (the paper's form; a later version of its own
      code lets it count as often);
    - rotations are drawn once for each layer and head, not anew for each batch;
    - every layer hashes, where the published models put local layers between;
    - two layers by default; attention weights are never dropped.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Integer
from pydantic import Field, field_validator
from torch import Tensor, nn

from kt_forecast.config import Range, tunable
from kt_forecast.nn.attention import Rotary
from kt_forecast.nn.grouped import Groups, Recent, near
from kt_forecast.nn.plain import Slowly, last_of_group
from kt_forecast.nn.reversible import ReversibleLayer, ReversibleStack
from kt_forecast.nn.streams import Span
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, System

ITSELF = -1e5
"""Added to the logit of a step for itself: counts only where it is the only one."""
FAR = 2**40
"""By how much labels of two buckets differ: more than the steps of any stream."""


class ReformerConfig(HeadsConfig):
    """Settings of the Reformer.

    Attributes:
        width: numbers in a step's vector.
        layers: attention and feed-forward pairs.
        heads: attention heads; must divide ``width`` into even sizes.
        buckets: how many there are; even.
        rounds: how often each step is hashed.
        window: how many steps of its bucket a step reads in a round, itself included.
        at_once: steps of all rows that are fed forward at a time; changes memory alone.
        published: sort all steps and cut the sorted into chunks, which leaks.
        expansion: feed-forward numbers per number of ``width``.
        dropout: probability of dropping a number of what a layer adds.
    """

    layers: int = tunable(2, (1, 2, 4), gt=0)
    buckets: int = tunable(8, (4, 8, 16, 32), gt=0)
    rounds: int = tunable(2, (1, 2, 4, 8), gt=0)
    window: int = tunable(32, (16, 32, 64), gt=0)
    at_once: int = Field(2**16, gt=0)
    published: bool = False
    expansion: int = tunable(4, (1, 2, 4), gt=0)
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)

    @field_validator("buckets")
    @classmethod
    def _in_pairs(cls, buckets: int) -> int:
        if buckets % 2:
            raise ValueError(
                f"buckets must be even (a rotated axis has two ends), got buckets={buckets}"
            )
        return buckets

    @property
    def leak(self) -> str:
        """How these settings read later steps."""
        if not self.published:
            return ""
        return "published = true lets later steps move the borders of the chunks that earlier read"


class HashedAttention(nn.Module):
    """Attention within buckets; see `kt_forecast.nn.reversible.Deciding`.

    Attributes:
        rotations: random; of each head and round.
        slowly: see `kt_forecast.nn.plain.plainly`.
    """

    slowly = Slowly({"_in_buckets": "_among_all"})
    rotations: Tensor

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__()
        self.heads, self.size = config.heads, config.width // config.heads
        self.buckets, self.rounds, self.window = config.buckets, config.rounds, config.window
        self.published = config.published
        self.query = nn.Linear(config.width, config.width, bias=False)
        self.value = nn.Linear(config.width, config.width)
        self.out = nn.Linear(config.width, config.width)
        self.rotary = Rotary(self.size)
        drawn = torch.randn(self.heads, self.rounds, self.size, self.buckets // 2)
        self.register_buffer("rotations", drawn)

    def init_state(self, batch: int) -> Recent:
        """Return empty buckets; the rounds of all heads are streams."""
        new, streams = self.out.weight.new_zeros, self.heads * self.rounds
        slots = (batch, streams, self.buckets, self.window)
        kept = (new(*slots, 2 * self.size), new(*slots, self.rounds - 1).long())
        return Recent(new(slots[:3]).long(), kept[: min(self.rounds, 2)])

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        state: Recent,
        span: Span,
        decided: Integer[Tensor, "batch stream time"] | None = None,
    ) -> tuple[Float[Tensor, "batch time width"], Recent, Integer[Tensor, "batch stream time"]]:
        """Return what each step read, the last steps of each bucket, and the buckets."""
        q, v = (self._split(part(x)) for part in (self.query, self.value))
        if decided is None:
            decided = self.hashed(q)
        exact = torch.promote_types(q.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            q = self.rotary(q.to(exact), span.places)
            if self.published:
                read, after = self._in_chunks(q, v.to(exact), decided.long()), state
            else:
                read, after = self._in_buckets(q, v.to(exact), decided.long(), state, span)
        return self.out(read.transpose(1, 2).flatten(2).to(x.dtype)), after, decided

    @torch.no_grad()
    def hashed(
        self, q: Float[Tensor, "batch head time size"]
    ) -> Integer[Tensor, "batch stream time"]:
        """Return each step's bucket in every round of every head."""
        turned = torch.einsum("bhts,hrsn->bhrtn", q.detach().to(self.rotations), self.rotations)
        bucket = torch.cat([turned, -turned], -1).argmax(-1).flatten(1, 2)
        return bucket.to(torch.uint8 if self.buckets <= 2**8 else torch.int32)

    def _in_buckets(
        self, q: Tensor, v: Tensor, bucket: Tensor, state: Recent, span: Span
    ) -> tuple[Tensor, Recent]:
        groups = Groups(bucket, state, self.window, span)
        # What is no number would pass a weight of zero; who may read it learns of it by its key.
        both = torch.cat([F.normalize(q, dim=-1), v.nan_to_num()], -1)
        room = groups.placed(torch.cat([both, q], -1), state.kept[0])
        less = self._less(groups, bucket, state, q)
        read, total = near(room, self.size, groups.hidden, less)
        merged = self._merged(groups.taken(read), groups.taken(total))
        if span.ends:
            return merged, state
        new = [self._each_round(both)]
        if self.rounds > 1:
            new.append(self._elsewhere(groups.labels(FAR)))
        kept = (groups.last(x, before) for x, before in zip(new, state.kept, strict=True))
        return merged, Recent(groups.count, tuple(kept))

    def _among_all(
        self, q: Tensor, v: Tensor, bucket: Tensor, state: Recent, span: Span
    ) -> tuple[Tensor, Recent]:
        """Return what `_in_buckets` returns to a sequence that ends here, from all pairs."""
        read = last_of_group(bucket, self.window, span)
        met = read.unflatten(1, (self.heads, self.rounds)).sum(2).clamp_min(1)
        logits = q @ F.normalize(q, dim=-1).mT - met.to(q.dtype).log()
        own = torch.eye(q.shape[2], dtype=torch.bool, device=q.device)
        logits = self._each_round(logits + torch.where(own, ITSELF, 0.0))
        logits = logits.masked_fill(~read, float("-inf"))
        values = self._each_round(v.nan_to_num())
        return self._merged(logits.softmax(-1) @ values, logits.logsumexp(-1, keepdim=True)), state

    @torch.no_grad()
    def _less(
        self, groups: Groups, bucket: Tensor, state: Recent, q: Tensor
    ) -> Float[Tensor, "*block slot twice"]:
        """Return what is taken off logits, so that a pair that meets several times counts once."""
        window = self.window
        less = q.new_zeros(window, 2 * window)
        if self.rounds > 1:
            # Where groups stand behind each other, a window between them keeps them apart.
            fresh = groups.fresh
            label = (groups.place + bucket * window).int() if fresh else groups.labels(FAR)
            room = groups.placed(self._elsewhere(label), state.kept[1])
            own = room[window:].unflatten(0, (-1, window))
            twice = room.unfold(0, 2 * window, window)
            less = q.new_zeros(len(own), window, 2 * window)
            for i in range(self.rounds - 1):
                # Of two steps of a bucket the one that reads is never the earlier.
                less.add_((own[:, :, i, None] - twice[:, i, None]).abs_() < window)
            less.log1p_()
        less.diagonal(window, -2, -1).fill_(-ITSELF)
        return less

    def _elsewhere(
        self, label: Int[Tensor, "batch stream time"]
    ) -> Int[Tensor, "batch stream time other"]:
        """Return, for each round of each head, the labels of its steps in the other rounds."""
        own = torch.arange(self.rounds, device=label.device)
        others = (own[:, None] + own[1:]) % self.rounds
        label = label.unflatten(1, (self.heads, self.rounds)).index_select(2, others.flatten())
        return label.unflatten(2, others.shape).movedim(3, 4).flatten(1, 2)

    def _merged(self, read: Tensor, total: Tensor) -> Tensor:
        """Merge rounds by what their logits add up to."""
        read, total = (x.unflatten(1, (self.heads, self.rounds)) for x in (read, total))
        return (total.softmax(2) * read).sum(2)

    def _in_chunks(self, q: Tensor, v: Tensor, bucket: Tensor) -> Tensor:
        """Attend within chunks of the sorted steps and the chunks before them, as published."""
        steps, size = q.shape[2], self.window
        missing = -steps % size
        bucket = F.pad(bucket, (0, missing), value=self.buckets)
        order = bucket.argsort(dim=-1, stable=True)
        back = order.argsort(dim=-1)

        def chunks(x: Tensor) -> Tensor:
            x = F.pad(x, (0, 0, 0, missing))
            picked = x.gather(2, order[..., None].expand(-1, -1, -1, x.shape[3]))
            return picked.unflatten(2, (-1, size))

        def pairs(x: Tensor) -> Tensor:
            return torch.cat([x.roll(1, 2), x], 3)

        q, v = self._each_round(q), self._each_round(v)
        place = order.unflatten(2, (-1, size))
        theirs = torch.cat([place.roll(1, 2), place], 3)
        logits = chunks(q) @ pairs(chunks(F.normalize(q, dim=-1))).transpose(-1, -2)
        logits = logits.masked_fill(place[..., None] == theirs[..., None, :], ITSELF)
        logits = logits.masked_fill(place[..., None] < theirs[..., None, :], float("-inf"))
        total = logits.logsumexp(-1, keepdim=True)
        read = (logits - total).exp() @ pairs(chunks(v))
        back = back[..., :steps, None]
        read = read.flatten(2, 3).gather(2, back.expand(-1, -1, -1, self.size))
        return self._merged(read, total.flatten(2, 3).gather(2, back))

    def _each_round(self, x: Tensor) -> Tensor:
        """Return what each round of each head is given: heads in their order, rounds within."""
        return x.repeat_interleave(self.rounds, 1)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.size)).transpose(1, 2)


def build(config: ReformerConfig) -> ReversibleStack:
    """Return the mixer."""
    given: dict[str, Any] = {"inner": config.expansion * config.width, "dropout": config.dropout}
    layers = [
        ReversibleLayer(HashedAttention(config), config.width, at_once=config.at_once, **given)
        for _ in range(config.layers)
    ]
    return ReversibleStack(layers, config.width, leak=config.leak)


SYSTEM = System(
    family="sparse attention",
    config=ReformerConfig,
    build=build,
    paper=Paper(
        title="Reformer: The Efficient Transformer",
        authors="Kitaev, Kaiser, Levskaya",
        year=2020,
        url="https://arxiv.org/abs/2001.04451",
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
