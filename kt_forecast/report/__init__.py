"""Self-contained HTML from a run's record, and its figures."""

from kt_forecast.report.gallery import figures
from kt_forecast.report.page import render, write
from kt_forecast.report.record import (
    CalibrationBin,
    Check,
    Citation,
    CurveRow,
    DataFacts,
    Mastery,
    Protocol,
    RunRecord,
    Score,
    SeenBin,
    SplitFacts,
    SplitPart,
    SystemFacts,
    Verdict,
)
from kt_forecast.report.scored import answers_seen_of, calibration_of, protocol_of, scores_of

__all__ = [
    "CalibrationBin",
    "Check",
    "Citation",
    "CurveRow",
    "DataFacts",
    "Mastery",
    "Protocol",
    "RunRecord",
    "Score",
    "SeenBin",
    "SplitFacts",
    "SplitPart",
    "SystemFacts",
    "Verdict",
    "answers_seen_of",
    "calibration_of",
    "figures",
    "protocol_of",
    "render",
    "scores_of",
    "write",
]
