"""Evaluations of forecasts as parts of a run's record."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from kt_forecast.report.forecasting import (
    Band,
    ByStep,
    Fan,
    ForecastProtocol,
    IntervalScore,
    IntervalSteps,
)
from kt_forecast.report.record import Score
from kt_forecast.report.scored import scores_of
from kt_forecast.schema import STEP, UNIQUE_ID

if TYPE_CHECKING:
    import kt_forecast.evaluation.forecasting
    import kt_forecast.metrics

COVERAGE, WIDTH, PINBALL = "coverage_", "width_", "pinball_"
"""How the names of metrics begin that are of one level or quantile."""
INTERVALS = {
    "time": "95% bootstrap over blocks of {length} neighbouring moments",
    "series": "95% bootstrap over series",
    "none": "none, the windows span too little time",
}
SERIES_METRIC = "mse"
"""By which an evaluation ranks the series of its examples."""
RANKED_WINDOW = "The window in the middle of those of its test rows."


def forecast_protocol_of(
    name: str,
    model: "kt_forecast.evaluation.forecasting.ForecastScores",
    baselines: Mapping[str, "kt_forecast.evaluation.forecasting.ForecastScores"],
    differences: Mapping[str, Mapping[str, "kt_forecast.metrics.Estimate"]],
) -> ForecastProtocol:
    """Return what one evaluation found of the model and what stands beside it.

    Args:
        name: of the model.
        model: its scores.
        baselines: theirs, by name, on the same windows.
        differences: what ``evaluation.forecasting.compare`` gave for the model and each baseline.
    """
    from kt_forecast.evaluation.forecasting import PROTOCOLS
    from kt_forecast.metrics.forecasting import blocks_of

    everyone = {name: model, **baselines}
    blocks = blocks_of(model.sums.moment, model.horizon, len(model.sums.by_series["n"]))
    what = PROTOCOLS[model.protocol]
    return ForecastProtocol(
        name=f"{model.protocol}, horizon {model.horizon}",
        what=f"{what[0].upper()}{what[1:]}.",
        horizon=model.horizon,
        context=model.context,
        n_windows=model.n_windows,
        n_series=model.n_series,
        n_values=model.n_values,
        model=_of_all_levels(model.metrics),
        baselines={who: _of_all_levels(scores.metrics) for who, scores in baselines.items()},
        differences={who: _of_all_levels(gaps) for who, gaps in differences.items()},
        intervals={
            who: found for who, scores in everyone.items() if (found := _intervals(scores.metrics))
        },
        by_step=ByStep(
            steps=tuple(model.by_horizon[STEP].to_list()),
            mse={who: _column(scores, "mse") for who, scores in everyone.items()},
            mae={who: _column(scores, "mae") for who, scores in everyone.items()},
            intervals=tuple(
                IntervalSteps(
                    level=float(level),
                    coverage=_column(model, f"{COVERAGE}{level}"),
                    width=_column(model, f"{WIDTH}{level}"),
                )
                for level in _levels(model.metrics)
            ),
        ),
        interval=INTERVALS[blocks.unit].format(length=blocks.length),
        notes=tuple(f"{note[0].upper()}{note[1:]}." for note in model.notes),
    )


def fan_of(
    example: "kt_forecast.evaluation.forecasting.Example",
    scores: "kt_forecast.evaluation.forecasting.ForecastScores",
    *,
    series: str,
    stamps: Sequence[str],
    beside: Mapping[str, Iterable[float]],
) -> Fan:
    """Return one window of an evaluation as a fan chart shows it.

    Args:
        example: the window, in the series' own unit.
        scores: the evaluation it is of, which knows the series by name.
        series: name of its series.
        stamps: of the example's context and of the steps ahead, as text.
        beside: what baselines forecast for the same steps, in the same unit, by name.
    """
    from kt_forecast.metrics.forecasting import ends, intervals_in, percent, place_of

    n_past = len(example.context)
    bands = []
    if example.quantiles is not None:
        for level in intervals_in(example.levels):
            low, high = (place_of(end, example.levels) for end in ends(level))
            bands.append(
                Band(
                    level=float(percent(level)),
                    low=tuple(example.quantiles[:, low].tolist()),
                    high=tuple(example.quantiles[:, high].tolist()),
                )
            )
    names = scores.by_series[UNIQUE_ID].to_list()
    value = scores.by_series[SERIES_METRIC][names.index(series)]
    return Fan(
        rank=example.name,
        series=series,
        metric=SERIES_METRIC,
        value=float(value),
        window=RANKED_WINDOW if example.name in {"best", "median", "worst"} else "",
        past_stamps=tuple(stamps[:n_past]),
        past=tuple(example.context.tolist()),
        stamps=tuple(stamps[n_past:]),
        actual=tuple(example.target.tolist()),
        point=tuple(example.point.tolist()),
        bands=tuple(bands),
        beside={name: tuple(map(float, values)) for name, values in beside.items()},
    )


def _levels(metrics: Mapping[str, object]) -> list[str]:
    """Return the levels of intervals among the metrics, in percent, rising."""
    found = [name.removeprefix(COVERAGE) for name in metrics if name.startswith(COVERAGE)]
    return sorted(found, key=float)


def _of_all_levels(
    estimates: Mapping[str, "kt_forecast.metrics.Estimate"],
) -> dict[str, Score]:
    """Return the scores but for those of one level or quantile, which have their own places."""
    return {
        name: score
        for name, score in scores_of(estimates).items()
        if not name.startswith((COVERAGE, WIDTH, PINBALL))
    }


def _intervals(
    estimates: Mapping[str, "kt_forecast.metrics.Estimate"],
) -> tuple[IntervalScore, ...]:
    scores = scores_of(estimates)
    return tuple(
        IntervalScore(
            level=float(level),
            coverage=scores[f"{COVERAGE}{level}"],
            width=scores[f"{WIDTH}{level}"],
        )
        for level in _levels(estimates)
    )


def _column(
    scores: "kt_forecast.evaluation.forecasting.ForecastScores", name: str
) -> tuple[float, ...]:
    return tuple(scores.by_horizon[name].to_list())
