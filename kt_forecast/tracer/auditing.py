"""The audit that every trained knowledge tracer gets, without being asked."""

from dataclasses import replace
from unittest.mock import patch

from torch import Tensor

from kt_forecast.audit import Report, audit, kt
from kt_forecast.sequences.interactions import Batch
from kt_forecast.tasks import history
from kt_forecast.tasks.knowledge_tracing import Tracer
from kt_forecast.tracer import plain

READ = ("question", "concepts", "seconds", "response", "extras")
"""Fields of a batch that a prediction may use, each at its moment."""

PLAIN = ("compiled",)
"""Stages left out: nothing is trained or served compiled."""


def audit_tracer(tracer: Tracer, batch: Batch, *, moments: int = 16) -> Report:
    """Audit a tracer on real interactions under the knowledge-tracing contract.

    Args:
        tracer: moved nowhere; the batch goes to its device.
        batch: a few rows of a few dozen steps are enough.
        moments: how many moments to sample.

    Returns:
        The report; every prediction may use what is asked at its step and the answers of earlier
        events.
    """
    here = batch.to(next(tracer.parameters()).device)
    inputs = {name: getattr(here, name) for name in READ}
    inputs = {name: x for name, x in inputs.items() if x.numel()}

    def call(changed: dict[str, Tensor]) -> Tensor:
        first = here.steps(0, changed["question"].shape[1])
        logits, _ = tracer(replace(first, **changed))  # type: ignore[arg-type]
        return logits.masked_fill(~first.real, 0.0)

    def followed(changed: dict[str, Tensor]) -> Tensor:
        names = ("counts_before", "last_before")
        with patch.multiple(history, **{name: getattr(plain, name) for name in names}):
            return call(changed)

    contract = kt(here.event)
    return audit(
        tracer, inputs, contract, call=call, plain=followed, moments=moments, skip=PLAIN
    )
