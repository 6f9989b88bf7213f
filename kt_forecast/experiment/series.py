"""Tables of series for the command line: load one, divide it, keep one as a data set."""

from pathlib import Path

import numpy as np

from kt_forecast.data.cards import card_names, read_card
from kt_forecast.data.series.load import load as series_of
from kt_forecast.data.series.splits import (
    AnySettings,
    ByLast,
    ByMoment,
    ByProtocol,
    ByShare,
    SeriesSplit,
    observed,
    split,
)
from kt_forecast.data.series.table import SeriesTable
from kt_forecast.errors import InputError
from kt_forecast.experiment.recipe_forecast import SeriesRecipe

SCHEMES = {
    "ltsf": "By the published borders of long-horizon forecasting.",
    "time": "By time: one moment for all series; what comes at or after it tests.",
    "share": "By share: the first part of every series trains, the last part tests.",
    "last": "By steps: the last ones of every series test, those before validate.",
}
_KINDS: dict[str, AnySettings] = {
    "ltsf": ByProtocol(),
    "time": ByMoment(),
    "share": ByShare(),
}


def load(data: SeriesRecipe, *, asking: bool = False) -> SeriesTable:
    """Return the checked series that a recipe names.

    Args:
        data: where they come from.
        asking: they are to be forecast, not learned from.

    Raises:
        InputError: they cannot be found, read or used.
    """
    return series_of(
        data.source,
        columns=data.columns or None,
        format=data.format,
        freq=data.freq,
        stamps=data.stamps,
        gaps=data.gaps,
        past=data.past,
        future=data.future,
        static=data.static,
        season=data.season,
        asking=asking,
    )


def settled(data: SeriesRecipe) -> SeriesRecipe:
    """Return where series come from with what the card of a data set says of them."""
    if Path(data.source).exists() or data.source not in card_names():
        return data
    said = read_card(data.source).model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    known = {key: value for key, value in said.items() if key in SeriesRecipe.model_fields}
    own = data.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    return SeriesRecipe.parse(known | own, data.source)


def divided(
    table: SeriesTable, settings: AnySettings | None, source: str, horizon: int
) -> SeriesSplit:
    """Return the split of a table.

    Args:
        table: the series.
        settings: of the split; by default those that results on the data set are published with,
            else one moment for all series, else, where validation or test would be shorter than
            the horizon, the last steps of each.
        source: the data set's name, or a path.
        horizon: steps ahead that validation and test must hold.

    Raises:
        InputError: the table cannot be split so.
    """
    if settings is not None:
        return split(table, settings)
    if not Path(source).exists() and source in card_names():
        kind = read_card(source).split
        if kind in _KINDS:
            return split(table, _KINDS[kind])
    by_share = table.frequency.kind == "order"
    try:
        found = split(table, ByShare() if by_share else ByMoment())
    except InputError:
        return split(table, ByLast(test=horizon, valid=horizon))
    valid, test = found.valid_end - found.train_end, found.test_end - found.valid_end
    held = (valid >= horizon) & (test >= horizon) & (found.train_end > horizon)
    # A share of the series may be too young; most must take part.
    if held.mean() >= 0.5:
        return found
    if (observed(table) > 3 * horizon).any():
        return split(table, ByLast(test=horizon, valid=horizon))
    raise InputError(
        f"{table.name}: its longest series has {int(np.max(observed(table)))} values, too few to"
        f" train, validate and test {horizon} steps ahead; accepted are a shorter horizon, or"
        " longer series"
    )
