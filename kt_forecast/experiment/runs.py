"""Runs that were recorded: listed, filtered, held beside each other."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import polars as pl

from kt_forecast.errors import InputError
from kt_forecast.tracking import find, runs

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]

METRIC, SETTING, TAG = "metric.", "setting.", "tag."
_PREFIXES = {"metrics.": METRIC, "params.": SETTING, "settings.": SETTING, "tags.": TAG}
"""MLflow's words for the same, which are taken too."""

_TERM = re.compile(r"\s*(?P<name>[^\s=!<>~]+)\s*(?P<op>==|=|!=|>=|<=|>|<|~)\s*(?P<value>.+?)\s*")
_AND = re.compile(r"\s+and\s+", re.IGNORECASE)

HEADLINES = ("full/auc", "pykt/auc", "stream/auc", "ltsf/mse", "stream/mse", "rolling/mse")
"""Metrics of which the list shows those that its runs have."""

SHOWN = ("name", "experiment", "verdict")
"""Facts that are shown of runs beside each other even where they do not differ."""


@dataclass(frozen=True)
class Term:
    """One condition on a run.

    Attributes:
        name: column of `tracking.runs`.
        op: how it is compared; ``~`` asks whether a text holds another.
        value: with what.
    """

    name: str
    op: Literal["=", "!=", ">", ">=", "<", "<=", "~"]
    value: str

    def expression(self, *, is_number: bool) -> pl.Expr:
        """Return the condition on a column of numbers or of texts.

        Raises:
            InputError: a number is compared with a text, or a text by size.
        """
        column = pl.col(self.name)
        if self.op == "~":
            return column.cast(pl.String).str.contains(self.value, literal=True)
        value: Any = self.value
        is_setting = self.name.startswith(SETTING)
        if is_number or (is_setting and self.op in {">", ">=", "<", "<="}):
            column = column.cast(pl.Float64, strict=False)
            try:
                value = float(self.value)
            except ValueError:
                raise InputError(
                    f"--where {self.name} {self.op} {self.value}: accepted is a number"
                ) from None
        elif self.op in {">", ">=", "<", "<="}:
            raise InputError(
                f"--where {self.name} {self.op} {self.value}: {self.name} is text; accepted are"
                " =, != and ~"
            )
        else:
            column = column.cast(pl.String)
        found = {
            "=": column == value,
            "!=": (column != value).fill_null(value=True),
            ">": column > value,
            ">=": column >= value,
            "<": column < value,
            "<=": column <= value,
        }
        return found[self.op]


def parsed(where: str, columns: Sequence[str]) -> list[Term]:
    """Return the conditions of a text such as ``full/auc > 0.7 and system = gpt``.

    A name is a metric, a setting, a tag or a fact of the run; ``metric.``, ``setting.`` and
    ``tag.`` before it are needed where several are called so.

    Raises:
        InputError: it cannot be read, or no run has anything of that name.
    """
    found = []
    for text in _AND.split(where):
        match = _TERM.fullmatch(text)
        if match is None:
            raise InputError(
                f"--where {text!r}: accepted is NAME OP VALUE with =, !=, <, <=, >, >= or ~,"
                " several joined by and, as in 'full/auc > 0.7 and system = gpt'"
            )
        op: Any = "=" if match["op"] == "==" else match["op"]
        value = match["value"].strip("'\"")
        found.append(Term(column_of(match["name"].strip('`"'), columns), op, value))
    return found


def column_of(name: str, columns: Sequence[str]) -> str:
    """Return the column that a name means.

    Raises:
        InputError: none, or several.
    """
    for word, own in _PREFIXES.items():
        if name.startswith(word):
            name = own + name.removeprefix(word)
    if name in columns:
        return name
    known = [prefix + name for prefix in (METRIC, TAG, SETTING) if prefix + name in columns]
    if len(known) > 1:
        raise InputError(f"{name!r} is {' and '.join(known)}; accepted is one of them")
    if not known:
        short = {c.partition(".")[2] or c: c for c in columns}
        near = get_close_matches(name, [*columns, *short], n=1)
        raise InputError(f"no run has {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return known[0]


def chosen(
    root: Path, *, where: Sequence[str] = (), experiment: str | None = None, sort: str = ""
) -> pl.DataFrame:
    """Return the runs that meet all conditions, newest first, or the best first.

    Args:
        root: folder of the runs and of MLflow's database.
        where: conditions, see `parsed`.
        experiment: only its runs.
        sort: what to sort by; a ``-`` before it puts the largest first.

    Raises:
        InputError: a condition cannot be read.
    """
    table = runs(root, experiment)
    for text in where:
        for term in parsed(text, table.columns):
            table = table.filter(term.expression(is_number=table.schema[term.name].is_numeric()))
    if sort:
        column = column_of(sort.removeprefix("-"), table.columns)
        table = table.sort(column, descending=sort.startswith("-"), nulls_last=True)
    return table


def listed(table: pl.DataFrame, metrics: Sequence[str] = ()) -> Table:
    """Return a row for each run.

    Args:
        table: of `chosen`.
        metrics: to show; by default the headlines.
    """
    names = [column_of(m, table.columns) for m in metrics]
    if not metrics:
        names = [METRIC + m for m in HEADLINES if METRIC + m in table.columns]
        names = [name for name in names if table[name].is_not_null().any()]
    facts = ["tag.system", "tag.data.name"]
    facts = [name for name in facts if name in table.columns]
    header = ("run", "name", *(_short(n) for n in facts), *(_short(n) for n in names))
    rows = [
        (
            row["run"][:8],
            str(row["name"]),
            *(_cell(row[n]) for n in facts),
            *(_cell(row[n]) for n in names),
            _verdict(row["verdict"]),
            str(row["status"]).lower(),
            f"{row['started']:%Y-%m-%d %H:%M}",
            _cell(row["seconds"]),
        )
        for row in table.iter_rows(named=True)
    ]
    return (*header, "audit", "status", "started", "seconds"), rows


def beside(wanted: Sequence[str], root: Path) -> list[tuple[str, Table]]:
    """Return what divides some runs: settings and facts that differ, and their metrics.

    Args:
        wanted: the beginning of an id or a name each, see `tracking.find`.
        root: folder of the runs.

    Raises:
        InputError: a run is not there, or more than one is called so.
    """
    found = [find(name, root) for name in wanted]
    header = ("what", *(row["run"][:8] for row in found))
    names = [name for name in dict.fromkeys(key for row in found for key in row) if name != "run"]
    facts: list[tuple[str, ...]] = []
    metrics: list[tuple[str, ...]] = []
    for name in names:
        values = [_cell(row.get(name)) for row in found]
        if name.startswith(METRIC):
            metrics.append((_short(name), *values))
        elif len(found) == 1 or name in SHOWN or len(set(values)) > 1:
            facts.append((_short(name), *values))
    parts = (("Facts and settings that differ", facts), ("Metrics", metrics))
    return [
        (title, (header, [row for row in rows if set(row[1:]) != {"-"}])) for title, rows in parts
    ]


def _short(column: str) -> str:
    return column.removeprefix(METRIC).removeprefix(SETTING).removeprefix(TAG)


def _verdict(word: str | None) -> str:
    return "LEAKS" if word == "leak" else word or "-"


def _cell(value: Any) -> str:  # noqa: ANN401
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
