"""From a plan and sequences to something that predicts, can be saved, and comes back the same."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch

from kt_forecast import metrics
from kt_forecast.baselines import Baseline
from kt_forecast.data.interactions import Interactions
from kt_forecast.errors import InputError
from kt_forecast.nn.system import System
from kt_forecast.sequences.asked import unite_asked
from kt_forecast.sequences.batching import Batches
from kt_forecast.sequences.build import build
from kt_forecast.sequences.interactions import StudentSequences, Vocabulary
from kt_forecast.sequences.stretches import Stretches
from kt_forecast.tasks.knowledge_tracing import Tracer
from kt_forecast.tasks.prediction import most_states, predict, predict_batches, stream
from kt_forecast.tracer.systems import Plan, plan, refuse_stateless
from kt_forecast.training import Checkpoint, Epoch, device_named, fit, read_model, write_tensors

MODEL_FILE = "model.safetensors"
FORMAT = 1
"""Changes whenever an older file can no longer be read."""


@dataclass
class Fitted:
    """A trained tracer or fitted baseline.

    Attributes:
        plan: what was trained.
        vocabulary: the names it knows.
        model: the tracer, or the fitted baseline.
        epochs: what each epoch gave; empty for a fitted baseline.
        best_epoch: the one that validation chose; None for a fitted baseline.
        facts: what else is kept with it: hashes of data and split, the audit's verdict.
        device: where it computes.
    """

    plan: Plan
    vocabulary: Vocabulary
    model: Any
    epochs: tuple[Epoch, ...] = ()
    best_epoch: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"

    @property
    def tracer(self) -> Tracer | None:
        """Return the torch model; None for a fitted baseline."""
        return self.model if isinstance(self.model, Tracer) else None

    @property
    def n_parameters(self) -> int | None:
        """Return how many numbers were trained; None for a fitted baseline."""
        tracer = self.tracer
        return sum(p.numel() for p in tracer.parameters()) if tracer is not None else None

    def predict(
        self,
        sequences: StudentSequences,
        *,
        history: int | None = None,
        unit: Literal["steps", "rows"] = "steps",
    ) -> npt.NDArray[np.float64]:
        """Return the probability of a correct response to each step that counts; nan elsewhere.

        Args:
            sequences: the students, in this model's vocabulary.
            history: the most a prediction may look back on, its own step included.
            unit: what ``history`` counts: steps, or one row for each concept of a step.
        """
        tracer = self.tracer
        if tracer is None:
            found: npt.NDArray[np.float64] = self.model.predict(
                sequences, history=history, unit=unit
            )
            return found
        return predict(tracer, sequences, history=history, unit=unit, device=self.device)

    def stream(self, sequences: StudentSequences) -> npt.NDArray[np.float64]:
        """Return what `predict` returns on whole histories, read in segments with carried state.

        A fitted baseline keeps no state: it is told the whole history, as it would be in a stream.

        Raises:
            InputError: the system keeps no state.
        """
        tracer = self.tracer
        if tracer is None:
            return self.predict(sequences)
        refuse_stateless(self.plan.name, self.plan.part, "protocol 'stream'")
        return stream(tracer, sequences, device=self.device)

    def save(self, folder: Path) -> None:
        """Write the model as one safetensors file with its settings as JSON, whole or not at all.

        Args:
            folder: is made where it is missing; a model in it is replaced.
        """
        tracer = self.tracer
        if tracer is not None:
            tensors = dict(tracer.state_dict())
        else:
            arrays = self.model.arrays()
            tensors = {
                name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()
            }
        facts = {
            "format": FORMAT,
            "plan": self.plan.plain(),
            "vocabulary": asdict(self.vocabulary),
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "best_epoch": self.best_epoch,
            "facts": self.facts,
        }
        write_tensors(folder / MODEL_FILE, tensors, json.loads(json.dumps(facts)))

    @classmethod
    def load(cls, folder: Path, *, device: str = "auto") -> Self:
        """Return the model that `save` wrote; nothing in the file is executed.

        Args:
            folder: where it was saved.
            device: where it shall compute.

        Raises:
            InputError: there is no model, or it is not one that this version reads.
        """
        path = folder / MODEL_FILE
        tensors, facts = read_model(folder, MODEL_FILE, version=FORMAT, what="model")
        plain = {key: tuple(names) for key, names in facts["vocabulary"].items()}
        vocabulary = Vocabulary(**plain)
        chosen = plan(**facts["plan"])
        model = _restored(chosen, vocabulary, tensors, path)
        found = cls(
            plan=chosen,
            vocabulary=vocabulary,
            model=model,
            epochs=tuple(Epoch(**epoch) for epoch in facts["epochs"]),
            best_epoch=facts["best_epoch"],
            facts=facts["facts"],
            device=str(device_named(device)),
        )
        if found.tracer is not None:
            found.tracer.to(found.device).eval()
        return found


def fit_plan(
    chosen: Plan,
    train: StudentSequences,
    valid: StudentSequences,
    vocabulary: Vocabulary,
    *,
    checkpoint: Checkpoint | None = None,
    callbacks: Sequence[Callable[[Epoch], object]] = (),
    device: str = "auto",
    unlawful: bool = False,
) -> Fitted:
    """Train what is planned; validation chooses, and test data have no way in.

    Args:
        chosen: what to train.
        train: students that train.
        valid: students that choose the epoch, or the settings of a baseline.
        vocabulary: names of the training rows.
        checkpoint: where to keep the run's place; None keeps none.
        callbacks: called with every epoch.
        device: a torch device, or ``auto``.
        unlawful: train a system whose settings leak, to show that they do; never to predict.

    Raises:
        InputError: there is no such device, or validation cannot score what the settings ask for.
        TrainingError: a number is not finite.
    """
    device_named(device)
    if isinstance(chosen.part, Baseline):
        baseline = chosen.part.build(chosen.settings)
        baseline.fit(train, valid, vocabulary)
        return Fitted(chosen, vocabulary, baseline)
    tracer = _fresh(chosen, vocabulary, unlawful=unlawful)
    loop = chosen.training
    assert loop is not None  # noqa: S101 - only baselines lack it
    history, size = chosen.history, loop.steps_per_batch
    train = tracer.fit_statistics(train)
    batches: Batches | Stretches
    if loop.segment is None:
        batches = Batches(train, seed=chosen.seed, history=history, steps_per_batch=size)
    else:
        batches = Stretches(
            train,
            segment=loop.segment,
            carried=loop.carried,
            history=history,
            steps_per_batch=size,
            rows=most_states(tracer),
            seed=chosen.seed,
        )
    judged = Batches(valid, shuffle=False, history=history, steps_per_batch=size)

    def validate() -> dict[str, float]:
        where = next(tracer.parameters()).device
        if loop.segment is None:
            found = predict_batches(tracer, judged, device=where)
        else:
            found = stream(tracer, valid, history=history, device=where, steps_per_batch=size)
        return validation_scores(valid, found)

    result = fit(
        tracer,
        batches,
        validate,
        loop,
        checkpoint=checkpoint,
        callbacks=callbacks,
        device=device,
    )
    where = str(next(tracer.parameters()).device)
    best = result.best.number
    return Fitted(chosen, vocabulary, tracer, result.history, best, device=where)


def predict_rows(fitted: Fitted, interactions: Interactions) -> npt.NDArray[np.float64]:
    """Return one probability for each row of the interactions, each from those before it.

    Raises:
        InputError: an answer follows a question without one.
    """
    sequences = unite_asked(interactions, build(interactions, fitted.vocabulary))
    found = np.full(len(interactions), np.nan)
    found[sequences.row.numpy()] = fitted.predict(sequences, history=fitted.plan.history)
    return found


def validation_scores(
    sequences: StudentSequences, p_correct: npt.NDArray[np.float64]
) -> dict[str, float]:
    """Return the scores by which an epoch may be chosen."""
    counts = sequences.scored.numpy() & ~np.isnan(p_correct)
    response, p_correct = sequences.response.numpy()[counts], p_correct[counts]
    return {
        "auc": metrics.auc(response, p_correct),
        "accuracy": metrics.accuracy(response, p_correct),
        "nll": metrics.nll(response, p_correct),
    }


def _fresh(chosen: Plan, vocabulary: Vocabulary, *, unlawful: bool = False) -> Tracer:
    """Return a tracer whose first weights depend on the plan's seed alone."""
    assert isinstance(chosen.part, System)  # noqa: S101
    assert chosen.tracing is not None  # noqa: S101
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(chosen.seed)
        settings: Any = chosen.settings
        return Tracer(chosen.part, settings, chosen.tracing, vocabulary, unlawful=unlawful)


def _restored(
    chosen: Plan, vocabulary: Vocabulary, tensors: dict[str, torch.Tensor], path: Path
) -> Any:  # noqa: ANN401
    """Return the model with its stored numbers.

    Raises:
        InputError: the numbers do not fit the settings.
    """
    try:
        if isinstance(chosen.part, Baseline):
            baseline = chosen.part.build(chosen.settings)
            baseline.restore({name: tensor.numpy() for name, tensor in tensors.items()})
            return baseline
        tracer = _fresh(chosen, vocabulary)
        tracer.load_state_dict(tensors)
    except (RuntimeError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: its weights do not fit its settings ({reason})") from None
    return tracer
