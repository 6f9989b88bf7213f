"""A study of a tracer's settings: students who train and students who validate, and nobody else."""

import hashlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kt_forecast.nn.system import System
from kt_forecast.sequences.batching import windows
from kt_forecast.sequences.interactions import StudentSequences, Vocabulary
from kt_forecast.tasks.knowledge_tracing import TracingConfig
from kt_forecast.tracer.fitting import Fitted, fit_plan, validation_scores
from kt_forecast.tracer.systems import Plan, plan
from kt_forecast.training import TrainingConfig, flops_of

if TYPE_CHECKING:
    from kt_forecast.tuning import Found, Problem, Search

TRACING, TRAINING, SETTINGS = "tracing", "training", "settings"
JUDGED_BY = "auc"
"""What a fitted baseline, which has no epochs, is judged by."""


def problem(
    chosen: Plan,
    train: StudentSequences,
    valid: StudentSequences,
    vocabulary: Vocabulary,
    *,
    device: str = "auto",
    count_flops: bool = False,
) -> "Problem":
    """Return what a study of a plan is about.

    Args:
        chosen: what trial 0 trains.
        train: students that train.
        valid: students that judge.
        vocabulary: names of the training rows.
        device: a torch device, or ``auto``.
        count_flops: count the operations of a step's prediction in every trial.
    """
    from kt_forecast.tuning import Outcome, Problem

    loop = chosen.training

    def run(sections: Any, seed: int, tell: Callable[[Any], None]) -> Outcome:  # noqa: ANN401
        one = with_sections(chosen, sections, seed)
        fitted = fit_plan(one, train, valid, vocabulary, callbacks=[tell], device=device)
        if fitted.best_epoch is None or loop is None:
            p_correct = fitted.predict(valid, history=one.history)
            return Outcome(validation_scores(valid, p_correct)[JUDGED_BY])
        best = fitted.epochs[fitted.best_epoch - 1]
        return Outcome(
            best.metrics[loop.metric],
            best_epoch=best.number,
            epochs=len(fitted.epochs),
            parameters=fitted.n_parameters,
            flops=_flops_a_step(fitted, valid) if count_flops else None,
        )

    def check(sections: Any) -> None:  # noqa: ANN401
        with_sections(chosen, sections, chosen.seed)

    configs: dict[str, Any] = {SETTINGS: chosen.part.config}
    if loop is not None:
        configs |= {TRACING: TracingConfig, TRAINING: TrainingConfig}
    return Problem(
        system=chosen.name,
        sections=sections_of(chosen),
        configs=configs,
        metric=JUDGED_BY if loop is None else loop.metric,
        direction="max" if loop is None else loop.direction,
        epochs=0 if loop is None else loop.epochs,
        seed=chosen.seed,
        rows=_hash(train, valid, vocabulary),
        check=check,
        run=run,
    )


def searched(
    chosen: Plan,
    train: StudentSequences,
    valid: StudentSequences,
    vocabulary: Vocabulary,
    search: "Search",
    *,
    device: str = "auto",
) -> "tuple[Plan, Found]":
    """Return the best plan that a search finds, and all that it found.

    Raises:
        InputError: nothing can be searched, or nothing could be trained.
    """
    from kt_forecast.tuning import best_of

    about = problem(
        chosen, train, valid, vocabulary, device=device, count_flops=search.counts_flops
    )
    found, sections = best_of(about, search)
    return with_sections(chosen, sections, chosen.seed), found


def sections_of(chosen: Plan) -> dict[str, dict[str, Any]]:
    """Return every setting of a plan by section."""
    plain = chosen.plain()
    names = (SETTINGS, TRACING, TRAINING) if isinstance(chosen.part, System) else (SETTINGS,)
    return {name: dict(plain[name]) for name in names}


def with_sections(chosen: Plan, sections: Any, seed: int) -> Plan:  # noqa: ANN401
    """Return a plan with other settings.

    Raises:
        InputError: they make no sense together.
    """
    return plan(
        chosen.name,
        sections[SETTINGS],
        sections.get(TRACING),
        sections.get(TRAINING),
        history=chosen.history,
        seed=seed,
    )


def _flops_a_step(fitted: Fitted, valid: StudentSequences) -> float:
    """Return the operations of a prediction, on the first validation students."""
    tracer = fitted.tracer
    assert tracer is not None  # noqa: S101 - a system is a tracer
    batch = next(iter(windows(valid, fitted.plan.history, "steps"))).to(fitted.device)
    steps = max(int(batch.real.sum()), 1)
    return flops_of(lambda: tracer(batch)) / steps


def _hash(train: StudentSequences, valid: StudentSequences, vocabulary: Vocabulary) -> str:
    """Return SHA-256 of all that training and validation read."""
    found = hashlib.sha256()
    for part in (train, valid):
        for name in sorted(vars(part)):
            value = getattr(part, name)
            # Where a row stood in its table says nothing of the student.
            if hasattr(value, "numpy") and name not in {"row", "student"}:
                found.update(name.encode() + value.numpy().tobytes())
    found.update(
        json.dumps([vocabulary.questions, vocabulary.concepts, vocabulary.extras]).encode()
    )
    return found.hexdigest()
