"""The result of a run in plain words."""

import math

from kt_forecast.report.forecasting import ForecastProtocol, ForecastRecord, IntervalScore
from kt_forecast.report.kinds import AnyProtocol, AnyRecord
from kt_forecast.report.record import Score
from kt_forecast.report.tracing import HEADLINE, RunRecord
from kt_forecast.report.words import (
    best_baseline,
    count,
    decimals,
    interval,
    metric,
    number,
    percent,
    shown,
    signed,
    verdict_on,
)

QUOTED_LEVEL = 90.0
"""Level of the intervals that a headline speaks of, where the run has them."""
PROBABILITY_DIGITS = 3


def headline(record: AnyRecord) -> str:
    """Return the result of the run in plain words; one that leaks is never said without it."""
    said = _tracing(record) if isinstance(record, RunRecord) else _forecasting(record)
    leaks = record.verdict is not None and record.verdict.leaks
    return f"This run LEAKS, and what follows is no result: {said}" if leaks else said


def _tracing(record: RunRecord) -> str:
    name = shown(record.system.name)
    if not record.protocols:
        return f"{name} was not evaluated."
    protocol = record.protocols[0]
    score = protocol.model.get(HEADLINE)
    if score is None or not math.isfinite(score.value):
        return f"{name} has no AUC on the held-out interactions: one kind of answer is missing."
    quoted = _with_interval(score, PROBABILITY_DIGITS)
    said = f"{name} ranks right answers above wrong ones with AUC {quoted}"
    best = best_baseline(protocol)
    if record.coin_flip:
        return f"Control run on coin-flip responses: {said}. {_control(score)}"
    if best is None:
        return f"{said}. No baseline was run beside it, so the figure says little."
    return f"{said}; {_beside(protocol, best, PROBABILITY_DIGITS, 'these students')}."


def _control(score: Score) -> str:
    if not interval(score):
        return "An honest pipeline gives a half."
    if score.low <= 0.5 <= score.high:
        return "The interval holds a half, as an honest pipeline must."
    return "The interval does not hold a half: responses LEAK into the predictions."


def _forecasting(record: ForecastRecord) -> str:
    name = shown(record.system.name)
    if not record.protocols:
        return f"{name} was not evaluated."
    protocol = record.protocols[0]
    label = metric(protocol.headline).label
    score = protocol.model.get(protocol.headline)
    if score is None or not math.isfinite(score.value):
        return f"{name} has no {label} on the test windows: no value there could be scored."
    digits = headline_digits(protocol)
    steps = f"{count(protocol.horizon)} step{'' if protocol.horizon == 1 else 's'}"
    if protocol.horizons:
        steps = f"{', '.join(map(count, protocol.horizons))} steps"
    mean = "mean " if protocol.horizons else ""
    said = f"{name} forecasts {steps} ahead with {mean}{label} {_with_interval(score, digits)}"
    best = best_baseline(protocol)
    if best is None:
        said = f"{said}. No baseline was run beside it, so the figure says little."
    else:
        said = f"{said}; {_beside(protocol, best, digits, 'these windows')}."
    more = (_over_all(record.protocols), _held(protocol, record.system.name))
    return " ".join((said, *filter(None, more)))


def headline_digits(protocol: AnyProtocol) -> int:
    """Return the decimals with which the headline metric of a protocol is quoted."""
    name = protocol.headline
    scores = [one.get(name) for one in (protocol.model, *protocol.baselines.values())]
    return decimals((s.value for s in scores if s is not None), by=min)


def _over_all(protocols: tuple[ForecastProtocol, ...]) -> str:
    """Return in how many of several protocols the model beats what stands beside it."""
    if len(protocols) == 1:
        return ""
    won = 0
    for protocol in protocols:
        best = best_baseline(protocol)
        gap = protocol.differences.get(best or "", {}).get(protocol.headline)
        won += gap is not None and verdict_on(protocol.headline, gap) == "better"
    return f"It clearly beats the best baseline in {won} of {len(protocols)} protocols."


def quoted_interval(protocol: ForecastProtocol, name: str) -> IntervalScore | None:
    """Return how the intervals of a system did at the level that the page speaks of first."""
    found = [i for i in protocol.intervals.get(name, ()) if math.isfinite(i.coverage.value)]
    return min(found, key=lambda i: (abs(i.level - QUOTED_LEVEL), i.level), default=None)


def _held(protocol: ForecastProtocol, name: str) -> str:
    """Return what share of the values the model's intervals held, beside what they promise."""
    one = quoted_interval(protocol, name)
    if one is None:
        return ""
    return f"Its {one.level:g}% intervals held {percent(one.coverage.value)} of the values."


def _beside(protocol: AnyProtocol, best: str, digits: int, what: str) -> str:
    name = protocol.headline
    score = protocol.baselines[best][name]
    said = f"the best baseline, {shown(best)}, reaches {_with_interval(score, digits)}"
    gap = protocol.differences.get(best, {}).get(name)
    if gap is None or not interval(gap, digits):
        return said
    sense = {
        "better": "the model is ahead by",
        "worse": "the model is behind by",
        "unclear": f"which is ahead is not clear from {what}: the difference is",
    }[verdict_on(name, gap)]
    if verdict_on(name, gap) == "unclear":
        return f"{said}, and {sense} {signed(gap.value, digits)} {interval(gap, digits)}"
    ends = [number(end, digits) for end in sorted((abs(gap.low), abs(gap.high)))]
    return f"{said}, and {sense} {number(abs(gap.value), digits)} [{ends[0]}, {ends[1]}]"


def _with_interval(score: Score, digits: int) -> str:
    return f"{number(score.value, digits)} {interval(score, digits)}".strip()
