"""Data sets by name: a folder with a card is a data set, and the folder is the registry."""

import os
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from pydantic import Field

from kt_forecast.config import Config
from kt_forecast.data.merging import Repeats
from kt_forecast.errors import InputError

CARDS_VARIABLE = "KT_FORECAST_DATASETS"
"""Names the folder of the cards; else ``datasets`` here or in a folder above."""

DATA_VARIABLE = "KT_FORECAST_DATA"
"""Names a folder of data sets kept outside the repository: ``<folder>/kt/<name>`` for students,
``<folder>/series/<name>`` for series."""

CARD_FILE = "card.toml"
RAW_FOLDER = "raw"
_KEPT = {"knowledge_tracing": "kt", "forecasting": "series"}


class RemoteFile(Config):
    """A file that can be fetched.

    Attributes:
        url: where it is published.
        name: its file name under the data set's raw folder.
        sha256: its checksum, where somebody has verified one; absent otherwise.
        bytes: its size, where known.
        unzip: whether it is a zip archive to be unpacked beside itself.
    """

    url: str = Field(pattern=r"^https?://")
    name: str = Field(pattern=r"^[^/\\]+$")
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    bytes: int | None = Field(None, gt=0)
    unzip: bool = False


class Card(Config):
    """What is known about a data set.

    Attributes:
        title: its full name.
        description: what a row is, where it comes from, what is known to be wrong with it.
        task: what it is for.
        licence: what its owners allow.
        citation: what they ask to be cited.
        homepage: the page of its owners.
        files: what can be fetched without an account; empty where a form must be filled in.
        obtain: what a person must do to get the files, where they cannot be fetched.
        path: the data beside the card, relative to its folder; the raw folder if absent.
        format: the reader's name, or ``auto``.
        separator: joins several concepts in one text value; the reader's own if absent.
        columns: canonical name to the file's own, for plain tables.
        repeats: what to do with rows that repeat the student's previous question.
        folds: how the published split was made, if there is one.
        simulated: whether the students or series are invented.
        kept: where under the folder of `DATA_VARIABLE` the data are, if not under the set's name.
        stamps: ``order`` where the stamps of series are wrong, and rows are equally spaced.
        gaps: what becomes of missing values inside series.
        freq: step of series; detected if absent.
        season: steps of their cycle; by default the one that the step suggests.
        past: covariates of series known up to the origin.
        future: covariates of series known in advance.
        static: facts of series.
        split: the kind of split that results on the set are published with.
    """

    title: str
    description: str
    task: Literal["knowledge_tracing", "forecasting"]
    licence: str
    citation: str
    homepage: str = ""
    files: tuple[RemoteFile, ...] = ()
    obtain: str = ""
    path: str = RAW_FOLDER
    format: str = "auto"
    separator: str | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    repeats: Repeats = "auto"
    folds: str = ""
    simulated: bool = False
    kept: str = ""
    stamps: Literal["auto", "dates", "order"] = "auto"
    gaps: Literal["refuse", "mask", "ffill"] = "refuse"
    freq: str | int | None = None
    season: int | None = Field(None, ge=1)
    past: tuple[str, ...] = ()
    future: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    split: Literal["", "ltsf", "time", "share", "last"] = ""


def cards_folder() -> Path:
    """Return the folder that holds the cards; it need not exist.

    It is the one that the environment names, else ``datasets`` here or in a folder above, else
    that of the checkout which the package runs from.
    """
    if named := os.environ.get(CARDS_VARIABLE):
        return Path(named)
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).parents[2]):
        if next((folder / "datasets").glob(f"*/{CARD_FILE}"), None):
            return folder / "datasets"
    return here / "datasets"


def card_names() -> list[str]:
    """Return the names of the data sets that have a card."""
    return sorted(path.parent.name for path in cards_folder().glob(f"*/{CARD_FILE}"))


def read_card(name: str) -> Card:
    """Return the card of a data set.

    Raises:
        InputError: there is no such card (the nearest is named), or it is not a valid one.
    """
    path = cards_folder() / name / CARD_FILE
    if not path.is_file():
        known = card_names()
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"
        raise InputError(f"no data set {name!r} in {cards_folder()}; {hint}")
    try:
        plain = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML ({error}); accepted is a card") from error
    return Card.parse(plain, str(path))


def find_data(name: str) -> Path:
    """Return the file or folder that holds the data of a set with a card.

    Raises:
        InputError: the data are not here; the sentence says how to get them.
    """
    card = read_card(name)
    beside = cards_folder() / name / card.path
    candidates = [beside]
    if kept := os.environ.get(DATA_VARIABLE):
        candidates.append(Path(kept) / (card.kept or f"{_KEPT[card.task]}/{name}"))
    for path in candidates:
        if path.is_file():
            return path
        if path.is_dir() and (found := _content(path)):
            return found[0] if len(found) == 1 and found[0].is_file() else path
    how = f"fetch {name!r} first" if card.files else f"{card.obtain} ({card.homepage})"
    raise InputError(f"the data of {name!r} are not in {beside}; {how}")


def _content(folder: Path) -> list[Path]:
    """Return what lies in a folder, without archives, hidden files and unfinished transfers."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.name[0] != "." and path.suffix not in {".part", ".zip"}
    )
