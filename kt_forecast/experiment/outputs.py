"""Tables that a command leaves behind."""

import os
from pathlib import Path

import polars as pl

from kt_forecast.errors import InputError

_WRITERS = {".csv": "write_csv", ".parquet": "write_parquet"}
_LIST_SEPARATOR = "_"


def refuse_ending(out: Path) -> None:
    """Refuse a file that cannot be written, before anything is computed.

    Raises:
        InputError: its ending is unknown.
    """
    if out.suffix not in _WRITERS:
        raise InputError(f"{out}: accepted endings are {' and '.join(_WRITERS)}")


def write_table(frame: pl.DataFrame, out: Path) -> None:
    """Write a table whole or not at all; lists become text in a CSV file."""
    if out.suffix == ".csv":
        lists = [name for name, kind in frame.schema.items() if isinstance(kind, pl.List)]
        frame = frame.with_columns(
            pl.col(name).cast(pl.List(pl.String)).list.join(_LIST_SEPARATOR) for name in lists
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f"{out.name}.{os.getpid()}.part")
    try:
        getattr(frame, _WRITERS[out.suffix])(part)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
