"""Extended Transformer Construction: steps read their neighbours, and tokens that sum up segments.

Steps are many and read a window; tokens are few, read far, and are read by steps. Keys are told
apart by labels of pairs as well: how far apart the two stand, or whether a token stands for the
step's own segment.

It is said that this cannot decode, and as published it cannot: every token reads the whole sequence
in each layer, and every step reads the tokens in the next. So one more step changes each token, and
with it each step before: what was said of the past would have to be said anew, and each answer is
known to the steps that should predict it. That the window looks both ways is the smaller half.

The change that makes it causal: a token belongs to one segment and is made, through all layers,
when its segment is full. It reads steps of segments up to its own and tokens up to itself; a step
reads tokens of segments before its own, and a window that looks back. A token is made once and
never changes, so that a stream keeps it as it is. A step must not read the token of its own
segment, which has read that segment's later steps. ``published=True`` gives the published reading,
to show what it reveals; it may not be trained for knowledge tracing or for forecasts from every
origin.

Departures from the paper:
    - no step and no token reads a later step, as said above, and labels of later keys are left out;
    - a step reads the tokens of the latest segments, and a token the steps of the latest segments,
      not of all, so that a long stream costs no more a step than a short one;
    - tokens begin as one learned vector, without content of their own;
    - no pre-training (masks of whole segments are for training alone) and two layers by default;
    - normalised copies are read (pre-norm); attention weights are never dropped.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kt_forecast.config import Range, tunable
from kt_forecast.errors import InputError
from kt_forecast.nn.feedforward import FeedForward
from kt_forecast.nn.rates import trailing
from kt_forecast.nn.relative import Grid
from kt_forecast.nn.streams import Span, streamed
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, State, System

NUMBERS_AT_ONCE = 2**28
"""Numbers of logits, keys and values formed at a time, and kept for the backward pass.

Those of more are formed again for it.
"""
EVEN = 16
"""Keys are filled up to whole multiples of these, as fused kernels of GPUs want them."""


class ETCConfig(HeadsConfig):
    """Settings of `ETC`.

    Attributes:
        width: numbers in a step's vector.
        layers: attention and feed-forward pairs.
        heads: attention heads; must divide ``width``.
        segment: steps that a token stands for.
        window: steps back that a step reads, itself included; as published as many ahead too.
        tokens: latest tokens that a step or a token reads; as published all are read.
        sources: latest segments whose steps a token reads, its own included; as published all are.
        distances: distance beyond which all distances are alike.
        published: let tokens and steps read the whole sequence, which leaks.
        expansion: feed-forward numbers per number of ``width``.
        dropout: probability of dropping a number of what a layer adds.
    """

    even_heads: ClassVar[bool] = False

    layers: int = tunable(2, (2, 3, 4), gt=0)
    segment: int = tunable(16, (8, 16, 32), gt=0)
    window: int = tunable(64, (32, 64, 128), gt=0)
    tokens: int = tunable(32, (16, 32, 64), ge=0)
    sources: int = tunable(1, (1, 2, 4), gt=0)
    distances: int = tunable(12, (6, 12, 24), ge=0)
    published: bool = False
    expansion: int = tunable(4, (1, 2, 4), gt=0)
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)

    @property
    def leak(self) -> str:
        """How these settings read later steps."""
        if self.published:
            return "ETC as published (published=true) lets tokens tell every step the whole"
        return ""


@dataclass(frozen=True)
class ETCState(State):
    """What is carried over a stream.

    Attributes:
        position: steps that each row has seen.
        steps: of each layer, keys and values of the latest steps, side by side; zero before the
            first step.
        tokens: of each layer, those of the latest tokens.
    """

    position: Int[Tensor, " batch"]
    steps: tuple[Float[Tensor, "batch kept both"], ...]
    tokens: tuple[Float[Tensor, "batch token both"], ...]


class Labels:
    """Numbers of the kinds of pairs: distances to earlier and later keys, and what tokens are.

    The last is that of pairs that are not read.
    """

    def __init__(self, config: ETCConfig) -> None:
        self.most = config.distances
        self.own = (2 if config.published else 1) * self.most + 1
        self.other = self.own + 1
        self.count = self.hidden = self.other + 1

    def apart(self, ago: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
        """Return the labels of keys that stand ``ago`` before their queries, or after."""
        near = ago.abs().clamp_max(self.most)
        return torch.where(ago >= 0, near, near + self.most).clamp_max(self.own - 1)

    def tokens(self, own: Bool[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
        """Return the labels of pairs of a token and a step, of its own segment or another."""
        return torch.where(own, self.own, self.other)

    def seen(
        self,
        kind: Int[Tensor, "#part #length key"],
        visible: Bool[Tensor, "#batch part #length key"],
    ) -> Int[Tensor, "#batch part #length even"]:
        """Return the labels of pairs of which some are not read, for an even number of keys."""
        kind = torch.where(visible, kind, self.hidden)
        return F.pad(kind, (0, -kind.shape[-1] % EVEN), value=self.hidden)


class Layer(nn.Module):
    """Attention and feed-forward, which steps and tokens share."""

    def __init__(self, config: ETCConfig, labels: Labels) -> None:
        super().__init__()
        self.heads, self.size = config.heads, config.width // config.heads
        self.attention_norm = nn.LayerNorm(config.width)
        self.query = nn.Linear(config.width, config.width)
        self.key_value = nn.Linear(config.width, 2 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.label = nn.Parameter(0.02 * torch.randn(config.heads, self.size, labels.count))
        self.label_bias = nn.Parameter(torch.zeros(config.heads, 1, labels.count))
        self.dropout = nn.Dropout(config.dropout)
        self.feed_norm = nn.LayerNorm(config.width)
        inner = config.expansion * config.width
        self.feed = FeedForward(config.width, inner, dropout=config.dropout)

    def read(
        self, x: Float[Tensor, "batch time width"]
    ) -> tuple[Float[Tensor, "batch time width"], Float[Tensor, "batch time both"]]:
        """Return queries, and keys and values side by side."""
        rows = self.attention_norm(x)
        return self.query(rows), self.key_value(rows)

    def attend(
        self,
        query: Float[Tensor, "batch part length width"],
        both: Sequence[Float[Tensor, "batch part _ both"]],
        kind: Int[Tensor, "#batch part #length even"],
    ) -> Float[Tensor, "batch part length width"]:
        """Return what queries read, part by part.

        Args:
            query: of each part.
            both: keys and values; those of one kind stand behind those of another.
            kind: of each pair, and of keys that are not there.
        """
        keys = kind.shape[-1]
        each = len(query) * keys * (self.heads * query.shape[2] + 2 * query.shape[3])
        some = max(NUMBERS_AT_ONCE // max(each, 1), 1)
        if query.shape[1] <= some:
            return self.out(self._weigh(query, kind, *both))
        pieces = []
        for args in zip(*(t.split(some, 1) for t in (query, kind, *both)), strict=True):
            again = torch.is_grad_enabled()
            pieces.append(
                checkpoint(self._weigh, *args, use_reentrant=False, preserve_rng_state=False)
                if again
                else self._weigh(*args)
            )
        return self.out(torch.cat(pieces, 1))

    def fed(
        self, x: Float[Tensor, "some time width"], read: Float[Tensor, "some time width"]
    ) -> Float[Tensor, "some time width"]:
        """Return the layer's result from its input and what attention read."""
        x = x + self.dropout(read)
        return x + self.feed(self.feed_norm(x))

    def _weigh(self, query: Tensor, kind: Tensor, *both: Tensor) -> Tensor:
        batch, heads, size = len(query), self.heads, self.size
        q = query.unflatten(3, (heads, size)).permute(0, 3, 1, 2, 4)
        parts = [t.unflatten(3, (2, heads, size)).permute(3, 0, 4, 1, 2, 5) for t in both]
        missing = kind.shape[-1] - sum(t.shape[2] for t in both)
        parts.append(parts[0].new_zeros(*parts[0].shape[:4], missing, size))
        k, v = torch.cat(parts, 4).flatten(1, 2).unbind(0)
        # One product for each kind of pair, however many pairs there are.
        of_kind = torch.einsum("bhpld, hdc -> bhplc", q, self.label) + self.label_bias[:, None]
        of_kind = F.pad(of_kind * size**-0.5, (0, 1), value=float("-inf"))
        added = of_kind.gather(-1, kind[:, None].expand(*q.shape[:-1], -1)).flatten(0, 1)
        # Parts stand where the fused kernels expect heads: these take four axes only.
        y = F.scaled_dot_product_attention(q.flatten(0, 1), k, v, attn_mask=added)
        return y.unflatten(0, (batch, heads)).permute(0, 2, 3, 1, 4).flatten(3)


@dataclass(frozen=True)
class Layout:
    """Which keys each segment's steps and each new token read; the same in every layer.

    Attributes:
        grid: segments, and the columns before each that its steps or its token read.
        made: the new tokens, as a span of their own.
        window: see `ETCConfig`.
        tokens: see `ETCConfig`.
        sources: columns of the steps that a token reads.
        labels: kinds of pairs.
    """

    grid: Grid
    made: Span
    window: int
    tokens: int
    sources: int
    labels: Labels

    @classmethod
    def of(cls, span: Span, config: ETCConfig, labels: Labels) -> "Layout":
        """Lay out a pass."""
        size, back = config.segment, kept_steps(config)
        before = span.before // size
        count = (span.before + span.count) // size - before
        low, high = span.low // size, span.high // size
        most = (span.low + span.length) // size - low if span.uniform else int(count.max())
        whole = span.uniform or bool((count == most).all())
        made = Span(before, count, most if config.tokens else 0, low, high, whole=whole)
        grid = Grid.laid(span, size, back)
        sources = config.sources * size
        return cls(grid, made, config.window, config.tokens, sources, labels)

    def steps(self) -> Int[Tensor, "#batch part length even"]:
        """Return kinds of pairs for steps: their window, then tokens."""
        grid = self.grid
        device = grid.span.before.device
        reach = self.window - 1 + grid.length
        ago = torch.arange(grid.length, device=device)[:, None] + self.window - 1
        near = self.labels.apart(ago - torch.arange(reach, device=device))
        kind = F.pad(near, (0, self.tokens), value=self.labels.other)[None]
        number = grid.first[:, None] // grid.length + torch.arange(grid.segments, device=device)
        token = number[..., None] - self.tokens + torch.arange(self.tokens, device=device)
        there = (token >= 0)[:, :, None].expand(-1, -1, grid.length, -1)
        visible = torch.cat([grid.window(self.window)[..., -reach:], there], -1)
        return self.labels.seen(kind, visible)

    def new(self) -> Int[Tensor, "#batch part 1 even"]:
        """Return kinds of pairs for new tokens: steps, then tokens."""
        grid, device = self.grid, self.grid.span.before.device
        step = torch.arange(self.sources, device=device)
        own = self.labels.tokens(step >= self.sources - grid.length)
        ago = torch.arange(self.tokens - 1, -1, -1, device=device)
        kind = torch.cat([own, self.labels.apart(ago)])[None, None]
        number = self.made.position[:1] if grid.span.uniform else self.made.position
        place = (number[..., None] + 1) * grid.length - self.sources + step
        there = torch.cat([place >= 0, number[..., None] >= ago], -1)
        return self.labels.seen(kind, there[:, :, None])


def kept_steps(config: ETCConfig) -> int:
    """Return how many steps before a segment its steps and its token read."""
    return max(config.window, config.sources * config.segment) - 1


class ETC(nn.Module):
    """Decoder of steps and tokens; see `kt_forecast.nn.system.Mixer`."""

    def __init__(self, config: ETCConfig) -> None:
        super().__init__()
        self.config, self.labels = config, Labels(config)
        self.token = nn.Parameter(0.02 * torch.randn(config.width))
        layers = [Layer(config, self.labels) for _ in range(config.layers)]
        self.layers: Sequence[Layer] = nn.ModuleList(layers)  # type: ignore[assignment]
        self.norm = nn.LayerNorm(config.width)

    def init_state(self, batch: int) -> ETCState:
        """Return the state of ``batch`` sequences before their first step.

        Raises:
            InputError: the settings read later steps, so that nothing can be streamed.
        """
        if self.config.leak:
            raise InputError(f"{self.config.leak}; accepted for a stream is published = false")
        return self._nothing(batch)

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        state: ETCState | None = None,
        *,
        valid: Bool[Tensor, "batch time"] | None = None,
        reset: Bool[Tensor, "batch time"] | None = None,
    ) -> tuple[Float[Tensor, "batch time width"], ETCState | None]:
        """Let each step read its window and the tokens of the segments before its own.

        Args:
            x: embedded steps, oldest first.
            state: what earlier passes left behind; None at the start.
            valid: False at padding.
            reset: True at the first step of a new sequence.

        Returns:
            One vector a step, and the state afterwards (None for a pass without ``state``).
        """
        run = self._whole if self.config.published else self._run
        return streamed(run, self._nothing, x, state, valid, reset)

    def _nothing(self, batch: int) -> ETCState:
        new, config = self.token.new_zeros, self.config
        steps = new(batch, kept_steps(config), 2 * config.width)
        tokens = new(batch, config.tokens, 2 * config.width)
        layers = config.layers
        return ETCState(new(batch).long(), (steps,) * layers, (tokens,) * layers)

    def _run(self, x: Tensor, state: ETCState, span: Span) -> tuple[Tensor, ETCState]:
        layout = Layout.of(span, self.config, self.labels)
        for_steps, for_tokens = layout.steps(), layout.new() if layout.made.length else None
        tokens = self.token.repeat(len(x), layout.made.length, 1)
        steps_kept, tokens_kept = [], []
        for layer, steps, older in zip(self.layers, state.steps, state.tokens, strict=True):
            # Steps and new tokens are mapped at once.
            rows = layer.read(torch.cat([x, tokens], 1))
            (query, asking), (both, told) = (
                part.split([span.length, layout.made.length], 1) for part in rows
            )
            both, told = torch.cat([steps, both], 1), torch.cat([older, told], 1)
            x = layer.fed(x, self._stepped(layer, query, both, told, layout, for_steps))
            # Nothing reads what the last layer would make of tokens.
            if for_tokens is not None and layer is not self.layers[-1]:
                made = self._made(layer, asking, both, told, layout, for_tokens)
                tokens = layer.fed(tokens, made)
            if not span.ends:
                steps_kept.append(trailing(both, steps.shape[1], span))
                tokens_kept.append(trailing(told, older.shape[1], layout.made))
        if span.ends:
            return self.norm(x), state
        position = state.position + span.count
        return self.norm(x), ETCState(position, tuple(steps_kept), tuple(tokens_kept))

    def _stepped(
        self, layer: Layer, query: Tensor, both: Tensor, told: Tensor, layout: Layout, kind: Tensor
    ) -> Tensor:
        """Return what steps read of their windows and of the tokens of earlier segments."""
        grid = layout.grid
        near = grid.columns(both).unfold(1, grid.back + grid.length, grid.length).mT
        near = near[:, :, grid.back - layout.window + 1 :]
        missing = max(grid.segments - 1 - layout.made.length, 0)
        far = F.pad(told, (0, 0, 0, missing))[:, : layout.tokens + grid.segments - 1]
        far = _runs(far, layout.tokens, grid.segments)
        asked = replace(grid, back=0).columns(query).unflatten(1, (-1, grid.length))
        return grid.steps(layer.attend(asked, (near, far), kind))

    def _made(
        self, layer: Layer, query: Tensor, both: Tensor, told: Tensor, layout: Layout, kind: Tensor
    ) -> Tensor:
        """Return what new tokens read of their segments and of the tokens up to themselves."""
        grid, count = layout.grid, layout.made.length
        own = grid.columns(both).unfold(1, grid.back + grid.length, grid.length).mT
        own = own[:, :count, -layout.sources :]
        far = _runs(told[:, 1:], layout.tokens, count)
        return layer.attend(query[:, :, None], (own, far), kind)[:, :, 0]

    def _whole(self, x: Tensor, state: ETCState, span: Span) -> tuple[Tensor, ETCState]:
        """Let every token read every step and every step every token, as published."""
        size, back, steps = self.config.segment, self.config.window - 1, span.length
        count = -(-steps // size)
        missing = count * size - steps
        step = torch.arange(size + 2 * back, device=x.device) - back
        begin = torch.arange(count, device=x.device)[:, None] * size
        near = ((begin + step >= 0) & (begin + step < span.count[:, None, None]))[:, :, None]
        ago = torch.arange(size, device=x.device)[:, None] - step
        near = near & (ago.abs() <= back)
        number = torch.arange(count, device=x.device)
        there = (begin < span.count[:, None, None]).mT
        kind = self.labels.tokens(number == number[:, None])[:, None].expand(-1, size, -1)
        kind = torch.cat([self.labels.apart(ago).expand(count, -1, -1), kind], -1)
        visible = torch.cat([near, there[:, :, None].expand(-1, count, size, -1)], -1)
        kind = self.labels.seen(kind, visible)
        owned = self.labels.tokens(torch.arange(steps, device=x.device) // size == number[:, None])
        among = self.labels.apart(number[:, None] - number)
        token_kind = torch.cat([owned, among], -1)[None]
        token_there = torch.cat([span.real[:, None], there], -1)[:, None]
        token_kind = self.labels.seen(token_kind, token_there)
        tokens = self.token.repeat(len(x), count, 1)
        for layer in self.layers:
            query, both = layer.read(x)
            asking, told = layer.read(tokens)
            around = F.pad(both, (0, 0, back, back + missing)).unfold(1, size + 2 * back, size).mT
            every = told[:, None].expand(-1, count, -1, -1)
            parts = F.pad(query, (0, 0, 0, missing)).unflatten(1, (-1, size))
            read = layer.attend(parts, (around, every), kind).flatten(1, 2)[:, :steps]
            all_ = (both[:, None], told[:, None])
            whole = layer.attend(asking[:, None], all_, token_kind)[:, 0]
            x, tokens = layer.fed(x, read), layer.fed(tokens, whole)
        return self.norm(x), replace(state, position=state.position + span.count)


def _runs(
    told: Float[Tensor, "batch token both"], length: int, count: int
) -> Float[Tensor, "batch {count} {length} both"]:
    """Return runs of tokens, each one further than the one before."""
    if length == 0:
        return told.new_zeros(len(told), count, 0, told.shape[2])
    return told.unfold(1, length, 1).mT[:, :count]


SYSTEM = System(
    family="sparse attention",
    config=ETCConfig,
    build=ETC,
    paper=Paper(
        title="ETC: Encoding Long and Structured Inputs in Transformers",
        authors="Ainslie, Ontanon, Alberti, Cvicek, Fisher, Pham, Ravula, Sanghai, Wang, Yang",
        year=2020,
        url="https://arxiv.org/abs/2004.08483",
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
