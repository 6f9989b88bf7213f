"""Routing Transformer: half the heads read the latest steps, half the last steps of their cluster.

In the routed heads queries are keys, normalised, and a step belongs to the cluster whose centroid
points most nearly where it does. The clusters are those of online k-means: the loss draws each
centroid to the steps of its cluster, and steps to their centroid.

As published a cluster takes the steps that lie nearest to its centroid among all steps of the
sequence: a later step that lies nearer pushes an earlier one out, so that what can be read depends
on what comes after. Here a step's cluster is a matter of the step alone, and it reads the last
steps of its cluster (`kt_forecast.nn.grouped`). ``published=True`` gives the published clusters, to
show what they reveal; no slope shows it.

Departures from the paper:
    - what a step reads are the last steps of its cluster, as said above, by as many clusters as a
      setting says, where the paper's number grows as the root of the length;
    - centroids are parameters and move by the slope of the k-means loss (Bottou and Bengio 1995),
      with the optimiser's step, where the paper averages exponentially as it reads: so that neither
      later steps nor other rows move them within a pass, and nothing moves them in evaluation;
    - rotary positions, after clustering; local heads alike;
    - two layers by default, all of them routed; attention weights are never dropped.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from kt_forecast.config import Range, tunable
from kt_forecast.nn.attend import attend
from kt_forecast.nn.attention import Rotary, turned
from kt_forecast.nn.grouped import Groups, Recent, near
from kt_forecast.nn.heads import Kept, begins, joined
from kt_forecast.nn.learning import LearningStack
from kt_forecast.nn.plain import Slowly, last_of_group
from kt_forecast.nn.rates import trailing
from kt_forecast.nn.stack import MixingLayer
from kt_forecast.nn.streams import Span
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, State, System


class RoutingConfig(HeadsConfig):
    """Settings of the Routing Transformer.

    Attributes:
        width: numbers in a step's vector.
        layers: attention and feed-forward pairs.
        heads: attention heads, of which half (rounded up) are routed; must divide ``width`` into
            even sizes.
        clusters: of each routed head.
        window: how many steps, or steps of its cluster, a step reads, itself included.
        commitment: weight in the loss of the distance between steps and their centroids.
        published: let clusters choose among all steps of the sequence, which leaks.
        expansion: feed-forward numbers per number of ``width``.
        dropout: probability of dropping a number of what a layer adds.
    """

    layers: int = tunable(2, (1, 2, 4), gt=0)
    clusters: int = tunable(8, (4, 8, 16, 32), gt=0)
    window: int = tunable(32, (16, 32, 64), gt=0)
    commitment: float = tunable(1e-2, Range(low=1e-4, high=0.1, log=True), gt=0.0)
    published: bool = False
    expansion: int = tunable(4, (1, 2, 4), gt=0)
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)

    @property
    def leak(self) -> str:
        """How these settings read later steps."""
        if not self.published:
            return ""
        return "published = true lets later steps push earlier ones out of their cluster"


@dataclass(frozen=True)
class RoutingState(State):
    """What a layer keeps.

    Attributes:
        latest: steps, as local heads read them.
        clusters: the last steps of each cluster: keys and values.
    """

    latest: Kept
    clusters: Recent


class RoutedAttention(nn.Module):
    """Local heads beside routed ones; see `kt_forecast.nn.stack.Mixing`.

    Attributes:
        lost: see `kt_forecast.nn.learning.Losing`.
        slowly: see `kt_forecast.nn.plain.plainly`.
    """

    slowly = Slowly({"_routed": "_among_all"})
    lost: Tensor | None = None

    def __init__(self, config: RoutingConfig) -> None:
        super().__init__()
        self.size, self.window = config.width // config.heads, config.window
        self.local, self.routed = config.heads // 2, config.heads - config.heads // 2
        self.commitment, self.published = config.commitment, config.published
        self.query = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, self.local * self.size) if self.local else None
        self.out = nn.Linear(config.width, config.width)
        self.rotary = Rotary(self.size)
        self.centroids = nn.Parameter(torch.randn(self.routed, config.clusters, self.size))

    def init_state(self, batch: int) -> RoutingState:
        """Return a window and clusters without steps."""
        new = self.out.weight.new_zeros
        count = new(batch, *self.centroids.shape[:2]).long()
        steps = new(*count.shape, self.window, 2 * self.size)
        latest = new(batch, self.window - 1, 2 * self.local * self.size)
        return RoutingState(latest, Recent(count, (steps,)))

    def forward(
        self, x: Float[Tensor, "batch time width"], state: RoutingState, span: Span
    ) -> tuple[Float[Tensor, "batch time width"], RoutingState]:
        """Return what each step read, and what is kept after the last."""
        latest, clusters, read = state.latest, state.clusters, []
        angles = self.rotary.angles(span.places, x.dtype)
        some = [self.local, self.routed]
        near_q, q = self._split(self.query(x)).split(some, 1)
        near_v, v = self._split(self.value(x)).split(some, 1)
        if self.key is not None:
            near_q, k = turned(near_q, angles), turned(self._split(self.key(x)), angles)
            local, latest = self._local(near_q, k, near_v, latest, span)
            read.append(local)
        q = F.layer_norm(q, (self.size,))
        alike = self.nearness(q)
        best, cluster = alike.max(-1)
        if self.training and torch.is_grad_enabled():
            self.lost = self.commitment * (2 - 2 * best).mean(1)
        q = turned(q, angles)
        if self.published:
            read.append(self._chosen(q, v, alike.detach(), span))
        else:
            routed, clusters = self._routed(q, v, cluster, clusters, span)
            read.append(routed)
        y = self.out(joined(torch.cat([part.to(x.dtype) for part in read], 1)))
        return y, RoutingState(latest, clusters)

    def nearness(
        self, q: Float[Tensor, "batch head time size"]
    ) -> Float[Tensor, "batch head time cluster"]:
        """Return the cosine between each step and each centroid."""
        centroids = F.normalize(self.centroids, dim=-1)
        return F.normalize(q, dim=-1) @ centroids.transpose(-1, -2)

    def _local(
        self, q: Tensor, k: Tensor, v: Tensor, kept: Kept, span: Span
    ) -> tuple[Tensor, Kept]:
        """Read the latest steps."""
        if span.ends:
            return attend(q, k, v, self.window), kept
        new = torch.cat([joined(k), joined(v)], -1)
        both = torch.cat([kept.to(new.dtype), new], 1)
        read, before = (new, None) if begins(span) else (both, span.before)
        k, v = (self._split(half) for half in read.chunk(2, -1))
        return attend(q, k, v, self.window, before=before), trailing(both, kept.shape[1], span)

    def _routed(
        self,
        q: Tensor,
        v: Tensor,
        cluster: Int[Tensor, "batch head time"],
        kept: Recent,
        span: Span,
    ) -> tuple[Tensor, Recent]:
        """Read the last steps of the own cluster."""
        groups = Groups(cluster, kept, self.window, span)
        # What is no number would pass a weight of zero; who may read it learns of it by its key.
        both = torch.cat([q * self.size**-0.25, v.nan_to_num()], -1)
        read, _ = near(groups.placed(both, kept.kept[0]), self.size, groups.hidden)
        if span.ends:
            return groups.taken(read), kept
        after = Recent(groups.count, (groups.last(both, kept.kept[0]),))
        return groups.taken(read), after

    def _among_all(
        self, q: Tensor, v: Tensor, cluster: Tensor, kept: Recent, span: Span
    ) -> tuple[Tensor, Recent]:
        """Return what `_routed` returns to a sequence that ends here, from all pairs of steps."""
        read = last_of_group(cluster, self.window, span)
        logits = (q @ q.mT * self.size**-0.5).masked_fill(~read, float("-inf"))
        return logits.softmax(-1) @ v.nan_to_num(), kept

    def _chosen(self, q: Tensor, v: Tensor, alike: Tensor, span: Span) -> Tensor:
        """Read the earlier ones of the steps that each cluster chose among all, as published."""
        steps, clusters = q.shape[2], alike.shape[3]
        alike = alike.masked_fill(~span.real[:, None, :, None], float("-inf"))
        some = min(steps, -(-steps // clusters))
        place = alike.topk(some, dim=2).indices.sort(2).values.transpose(2, 3)
        index = place.flatten(2)[..., None].expand(-1, -1, -1, self.size)
        own, values = (x.gather(2, index).unflatten(2, place.shape[2:]) for x in (q, v))
        read = F.scaled_dot_product_attention(
            own.flatten(0, 1), own.flatten(0, 1), values.flatten(0, 1), is_causal=True
        ).unflatten(0, own.shape[:2])
        times = torch.zeros_like(q[..., :1]).scatter_add(
            2, index[..., :1], torch.ones_like(read.flatten(2, 3)[..., :1])
        )
        total = torch.zeros_like(v).scatter_add(2, index, read.flatten(2, 3).to(v.dtype))
        return total / times.clamp_min(1)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.size)).transpose(1, 2)


def build(config: RoutingConfig) -> LearningStack:
    """Return the mixer."""
    inner = config.expansion * config.width
    layers = [
        MixingLayer(RoutedAttention(config), config.width, inner=inner, dropout=config.dropout)
        for _ in range(config.layers)
    ]
    return LearningStack(layers, nn.LayerNorm(config.width), leak=config.leak)


SYSTEM = System(
    family="sparse attention",
    config=RoutingConfig,
    build=build,
    paper=Paper(
        title="Efficient Content-Based Sparse Attention with Routing Transformers",
        authors="Roy, Saffar, Vaswani, Grangier",
        year=2021,
        url="https://arxiv.org/abs/2003.05997",
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
