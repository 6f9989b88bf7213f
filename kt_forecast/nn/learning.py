"""A stack of layers of which each also learns from a loss of its own."""

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kt_forecast.nn.stack import Stack, StackState
from kt_forecast.nn.streams import Span


@runtime_checkable
class Losing(Protocol):
    """A layer that says what each step lost.

    Attributes:
        lost: by each step of the latest pass, if that was in training.
    """

    lost: Float[Tensor, "batch time"] | None


class LearningStack(Stack):
    """Layers, some of whose mixings are `Losing`; see `kt_forecast.nn.system.Mixer`.

    Attributes:
        auxiliary: what the layers have lost; see `kt_forecast.nn.system.Auxiliary`.
    """

    auxiliary: Tensor | None = None

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        state: StackState | None = None,
        *,
        valid: Bool[Tensor, "batch time"] | None = None,
        reset: Bool[Tensor, "batch time"] | None = None,
    ) -> tuple[Float[Tensor, "batch time width"], StackState | None]:
        """Mix the steps of ``x``, which follow those that ``state`` has seen."""
        if not self._learns:
            return super().forward(x, state, valid=valid, reset=reset)
        # What is lost goes along as one more number a step, wherever steps are moved.
        longer = torch.cat([x, torch.zeros_like(x[..., :1])], -1)
        y, after = super().forward(longer, state, valid=valid, reset=reset)
        self.auxiliary = y[..., -1]
        return y[..., :-1], after

    @property
    def _learns(self) -> bool:
        return self.training and torch.is_grad_enabled()

    def _run(self, x: Tensor, state: StackState, span: Span) -> tuple[Tensor, StackState]:
        if not self._learns:
            return super()._run(x, state, span)
        y, after = super()._run(x[..., :-1], state, span)
        lost = x[..., -1]
        for layer in self.layers:
            mixing: Any = getattr(layer, "mixing", None)
            if isinstance(mixing, Losing) and mixing.lost is not None:
                lost = lost + mixing.lost
                mixing.lost = None
        return torch.cat([y, lost[..., None].to(y.dtype)], -1), after
