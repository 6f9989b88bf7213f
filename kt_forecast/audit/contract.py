"""The availability clock: when is an input known, and when is an output needed?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Clock = dict[str, Tensor]
"""Moments (int64) by the name of an input or output, broadcastable to its shape from the left."""

OUTPUT = "output"
"""The name of an output that is one tensor."""

FAR = 2**40
"""A moment later than all others: of what must never be read."""


class ContractError(ValueError):
    """A contract, a batch and a model do not fit together."""


@dataclass(frozen=True)
class Contract:
    """When inputs are known and outputs are needed.

    Attributes:
        name: for the report.
        clocks: from named inputs to two clocks: the moment each input element is known from
            (inputs left out are known always), and the moment each output element is needed for
            (under its path, or ``output``).
        further: more pairs of clocks that hold as well; packed documents have one each.
        shift: steps from a moment to what may be read at it, where inputs and outputs run along
            one time axis; that axis is then looked for if it is not given. None otherwise.
        axis: the time axis of inputs and outputs; None looks for it.
        any_length: whether the contract can be asked of sequences of another length.
        assumptions: what the reader of a report must know that was declared, not found.
    """

    name: str
    clocks: Callable[[dict[str, Tensor]], tuple[Clock, Clock]]
    further: Callable[[dict[str, Tensor]], list[tuple[Clock, Clock]]] | None = None
    shift: int | None = None
    axis: int | None = None
    any_length: bool = False
    assumptions: tuple[str, ...] = ()

    def pairs(self, inputs: dict[str, Tensor]) -> list[tuple[Clock, Clock]]:
        """Return every pair of clocks that must hold."""
        more = [] if self.further is None else self.further(inputs)
        return [self.clocks(inputs), *more]


def clock(available: Clock, needed: Tensor | Clock) -> Contract:
    """Return a contract from free integer moments.

    Args:
        available: by the path of an input (joined by dots where inputs are nested).
        needed: of the output; by path where there are several.
    """
    due = {OUTPUT: needed} if isinstance(needed, Tensor) else dict(needed)
    return Contract("clock", lambda _: (available, due))


def causal(axis: int | None = None) -> Contract:
    """Output t may depend on inputs up to and including t.

    Args:
        axis: the time axis of inputs and outputs; by default it is found by varying the length,
            and the report says what was found.
    """
    return _along("causal", 0, axis)


def strict(axis: int | None = None) -> Contract:
    """Output t may depend on inputs before t only.

    Args:
        axis: see `causal`.
    """
    return _along("strict", -1, axis)


def streaming(lookahead: int, axis: int | None = None) -> Contract:
    """Output t may depend on inputs up to t + lookahead: a delay that was agreed on.

    Args:
        lookahead: steps.
        axis: see `causal`.
    """
    return _along(f"streaming, {lookahead} steps ahead", lookahead, axis)


def rows_independent() -> Contract:
    """Output row r may depend on row r of the inputs only; time plays no part."""
    return Contract("rows independent", lambda _: ({}, {}))


def kt(
    event: Tensor | None = None,
    *,
    asked: Sequence[str] = ("question", "concepts", "seconds"),
    answered: Sequence[str] = ("response", "extras"),
) -> Contract:
    """Knowledge tracing: prediction t may use what is asked at t and all answers of earlier events.

    With e the rank of the event, what is asked is known from 2e, what is answered from 2e + 1,
    and the prediction is needed at 2e. Rows that share an event cannot see each other's answers,
    so that concept rows of one question are caught.

    Args:
        event: rank of each step's event, batch x time; by default every step is an event.
        asked: names of inputs known when the question is put.
        answered: names of inputs known only after the answer.
    """

    def clocks(inputs: dict[str, Tensor]) -> tuple[Clock, Clock]:
        given = [name for name in (*asked, *answered) if name in inputs]
        if not given:
            raise ContractError(
                f"kt() knows the inputs {[*asked, *answered]}, the batch has {sorted(inputs)}; "
                "name yours by kt(asked=[...], answered=[...])"
            )
        first = inputs[given[0]]
        rank = torch.arange(first.shape[1], device=first.device).expand(first.shape[:2])
        moment = 2 * (rank if event is None else event.long()[:, : first.shape[1]])
        available = {name: moment for name in asked if name in inputs}
        available |= {name: moment + 1 for name in answered if name in inputs}
        return available, {OUTPUT: moment}

    rows = "every step is an event of its own" if event is None else "events as given"
    return Contract("kt", clocks, any_length=event is None, assumptions=(rows,))


def forecast(context: int, horizon: int, known: Sequence[str] = (), *, axis: int = 1) -> Contract:
    """Forecasting from one origin: every output may use the context, and what is known in advance.

    An input as long as the context, as the horizon, or as both together is known step by step;
    one without a time axis is a fact, known always.

    Args:
        context: steps before the origin.
        horizon: steps ahead.
        known: inputs known in advance for all steps ahead: a calendar, a plan.
        axis: the time axis of the inputs.
    """
    starts = {context + horizon: 0, context: 0, horizon: context}

    def clocks(inputs: dict[str, Tensor]) -> tuple[Clock, Clock]:
        strange = sorted(set(known) - set(inputs))
        if strange:
            raise ContractError(f"known={strange} are no inputs; the batch has {sorted(inputs)}")
        available: Clock = {}
        for name, x in inputs.items():
            if name in known or x.ndim <= axis:
                continue
            n = x.shape[axis]
            if n not in starts:
                raise ContractError(
                    f"input {name!r} has {n} steps along axis {axis}; accepted are {context}, "
                    f"{horizon} or {context + horizon}, or its name in known=[...]"
                )
            available[name] = _laid(starts[n] + torch.arange(n), axis)
        return available, {OUTPUT: torch.tensor(context - 1)}

    return Contract(
        "forecast",
        clocks,
        assumptions=(f"known in advance: {', '.join(known) or 'nothing'}",),
    )


def packed(documents: Tensor) -> Contract:
    """Documents packed into one row: output t may depend on its own document up to t.

    Args:
        documents: number of the document of each step, batch x time.
    """
    steps = torch.arange(documents.shape[1]).expand(documents.shape)

    def timed(inputs: dict[str, Tensor]) -> list[str]:
        shape = documents.shape
        return [
            name
            for name, x in inputs.items()
            if x.shape[:2] == shape and not (x.shape == shape and torch.equal(x.cpu(), documents))
        ]

    def pair(inputs: dict[str, Tensor], document: int) -> tuple[Clock, Clock]:
        other = documents != document
        late = steps.masked_fill(other, FAR)
        return dict.fromkeys(timed(inputs), late), {OUTPUT: late}

    def further(inputs: dict[str, Tensor]) -> list[tuple[Clock, Clock]]:
        return [pair(inputs, int(d)) for d in documents.unique()[1:]]

    first = int(documents.unique()[0])
    return Contract(
        "packed documents",
        lambda inputs: pair(inputs, first),
        further,
        assumptions=("which document a step belongs to is known always",),
    )


def with_axes(
    contract: Contract, inputs: Mapping[str, int], outputs: Mapping[str, tuple[int, int]]
) -> Contract:
    """Return a contract along one time axis, bound to what has been found.

    Args:
        contract: has a ``shift``.
        inputs: the time axis of each input that has one.
        outputs: the time axis and its length of each output that has one.
    """
    shift = contract.shift or 0

    def clocks(given: dict[str, Tensor]) -> tuple[Clock, Clock]:
        available = {
            name: _laid(torch.arange(given[name].shape[axis]), axis)
            for name, axis in inputs.items()
        }
        longest = max((given[name].shape[axis] for name, axis in inputs.items()), default=0)
        was = max((n for _, n in outputs.values()), default=0)
        needed = {
            path: _laid(torch.arange(n if n != was else longest) + shift, axis)
            for path, (axis, n) in outputs.items()
        }
        return available, needed

    return Contract(contract.name, clocks, shift=shift, axis=contract.axis, any_length=True)


def _along(name: str, shift: int, axis: int | None) -> Contract:
    def clocks(inputs: dict[str, Tensor]) -> tuple[Clock, Clock]:
        time = 1 if axis is None else axis
        timed = {key: x.shape[time] for key, x in inputs.items() if x.ndim > max(time, 1)}
        moments = {key: _laid(torch.arange(n), time) for key, n in timed.items()}
        longest = max(timed.values(), default=0)
        return moments, {OUTPUT: _laid(torch.arange(longest) + shift, time)}

    return Contract(name, clocks, shift=shift, axis=axis, any_length=True)


def _laid(moments: Tensor, axis: int) -> Tensor:
    return moments.reshape([1] * axis + [-1])
