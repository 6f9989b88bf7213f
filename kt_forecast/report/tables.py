"""The tables of the page, as plain rows."""

import math
from math import isfinite
from typing import Any

from kt_forecast.report import words
from kt_forecast.report.forecasting import Band, Fan, ForecastProtocol, IntervalScore
from kt_forecast.report.headlines import QUOTED_LEVEL
from kt_forecast.report.kinds import AnyProtocol
from kt_forecast.report.readings import FORECASTING, TRACING
from kt_forecast.report.record import Score

PROBABILITY_DIGITS = 4
MOST_ROWS = 24
"""Steps ahead that a table shows; the record has all."""


def scores(model: str, protocol: AnyProtocol) -> dict[str, Any]:
    """Return one protocol as rows for the page.

    Returns:
        ``metrics``: columns, those the report knows first; ``rows``: name, scores by metric and
        whether it is the model; ``gaps``: baseline and its differences by metric; ``best``: per
        metric the best value, where more than one system has one; ``digits`` and ``gap_digits``:
        decimals of scores and differences by metric.
    """
    order = [model, *words.baselines_by_score(protocol)]
    parts = [protocol.model, *(protocol.baselines[name] for name in order[1:])]
    found = {name for part in parts for name in part}
    known = FORECASTING if isinstance(protocol, ForecastProtocol) else TRACING
    metrics = [name for name in known if name in found]
    metrics += sorted(found - set(metrics))
    gaps = [(n, protocol.differences[n]) for n in order[1:] if protocol.differences.get(n)]
    digits = dict.fromkeys(metrics, PROBABILITY_DIGITS)
    gap_digits = digits
    if isinstance(protocol, ForecastProtocol):
        digits = {
            name: words.decimals((part[name].value for part in parts if name in part), by=min)
            for name in metrics
        }
        gap_digits = {
            name: words.decimals(gap[name].value for _, gap in gaps if name in gap)
            for name in metrics
        }
    return {
        "digits": digits,
        "gap_digits": gap_digits,
        "best": {name: _best(name, parts) for name in metrics},
        "metrics": metrics,
        "rows": list(zip(order, parts, [True] + [False] * (len(order) - 1), strict=True)),
        "gaps": gaps,
    }


def _best(name: str, scores: list[dict[str, Score]]) -> float | None:
    """Return the best value of a metric, or None where nothing can be compared."""
    values = [s[name].value for s in scores if name in s and isfinite(s[name].value)]
    higher = words.metric(name).higher
    if higher is None or len(values) < 2:
        return None
    return max(values) if higher else min(values)


def intervals(model: str, protocol: ForecastProtocol) -> dict[str, Any]:
    """Return how the intervals of every system did.

    Returns:
        ``rows``: name, whether it is the model, and its entry, by level; ``digits``: decimals of
        the widths.
    """
    order = [model, *words.baselines_by_score(protocol)]
    rows: list[tuple[str, bool, IntervalScore]] = [
        (name, name == model, one)
        for name in order
        for one in sorted(protocol.intervals.get(name, ()), key=lambda one: one.level)
    ]
    return {"rows": rows, "digits": words.decimals((one.width.value for _, _, one in rows), by=min)}


def by_step(model: str, protocol: ForecastProtocol) -> dict[str, Any]:
    """Return errors and coverage by step ahead, of some steps where there are many.

    Returns:
        ``columns``: their headings; ``rows``: the step and its cells, as text.
    """
    found = protocol.by_step
    if found is None:
        return {"columns": [], "rows": []}
    order = [model, *words.baselines_by_score(protocol)]
    order += sorted(set(found.mse) - set(order))
    shown = [name for name in order if name in found.mse]
    digits = words.decimals((value for name in shown for value in found.mse[name]), by=min)
    columns = [f"MSE of {words.shown(name, 28)}" for name in shown]
    columns += [f"held by {one.level:g}%" for one in found.intervals]
    rows = [
        (
            found.steps[at],
            [words.number(found.mse[name][at], digits) for name in shown]
            + [words.percent(one.coverage[at]) for one in found.intervals],
        )
        for at in _some(len(found.steps))
    ]
    return {"columns": columns, "rows": rows}


def fan(one: Fan) -> dict[str, Any]:
    """Return one forecast step by step, of some steps where there are many.

    Returns:
        ``level``: of the interval, or None; ``beside``: names of the baselines; ``rows``: the stamp
        and its cells, as text.
    """
    level = min((b.level for b in one.bands), key=lambda n: abs(n - QUOTED_LEVEL), default=None)
    band = next((b for b in one.bands if b.level == level), Band(level=math.nan, low=(), high=()))
    lines = [one.actual, one.point, *((band.low, band.high) if band.low else ())]
    lines += one.beside.values()
    digits = words.decimals(value for line in lines for value in line)
    rows = [
        (
            one.stamps[at],
            [words.number(line[at], digits).replace("-", words.MINUS) for line in lines],
        )
        for at in _some(len(one.stamps))
    ]
    return {"level": level if band.low else None, "beside": list(one.beside), "rows": rows}


def _some(length: int) -> list[int]:
    """Return all places, or as many as a table shows, evenly, the first and the last among them."""
    if length <= MOST_ROWS:
        return list(range(length))
    return [round(i * (length - 1) / (MOST_ROWS - 1)) for i in range(MOST_ROWS)]
