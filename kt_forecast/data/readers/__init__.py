"""Formats that people really have, one file each; the folder is the registry.

A reader module holds ``NAME`` (how a user asks for the format), ``DESCRIPTION`` (one line),
``matches(path)`` (does this file look like the format?) and ``read(path)``, which translates
columns and units and nothing else. What is wrong with the values is found at the door,
`kt_forecast.data.check`. A module whose ``FALLBACK`` is true is asked only when no other matches;
a module whose name starts with an underscore is no format.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Protocol, cast, runtime_checkable

import polars as pl

from kt_forecast.data.readers._files import first_misfit, readable
from kt_forecast.errors import InputError

FEW = 12
"""How many names a message lists."""

LONG = 40
"""How many characters of a name a message shows."""

ONE_CONCEPT = "\x1f"
"""Separator of formats that have one concept a row: it occurs in no name, so nothing is split."""


@dataclass(frozen=True)
class RawTable:
    """A table as it was found, under canonical column names, not yet checked.

    Attributes:
        frame: a subset of the columns of `kt_forecast.schema`; values may still be text.
            ``concepts`` is text joined by ``separator`` or a list. ``line`` may hold the line of
            the file, for messages. ``order`` may repeat: its rows are one interaction written once
            a concept.
        path: where it came from, for messages.
        separator: joins several concepts in one text value.
        bundled: equal times form bundles; False where the times are too coarse to say so.
        notes: what the reader left out or assumed, one sentence each.
        delimiter: what separates the fields where every line of the file is a row under one header.
        names: the file's own name of each column that it calls otherwise.
        parts: the tables that this one puts under each other, for messages.
    """

    frame: pl.LazyFrame
    path: str
    separator: str = "_"
    bundled: bool = True
    notes: tuple[str, ...] = ()
    delimiter: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    parts: tuple["RawTable", ...] = ()

    def collect(self) -> pl.DataFrame:
        """Return the rows.

        Raises:
            InputError: the file is malformed beyond its header.
        """
        try:
            return self.frame.collect()
        except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
            files = [part.path for part in self.parts] or [self.path]
            raise InputError(unreadable(files, error)) from error


def unreadable(paths: Iterable[str | Path], error: Exception) -> str:
    """Return the refusal of files that polars could not read, with the line where one is found."""
    paths = list(paths)
    for path in paths:
        if place := first_misfit(Path(path)):
            return (
                f"{place}; accepted are rows of the same columns as the header, with quotes in"
                " pairs."
            )
    reason = str(error).strip().split("\n")[0].rstrip(".")
    return (
        f"{', '.join(map(str, paths[:FEW]))}: not readable as a table ({reason}); accepted are"
        " rows of the same columns as the header."
    )


@runtime_checkable
class Reader(Protocol):
    """What a reader module offers."""

    NAME: str
    DESCRIPTION: str

    def matches(self, path: Path) -> bool:
        """Tell by content whether the path holds this format."""

    def read(self, path: Path) -> RawTable:
        """Translate the path."""


@cache
def readers() -> dict[str, Reader]:
    """Return the reader modules of this folder by name."""
    names = sorted(module.name for module in iter_modules(__path__) if module.name[0] != "_")
    modules = [cast("Reader", import_module(f"{__name__}.{name}")) for name in names]
    return {module.NAME: module for module in modules}


def formats() -> dict[str, str]:
    """Return every format that can be read, with its one-line description."""
    return {name: module.DESCRIPTION for name, module in readers().items()}


def detect(path: str | Path) -> str:
    """Return the name of the format of a file or folder, judged by its content.

    Raises:
        InputError: the path is missing, empty or damaged, or no format or several fit.
    """
    path = Path(path)
    readable(path)
    fits = {name for name, module in readers().items() if module.matches(path)}
    last = {name for name in fits if getattr(readers()[name], "FALLBACK", False)}
    found = sorted(fits - last or last)
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(
            f"{path} fits several formats ({', '.join(found)}); name one of them as the format."
        )
    raise InputError(_unknown(path))


def _unknown(path: Path) -> str:
    """Return the refusal of a path that no format fits."""
    from kt_forecast.data.readers import long_table

    if path.is_dir():
        files = sorted(str(file.relative_to(path)) for file in path.iterdir())
        return (
            f"{path}: the folder holds {listed(files)}, which no known format is made of; accepted"
            f" are a file, a folder of CSV, TSV or Parquet parts, and {', '.join(formats())}."
        )
    return long_table.lacking(path) or (
        f"{path}, line 1: no known format begins like this, with"
        f" {listed(long_table.columns_of(path))}; accepted are {', '.join(formats())}"
        " (long_table takes any table whose columns are named: --column student=NAME"
        " --column response=NAME --column question=NAME)."
    )


def listed(names: Sequence[str]) -> str:
    """Return the first names for a message, each cut to a length that can be read."""
    plain = ["".join(filter(str.isprintable, name)) for name in names[:FEW]]
    short = [name if len(name) <= LONG else f"{name[:LONG]}..." for name in plain]
    return ", ".join(short) + (", ..." if len(names) > FEW else "") if names else "nothing"


def read(
    path: str | Path,
    format: str = "auto",  # noqa: A002  # the word that users say
    columns: dict[str, str] | None = None,
) -> RawTable:
    """Read a file or folder under canonical column names.

    Args:
        path: file or folder, plain or gzip.
        format: a name of `formats`, or ``auto`` to judge by content.
        columns: canonical column to column of the file, for a ``long_table`` whose names differ.

    Raises:
        InputError: the format is unknown, does not fit, or the file cannot be used.
    """
    path = Path(path)
    if columns is not None:
        from kt_forecast.data.readers import long_table

        if format not in {"auto", long_table.NAME}:
            raise InputError(
                f"{path}: columns are named by the format {format} itself; "
                f"a mapping is accepted for {long_table.NAME} only."
            )
        readable(path)
        return _translated(path, lambda: long_table.read(path, columns))
    name = detect(path) if format == "auto" else format
    if name not in readers():
        raise InputError(
            f"{path}: there is no format {format!r}; accepted are auto, {', '.join(formats())}."
        )
    readable(path)
    return _translated(path, lambda: readers()[name].read(path))


def _translated(path: Path, read_it: Callable[[], RawTable]) -> RawTable:
    """Run a reader; some look into the rows to see what they hold.

    Raises:
        InputError: the rows cannot be read.
    """
    try:
        return read_it()
    except pl.exceptions.PolarsError as error:
        raise InputError(unreadable([path], error)) from error
