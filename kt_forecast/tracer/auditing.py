"""The audit that every trained knowledge tracer gets, without being asked."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import torch
from torch import Tensor

from kt_forecast.audit import Report, audit, kt
from kt_forecast.nn.plain import plainly
from kt_forecast.sequences.interactions import Batch
from kt_forecast.tasks import history
from kt_forecast.tasks.knowledge_tracing import Tracer
from kt_forecast.tracer import plain

READ = ("question", "concepts", "seconds", "response", "extras")
"""Fields of a batch that a prediction may use, each at its moment."""

PLAIN = ("compiled",)
"""Stages left out: nothing is trained or served compiled."""

ELSEWHERE = (*PLAIN, "coin flips")
"""Also left out: a run's scoring is tried with coin flips, see `kt_forecast.experiment`."""


def audit_tracer(tracer: Tracer, batch: Batch, *, moments: int = 16) -> Report:
    """Audit a tracer on real interactions under the knowledge-tracing contract.

    Args:
        tracer: moved nowhere; the batch goes to its device.
        batch: a few rows of a few dozen steps are enough.
        moments: how many moments to sample.

    Returns:
        The report; every prediction may use what is asked at its step and the answers of earlier
        events. So must those that its own loss weighs.
    """
    here = batch.to(next(tracer.parameters()).device)
    inputs = {name: getattr(here, name) for name in READ}
    inputs = {name: x for name, x in inputs.items() if x.numel()}

    def told(changed: dict[str, Tensor]) -> Batch:
        return replace(here.steps(0, changed["question"].shape[1]), **changed)  # type: ignore[arg-type]

    def call(changed: dict[str, Tensor]) -> Tensor:
        batch = told(changed)
        logits, _ = tracer(batch)
        return logits.masked_fill(~batch.real, 0.0)

    def followed(changed: dict[str, Tensor]) -> Tensor:
        with _plainly(tracer):
            return call(changed)

    def loss(changed: dict[str, Tensor]) -> Tensor:
        # Telling the next question from others compares with those, so that it must read them.
        with _plainly(tracer), patch.object(tracer, "_next_question", lambda *_: torch.zeros(())):
            return tracer.loss(told(changed))[0]

    return audit(
        tracer, inputs, kt(here.event),
        call=call, plain=followed, training=loss, moments=moments, skip=ELSEWHERE,
    )  # fmt: skip


@contextmanager
def _plainly(tracer: Tracer) -> Iterator[None]:
    names = ("counts_before", "last_before")
    with plainly(tracer), patch.multiple(history, **{name: getattr(plain, name) for name in names}):
        yield
