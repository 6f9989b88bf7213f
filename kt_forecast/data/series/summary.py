"""What a table of series holds, in lines for a reader."""

import numpy as np

from kt_forecast.data.series.frequency import stamps_of
from kt_forecast.data.series.table import SeriesTable

_MOST_NAMED = 12


def summary(table: SeriesTable) -> list[tuple[str, str]]:
    """Return pairs of a word and what it counts, for the command that checks a table."""
    length = table.length
    shortest, longest = int(length.min()), int(length.max())
    spans = f"{shortest:,}" if shortest == longest else f"{shortest:,} to {longest:,}"
    ordered = table.frequency.kind == "order" and table.stamps is None
    if not ordered:
        early = int(table.first.argmin())
        low = stamps_of(table, early, np.zeros(1, dtype=np.int64))[0]
        high = stamps_of(table, np.arange(table.n_series), length - 1).max()
    missing = int(np.isnan(table.y).sum())
    return [
        ("series", f"{table.n_series:,}"),
        ("rows", f"{table.n_rows:,}"),
        ("rows a series", spans),
        ("same stamps in all series", "yes" if table.aligned else "no"),
        ("frequency", table.frequency.text),
        ("season, in steps", f"{table.frequency.season:,}"),
        ("first stamp", "none" if ordered else str(low)),
        ("last stamp", "none" if ordered else str(high)),
        ("missing values", f"{missing:,} ({missing / table.n_rows:.1%})"),
        ("known up to the origin", _listed(table.past_names)),
        ("known in advance", _listed(table.future_names)),
        ("facts of a series", _listed(table.static_names)),
        ("hash", table.data_hash),
    ]


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "") or "none"
