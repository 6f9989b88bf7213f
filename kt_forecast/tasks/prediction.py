"""Probabilities of a trained tracer for every step that counts, in one pass or step by step."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from kt_forecast.sequences.batching import STEPS_PER_BATCH, Batches, chunks, collate, windows
from kt_forecast.sequences.interactions import Batch, StudentSequences
from kt_forecast.tasks.knowledge_tracing import Tracer

STATE_NUMBERS = 50_000_000
"""Numbers of streaming state that are held at once."""


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
    found = np.full(batches.sequences.n_steps, np.nan)
    with _evaluating(tracer, device):
        for batch in batches:
            logits, _ = tracer(batch.to(device))
            _keep(found, batch, logits)
    return found


def stream_predict(
    tracer: Tracer, sequences: StudentSequences, *, device: torch.device | str = "cpu"
) -> npt.NDArray[np.float64]:
    """Return what `predict` returns, made as a running service would: one step after another.

    The tracer keeps a state for each student and never sees a step twice.

    Args:
        tracer: is moved to ``device`` and, for the time of the call, put into evaluation mode.
        sequences: the students.
        device: where to compute.
    """
    found = np.full(sequences.n_steps, np.nan)
    pieces = chunks(sequences, None)
    longest_first = np.argsort(-pieces.length, kind="stable")
    with _evaluating(tracer, device):
        at_once = max(1, STATE_NUMBERS // max(1, tracer.init_state(1).numel()))
        for low in range(0, len(pieces), at_once):
            whole = collate(sequences, pieces.take(longest_first[low : low + at_once]))
            state = tracer.init_state(whole.shape[0])
            for step in range(whole.shape[1]):
                now = whole.steps(step, step + 1)
                logits, state = tracer(now.to(device), state)
                _keep(found, now, logits)
    return found


def _keep(found: npt.NDArray[np.float64], batch: Batch, logits: torch.Tensor) -> None:
    p_correct = logits.double().sigmoid().cpu()
    found[batch.place[batch.scored].numpy()] = p_correct[batch.scored].numpy()


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
