"""Deep Knowledge Tracing: a recurrent network reads the answers, its state predicts the next.

An LSTM goes over (concept set, response) interactions. In the published form its state before an
event is all that the prediction of the event knows of the student: the task's ``late`` scheme.

Departures from the paper:
    - interactions are embedded and a concept set is the mean of its concepts; the paper feeds one
      number for each question and response, or a random projection of them;
    - the head sees the state together with the concepts that are asked, and the time since the
      step before where there are times; the paper has one output for each question, read where
      it is asked;
    - an LSTM always; the paper also tries a plain recurrent network.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from kt_forecast.config import Range, tunable
from kt_forecast.nn.system import Cost, Paper, Promises, State, System, SystemConfig


class DKTConfig(SystemConfig):
    """Settings of `DKT`.

    Attributes:
        width: numbers in a step's vector, and in the network's state.
        layers: recurrent layers.
        dropout: probability of dropping a number that a layer gives.
    """

    width: int = tunable(200, (64, 128, 200, 256), gt=0)
    layers: int = tunable(1, (1, 2), gt=0)
    dropout: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)


@dataclass(frozen=True)
class DKTState(State):
    """What the recurrent layers remember.

    Attributes:
        hidden: what each layer last gave.
        cell: what each layer carries on.
    """

    hidden: Float[Tensor, "batch layer width"]
    cell: Float[Tensor, "batch layer width"]


class DKT(nn.Module):
    """Long short-term memory over steps; see `kt_forecast.nn.system.Mixer`."""

    def __init__(self, config: DKTConfig) -> None:
        super().__init__()
        self.memory = nn.LSTM(
            config.width,
            config.width,
            config.layers,
            batch_first=True,
            dropout=config.dropout if config.layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(config.dropout)

    def init_state(self, batch: int) -> DKTState:
        """Return a state of zeros."""
        weight = next(self.parameters())
        zeros = weight.new_zeros(batch, self.memory.num_layers, self.memory.hidden_size)
        return DKTState(hidden=zeros, cell=zeros)

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        state: DKTState | None = None,
        *,
        valid: Bool[Tensor, "batch time"] | None = None,
        reset: Bool[Tensor, "batch time"] | None = None,
    ) -> tuple[Float[Tensor, "batch time width"], DKTState | None]:
        """Carry the state over the steps of ``x``.

        Args:
            x: embedded steps, oldest first.
            state: what earlier steps left behind; None at the start.
            valid: False at padding, which is skipped.
            reset: True at the first step of a new sequence.

        Returns:
            What the last layer gave at each step, and the state afterwards.
        """
        carried = self.init_state(x.shape[0]) if state is None else state
        pieces = []
        for low, high in _uninterrupted(reset, x.shape[1]):
            if reset is not None:
                begins = reset[:, low, None, None]
                carried = DKTState(
                    carried.hidden.masked_fill(begins, 0.0), carried.cell.masked_fill(begins, 0.0)
                )
            part = None if valid is None else valid[:, low:high]
            y, carried = self._carry(x[:, low:high], carried, part)
            pieces.append(y)
        y = pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)
        return self.dropout(y), carried

    def _carry(
        self,
        x: Float[Tensor, "batch time width"],
        state: DKTState,
        valid: Bool[Tensor, "batch time"] | None,
    ) -> tuple[Float[Tensor, "batch time width"], DKTState]:
        """Run the layers over steps that follow each other."""
        before = (
            state.hidden.transpose(0, 1).contiguous(),
            state.cell.transpose(0, 1).contiguous(),
        )
        if valid is None:
            y, (hidden, cell) = self.memory(x, before)
            return y, DKTState(hidden.transpose(0, 1), cell.transpose(0, 1))
        # Real steps move to the left and their number is told, so that padding is never entered.
        order = (~valid).long().argsort(dim=1, stable=True)[..., None].expand_as(x)
        count = valid.sum(1)
        packed = pack_padded_sequence(
            x.gather(1, order), count.clamp_min(1).cpu(), batch_first=True, enforce_sorted=False
        )
        packed, (hidden, cell) = self.memory(packed, before)
        y, _ = pad_packed_sequence(packed, batch_first=True, total_length=x.shape[1])
        any_real = (count > 0)[:, None, None]
        after = DKTState(
            torch.where(any_real, hidden.transpose(0, 1), state.hidden),
            torch.where(any_real, cell.transpose(0, 1), state.cell),
        )
        return torch.zeros_like(y).scatter(1, order, y), after


def _uninterrupted(
    reset: Bool[Tensor, "batch time"] | None, steps: int
) -> Iterator[tuple[int, int]]:
    """Yield the stretches of steps inside which no row begins a new sequence."""
    begins = [] if reset is None else torch.nonzero(reset.any(0))[:, 0].tolist()
    edges = [0, *(step for step in begins if step > 0), steps]
    yield from pairwise(edges)


SYSTEM = System(
    family="recurrent",
    config=DKTConfig,
    build=DKT,
    paper=Paper(
        title="Deep Knowledge Tracing",
        authors="Piech, Bassen, Huang, Ganguli, Sahami, Guibas, Sohl-Dickstein",
        year=2015,
        url="https://arxiv.org/abs/1506.05908",
    ),
    promises=Promises(
        causality="step",
        streaming=True,
        two_streams=False,
        cost=Cost(training_flops=1, training_bytes=1, step_flops=0, state_bytes=0),
    ),
    tracing={
        "scheme": "late",
        "difficulty": "none",
        "identity": 0,
        "rates": False,
        "neighbours": 0,
        "counts": False,
        "next_question": 0.0,
    },
)
