"""Checked series on regular grids: what the door hands on, and what everything after it reads."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

if TYPE_CHECKING:
    StampType = pl.DataType
else:
    # The checker of annotations in tests takes no type of polars.
    StampType = Any

Kind = Literal["duration", "months", "business_days", "integer", "order"]


@dataclass(frozen=True, kw_only=True)
class Frequency:
    """The step of a grid.

    Attributes:
        text: as polars and pandas users write it, such as ``1h``, ``15m``, ``1mo``; ``1`` for
            integers; ``order`` where rows are taken as equally spaced whatever their stamps say.
        kind: what a step is made of.
        step: microseconds of a duration, number of months, of business days, or of the integer.
        season: steps of the cycle that a sceptic would repeat: a day of hours, a year of months.
    """

    text: str
    kind: Kind
    step: int
    season: int


@dataclass(frozen=True, kw_only=True)
class SeriesTable:
    """Series that lie one after another, oldest value first, each on a grid without holes.

    A missing value is nan and keeps its place. Rows after the last value of a series, which hold
    covariates known in advance, have nan too.

    Attributes:
        name: of the table, for messages.
        ids: name of each series; a wide table's columns.
        start: place of each series' first row, and the number of rows at the end.
        first: stamp of each series' first row: microseconds since 1970, or the integer itself.
        frequency: step of the grid, the same for all series.
        y: values in their own unit.
        past: covariates known up to the origin, one column each.
        past_names: their names.
        future: covariates known in advance, one column each.
        future_names: their names.
        static: facts of each series, one column each.
        static_names: their names.
        stamps: the stamps themselves, for tables whose rows are taken in their order; else they
            follow from ``first`` and ``frequency``.
        stamp_type: polars type of the user's stamps, for tables that go back to them.
        id_name: the user's column of ids; empty for a wide table.
        notes: what was found and changed at the door, one sentence each.
        data_hash: SHA-256 of the content.
    """

    name: str
    ids: tuple[str, ...]
    start: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    frequency: Frequency
    y: npt.NDArray[np.floating]
    past: npt.NDArray[np.float32]
    past_names: tuple[str, ...] = ()
    future: npt.NDArray[np.float32]
    future_names: tuple[str, ...] = ()
    static: npt.NDArray[np.float32]
    static_names: tuple[str, ...] = ()
    stamps: npt.NDArray[np.int64] | None = None
    stamp_type: StampType | None = None
    id_name: str = ""
    notes: tuple[str, ...] = ()
    data_hash: str = ""

    @property
    def n_series(self) -> int:
        """Number of series."""
        return len(self.ids)

    @property
    def n_rows(self) -> int:
        """Number of rows, of all series together."""
        return int(self.start[-1])

    @cached_property
    def length(self) -> npt.NDArray[np.int64]:
        """Rows of each series."""
        return np.diff(self.start)

    @cached_property
    def aligned(self) -> bool:
        """Whether all series have the same stamps."""
        return bool((self.length == self.length[0]).all() and (self.first == self.first[0]).all())
