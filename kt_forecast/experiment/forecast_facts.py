"""What a run of forecasting leaves for its reader, gathered from what it computed."""

import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kt_forecast.data.cards import card_names, read_card
from kt_forecast.data.series.frequency import stamps_of
from kt_forecast.data.series.splits import SeriesSplit, observed
from kt_forecast.data.series.table import SeriesTable
from kt_forecast.evaluation.forecasting import ForecastScores, compare
from kt_forecast.evaluation.predicting import evaluating, predict
from kt_forecast.experiment import facts
from kt_forecast.experiment.series import SCHEMES
from kt_forecast.forecaster import Fitted
from kt_forecast.nn.system import System
from kt_forecast.report import (
    Citation,
    CurveRow,
    Fan,
    ForecastProtocol,
    SeriesFacts,
    SeriesPart,
    SeriesSplitFacts,
    SystemFacts,
    fan_of,
    forecast_protocol_of,
)
from kt_forecast.sequences.series import SeriesSet
from kt_forecast.sequences.windows import Origins

Ints = npt.NDArray[np.int64]

MIDNIGHT = " 00:00:00"

LOSSES = {
    "mse": "Mean squared error of standardised values",
    "mae": "Mean absolute error of standardised values",
    "huber": "Huber loss of standardised values",
    "pinball": "Pinball loss of the quantiles",
    "crps": "Continuous ranked probability score of the quantiles",
    "nll": "Negative log likelihood of a Student-t",
}


def data(table: SeriesTable, source: str) -> SeriesFacts:
    """Return what the table holds, with licence and citation where it has a card."""
    named = source in card_names() and not Path(source).exists()
    card = read_card(source) if named else None
    cited = card is not None and card.citation not in {"none", ""}
    early, late = _ends(table, np.zeros_like(table.length), observed(table))
    return SeriesFacts(
        name=table.name,
        n_series=table.n_series,
        n_rows=table.n_rows,
        shortest=int(table.length.min()),
        longest=int(table.length.max()),
        frequency=table.frequency.text,
        season=table.frequency.season,
        first=early,
        last=late,
        past=table.past_names,
        future=table.future_names,
        static=table.static_names,
        missing=float(np.isnan(table.y).mean()),
        data_hash=table.data_hash,
        licence=card.licence if card else "",
        citation=Citation(title=card.citation, url=card.homepage) if card and cited else None,
        notes=table.notes,
    )


def split(table: SeriesTable, roles: SeriesSplit, horizon: int) -> SeriesSplitFacts:
    """Return how the series were divided, and how many windows each part holds."""
    zero = np.zeros_like(roles.train_end)
    spans = {
        "train": (zero, roles.train_end),
        "valid": (roles.train_end, roles.valid_end),
        "test": (roles.valid_end, roles.test_end),
    }
    parts = []
    for name, (low, high) in spans.items():
        n_rows = int((high - low).sum())
        if not n_rows:
            continue
        early, late = _ends(table, low, high)
        # The first row of a series has nothing before it to be forecast from.
        windows = np.maximum(high - np.maximum(low, 1) - horizon + 1, 0)
        parts.append(
            SeriesPart(
                name=name, first=early, last=late, n_rows=n_rows, n_windows=int(windows.sum())
            )
        )
    return SeriesSplitFacts(
        kind=roles.kind,
        scheme=SCHEMES[roles.kind],
        parts=tuple(parts),
        split_hash=roles.split_hash,
        notes=roles.notes,
    )


def system(fitted: Fitted) -> SystemFacts:
    """Return what was trained."""
    part = fitted.plan.part
    promises = {}
    if isinstance(part, System):
        promises = {
            "causality": part.promises.causality,
            "reads": f"the last {fitted.context:,} steps",
        }
    if fitted.plan.members:
        others = ", ".join(member.name for member in fitted.plan.members)
        promises = {"ensemble": f"mean of {fitted.plan.name}, {others}"} | promises
        promises["causality"] = "window"
    page = inspect.getdoc(sys.modules[part.config.__module__]) or ""
    return SystemFacts(
        name=fitted.plan.name,
        paper=facts.citation(part.paper),
        promises=promises,
        departures=facts.departures(page),
        n_parameters=fitted.n_parameters,
    )


def curve(fitted: Fitted) -> tuple[CurveRow, ...]:
    """Return one row an epoch."""
    return tuple(facts.curve_row(epoch) for epoch in fitted.epochs)


def objective(fitted: Fitted) -> str:
    """Return what training lowers; nothing for a fitted baseline."""
    return LOSSES[fitted.plan.forecasting.loss] if fitted.plan.training is not None else ""


def works(fitted: Fitted, beside: Mapping[str, Fitted]) -> tuple[Citation, ...]:
    """Return the papers of the baselines."""
    mine = fitted.plan.part.paper
    papers = {name: one.plan.part.paper for name, one in beside.items()}
    return tuple(
        replace(facts.citation(paper), what=name)
        for name, paper in papers.items()
        if paper is not None and paper != mine
    )


def protocol(
    name: str,
    scores: ForecastScores,
    beside: Mapping[str, ForecastScores],
    *,
    resamples: int,
    seed: int,
) -> ForecastProtocol:
    """Return the scores of one protocol, the baselines beside the model and what divides them."""
    gaps = {
        who: compare(scores, other, resamples=resamples, seed=seed) for who, other in beside.items()
    }
    return forecast_protocol_of(name, scores, beside, gaps)


def fans(
    table: SeriesTable,
    scores: ForecastScores,
    beside: Mapping[str, tuple[Fitted, SeriesSet]],
) -> tuple[Fan, ...]:
    """Return the forecasts that the evaluation kept, with those of what stands beside the model.

    Args:
        table: the series.
        scores: of the model.
        beside: the baselines, each with the series as it reads them.
    """
    horizon = scores.horizon
    found = []
    for example in scores.examples:
        rows = np.arange(example.row - len(example.context), example.row + horizon)
        others = {
            who: _forecast(fitted, series, example.series, example.row, horizon)
            for who, (fitted, series) in beside.items()
        }
        found.append(
            fan_of(
                example,
                scores,
                series=table.ids[example.series],
                stamps=_texts(table, example.series, rows),
                beside=others,
            )
        )
    return tuple(found)


def _forecast(
    fitted: Fitted, series: SeriesSet, number: int, row: int, horizon: int
) -> Sequence[float]:
    """Return one forecast of one series in its own unit."""
    mixing = fitted.plan.forecasting.mixing
    first = np.full(1 if mixing else series.n_series, row, dtype=np.int64)
    count = np.zeros_like(first)
    count[0 if mixing else number] = 1
    chosen = Origins(first, count, mixing=mixing)
    with evaluating(fitted.model, series.values.device):
        seen = predict(fitted.model, series, chosen, np.zeros(1, dtype=np.int64), horizon=horizon)
    point = seen.forecast.point[0, number if mixing else 0].double()
    own = point * series.spread[number] + series.shift[number]
    return [float(value) for value in own.tolist()]


def _texts(table: SeriesTable, series: int | Ints, rows: Ints) -> list[str]:
    """Return stamps as text, days without their midnight."""
    found = [str(stamp) for stamp in stamps_of(table, series, rows)]
    if all(text.endswith(MIDNIGHT) for text in found):
        return [text.removesuffix(MIDNIGHT) for text in found]
    return found


def _ends(table: SeriesTable, low: Ints, high: Ints) -> tuple[str, str]:
    """Return the earliest and the latest stamp of rows within a span of each series."""
    some = np.flatnonzero(high > low)
    early = stamps_of(table, some, low[some])
    late = stamps_of(table, some, high[some] - 1)
    ends = [str(early.min()), str(late.max())]
    if all(text.endswith(MIDNIGHT) for text in ends):
        ends = [text.removesuffix(MIDNIGHT) for text in ends]
    return ends[0], ends[1]
