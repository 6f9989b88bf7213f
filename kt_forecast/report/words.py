"""Numbers, names and metrics as the report words them."""

import math
import re
import unicodedata
from dataclasses import dataclass

from kt_forecast.report.record import Protocol, RunRecord, Score

ABSENT = "n/a"
ELLIPSIS = "…"
REORDERING = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
"""Bidirectional classes whose characters would change the order of the text around a name."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How a metric is named and read.

    Attributes:
        label: heading of its column.
        higher: whether more is better; None where neither end is.
        reading: formula, range, unit, and a case in which it misleads.
    """

    label: str
    higher: bool | None
    reading: str = ""


METRICS: dict[str, Metric] = {
    "auc": Metric(
        label="AUC",
        higher=True,
        reading=(
            "Chance that a right answer got a higher probability than a wrong one, over all "
            "pairs of interactions; a half is guessing, one is perfect. Most pairs compare two "
            "students, so knowing who is strong earns much of it without any tracing."
        ),
    ),
    "auc_within_student": Metric(
        label="Within-student AUC",
        higher=True,
        reading=(
            "The same chance over pairs of one student's own answers: does the model know when "
            "this student will succeed? Students who are always right or always wrong have no "
            "pairs and do not count."
        ),
    ),
    "auc_within_concept": Metric(
        label="Within-concept AUC",
        higher=True,
        reading=(
            "The same chance over pairs of one concept, so that knowing which concepts are easy "
            "earns nothing. Concepts with few answers make it noisy."
        ),
    ),
    "accuracy": Metric(
        label="Accuracy",
        higher=True,
        reading=(
            "Share of answers on the side of a half that the probability is on. Where most "
            "answers are right, always saying right already scores well."
        ),
    ),
    "nll": Metric(
        label="Log loss",
        higher=False,
        reading=(
            "Mean of minus the natural logarithm of the probability given to what happened, in "
            "nats; nought is perfect. One confident error can outweigh many good predictions."
        ),
    ),
    "brier": Metric(
        label="Brier",
        higher=False,
        reading=(
            "Mean squared distance between probability and answer, from nought to one. Rare "
            "events hardly move it."
        ),
    ),
    "ece": Metric(
        label="Calibration error",
        higher=False,
        reading=(
            "Mean distance, over bins of like predictions weighted by count, between predicted "
            "and observed share right. Predicting the mean for everyone makes it nought."
        ),
    ),
    "rmse": Metric(
        label="RMSE",
        higher=False,
        reading="Square root of the Brier score; it misleads where Brier does.",
    ),
}
HEADLINE = "auc"
"""The metric that the headline quotes and that orders the baselines."""


def metric(name: str) -> Metric:
    """Return how ``name`` is read; an unknown metric is shown by its own name."""
    return METRICS.get(name) or Metric(label=shown(name), higher=None)


def shown(name: object, longest: int = 60) -> str:
    """Return a name fit for one line: nothing that XML or the reading order could trip over."""
    text = "".join(_visible(character) for character in str(name)).strip()
    return text if len(text) <= longest else text[: longest - 1].rstrip() + ELLIPSIS


def _visible(character: str) -> str:
    if character.isspace():
        return " "
    if unicodedata.bidirectional(character) in REORDERING:
        return ""
    unsound = unicodedata.category(character) in {"Cc", "Cs"} or ord(character) & 0xFFFE == 0xFFFE
    return "\N{REPLACEMENT CHARACTER}" if unsound else character


def slug(text: str) -> str:
    """Return ``text`` fit for a file name or an id: ASCII letters, digits and underscores."""
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in text) or "_"


def number(value: float | None, digits: int = 4) -> str:
    """Return a figure with ``digits`` decimals, or that there is none."""
    if value is None or not math.isfinite(value):
        return ABSENT
    return f"{value:.{digits}f}"


def signed(value: float, digits: int = 4) -> str:
    """Return a difference with its sign."""
    if not math.isfinite(value):
        return ABSENT
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def interval(score: Score, digits: int = 4) -> str:
    """Return ``[low, high]``, or nothing where there is no interval."""
    if not (math.isfinite(score.low) and math.isfinite(score.high)):
        return ""
    return f"[{score.low:.{digits}f}, {score.high:.{digits}f}]".replace("-", "\N{MINUS SIGN}")


def tight(score: Score) -> str:
    """Return the interval as tables of probabilities print it, without the noughts in front."""
    return re.sub(r"(?<!\d)0\.", ".", interval(score))


def count(value: int | None) -> str:
    """Return a count with thin spaces between thousands."""
    return ABSENT if value is None else f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def percent(value: float) -> str:
    """Return a share as a percentage."""
    return f"{value:.1%}" if math.isfinite(value) else ABSENT


def direction(name: str) -> str:
    """Return an arrow that says which way is better."""
    higher = metric(name).higher
    return "" if higher is None else ("\N{UPWARDS ARROW}" if higher else "\N{DOWNWARDS ARROW}")


def verdict_on(name: str, difference: Score) -> str:
    """Return ``better``, ``worse`` or ``unclear`` for model minus baseline in one metric.

    A difference is unclear where its interval holds nought, is missing, or the metric has no
    better end.
    """
    higher = metric(name).higher
    apart = difference.low > 0 or difference.high < 0
    if higher is None or not apart:
        return "unclear"
    return "better" if (difference.low > 0) == higher else "worse"


def baselines_by_score(protocol: Protocol) -> list[str]:
    """Return the baselines, best headline metric first; those without one come last."""

    def rank(name: str) -> tuple[bool, float, str]:
        value = protocol.baselines[name].get(HEADLINE, Score(value=math.nan)).value
        return (not math.isfinite(value), -value if math.isfinite(value) else 0.0, name)

    return sorted(protocol.baselines, key=rank)


def best_baseline(protocol: Protocol) -> str | None:
    """Return the baseline with the best headline metric, or None where none has one."""
    for name in baselines_by_score(protocol):
        score = protocol.baselines[name].get(HEADLINE)
        return name if score is not None and math.isfinite(score.value) else None
    return None


def headline(record: RunRecord) -> str:
    """Return the result of the run in plain words; one that leaks is never said without it."""
    said = _result(record)
    leaks = record.verdict is not None and record.verdict.leaks
    return f"This run LEAKS, and what follows is no result: {said}" if leaks else said


def _result(record: RunRecord) -> str:
    name = shown(record.system.name)
    if not record.protocols:
        return f"{name} was not evaluated."
    protocol = record.protocols[0]
    score = protocol.model.get(HEADLINE)
    if score is None or not math.isfinite(score.value):
        return f"{name} has no AUC on the held-out interactions: one kind of answer is missing."
    said = f"{name} ranks right answers above wrong ones with AUC {_with_interval(score)}"
    best = best_baseline(protocol)
    if record.coin_flip:
        return f"Control run on coin-flip responses: {said}. {_control(score)}"
    if best is None:
        return f"{said}. No baseline was run beside it, so the figure says little."
    return f"{said}; {_beside(protocol, best)}."


def _control(score: Score) -> str:
    if not interval(score):
        return "An honest pipeline gives a half."
    if score.low <= 0.5 <= score.high:
        return "The interval holds a half, as an honest pipeline must."
    return "The interval does not hold a half: responses LEAK into the predictions."


def _beside(protocol: Protocol, best: str) -> str:
    score = protocol.baselines[best][HEADLINE]
    said = f"the best baseline, {shown(best)}, reaches {_with_interval(score)}"
    gap = protocol.differences.get(best, {}).get(HEADLINE)
    if gap is None or not interval(gap, 3):
        return said
    sense = {
        "better": "the model is ahead by",
        "worse": "the model is behind by",
        "unclear": "which is ahead is not clear from these students: the difference is",
    }[verdict_on(HEADLINE, gap)]
    if verdict_on(HEADLINE, gap) == "unclear":
        return f"{said}, and {sense} {signed(gap.value, 3)} {interval(gap, 3)}"
    ends = sorted((abs(gap.low), abs(gap.high)))
    return f"{said}, and {sense} {number(abs(gap.value), 3)} [{ends[0]:.3f}, {ends[1]:.3f}]"


def _with_interval(score: Score) -> str:
    return f"{number(score.value, 3)} {interval(score, 3)}".strip()


def verdict_word(record: RunRecord) -> str:
    """Return the audit's verdict as one loud word or two."""
    if record.verdict is None:
        return "NOT AUDITED"
    return "LEAKS" if record.verdict.leaks else shown(record.verdict.verdict).upper()


VERDICTS = {
    "LEAKS": (
        "The audit found that predictions use information which is not known yet when they are "
        "needed. The scores below are not to be believed."
    ),
    "PROVED": "The audit proved, within its scope, that no prediction depends on the future.",
    "CONDITIONAL": (
        "The audit proved that no prediction depends on the future as long as its conditions hold."
    ),
    "UNPROVEN": (
        "The audit found no leak, and could not prove that there is none; read what it tried."
    ),
    "NOT AUDITED": "No audit ran: nothing is known about whether this run sees the future.",
}


def verdict_sentence(record: RunRecord) -> str:
    """Return what the verdict means, in plain words."""
    return VERDICTS.get(verdict_word(record), "The audit gave this verdict; read what it tried.")
