"""Self-contained HTML from a run's record, and its figures."""

from kt_forecast.report.forecast_scored import fan_of, forecast_protocol_of
from kt_forecast.report.forecasting import (
    Band,
    ByStep,
    Fan,
    ForecastProtocol,
    ForecastRecord,
    IntervalScore,
    IntervalSteps,
    SeriesFacts,
    SeriesPart,
    SeriesSplitFacts,
)
from kt_forecast.report.gallery import figures
from kt_forecast.report.kinds import AnyProtocol, AnyRecord, load_record
from kt_forecast.report.page import render, write
from kt_forecast.report.record import (
    Check,
    Citation,
    CurveRow,
    Score,
    SystemFacts,
    Verdict,
)
from kt_forecast.report.scored import answers_seen_of, calibration_of, protocol_of, scores_of
from kt_forecast.report.tracing import (
    CalibrationBin,
    DataFacts,
    Mastery,
    Protocol,
    RunRecord,
    SeenBin,
    SplitFacts,
    SplitPart,
)

__all__ = [
    "AnyProtocol",
    "AnyRecord",
    "Band",
    "ByStep",
    "CalibrationBin",
    "Check",
    "Citation",
    "CurveRow",
    "DataFacts",
    "Fan",
    "ForecastProtocol",
    "ForecastRecord",
    "IntervalScore",
    "IntervalSteps",
    "Mastery",
    "Protocol",
    "RunRecord",
    "Score",
    "SeenBin",
    "SeriesFacts",
    "SeriesPart",
    "SeriesSplitFacts",
    "SplitFacts",
    "SplitPart",
    "SystemFacts",
    "Verdict",
    "answers_seen_of",
    "calibration_of",
    "fan_of",
    "figures",
    "forecast_protocol_of",
    "load_record",
    "protocol_of",
    "render",
    "scores_of",
    "write",
]
