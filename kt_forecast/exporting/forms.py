"""What is exported of a model: tensors in, tensors out, and which of their sizes are free."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

BATCH, LENGTH, CONCEPTS, SLOTS = "batch", "length", "concepts", "slots"
"""Names of free sizes."""

NEXT = "next."
"""Stands before a part of the state that a step gives, whose input has the rest of the name."""

Program = Callable[[Sequence[Tensor]], list[Tensor]]
"""An exported file, loaded: takes the inputs in their order and gives the outputs in theirs."""

Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class Size:
    """One size at which a form is held to the model.

    Attributes:
        batch: students or windows side by side.
        length: steps.
    """

    batch: int
    length: int


@dataclass(frozen=True)
class Form:
    """One way of asking a model, as a module of tensors in and tensors out.

    Attributes:
        name: ``step``, an interaction with the state before and after it, or ``window``, a whole
            history at once.
        module: takes and gives tensors, in the orders of ``inputs`` and ``outputs``.
        inputs: sizes of each input by its name; a word is a size that is free.
        outputs: names.
        example: inputs to trace with, whose free sizes are neither 0 nor 1.
        sizes: at which it is held to the model.
        farthest: largest absolute difference between a program's outputs and the model's, at one
            size.
        draw: makes inputs of a size.
        start: what each part of a state holds before the first step; empty without a state.
        notes: what a user of the file must know, one sentence each.
    """

    name: Literal["step", "window"]
    module: nn.Module
    inputs: dict[str, Shape]
    outputs: tuple[str, ...]
    example: tuple[Tensor, ...]
    sizes: tuple[Size, ...]
    farthest: Callable[[Program, Size], float]
    draw: Callable[[Size], tuple[Tensor, ...]]
    start: dict[str, int | float]
    notes: tuple[str, ...] = ()


def largest(found: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference; infinite where one is not a number."""
    gap = (found.double() - expected.double()).abs()
    return float(torch.nan_to_num(gap, nan=torch.inf).max()) if gap.numel() else 0.0
