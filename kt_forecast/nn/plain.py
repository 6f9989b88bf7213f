"""Slow forms of what cannot be followed operation by operation, for audits.

Where steps are sorted into blocks, the place of a step depends on how many steps stand before it
in that order, later ones too. That what is read does not, is because each step is read where it
was put, and no rule for single operations says so. A module of that kind has a slow form beside
the fast one, which compares each step with every other and masks what is later: an audit follows
it, and compares the two. Kernels of a GPU are no operations at all; plain ones stand for them.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from kt_forecast.nn import kernels
from kt_forecast.nn.streams import Span


@dataclass(frozen=True)
class Slowly:
    """Which methods of a module have a slow form.

    A class names them as ``slowly``.

    Attributes:
        forms: for the name of a method, that of another one, which takes and returns the same, in
            operations that can be followed.
    """

    forms: Mapping[str, str]


@contextmanager
def plainly(model: nn.Module) -> Iterator[None]:
    """Let a model run in the slow forms that its modules have, and without kernels."""
    changed: list[tuple[nn.Module, str]] = []
    try:
        for module in model.modules():
            named = getattr(type(module), "slowly", None)
            for fast, slow in named.forms.items() if isinstance(named, Slowly) else ():
                module.__dict__[fast] = getattr(module, slow)
                changed.append((module, fast))
        with kernels.only():
            yield
    finally:
        for module, fast in changed:
            del module.__dict__[fast]


def last_of_group(
    group: Int[Tensor, "batch stream time"], window: int, span: Span
) -> Bool[Tensor, "batch stream time time"]:
    """Return which steps each step reads: itself, and the last ones of its group before it.

    Args:
        group: number of each step's group.
        window: steps that a step reads at most, itself included.
        span: where the steps stand in their sequences; padding is read by itself alone.

    Raises:
        ValueError: the steps go on with sequences, of which earlier ones would have to be known.
    """
    if span.high:
        raise ValueError("slow forms are for whole sequences; these steps go on with some")
    place = torch.arange(group.shape[2], device=group.device)
    alike = (group[..., None] == group[..., None, :]) & span.real[:, None, None]
    alike = alike & (place <= place[:, None])
    number = alike.sum(-1)
    recent = number[..., None] - number[..., None, :] < window
    return alike & recent | (place == place[:, None])
