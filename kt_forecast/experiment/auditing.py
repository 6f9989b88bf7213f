"""The audit that every run gets: does a prediction move when what it could not know changes?"""

import numpy as np
import torch
from torch import Tensor, nn

from kt_forecast.audit import Report, audit, kt
from kt_forecast.sequences.batching import Pieces, chunks, collate
from kt_forecast.sequences.interactions import Batch, StudentSequences
from kt_forecast.tracer import Fitted
from kt_forecast.tracer.auditing import PLAIN, READ, audit_tracer

STUDENTS = 4
STEPS = 32
MOMENTS = 8


def audit_fitted(fitted: Fitted, sequences: StudentSequences) -> Report:
    """Audit a trained model on interactions that it was trained on.

    Args:
        fitted: a tracer, or a fitted baseline.
        sequences: students; the first steps of the longest histories are read.
    """
    pieces = chunks(sequences, None)
    longest = np.argsort(-pieces.length, kind="stable")[:STUDENTS]
    steps = int(min(STEPS, pieces.length[longest].min()))
    chosen = pieces.take(longest)
    first = Pieces(chosen.start, np.full_like(chosen.length, steps), chosen.scored_from * 0)
    batch = collate(sequences, first)
    if fitted.tracer is not None:
        return audit_tracer(fitted.tracer, batch, moments=MOMENTS)
    return _audit_baseline(fitted, batch)


def _audit_baseline(fitted: Fitted, batch: Batch) -> Report:
    inputs = {name: getattr(batch, name) for name in READ}
    inputs = {name: x for name, x in inputs.items() if x.numel()}

    def call(changed: dict[str, Tensor]) -> Tensor:
        told = _sequences(batch, changed)
        return torch.from_numpy(fitted.predict(told)).reshape(batch.shape)

    return audit(nn.Identity(), inputs, kt(batch.event), call=call, moments=MOMENTS, skip=PLAIN)


def _sequences(batch: Batch, changed: dict[str, Tensor]) -> StudentSequences:
    """Return the batch, whose rows are all real, as sequences with some of its inputs replaced."""
    students, steps = batch.shape
    found = {name: changed.get(name, getattr(batch, name)).flatten(0, 1) for name in READ}
    concepts = found["concepts"]
    counts = (batch.concepts.flatten(0, 1) > 0) | (concepts > 0)
    return StudentSequences(
        start=torch.arange(students + 1) * steps,
        student=torch.arange(students, dtype=torch.int32),
        question=found["question"].int(),
        concept_start=torch.cat([torch.zeros(1, dtype=torch.int64), counts.sum(1).cumsum(0)]),
        concept=concepts[counts].int(),
        response=found["response"].int(),
        event=batch.event.flatten().int(),
        seconds=found["seconds"],
        extras=found["extras"],
        row=torch.arange(students * steps, dtype=torch.int32),
        scored=torch.ones(students * steps, dtype=torch.bool),
    )
