"""Tables of series in, the same kind of table out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from kt_forecast.data.series.ahead import ends
from kt_forecast.data.series.frequency import stamps_of
from kt_forecast.data.series.source import open_source
from kt_forecast.data.series.table import SeriesTable
from kt_forecast.errors import InputError
from kt_forecast.evaluation.forecasting import Backtest
from kt_forecast.forecaster.fitting import Ahead
from kt_forecast.metrics.forecasting import ends as quantiles_of
from kt_forecast.metrics.forecasting import intervals_in, place_of
from kt_forecast.schema import CUTOFF, DS, UNIQUE_ID, Y

Kind = Literal["pandas", "polars"]
Ints = npt.NDArray[np.int64]
Columns = tuple[tuple[str, int], ...]
"""Name of each output column, and which quantile it holds."""


def kind_of(table: object) -> Kind:
    """Return the kind of frame that answers a table: its own; polars for a path or a name."""
    return "pandas" if type(table).__module__.split(".")[0] == "pandas" else "polars"


def with_facts(
    table: Any,  # noqa: ANN401
    facts: Any,  # noqa: ANN401
    columns: Mapping[str, str],
) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Return a long table with the facts of its series beside every row, and their names.

    Args:
        table: of values.
        facts: one row a series.
        columns: ``unique_id`` to the tables' own name.

    Raises:
        InputError: a table lacks the column of ids, or a series stands twice among the facts.
    """
    name = columns.get(UNIQUE_ID, UNIQUE_ID)
    found = []
    for source in (open_source(table), open_source(facts)):
        source.own(name, UNIQUE_ID)
        found.append(source.frame.collect().with_columns(pl.col(name).cast(pl.String)))
    values, static = found
    if static[name].is_duplicated().any():
        twice = static.filter(static[name].is_duplicated())[name][0]
        raise InputError(
            f"static_df: holds series {twice!r} twice; accepted is one row of facts a series"
        )
    own = tuple(column for column in static.columns if column != name)
    rest = values.drop(own, strict=False)
    return rest.join(static, on=name, how="left", maintain_order="left"), own


def same_facts(table: SeriesTable, names: tuple[str, ...]) -> SeriesTable:
    """Return the table with the facts that a model knows, in its order.

    Text becomes one column a value: a value that no series of the table has is a column of zeros,
    and one that the model does not know is left out.
    """
    if table.static_names == names:
        return table
    texts = {name.partition("=")[0] for name in table.static_names if "=" in name}
    place = {name: i for i, name in enumerate(table.static_names)}
    if any(name not in place and name.partition("=")[0] not in texts for name in names):
        return table
    zeros = np.zeros(table.n_series, dtype=np.float32)
    columns = [table.static[:, place[name]] if name in place else zeros for name in names]
    unknown = [name for name in table.static_names if name not in names]
    notes = (f"facts that no training series had are left out: {', '.join(unknown)}",)
    return replace(
        table,
        static=np.stack(columns, axis=1),
        static_names=names,
        notes=(*table.notes, *(notes if unknown else ())),
    )


def wanted(
    system: str,
    found: tuple[float, ...],
    calibrated: Sequence[int | float],
    level: int | float | Sequence[int | float] | None,
    quantiles: Sequence[float] | None,
) -> Columns:
    """Return the columns of intervals and quantiles that a forecast has.

    Args:
        system: their first word.
        found: levels of the quantiles that are there.
        calibrated: percentages of the intervals that are shown where nothing is asked for.
        level: percentages of the intervals that are asked for.
        quantiles: levels of the quantiles that are asked for.

    Raises:
        InputError: one of them is not there.
    """
    if level is None and quantiles is None:
        level = calibrated if found else ()
    levels = sorted(level if isinstance(level, Sequence) else [] if level is None else [level])
    low, high = [], []
    for percentage in levels:
        lower, upper = (place_of(q, found) for q in quantiles_of(percentage / 100))
        if lower is None or upper is None:
            accepted = ", ".join(f"{100 * one:g}" for one in intervals_in(found)) or "none"
            raise InputError(
                f"level {percentage:g}: its interval was not calibrated; accepted are"
                f" {accepted}, which the forecaster's levels= decides before fit"
            )
        low.append((f"{system}-lo-{percentage:g}", lower))
        high.append((f"{system}-hi-{percentage:g}", upper))
    columns = [*reversed(low), *high]
    for quantile in quantiles or ():
        place = place_of(quantile, found)
        if place is None:
            accepted = ", ".join(f"{one:g}" for one in found) or "none"
            raise InputError(
                f"quantile {quantile:g} was not calibrated; accepted are {accepted}, which the"
                " forecaster's levels= decides before fit"
            )
        columns.append((f"{system}-ql{quantile:g}", place))
    return tuple(columns)


def forecasts(
    table: SeriesTable, found: Ahead, system: str, columns: Columns, source: object
) -> Any:  # noqa: ANN401
    """Return a row for each series and step ahead.

    Args:
        table: whose series were forecast.
        found: the forecasts.
        system: name of the column of points.
        columns: of quantiles.
        source: what the user gave, for the kind of frame and of ids.
    """
    n_series, horizon = found.point.shape
    series = np.arange(n_series).repeat(horizon)
    row = (ends(table)[:, None] + np.arange(horizon)).ravel()
    data = {
        UNIQUE_ID: _ids(table, series, source),
        DS: stamps_of(table, series, row),
        system: found.point.ravel(),
    }
    for name, place in columns:
        assert found.quantiles is not None  # noqa: S101 - `wanted` found the column
        data[name] = found.quantiles[..., place].ravel()
    return _as_kind(pl.DataFrame(data), source)


def backtested(
    table: SeriesTable, found: Backtest, system: str, columns: Columns, source: object
) -> Any:  # noqa: ANN401
    """Return a row for each series, cutoff and step ahead, with what came."""
    order = np.lexsort((found.cutoff, found.series))
    horizon = found.point.shape[1]
    series = found.series[order].repeat(horizon)
    cutoff = found.cutoff[order]
    row = (cutoff[:, None] + np.arange(horizon)).ravel()
    data = {
        UNIQUE_ID: _ids(table, series, source),
        DS: stamps_of(table, series, row),
        CUTOFF: stamps_of(table, series, (cutoff - 1).repeat(horizon)),
        Y: found.target[order].ravel(),
        system: found.point[order].ravel(),
    }
    for name, place in columns:
        assert found.quantiles is not None  # noqa: S101 - `wanted` found the column
        data[name] = found.quantiles[order][..., place].ravel()
    return _as_kind(pl.DataFrame(data), source)


def _ids(table: SeriesTable, series: Ints, source: object) -> pl.Series:
    """Return the name of each row's series, as an integer where the user's are."""
    if table.n_series == 1:
        ids = pl.repeat(table.ids[0], len(series), dtype=pl.String, eager=True)
    else:
        ids = pl.Series(table.ids, dtype=pl.String).gather(series)
    column = None
    if isinstance(source, pl.DataFrame) or kind_of(source) == "pandas":
        held: Any = source
        column = held[table.id_name] if table.id_name in held.columns else None
    if isinstance(column, pl.Series):
        return ids.cast(column.dtype) if column.dtype.is_integer() else ids
    return ids.cast(pl.Int64) if column is not None and column.dtype.kind in "iu" else ids


def _as_kind(frame: pl.DataFrame, source: object) -> Any:  # noqa: ANN401
    return frame.to_pandas() if kind_of(source) == "pandas" else frame
