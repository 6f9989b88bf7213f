"""A case: a public model with tiny settings and random weights, and what is expected of it."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kt_forecast.audit import Contract
from kt_forecast.audit.running import EVALUATION, TRAINING

HONEST, LEAK = "honest", "leak"
"""What is expected: no leak, or one."""

READING = "reading of its code"
"""Where an expectation comes from if nothing was published."""


@dataclass(frozen=True)
class Built:
    """What an audit takes.

    Attributes:
        model: of the library, or our adapter that calls it.
        batch: any nest of tensors.
        contract: when inputs are known and outputs needed.
        call: see `kt_forecast.audit.audit`.
        plain: likewise.
    """

    model: nn.Module
    batch: Any
    contract: Contract
    call: Callable[[dict[str, Tensor]], Any] | None = None
    plain: Callable[[dict[str, Tensor]], Any] | None = None


@dataclass(frozen=True)
class Case:
    """One model, and what is expected of it.

    Attributes:
        name: of the model, and of what is done with it.
        build: makes it.
        expected: `HONEST` or `LEAK`.
        source: where the expectation comes from.
        modes: modes in which it is audited; a model whose training couples rows by design (batch
            normalisation, a mean over the batch) is audited in evaluation only.
        changed: what of the library had to be replaced for it to run; empty if nothing.
        context: entered while it is built and audited.
        open: why no proof can be had although the model is honest; empty if one must be.
    """

    name: str
    build: Callable[[], Built]
    expected: str = HONEST
    source: str = READING
    modes: tuple[str, ...] = (EVALUATION, TRAINING)
    changed: str = ""
    context: Callable[[], Any] = nullcontext
    open: str = ""

    @property
    def verdicts(self) -> set[str]:
        """Verdicts that agree with what is expected."""
        if self.expected == LEAK:
            return {"leak"}
        return {"proved", "conditional", *(["unproven"] if self.open else [])}


class Adapter(nn.Module):
    """A model of others, called as its users call it.

    Args:
        model: of the library.
        use: from the model and inputs by name to what is audited.
    """

    def __init__(self, model: nn.Module, use: Callable[..., Any]) -> None:
        super().__init__()
        self.model = model
        self.use = use

    def forward(self, **inputs: Tensor) -> Any:
        """Call the model."""
        return self.use(self.model, **inputs)
