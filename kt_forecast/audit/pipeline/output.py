"""Runs a user's function and joins what it returns to the rows it is for."""

import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from kt_forecast.audit.pipeline.contract import PipelineError
from kt_forecast.audit.pipeline.frames import (
    Array,
    columns_of,
    hashable,
    is_table,
    plain,
    ticks,
)
from kt_forecast.audit.pipeline.world import MAIN, Mask, Ranks, Side, World, moments_of

Form = Literal["features", "fit_transform", "split"]
DEPTH = 4
"""How deep fitted objects are looked into."""
SINGLE = 1e-5
DOUBLE = 1e-9
"""Changes below this share of a column's largest value are rounding, by precision."""


@dataclass(frozen=True)
class Output:
    """What a function returned, row by row.

    Attributes:
        columns: numbers or text by column.
        tolerance: change of each column that rounding explains.
        identity: a number for each row that is the same in every run.
        row: number of the row of the table it is for; -1 where it is for none.
        needed: moment of each row.
        entity: entity of each row; -1 where it is of none in the table.
        training: rows of the training side.
        artefacts: fitted numbers and names by path.
        training_columns: those of the training side, where it is apart.
    """

    columns: dict[str, Array]
    tolerance: dict[str, float]
    identity: Ranks
    row: Ranks
    needed: Ranks
    entity: Ranks
    training: Mask
    artefacts: dict[str, Array]
    training_columns: frozenset[str]

    def __len__(self) -> int:
        return len(self.identity)


@dataclass(frozen=True)
class Joined:
    """Rows of a result: who they are, and when and for whom."""

    identity: list[Any]
    row: Ranks


class Pipeline:
    """A user's function with the tables it was given, run on changed copies of them.

    Attributes:
        form: what is called with what; see `audit_pipeline`.
        world: the tables as given.
        runs: calls so far.
        joined_by: ``key``, ``index`` or ``position``.
    """

    def __init__(self, function: Callable[..., Any], world: World, form: Form) -> None:
        self.function = function
        self.form = form
        self.world = world
        self.runs = 0
        self.joined_by = ""
        self.moments = moments_of(world[MAIN])
        self._codes: dict[Any, int] = {}

    def __call__(self, world: World, seed: int = 0) -> Output:
        """Run the function on these tables, every random number drawn again from the seed."""
        self.runs += 1
        main = world[MAIN]
        beside = {name: side.frame.copy() for name, side in world.items() if name != MAIN}
        tables = [main]
        if self.form == "fit_transform":
            tables = [main.take(main.training), main.take(~main.training)]
        with _quiet_and_seeded(seed):
            result = self.function(*(side.frame.copy() for side in tables), **beside)
        return self._output(result, tables)

    def _output(self, result: Any, tables: list[Side]) -> Output:  # noqa: ANN401
        if self.form == "features":
            return self._merged([self._part(result, tables[0])], {}, None)
        wanted = "train features, test features" + (
            " and, if wanted, what was fitted" if self.form == "fit_transform" else ""
        )
        if not isinstance(result, tuple | list) or len(result) < 2:
            raise PipelineError(f"the function must return {wanted}")
        sources = tables if len(tables) == 2 else [tables[0], tables[0]]
        parts = [self._part(x, side) for x, side in zip(result, sources, strict=False)]
        fitted = {path: x for rest in result[2:] for path, x in _artefacts(rest, "fitted", DEPTH)}
        return self._merged(parts, fitted, [True, False])

    def _part(self, result: Any, side: Side) -> tuple[dict[str, Array], Joined, Side]:  # noqa: ANN401
        columns, index = columns_of(result)
        return columns, self._join(columns, index, side), side

    def _join(self, columns: dict[str, Array], index: Array | None, side: Side) -> Joined:
        n = len(next(iter(columns.values()))) if columns else 0
        how = self.joined_by or _how(columns, index, side, n, self.form)
        if not how:
            raise PipelineError(
                f"the {n} rows returned cannot be joined to the {len(side)} rows given: return "
                f"{', '.join(side.contract.keys)} with them"
            )
        self.joined_by = how
        if how == "key":
            return _by_key(columns, side)
        if how == "index":
            own = side.frame.index()
            if own is None or index is None or not np.isin(index, own).all():
                raise PipelineError("the rows returned have lost their index")
            return _by_names(hashable(index), hashable(own))
        if n != len(side):
            raise PipelineError(f"{n} rows were returned for {len(side)} rows without a key")
        return Joined(list(side.row.tolist()), np.arange(n))

    def _merged(
        self,
        parts: list[tuple[dict[str, Array], Joined, Side]],
        artefacts: dict[str, Array],
        training: list[bool] | None,
    ) -> Output:
        names = list(dict.fromkeys(name for columns, *_ in parts for name in columns))
        collected: dict[str, list[Array]] = {name: [] for name in names}
        single = dict.fromkeys(names, False)
        fields: list[tuple[Ranks, Ranks, Ranks, Ranks, Mask]] = []
        for part, (columns, joined, side) in enumerate(parts):
            n = len(joined.identity)
            for name in names:
                values = columns.get(name)
                single[name] |= values is not None and np.asarray(values).dtype == np.float32
                collected[name].append(np.full(n, np.nan) if values is None else plain(values))
            trained = None if training is None else training[part]
            fields.append(self._clock(joined, columns, side, part=trained))
        apart = frozenset(parts[0][0]) if training else frozenset()
        stacked = {name: _stacked(arrays) for name, arrays in collected.items()}
        tolerance = {name: _tolerance(x, single=single[name]) for name, x in stacked.items()}
        identity, row, needed, entity, mask = (np.concatenate(x) for x in zip(*fields, strict=True))
        return Output(stacked, tolerance, identity, row, needed, entity, mask, artefacts, apart)

    def _clock(
        self, joined: Joined, columns: dict[str, Array], side: Side, *, part: bool | None
    ) -> tuple[Ranks, Ranks, Ranks, Ranks, Mask]:
        seen: dict[Any, int] = {}
        code = np.zeros(len(joined.identity), dtype=np.int64)
        for i, name in enumerate(joined.identity):
            again = seen[name] = seen.get(name, -1) + 1
            code[i] = self._codes.setdefault((part, name, again), len(self._codes))
        found = joined.row >= 0
        at = np.where(found, joined.row, 0)
        needed, entity = side.needed[at], side.entity[at]
        training = side.training[at] if part is None else np.full(len(at), part)
        if not found.all():
            times = ticks(columns[side.contract.time])
            placed = np.searchsorted(self.moments, times, side="right") - 1
            needed = np.where(found, needed, placed)
            entity = np.where(found, entity, -1)
            training = training & (found | (part is not None))
        return code, np.where(found, side.row[at], -1), needed, entity, training


def _how(
    columns: dict[str, Array], index: Array | None, side: Side, n: int, form: Form
) -> str | None:
    if all(key in columns for key in side.contract.keys):
        return "key"
    own = side.frame.index()
    numbered = index is not None and np.array_equal(index, np.arange(n)) and n != len(side)
    if own is not None and index is not None and np.isin(index, own).all() and not numbered:
        return "index"
    return "position" if n == len(side) and form != "split" else None


def _by_key(columns: dict[str, Array], side: Side) -> Joined:
    keys = side.contract.keys
    given = zip(*(hashable(columns[key]) for key in keys), strict=True)
    own = zip(*(hashable(side.frame.values(key)) for key in keys), strict=True)
    joined = _by_names(given, own)
    if (joined.row < 0).any() and side.contract.time not in columns:
        raise PipelineError(
            f"rows were returned whose {', '.join(keys)} are in no row given, and without "
            f"{side.contract.time} that would say when they are needed"
        )
    return joined


def _by_names(given: Iterator[Any], own: Iterator[Any]) -> Joined:
    where: dict[Any, list[int]] = {}
    for row, name in enumerate(own):
        where.setdefault(name, []).append(row)
    names = list(given)
    used: dict[Any, int] = {}
    rows = np.full(len(names), -1, dtype=np.int64)
    for i, name in enumerate(names):
        places = where.get(name)
        if places:
            turn = used.get(name, 0)
            rows[i] = places[min(turn, len(places) - 1)]
            used[name] = turn + 1
    return Joined(names, rows)


def _stacked(arrays: list[Array]) -> Array:
    if len({a.dtype for a in arrays}) > 1:
        arrays = [a.astype(str).astype(object) for a in arrays]
    return np.concatenate(arrays)


def _tolerance(values: Array, *, single: bool) -> float:
    if values.dtype == object:
        return 0.0
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max() if len(finite) else 0.0) * (SINGLE if single else DOUBLE)


def _artefacts(value: Any, path: str, depth: int) -> Iterator[tuple[str, Array]]:  # noqa: ANN401
    """Yield the numbers and names inside a fitted object."""
    if isinstance(value, int | float | str | np.generic | np.ndarray):
        yield path, plain(np.asarray(value).reshape(-1))
    elif isinstance(value, set | frozenset):
        yield path, np.array(sorted(map(str, value)), dtype=object)
    elif value is not None and depth and not callable(value):
        inside = _inside(value)
        yield f"{path} names", np.array([str(name) for name in inside], dtype=object)
        for name, inner in inside.items():
            yield from _artefacts(inner, f"{path}.{name}", depth - 1)


def _inside(value: Any) -> dict[Any, Any]:  # noqa: ANN401
    """Return what a fitted object holds, by name."""
    if is_table(value):
        columns, index = columns_of(value)
        return columns | ({} if index is None else {"index": index})
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    return value if isinstance(value, dict) else getattr(value, "__dict__", {})


@contextmanager
def _quiet_and_seeded(seed: int) -> Iterator[None]:
    """Seed the global generators for one run and give them back as they were."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    torch = sys.modules.get("torch")
    generator = torch.default_generator if torch else None
    state = generator.get_state() if generator else None
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    if generator:
        generator.manual_seed(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        if generator:
            generator.set_state(state)
