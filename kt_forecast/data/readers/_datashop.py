"""What DataShop's exports share: column names as R or pandas mangle them, several KC columns."""

import re
from pathlib import Path

import polars as pl

from kt_forecast.data.readers._files import (
    Sheet,
    header,
    open_sheet,
    unquoted,
)
from kt_forecast.errors import InputError

SEPARATOR = "~~"
JOINT = "----"
"""Between problem and step in the name of a question."""
GENERIC_MODELS = ("single kc", "unique step")


def plain(name: str) -> str:
    """Return a column name as R and pandas leave it: ``KC..Default.`` is ``kc default``."""
    return re.sub(r"[^0-9a-z]+", " ", name.lower()).strip()


def names(path: Path) -> tuple[str, dict[str, str]]:
    """Return the separator of an export and its columns by `plain` name, the first of repeats."""
    for separator in ("\t", ","):
        columns = header(path, separator, quoted=separator == ",")
        if len(columns) > 1:
            return separator, {plain(name): name for name in reversed(columns)}
    return "\t", {}


def open_export(path: Path, wanted: tuple[str, ...]) -> tuple[Sheet, dict[str, str]]:
    """Scan an export and return it with its columns by `plain` name.

    Raises:
        InputError: a wanted column is not in the header.
    """
    separator, columns = names(path)
    lacking = [name for name in wanted if name not in columns]
    if lacking:
        raise InputError(
            f"{path}, line 1: the header lacks column {', '.join(lacking)}; it has "
            f"{', '.join(columns.values())}."
        )
    # Tabs never occur inside a value, while lone double quotes do.
    return open_sheet(path, separator, quoted=separator == ","), columns


def concept_columns(columns: dict[str, str]) -> tuple[list[str], tuple[str, ...]]:
    """Return the columns of one KC model and a note on the choice.

    Of several models the first is taken that is not one of the two that DataShop adds to every
    data set. A model with several concepts a step repeats its column.
    """
    models: dict[str, list[str]] = {}
    for name, column in reversed(columns.items()):
        if name.startswith("kc ") and not name.startswith("kc category "):
            model = re.sub(r" \d+$", "", name[3:])
            whole_name = model if f"kc {model}" in columns else name[3:]
            models.setdefault(whole_name, []).append(column)
    if not models:
        return [], ("The export names no knowledge components, so that no concepts are known.",)
    chosen = next((model for model in models if model not in GENERIC_MODELS), next(iter(models)))
    others = [columns[f"kc {model}"] for model in models if model != chosen]
    note = f"Concepts are those of column {columns[f'kc {chosen}']}" + (
        f"; {', '.join(others)} are not used." if others else "."
    )
    return models[chosen], (note,)


def concepts(columns: list[str]) -> pl.Expr:
    """Return the concepts of all columns of a model, joined by ``~~``, null where there is none."""
    if not columns:
        return pl.lit(None, dtype=pl.String)
    joined = pl.concat_str(
        [unquoted(name) for name in columns], separator=SEPARATOR, ignore_nulls=True
    )
    return pl.when(joined != "").then(joined)


def question(columns: dict[str, str]) -> pl.Expr:
    """Return problem and step as one name."""
    parts = [unquoted(columns[name]).fill_null("") for name in ("problem name", "step name")]
    return pl.concat_str(parts, separator=JOINT)
