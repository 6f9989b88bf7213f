"""One way to read and change tables of pandas and of polars, imported only when they are used."""

import sys
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from kt_forecast.audit.pipeline.contract import PipelineError

Array = NDArray[Any]


class Frame:
    """A table of either library; every change is made on a copy."""

    def __init__(self, table: Any) -> None:  # noqa: ANN401
        self.library = library(table)
        self.lazy = type(table).__name__ == "LazyFrame"
        self.table = table.collect() if self.lazy else table

    @property
    def names(self) -> tuple[str, ...]:
        """Columns in order."""
        return tuple(str(c) for c in self.table.columns)

    def __len__(self) -> int:
        return len(self.table)

    def copy(self) -> Any:  # noqa: ANN401
        """Return the table in the form it was given, free to be changed in place."""
        if self.library == "pandas":
            return self.table.copy()
        return self.table.lazy() if self.lazy else self.table.clone()

    def values(self, name: str) -> Array:
        """Return a column; what is missing is nan, NaT or None."""
        return cast("Array", self.table[name].to_numpy())

    def missing(self, name: str) -> NDArray[np.bool_]:
        """Say where a column is null or nan."""
        column = self.table[name]
        if self.library == "pandas":
            return np.asarray(column.isna(), dtype=bool)
        null = column.is_null().to_numpy()
        nan = column.is_nan().fill_null(value=False).to_numpy() if column.dtype.is_float() else null
        return np.asarray(null | nan, dtype=bool)

    def index(self) -> Array | None:
        """Return the labels of the rows where they have unique ones."""
        if self.library == "pandas" and self.table.index.is_unique:
            return np.asarray(self.table.index.to_numpy())
        return None

    def take(self, rows: Array) -> "Frame":
        """Return some rows, in the order given."""
        taken = self.table.iloc[rows] if self.library == "pandas" else self.table[rows.tolist()]
        return self._like(taken)

    def put(self, name: str, where: Array, values: Array | None) -> "Frame":
        """Replace some cells of a column; by nulls where no values are given."""
        changed = self.copy() if self.library == "pandas" else self.table
        column = changed[name]
        if self.library == "pandas":
            changed[name] = _put_pandas(column, where, values)
            return self._like(changed)
        return self._like(changed.with_columns(_put_polars(column, where, values)))

    def _like(self, table: Any) -> "Frame":  # noqa: ANN401
        new = Frame(table)
        new.lazy = self.lazy
        return new


def library(table: Any) -> str:  # noqa: ANN401
    """Name the library of a table.

    Raises:
        PipelineError: it is neither of pandas nor of polars.
    """
    name = type(table).__module__.split(".", maxsplit=1)[0]
    if name not in {"pandas", "polars"}:
        raise PipelineError(f"a table is a frame of pandas or polars, got {type(table).__name__}")
    return name


def is_table(value: Any) -> bool:  # noqa: ANN401
    """Say whether a value is a frame or column of pandas or polars."""
    name = type(value).__module__.split(".", maxsplit=1)[0]
    return name in {"pandas", "polars"} and hasattr(
        value, "to_numpy" if name == "pandas" else "head"
    )


def columns_of(result: Any) -> tuple[dict[str, Array], Array | None]:  # noqa: ANN401
    """Return the columns that a user's function returned, and the labels of its rows if any.

    Raises:
        PipelineError: the result is no table, column, array or dictionary of arrays.
    """
    if isinstance(result, dict):
        return {str(k): np.asarray(v) for k, v in result.items()}, None
    if isinstance(result, np.ndarray):
        flat = result.reshape(len(result), -1)
        return {f"column {i}": flat[:, i] for i in range(flat.shape[1])}, None
    if not is_table(result):
        raise PipelineError(
            f"the function returned {type(result).__name__}; a frame, column, array or "
            "dictionary of arrays is needed"
        )
    if type(result).__name__ == "LazyFrame":
        result = result.collect()
    index = np.asarray(result.index) if hasattr(result, "index") else None
    if not hasattr(result, "columns"):
        return {str(result.name or "feature"): result.to_numpy()}, index
    return {str(c): result[c].to_numpy() for c in result.columns}, index


def ticks(values: Array) -> NDArray[np.float64] | NDArray[np.int64]:
    """Return times as numbers that keep their order: nanoseconds for dates."""
    values = np.asarray(values)
    if values.dtype.kind == "M":
        return values.astype("datetime64[ns]").astype(np.int64)
    if values.dtype.kind == "m":
        return values.astype("timedelta64[ns]").astype(np.int64)
    if values.dtype.kind in "iub":
        return values.astype(np.int64)
    if values.dtype.kind == "f":
        return values.astype(np.float64)
    moments = [v.to_datetime64() if hasattr(v, "to_datetime64") else v for v in values]
    return np.array([np.datetime64(v, "ns") for v in moments]).astype(np.int64)


def plain(values: Array) -> Array:
    """Return values as numbers with nan, or as text, so that two runs can be compared."""
    values = np.asarray(values)
    if values.dtype.kind in "biuf":
        return values.astype(np.float64)
    if values.dtype.kind in "mM":
        numbers = ticks(values).astype(np.float64)
        return np.where(np.isnat(values), np.nan, numbers)
    try:
        return np.array([np.nan if _absent(v) else float(v) for v in values], dtype=np.float64)
    except (TypeError, ValueError):
        return np.array(["" if _absent(v) else str(v) for v in values], dtype=object)


def hashable(values: Array) -> Iterator[Any]:
    """Yield values as keys that are equal whenever the cells are."""
    values = np.asarray(values)
    if values.dtype.kind in "mM":
        return iter(ticks(values).tolist())
    return iter(values.tolist())


def _absent(value: Any) -> bool:  # noqa: ANN401
    if value is None or type(value).__name__ in {"NAType", "NaTType"}:
        return True
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def _put_pandas(column: Any, where: Array, values: Array | None) -> Any:  # noqa: ANN401
    pandas = sys.modules["pandas"]
    if values is None:
        return column.mask(pandas.Series(where, index=column.index))
    if column.dtype.name == "category":
        mixed = column.to_numpy().astype(object)
        mixed[where] = values
        more = [v for v in dict.fromkeys(values) if v not in set(column.cat.categories)]
        names = [*column.cat.categories, *more]
        made = pandas.Categorical(mixed, categories=names, ordered=column.cat.ordered)
        return pandas.Series(made, index=column.index)
    mixed = column.to_numpy(copy=True)
    if column.dtype.kind not in "biufmM":
        mixed = mixed.astype(object)
    mixed[where] = values
    return pandas.Series(mixed, index=column.index, dtype=column.dtype)


def _put_polars(column: Any, where: Array, values: Array | None) -> Any:  # noqa: ANN401
    polars = sys.modules["polars"]
    mixed = column.to_list()
    new = [None] * int(where.sum()) if values is None else np.asarray(values).tolist()
    if column.dtype.is_temporal() and values is not None:
        new = polars.Series(np.asarray(values)).cast(column.dtype).to_list()
    for row, value in zip(np.flatnonzero(where).tolist(), new, strict=True):
        mixed[row] = value
    return polars.Series(column.name, mixed, dtype=column.dtype, strict=False)
