"""What the loop is told, and what it tells."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self, runtime_checkable

from pydantic import Field, model_validator
from torch import nn

from kt_forecast.config import Config, Range, tunable


class TrainingConfig(Config):
    """Settings of the loop.

    Attributes:
        epochs: passes over the training data at most.
        patience: epochs without a better validation metric before training stops.
        metric: name, among those that validation returns, that chooses the epoch.
        direction: whether a higher (``max``) or lower (``min``) metric is better.
        learning_rate: the highest rate of the schedule.
        weight_decay: decoupled decay of matrices; vectors and embedding tables have none.
        warmup: share of all updates over which the rate rises from zero.
        schedule: after the warmup, fall to zero along a cosine or stay.
        clip: largest norm of the gradient; 0 never clips.
        ema: weight of the past in the averaged weights, which validation then uses; 0 is off.
        steps_per_batch: steps, padding included, that a batch of all processes together holds.
        segment: steps of the segments in which each history is read in turn, the state carried
            from one to the next; whole histories at once where nothing is given.
        carried: segments that make one update and through which gradients flow; what earlier ones
            left is a constant.
        seed: of dropout and of the order of batches.
        precision: ``auto`` is bf16 autocast on a GPU that has it, else fp32.
        compile: run the loss through ``torch.compile``.
        deterministic: choose algorithms that give the same bits each time, and warn where a
            system uses one that cannot.
        check_updates: updates between two waits for the device.
        checkpoint_seconds: least time between two checkpoints within an epoch.
    """

    epochs: int = Field(100, ge=1)
    patience: int = Field(8, ge=1)
    metric: str = "auc"
    direction: Literal["max", "min"] = "max"
    learning_rate: float = tunable(1e-3, Range(low=1e-4, high=1e-2, log=True), gt=0)
    weight_decay: float = tunable(0.01, Range(low=1e-4, high=0.3, log=True), ge=0)
    warmup: float = tunable(0.02, Range(low=0.0, high=0.1), ge=0, lt=1)
    schedule: Literal["cosine", "constant"] = tunable("cosine", ("cosine", "constant"))
    clip: float = tunable(1.0, (0.0, 0.5, 1.0, 5.0), ge=0)
    ema: float = tunable(0.0, (0.0, 0.99, 0.999), ge=0, lt=1)
    steps_per_batch: int = tunable(8192, (2048, 4096, 8192, 16384), ge=1)
    segment: int | None = Field(None, ge=1)
    carried: int = Field(1, ge=1)
    seed: int = Field(0, ge=0)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False
    deterministic: bool = True
    check_updates: int = Field(50, ge=1)
    checkpoint_seconds: float = Field(60.0, ge=0)

    @model_validator(mode="after")
    def _carries(self) -> Self:
        if self.segment is None and self.carried > 1:
            raise ValueError(f"carried is {self.carried} segments: set segment, their steps, too")
        return self

    def better(self, new: float, old: float) -> bool:
        """Return whether ``new`` is a better metric than ``old``."""
        return new > old if self.direction == "max" else new < old


@runtime_checkable
class Batches(Protocol):
    """The training data, in batches that the seed and the epoch alone decide.

    `kt_forecast.sequences.batching.Batches` or its like for series. Of a batch the loop asks
    ``to(device)`` and ``place``, which says where each step came from, negative at padding. Where
    they are `kt_forecast.sequences.stretches.Stretch`, the loop carries the model's state.
    """

    def __len__(self) -> int:
        """Return the batches of an epoch, the same for all epochs and processes."""
        ...

    def epoch(self, number: int, *, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[Any]:
        """Give this process's rows of batch ``start`` of an epoch and of those after it."""
        ...


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave.

    Attributes:
        number: counted from 1.
        loss: mean training loss of a scored step, as the weights moved.
        metrics: what validation returned.
        seconds: wall-clock time of training and validation.
        steps_per_second: scored steps trained on per second, validation aside.
        learning_rate: of the last update.
    """

    number: int
    loss: float
    metrics: dict[str, float]
    seconds: float
    steps_per_second: float
    learning_rate: float


@dataclass(frozen=True)
class Fitted:
    """A trained model and how it came about.

    Attributes:
        model: in evaluation mode, with the weights of the best epoch.
        best: the epoch that validation chose.
        history: all epochs, oldest first.
        stopped: whether the epochs ran out, the patience did, or the time.
    """

    model: nn.Module
    best: Epoch
    history: tuple[Epoch, ...]
    stopped: Literal["epochs", "patience", "time"]


@dataclass(frozen=True)
class Checkpoint:
    """Where a run keeps its place; under torchrun a folder that every process can read.

    Attributes:
        folder: made where it is missing.
        fingerprint: hash of all that decides the numbers and that `fit` cannot see: data,
            splits, the system's settings.
        resume: go on from what the folder holds, if anything; else start anew.
        ends: asked before every batch whether training shall end with the best epoch so far, its
            place kept; None never does.
    """

    folder: Path
    fingerprint: str
    resume: bool = False
    ends: Callable[[], bool] | None = None
