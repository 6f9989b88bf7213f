"""Numbers, names and metrics as the report words them."""

import math
import re
import unicodedata
from collections.abc import Callable, Iterable

from kt_forecast.report.kinds import AnyProtocol, AnyRecord
from kt_forecast.report.readings import METRICS, Metric
from kt_forecast.report.record import Score

ABSENT = "n/a"
ELLIPSIS = "…"
THIN = "\N{NARROW NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"
SCIENTIFIC = -1
"""In place of a number of decimals: four digits and a power of ten."""
SIGNIFICANT = 4
WIDEST = 6
"""Digits before the point, or noughts behind it, beyond which a column is written so."""
REORDERING = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
"""Bidirectional classes whose characters would change the order of the text around a name."""


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
    """Return a figure with ``digits`` decimals, or that there is none.

    Args:
        value: the figure.
        digits: decimals; `SCIENTIFIC` for four digits and a power of ten.
    """
    if value is None or not math.isfinite(value):
        return ABSENT
    if digits == SCIENTIFIC:
        return f"{value:.3e}"
    return f"{value:,.{digits}f}".replace(",", THIN)


def decimals(values: Iterable[float], *, by: Callable[[list[float]], float] = max) -> int:
    """Return the decimals with which a column of figures is written.

    Args:
        values: of the column; those that are nought or not finite do not count.
        by: which of their sizes is shown to four significant digits: ``max`` where the figures may
            lie anywhere, ``min`` for scores, so that one that is far off hides no other.

    Returns:
        The decimals; `SCIENTIFIC` where the column would be too wide.
    """
    sizes = [abs(value) for value in values if value and math.isfinite(value)]
    leading = (
        [math.floor(math.log10(size)) + 1 for size in (by(sizes), max(sizes))] if sizes else []
    )
    if any(abs(n) > WIDEST for n in leading):
        return SCIENTIFIC
    return max(0, SIGNIFICANT - leading[0]) if leading else SIGNIFICANT


def amount(value: float, digits: int) -> str:
    """Return a figure that may lie below nought."""
    return number(value, digits).replace("-", MINUS)


def signed(value: float, digits: int = 4) -> str:
    """Return a difference with its sign."""
    if not math.isfinite(value):
        return ABSENT
    text = number(value, digits)
    return (text if text.startswith("-") else f"+{text}").replace("-", MINUS)


def interval(score: Score, digits: int = 4) -> str:
    """Return ``[low, high]``, or nothing where there is no interval."""
    if not (math.isfinite(score.low) and math.isfinite(score.high)):
        return ""
    return f"[{number(score.low, digits)}, {number(score.high, digits)}]".replace("-", MINUS)


def tight(score: Score, digits: int = 4) -> str:
    """Return the interval as tables of probabilities print it, without the noughts in front."""
    return re.sub(r"(?<!\d)0\.", ".", interval(score, digits))


def count(value: int | None) -> str:
    """Return a count with thin spaces between thousands."""
    return ABSENT if value is None else f"{value:,}".replace(",", THIN)


def percent(value: float) -> str:
    """Return a share as a percentage."""
    return f"{value:.1%}" if math.isfinite(value) else ABSENT


def share_interval(score: Score) -> str:
    """Return the interval of a share as percentages, or nothing where there is no interval."""
    if not (math.isfinite(score.low) and math.isfinite(score.high)):
        return ""
    return f"[{percent(score.low)}, {percent(score.high)}]"


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


def baselines_by_score(protocol: AnyProtocol) -> list[str]:
    """Return the baselines, best headline metric first; those without one come last."""
    sign = -1.0 if metric(protocol.headline).higher else 1.0

    def rank(name: str) -> tuple[bool, float, str]:
        value = protocol.baselines[name].get(protocol.headline, Score(value=math.nan)).value
        return (not math.isfinite(value), sign * value if math.isfinite(value) else 0.0, name)

    return sorted(protocol.baselines, key=rank)


def best_baseline(protocol: AnyProtocol) -> str | None:
    """Return the baseline with the best headline metric, or None where none has one."""
    for name in baselines_by_score(protocol):
        score = protocol.baselines[name].get(protocol.headline)
        return name if score is not None and math.isfinite(score.value) else None
    return None


def verdict_word(record: AnyRecord) -> str:
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


def verdict_sentence(record: AnyRecord) -> str:
    """Return what the verdict means, in plain words."""
    return VERDICTS.get(verdict_word(record), "The audit gave this verdict; read what it tried.")
