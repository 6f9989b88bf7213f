"""The availability clock: when is an input known, and when is an output needed?"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

Clock = dict[str, Int[Tensor, "..."]]
"""Moments by the name of an input or output, broadcastable to its shape from the left."""


@dataclass(frozen=True)
class Contract:
    """When inputs are known and outputs are needed.

    Attributes:
        name: for the report.
        clocks: from named inputs to two clocks: the moment each input element is known from
            (inputs left out are known always), and the moment each output element is needed for
            (under the name ``output``).
    """

    name: str
    clocks: Callable[[dict[str, Tensor]], tuple[Clock, Clock]]


def clock(available: Clock, needed: Tensor) -> Contract:
    """Return a contract from free integer moments."""
    return Contract("clock", lambda _: (available, {"output": needed}))


def causal() -> Contract:
    """Output t may depend on inputs up to and including t; time is the second axis."""
    return Contract("causal", lambda inputs: _shifted(inputs, needed=0))


def strict() -> Contract:
    """Output t may depend on inputs before t only; time is the second axis."""
    return Contract("strict", lambda inputs: _shifted(inputs, needed=-1))


def kt(
    event: Int[Tensor, "batch time"] | None = None,
    *,
    asked: tuple[str, ...] = ("question", "concepts", "seconds"),
    answered: tuple[str, ...] = ("response", "extras"),
) -> Contract:
    """Knowledge tracing: prediction t may use what is asked at t and all answers of earlier events.

    With e the rank of the event, what is asked is known from 2e, what is answered from 2e + 1,
    and the prediction is needed at 2e. Rows that share an event cannot see each other's answers,
    so that concept rows of one question are caught.

    Args:
        event: rank of each step's event; by default every step is an event of its own.
        asked: names of inputs known when the question is put.
        answered: names of inputs known only after the answer.
    """

    def clocks(inputs: dict[str, Tensor]) -> tuple[Clock, Clock]:
        first = next(inputs[name] for name in (*asked, *answered) if name in inputs)
        rank = torch.arange(first.shape[1], device=first.device).expand(first.shape[:2])
        moment = 2 * (rank if event is None else event.long())
        available = {name: moment for name in asked if name in inputs}
        available |= {name: moment + 1 for name in answered if name in inputs}
        return available, {"output": moment}

    return Contract("kt", clocks)


def forecast(origins: Int[Tensor, " origins"]) -> Contract:
    """Forecasting: what is predicted from an origin may use the steps before it.

    Values and past-only covariates, whose third axis is time, are known from their own step on;
    covariates known in advance and facts of a series are left out, for they are known always.

    Args:
        origins: the first step ahead of each origin, in steps of the window; the third axis of
            the output.
    """

    def clocks(inputs: dict[str, Tensor]) -> tuple[Clock, Clock]:
        available = {
            name: torch.arange(x.shape[2])[None, None]
            for name, x in inputs.items()
            if name in {"values", "past"}
        }
        return available, {"output": origins[None, None].cpu() - 1}

    return Contract("forecast", clocks)


def _shifted(inputs: dict[str, Tensor], *, needed: int) -> tuple[Clock, Clock]:
    timed = {name: x for name, x in inputs.items() if x.ndim >= 2}
    moments = {name: torch.arange(x.shape[1])[None] for name, x in timed.items()}
    longest = max(x.shape[1] for x in timed.values())
    return moments, {"output": torch.arange(longest)[None] + needed}
