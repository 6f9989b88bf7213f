"""All tables that a function reads, each row with the moment from which it is known."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kt_forecast.audit.pipeline.contract import PipelineError, Rows
from kt_forecast.audit.pipeline.frames import Array, Frame, hashable, ticks

Mask = NDArray[np.bool_]
Ranks = NDArray[np.int64]
MAIN = ""
"""Name of the table whose rows get features; tables beside it have their own names."""


@dataclass(frozen=True)
class Side:
    """One table with its clock.

    Attributes:
        frame: the table.
        contract: its clock.
        row: number of each row in the table as it was given.
        needed: moment of each row, as a rank among the distinct moments of the main table.
        available: moment from which a row is known (its answers just after).
        training: rows that may be fitted on.
        testing: rows that may not; all where there is no split.
        entity: whose row it is; zeros without entities.
    """

    frame: Frame
    contract: Rows
    row: Ranks
    needed: Ranks
    available: Ranks
    training: Mask
    testing: Mask
    entity: Ranks

    def __len__(self) -> int:
        return len(self.frame)

    def take(self, rows: Array) -> "Side":
        """Return some rows, in the order given."""
        if rows.dtype == bool:
            rows = np.flatnonzero(rows)
        return Side(
            self.frame.take(rows),
            self.contract,
            self.row[rows],
            self.needed[rows],
            self.available[rows],
            self.training[rows],
            self.testing[rows],
            self.entity[rows],
        )

    def put(self, name: str, where: Mask, values: Array | None) -> "Side":
        """Replace some cells of a column."""
        return replace(self, frame=self.frame.put(name, where, values))

    @property
    def changeable(self) -> tuple[str, ...]:
        """Columns that replacements may touch."""
        return tuple(c for c in self.frame.names if c not in self.contract.fixed)


World = dict[str, Side]


def build(table: Any, contract: Rows, beside: Mapping[str, tuple[Any, Rows]]) -> World:  # noqa: ANN401
    """Put tables on one clock.

    Raises:
        PipelineError: a table has no rows or no column of that name, or a time is missing.
    """
    frame = Frame(table)
    if len(set(frame.names)) < len(frame.names):
        raise PipelineError("the table has two columns of one name; rename them")
    contract.check(frame.names, "the table")
    if not len(frame):
        raise PipelineError("the table has no rows")
    time = _times(frame, contract.time, "the table")
    moments = np.unique(time)
    needed = np.searchsorted(moments, time)
    if not contract.bundles:
        needed = np.argsort(np.lexsort((np.arange(len(time)), time)))
        moments = np.sort(time)
    world = {MAIN: _side(frame, contract, needed, moments)}
    for name, (other, clock) in beside.items():
        joined = Frame(other)
        clock.check(joined.names, name)
        known = np.searchsorted(moments, _times(joined, clock.time, name), side="left")
        world[name] = _side(joined, clock, known, moments)
    return world


def moments_of(side: Side) -> Array:
    """Return the time of each rank, as numbers."""
    times = ticks(side.frame.values(side.contract.time))
    return np.unique(times) if side.contract.bundles else np.sort(times)


def _side(frame: Frame, contract: Rows, needed: Ranks, moments: Array) -> Side:
    available = needed
    if contract.released:
        released = _times(frame, contract.released, contract.released)
        available = np.searchsorted(moments, released, side="left")
    entity = np.zeros(len(frame), dtype=np.int64)
    if contract.entity:
        code: dict[Any, int] = {}
        names = hashable(frame.values(contract.entity))
        entity = np.array([code.setdefault(e, len(code)) for e in names], dtype=np.int64)
    training = np.zeros(len(frame), dtype=bool)
    if contract.split is not None:
        training = _training(frame, contract)
    row = np.arange(len(frame))
    return Side(frame, contract, row, needed, available, training, ~training, entity)


def _times(frame: Frame, name: str, where: str) -> Array:
    if frame.missing(name).any():
        raise PipelineError(f"{where} has rows without {name}; give each row its time or drop it")
    return ticks(frame.values(name))


def split_labels(side: Side) -> list[str]:
    """Return the split of each row as text."""
    labels = _labels(side.frame, side.contract)
    if labels.dtype == bool:
        return ["train" if training else "not train" for training in labels.tolist()]
    return [str(label) for label in labels.tolist()]


def _labels(frame: Frame, contract: Rows) -> Array:
    split = contract.split
    if split is None:
        return np.zeros(len(frame), dtype=bool)
    return np.asarray(frame.values(split) if isinstance(split, str) else split(frame.copy()))


def _training(frame: Frame, contract: Rows) -> Mask:
    labels = _labels(frame, contract)
    if len(labels) != len(frame):
        raise PipelineError(f"the split has {len(labels)} labels for {len(frame)} rows")
    named = labels.astype(str)
    training = labels if labels.dtype == bool else np.isin(named, contract.train)
    if training.all() or not training.any():
        raise PipelineError(
            f"the split must hold rows to train on ({', '.join(contract.train)}) and others; "
            f"it holds {', '.join(sorted(set(named)))}"
        )
    return np.asarray(training, dtype=bool)
