"""Universal Transformer: one layer applied again and again, to each step as often as it needs.

The same attention and feed-forward are applied up to a number of times; before each time a step is
told the time by sinusoids. Each time a step says how far it has come; when what it said adds up to
one it halts and stands still, though later steps go on reading it. In the end a step is the mean of
what it was after each time, weighed by what it said (adaptive computation time, Graves 2016). The
times that it used, and what was left over when it halted, add to the loss.

Departures from the paper:
    - rotary positions in attention, instead of sinusoids added before each time;
    - what halts at the last time gets all the weight that is left, so that weights add to one;
    - a step that has halted is copied forward (as the paper says; the reference goes on changing
      it);
    - the layer normalises what it reads, and the result is normalised;
    - halting saves no computation: keys of steps that have halted are read every time;
    - ``published=True`` halts all steps of a sequence together, by the mean of what they say (the
      reference's global halting): later steps then decide how often earlier ones are changed, so
      that it is refused wherever that matters.
"""

from dataclasses import dataclass
from typing import Literal, Self

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from kt_forecast.config import Range, tunable
from kt_forecast.errors import InputError
from kt_forecast.nn.attention import Cache, CausalAttention
from kt_forecast.nn.layer import Layer
from kt_forecast.nn.relative import sinusoids
from kt_forecast.nn.system import Cost, HeadsConfig, Paper, Promises, State, System


class UniversalTransformerConfig(HeadsConfig):
    """Settings of `UniversalTransformer`.

    Attributes:
        width: numbers in a step's vector.
        times: how often the layer is applied at most.
        halting: each step halts on its own, or none does and the last result counts.
        threshold: what may be missing to one when a step halts.
        ponder: weight in the loss of the times used and what was left over.
        published: let all steps of a sequence halt together; for a demonstration of the leak.
        heads: attention heads; must divide ``width`` into even sizes.
        window: how many steps back a step reads each time, itself included; None for all.
        expansion: feed-forward numbers per number of ``width``.
        dropout: probability of dropping a number of what the layer adds.
    """

    times: int = tunable(4, (2, 4, 6, 8), gt=0)
    halting: Literal["step", "none"] = tunable("step", ("step", "none"))
    threshold: float = Field(0.01, gt=0.0, lt=1.0)
    ponder: float = tunable(0.01, Range(low=1e-4, high=0.1, log=True), ge=0.0)
    published: bool = False
    window: int | None = None
    expansion: int = tunable(4, (1, 2, 4), gt=0)
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.published and self.halting == "none":
            raise ValueError("published = true is about halting: halting must be 'step'")
        return self

    @property
    def leak(self) -> str:
        """How these settings read later steps."""
        if not self.published:
            return ""
        return "published = true lets later steps decide how often earlier ones are changed"


@dataclass(frozen=True)
class UniversalState(State):
    """The cache of each time that the layer is applied: its keys differ from time to time."""

    times: tuple[Cache, ...]


@dataclass(frozen=True)
class Progress:
    """How far each step has come.

    Attributes:
        running: whether it has not halted.
        said: sum of what it said while running.
        used: times used, and what was left over when it halted.
    """

    running: Bool[Tensor, "batch time"]
    said: Float[Tensor, "batch time"]
    used: Float[Tensor, "batch time"]

    @classmethod
    def beginning(cls, x: Float[Tensor, "batch time width"]) -> Self:
        """Return the progress of steps before the first time."""
        exact = torch.promote_types(x.dtype, torch.float32)
        zero = torch.zeros(x.shape[:2], dtype=exact, device=x.device)
        return cls(torch.ones_like(zero, dtype=torch.bool), zero, zero)

    def on(
        self, says: Float[Tensor, "batch time"], least: float
    ) -> tuple[Float[Tensor, "batch time"], "Progress"]:
        """Return the weight of this time, and the progress after it.

        Args:
            says: how far each step says that it has come this time.
            least: sum of what was said at which a step halts; below zero at the last time.
        """
        halts = self.running & (self.said + says > least)
        goes_on = self.running & ~halts
        weight = torch.where(halts, 1.0 - self.said, torch.where(goes_on, says, 0.0))
        used = self.used + self.running.to(says.dtype) + torch.where(halts, weight, 0.0)
        return weight, Progress(goes_on, self.said + torch.where(goes_on, says, 0.0), used)


class UniversalTransformer(nn.Module):
    """Transformer that is recurrent in depth; see `kt_forecast.nn.system.Mixer`.

    Attributes:
        auxiliary: the ponder cost; see `kt_forecast.nn.system.Auxiliary`.
    """

    auxiliary: Tensor | None = None

    def __init__(self, config: UniversalTransformerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        attention = CausalAttention(width, config.heads, window=config.window)
        self.layer = Layer(attention, width, inner=config.expansion * width, dropout=config.dropout)
        self.halt: nn.Linear | None = None
        if config.halting == "step":
            self.halt = nn.Linear(width, 1)
            nn.init.ones_(self.halt.bias)
        self.norm = nn.LayerNorm(width)

    def init_state(self, batch: int) -> UniversalState:
        """Return empty caches.

        Raises:
            InputError: the settings read later steps, so that nothing can be streamed.
        """
        if self.config.leak:
            raise InputError(f"{self.config.leak}; accepted for a stream is published = false")
        return UniversalState((self.layer.init_state(batch),) * self.config.times)

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        state: UniversalState | None = None,
        *,
        valid: Bool[Tensor, "batch time"] | None = None,
        reset: Bool[Tensor, "batch time"] | None = None,
    ) -> tuple[Float[Tensor, "batch time width"], UniversalState | None]:
        """Let each step read the steps up to it, time after time.

        Args:
            x: embedded steps, oldest first.
            state: caches of the steps before; None at the start.
            valid: False at padding.
            reset: True at the first step of a new sequence.

        Returns:
            One vector a step, and the caches afterwards (None for a pass without ``state``).
        """
        times, caches = self.config.times, []
        place = torch.arange(times, device=x.device)
        clock = sinusoids(place, x.shape[2]).to(x.dtype)
        progress, y = Progress.beginning(x), torch.zeros_like(x)
        for time in range(times):
            told = x + clock[time]
            cache = None if state is None else state.times[time]
            new, after = self.layer(told, told, cache, valid, reset)
            caches.append(after)
            if self.halt is None:
                x = y = new
                continue
            least = 1.0 - self.config.threshold if time + 1 < times else -1.0
            weight, later = progress.on(self._says(self.halt, told, progress.said.dtype), least)
            x = torch.where(progress.running[..., None], new, x)
            y = y + weight[..., None].to(x.dtype) * x
            progress = later
        if self.training and self.halt is not None:
            self.auxiliary = self.config.ponder * progress.used
        return self.norm(y), None if state is None else UniversalState(tuple(caches))

    def _says(self, halt: nn.Linear, told: Tensor, exact: torch.dtype) -> Tensor:
        says = halt(told)[..., 0].to(exact).sigmoid()
        return says.mean(1, keepdim=True).expand_as(says) if self.config.published else says


SYSTEM = System(
    family="memory",
    config=UniversalTransformerConfig,
    build=UniversalTransformer,
    paper=Paper(
        title="Universal Transformers",
        authors="Dehghani, Gouws, Vinyals, Uszkoreit, Kaiser",
        year=2019,
        url="https://arxiv.org/abs/1807.03819",
    ),
    promises=Promises(
        causality="step",
        streaming=True,
        two_streams=False,
        cost=Cost(training_flops=2, training_bytes=1, step_flops=1, state_bytes=1),
    ),
    tracing={"scheme": "shifted"},
    forecasting={"dense": True},
)
