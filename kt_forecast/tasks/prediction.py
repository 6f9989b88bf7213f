"""Probabilities of a trained tracer for every step that counts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from kt_forecast.sequences.batching import STEPS_PER_BATCH, Batches, windows
from kt_forecast.sequences.collect import Collector
from kt_forecast.sequences.interactions import StudentSequences
from kt_forecast.sequences.stretches import Stretches, on_rows
from kt_forecast.tasks.knowledge_tracing import Tracer

STREAMED_STEPS = 256
"""Steps of a segment in which histories are streamed."""

MOST_NUMBERS = 50_000_000
"""Numbers of students' states that are kept at a time; counting by question takes most."""


def predict(
    tracer: Tracer,
    sequences: StudentSequences,
    *,
    history: int | None = None,
    unit: Literal["steps", "rows"] = "steps",
    device: torch.device | str = "cpu",
    steps_per_batch: int = STEPS_PER_BATCH,
) -> npt.NDArray[np.float64]:
    """Return the probability of a correct response to each step that counts.

    Args:
        tracer: is moved to ``device`` and, for the time of the call, put into evaluation mode.
        sequences: the students.
        history: the most a prediction may look back on, its own step included; None for all.
        unit: what ``history`` counts: steps, or one row for each concept of a step.
        device: where to compute.
        steps_per_batch: steps of a batch, padding counted.

    Returns:
        One value a step, in the order of the sequences; nan where a step does not count.
    """
    batches = windows(sequences, history, unit, steps_per_batch=steps_per_batch)
    return predict_batches(tracer, batches, device=device)


def predict_batches(
    tracer: Tracer, batches: Batches, *, device: torch.device | str = "cpu"
) -> npt.NDArray[np.float64]:
    """Return the probability for each step that counts in one epoch of batches; see `predict`."""
    collected = Collector(batches.sequences.scored.numpy())
    with _evaluating(tracer, device):
        for batch in batches:
            logits, _ = tracer(batch.to(device))
            collected.add(batch, logits.double().sigmoid())
    return collected.result()


def stream(
    tracer: Tracer,
    sequences: StudentSequences,
    *,
    history: int | None = None,
    segment: int = STREAMED_STEPS,
    device: torch.device | str = "cpu",
    steps_per_batch: int = STEPS_PER_BATCH,
) -> npt.NDArray[np.float64]:
    """Return what `predict` returns of whole histories, read in segments with carried state.

    Memory is that of one segment, and of the students' states; many students go at a time.

    Args:
        tracer: is moved to ``device`` and, for the time of the call, put into evaluation mode.
        sequences: the students.
        history: steps after which a student's history begins anew; None for whole histories.
        segment: steps of a segment; 1 goes step by step.
        device: where to compute.
        steps_per_batch: steps of a segment of all students together, padding counted.
    """
    collected = Collector(sequences.scored.numpy())
    with _evaluating(tracer, device):
        stretches = Stretches(
            sequences,
            segment=segment,
            history=history,
            steps_per_batch=steps_per_batch,
            rows=most_states(tracer),
            shuffle=False,
        )
        state = None
        for stretch in stretches:
            state = tracer.init_state(len(stretch.lengths)) if stretch.begins else state
            for rows, part in stretch.segments():
                logits, state = tracer(part.to(device), on_rows(state, rows))
                collected.add(part, logits.double().sigmoid())
            state = on_rows(state, stretch.stays)
    return collected.result()


def most_states(tracer: Tracer) -> int:
    """Return how many students' states are kept at a time."""
    return max(1, MOST_NUMBERS // max(1, tracer.init_state(1).numel()))


@contextmanager
def _evaluating(tracer: Tracer, device: torch.device | str) -> Iterator[None]:
    """Put the tracer where and how it predicts, and back into its mode afterwards."""
    training = tracer.training
    tracer.to(device).eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        tracer.train(training)
