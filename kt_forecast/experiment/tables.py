"""Tables for the command line: load one, say what is in it, keep one as a data set, fetch one."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from kt_forecast.data import readers, tables
from kt_forecast.data.cards import (
    CARD_FILE,
    RAW_FOLDER,
    Card,
    card_names,
    cards_folder,
    find_data,
    read_card,
)
from kt_forecast.data.fetch import fetch as fetch_files
from kt_forecast.data.interactions import Interactions
from kt_forecast.errors import InputError
from kt_forecast.experiment import series
from kt_forecast.experiment.recipe import DataRecipe
from kt_forecast.experiment.recipe_forecast import SeriesRecipe
from kt_forecast.schema import ANSWER_EXTRAS, FOLD, RESPONSE, STUDENT, TIME

DATA_SETS = ("name", "what", "task", "here", "licence")

_SERIES_FORMATS = {
    "long": "series: a row for each unique_id and ds with its y, and covariates",
    "wide": "series: a column of stamps, and a column for each series",
}


@dataclass(frozen=True)
class Checked:
    """A table that passed the door.

    Attributes:
        name: of the table.
        what: what it holds, in a few words.
        summary: what it holds, as words and figures.
        notes: what was found and changed, one sentence each.
    """

    name: str
    what: str
    summary: list[tuple[str, str]]
    notes: tuple[str, ...]


def checked(data: DataRecipe | SeriesRecipe) -> Checked:
    """Return what a table of either task holds.

    Raises:
        InputError: it is refused.
    """
    if isinstance(data, SeriesRecipe):
        from kt_forecast.data.series.summary import summary as lines

        table = series.load(data)
        what = f"{table.n_rows} rows of {table.n_series} series"
        return Checked(table.name, what, lines(table), table.notes)
    found = load(data)
    what = f"{len(found)} interactions of {len(found.students)} students"
    return Checked(found.name, what, summary(found), found.notes)


def load(data: DataRecipe, *, asking: bool = False) -> Interactions:
    """Return the checked table that a recipe names.

    Raises:
        InputError: it cannot be found, read or used.
    """
    return tables.load(
        data.source,
        columns=data.columns or None,
        format=data.format,
        separator=data.separator,
        repeats=data.repeats,
        min_interactions=data.min_interactions,
        asking=asking,
    )


def summary(interactions: Interactions) -> list[tuple[str, str]]:
    """Return what a table holds, as words and figures."""
    frame = interactions.frame
    length = frame[STUDENT].value_counts()["count"].to_numpy()
    known = [column for column in (TIME, *ANSWER_EXTRAS, FOLD) if column in frame.columns]
    return [
        ("interactions", f"{len(interactions):,}"),
        ("students", f"{len(interactions.students):,}"),
        ("questions", f"{len(interactions.questions):,}"),
        ("concepts", f"{len(interactions.concepts):,}"),
        ("answered correctly", f"{frame[RESPONSE].to_numpy().mean():.1%}"),
        ("steps a student, median", f"{float(np.median(length)):,.0f}"),
        ("steps a student, most", f"{int(length.max()):,}"),
        ("further columns", ", ".join(known) or "none"),
        ("equal times are one event", "yes" if interactions.bundled else "no"),
        ("hash", interactions.data_hash),
    ]


def data_sets() -> list[tuple[str, ...]]:
    """Return name, title, task, whereabouts and licence of every data set with a card."""
    rows: list[tuple[str, ...]] = []
    for name in card_names():
        card = read_card(name)
        here = "yes" if _is_here(name) else "no"
        rows.append((name, card.title, card.task.replace("_", " "), here, card.licence))
    return rows


def formats() -> list[tuple[str, ...]]:
    """Return every format that can be read, with one line on each."""
    return [*readers.formats().items(), *_SERIES_FORMATS.items()]


def keep(data: DataRecipe | SeriesRecipe, name: str, folder: Path | None = None) -> Path:
    """Copy a table into a data set of its own, with a card, after it has passed the door.

    Args:
        data: the table and how it is read.
        name: of the data set; a folder of that name is made, whole or not at all.
        folder: of all data sets.

    Returns:
        The card.

    Raises:
        InputError: the table is refused, or the name is taken or cannot be one.
    """
    folder = folder or cards_folder()
    home = folder / name
    if not name.replace("-", "").replace("_", "").isalnum():
        raise InputError(f"name {name!r}: accepted are letters, digits, - and _")
    if home.exists():
        raise InputError(f"{home}: is there already; accepted is another name")
    source = Path(data.source)
    plain: dict[str, Any] = {
        "title": name,
        "description": f"Imported from {source.name}: {checked(data).what}.",
        "task": "forecasting" if isinstance(data, SeriesRecipe) else "knowledge_tracing",
        "licence": "not stated",
        "citation": "not stated",
        "path": f"{RAW_FOLDER}/{source.name}",
    }
    own = data.model_dump(mode="json", exclude={"source"}, exclude_none=True)
    known = {key: value for key, value in own.items() if key in Card.model_fields}
    card = Card.parse(plain | known, name)
    part = folder / f".{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        (part / RAW_FOLDER).mkdir(parents=True)
        copy = shutil.copytree if source.is_dir() else shutil.copyfile
        copy(source, part / card.path)
        plain = card.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        (part / CARD_FILE).write_text(tomli_w.dumps(plain), encoding="utf-8")
        part.replace(home)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return home / CARD_FILE


def fetch(name: str, progress: Callable[[str, int, int | None], None] | None = None) -> list[str]:
    """Bring a data set's files here.

    Args:
        name: of a data set with a card.
        progress: called with the file's name, the bytes that are here, and the bytes of the whole.

    Returns:
        What is here now, under which licence, and what to cite, one sentence each.

    Raises:
        InputError: there is no such data set, or its owners give it out by hand only.
    """
    card = read_card(name)
    if not card.files:
        here = f"it is here already, in {find_data(name)}" if _is_here(name) else card.obtain
        raise InputError(f"{name}: there is no address to fetch it from; {here}")
    found = fetch_files(card, cards_folder() / name / RAW_FOLDER, progress)
    return [
        *(
            f"{one.path}: {one.path.stat().st_size:,} bytes, SHA-256 {one.sha256},"
            f" {'as on the card' if one.verified else 'unverified, as the card has none'}"
            for one in found
        ),
        f"licence: {card.licence}",
        f"cite: {card.citation}",
    ]


def _is_here(name: str) -> bool:
    try:
        find_data(name)
    except InputError:
        return False
    return True
