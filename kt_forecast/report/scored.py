"""Evaluations as parts of a run's record."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kt_forecast.report.record import Score
from kt_forecast.report.tracing import CalibrationBin, Protocol, SeenBin
from kt_forecast.schema import (
    ANSWERS_SEEN,
    ANSWERS_SEEN_MOST,
    AUC,
    AUC_HIGH,
    AUC_LOW,
    N_ROWS,
    P_CORRECT,
    RESPONSE,
)

if TYPE_CHECKING:
    import kt_forecast.evaluation
    import kt_forecast.metrics


def scores_of(
    estimates: Mapping[str, "kt_forecast.metrics.Estimate"],
) -> dict[str, Score]:
    """Return estimates, of one model or of a comparison, as scores by metric."""
    return {
        name: Score(value=float(e.value), low=float(e.low), high=float(e.high))
        for name, e in estimates.items()
    }


def protocol_of(
    model: "kt_forecast.evaluation.Scores",
    baselines: Mapping[str, "kt_forecast.evaluation.Scores"],
    differences: Mapping[str, Mapping[str, "kt_forecast.metrics.Estimate"]],
) -> Protocol:
    """Return what one protocol found of the model and what stands beside it.

    Args:
        model: its scores.
        baselines: theirs, by name, under the same protocol.
        differences: what ``evaluation.compare`` gave for the model and each baseline.
    """
    return Protocol(
        name=model.protocol,
        what=model.rules.description,
        n_interactions=model.n_rows,
        n_students=model.n_students,
        model=scores_of(model.metrics),
        baselines={name: scores_of(scores.metrics) for name, scores in baselines.items()},
        differences={name: scores_of(gaps) for name, gaps in differences.items()},
        notes=model.notes,
    )


def calibration_of(scores: "kt_forecast.evaluation.Scores") -> tuple[CalibrationBin, ...]:
    """Return the calibration bins of an evaluation."""
    return tuple(
        CalibrationBin(predicted=row[P_CORRECT], observed=row[RESPONSE], count=row[N_ROWS])
        for row in scores.calibration.iter_rows(named=True)
    )


def answers_seen_of(scores: "kt_forecast.evaluation.Scores") -> tuple[SeenBin, ...]:
    """Return the AUC of an evaluation by how many answers were seen before."""
    return tuple(
        SeenBin(
            first=row[ANSWERS_SEEN],
            last=row[ANSWERS_SEEN_MOST],
            count=row[N_ROWS],
            auc=Score(value=row[AUC], low=row[AUC_LOW], high=row[AUC_HIGH]),
        )
        for row in scores.by_answers_seen.iter_rows(named=True)
    )
