"""Held-out data to scores: students in `tracing`, series in `forecasting` and `conformal`."""

from kt_forecast.evaluation.tracing import (
    ANSWERS_SEEN_EDGES,
    PROTOCOLS,
    Predictor,
    Rules,
    Scores,
    StreamingPredictor,
    by_answers_seen,
    calibration,
    coin_flip,
    compare,
    evaluate,
)

__all__ = [
    "ANSWERS_SEEN_EDGES",
    "PROTOCOLS",
    "Predictor",
    "Rules",
    "Scores",
    "StreamingPredictor",
    "by_answers_seen",
    "calibration",
    "coin_flip",
    "compare",
    "evaluate",
]
