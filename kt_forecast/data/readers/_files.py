"""Open text files as they come: plain or gzip, UTF-8 or latin-1, whole or cut off."""

import csv
import gzip
import io
import re
import zlib
from codecs import IncrementalDecoder, getincrementaldecoder
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

import polars as pl

from kt_forecast.errors import InputError
from kt_forecast.schema import LINE

CHUNK_BYTES = 1 << 20
FIRST_ROWS = 2000
SOME_BYTES = 1 << 12
PARQUET = b"PAR1"
DELIMITERS = (",", "\t", ";", "|")
LONGEST_LINE = 1 << 24
MISSING = ("", ".", "NA", "N/A", "NaN", "nan", "NULL", "null", "None")
MOMENTS = (
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%m/%d/%y %H:%M:%S%.f",
    "%m/%d/%Y %H:%M:%S%.f",
    "%Y/%m/%d %H:%M:%S%.f",
    "%Y-%m-%d %H:%M",
    "%m/%d/%y %H:%M",
    "%m/%d/%Y %H:%M",
    "%Y/%m/%d %H:%M",
)
"""Forms of a moment, tried in turn: years of two digits first, as four would also take two."""


@dataclass(frozen=True)
class Sheet:
    """A delimited file, all columns text, with the line of the file in ``line``.

    Attributes:
        frame: the columns under the names of the header; a repeated name gets ``.1``, ``.2``.
        columns: these names, in the order of the file.
        notes: what had to be assumed to read it.
    """

    frame: pl.LazyFrame
    columns: tuple[str, ...]
    notes: tuple[str, ...]


def open_bytes(path: Path) -> io.BufferedIOBase:
    """Open a file for reading, through gzip where its first bytes say so."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.GzipFile(path) if packed else path.open("rb")


def peek(path: Path, n_lines: int) -> list[str]:
    """Return the first lines without their ends, or none where there is no readable text."""
    try:
        with open_bytes(path) as file:
            raw = [file.readline(LONGEST_LINE) for _ in range(n_lines)]
    except (OSError, EOFError, zlib.error):
        return []
    try:
        text = b"".join(raw).decode("utf-8-sig")
    except UnicodeDecodeError:
        text = b"".join(raw).decode("latin-1")
    return text.splitlines()


def header(path: Path, separator: str, *, quoted: bool = True) -> tuple[str, ...]:
    """Return the column names of the first line, repeats numbered; none where unreadable."""
    lines = peek(path, 1) if path.is_file() else []
    if not lines:
        return ()
    split = lines[0].split(separator)
    names = next(csv.reader(lines, delimiter=separator), []) if quoted else split
    seen: Counter[str] = Counter()
    unique = []
    for name in (name.strip() for name in names):
        unique.append(f"{name}.{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return tuple(unique)


def has_columns(path: Path, separator: str, wanted: Iterable[str]) -> bool:
    """Tell whether the header of a file holds all wanted columns."""
    return set(wanted) <= set(header(path, separator))


def readable(path: Path) -> None:
    """Check that a path is there, that a folder holds files and that a file holds a table's bytes.

    Raises:
        InputError: the path does not exist, the folder is empty, or the file is empty, a damaged
            gzip or Parquet, or no text in UTF-8 or latin-1.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist; a file or folder of a known format is needed.")
    if path.is_dir():
        if not any(file.is_file() for file in path.rglob("*")):
            raise InputError(f"{path} is a folder without files; accepted is one that holds a log.")
        return
    try:
        with open_bytes(path) as file:
            start = file.read1(CHUNK_BYTES)
    except (OSError, EOFError, zlib.error):
        raise InputError(
            f"{path} cannot be unpacked from line 1 on; a whole gzip file or plain text is needed."
        ) from None
    if path.suffix.lower() == ".parquet" or start.startswith(PARQUET):
        _whole_parquet(path)
    elif not start.strip():
        raise InputError(f"{path} is empty from line 1 on; a header and a row are needed.")
    elif b"\0" in start[:SOME_BYTES]:
        wide = start.startswith((b"\xff\xfe", b"\xfe\xff"))
        found = "is UTF-16 text" if wide else "holds bytes that are no text"
        raise InputError(
            f"{path}, line 1, {found}; accepted are text in UTF-8 or latin-1, plain or gzip, and"
            " Parquet."
        )


def _whole_parquet(path: Path) -> None:
    try:
        pl.read_parquet_schema(path)
    except (pl.exceptions.PolarsError, OSError):
        raise InputError(
            f"{path} is not a whole Parquet file; accepted is one that was written to its end, or"
            " text under a name that does not end in .parquet."
        ) from None


def source(path: Path) -> tuple[Path | io.BytesIO, int, tuple[str, ...]]:
    """Read a file through once and return what polars can scan, its lines, and notes.

    Returns:
        The path itself where it is UTF-8, else its text in UTF-8; how many lines it holds; notes.

    Raises:
        InputError: the file is missing, empty, or a gzip that breaks off.
    """
    readable(path)
    decoder = getincrementaldecoder("utf-8")()
    n_lines, utf8, ended = 0, True, True
    try:
        with open_bytes(path) as file:
            # read1 gives what could be unpacked before a break, so that its lines are counted.
            while chunk := file.read1(CHUNK_BYTES):
                n_lines += chunk.count(b"\n")
                ended = chunk.endswith(b"\n")
                utf8 = utf8 and _decodes(decoder, chunk)
            utf8 = utf8 and _decodes(decoder, b"", final=True)
    except (OSError, EOFError, zlib.error):
        raise InputError(
            f"{path} breaks off after line {n_lines}; a whole gzip file or plain text is needed."
        ) from None
    n_lines += not ended
    if utf8:
        return path, n_lines, ()
    with open_bytes(path) as file:
        text = file.read().decode("latin-1")
    note = f"{path.name} is not UTF-8 and was read as latin-1."
    return io.BytesIO(text.encode()), n_lines, (note,)


def open_sheet(
    path: Path, separator: str, wanted: Iterable[str] = (), *, quoted: bool = True
) -> Sheet:
    """Scan a delimited file lazily, every value as text.

    Args:
        path: the file, plain or gzip.
        separator: the one character between columns.
        wanted: columns that must be in the header.
        quoted: whether double quotes may enclose a value; exports that leave quotes inside
            values unescaped must be read without.

    Raises:
        InputError: the file is missing, empty, cut off, without rows, or lacks a wanted column.
    """
    scanned, n_lines, notes = source(path)
    columns = header(path, separator, quoted=quoted)
    lacking = [name for name in wanted if name not in columns]
    if lacking:
        raise InputError(
            f"{path}, line 1: the header lacks column {', '.join(lacking)}; it has "
            f"{', '.join(islice(columns, 40))}."
        )
    if n_lines < 2:
        raise InputError(
            f"{path}, line 1: there are no rows under the header; at least one is needed."
        )
    frame = pl.scan_csv(
        scanned,
        separator=separator,
        quote_char='"' if quoted else None,
        infer_schema=False,
        new_columns=list(columns),
        row_index_name=LINE,
        row_index_offset=2,
    )
    return Sheet(frame, columns, notes)


def first_misfit(path: Path) -> str | None:
    """Return where a delimited file first has a row that is too wide or a quote left open.

    Returns:
        File, line and what is wrong there; None where no such row is found.
    """
    lines = peek(path, 1) if path.is_file() else []
    if not lines:
        return None
    separator = max(DELIMITERS, key=lines[0].count)
    line, odd = 0, None
    with open_bytes(path) as file:
        text = io.TextIOWrapper(cast("IO[bytes]", file), encoding="latin-1", newline="")
        rows = csv.reader(text, delimiter=separator, strict=True)
        try:
            width = len(next(rows, []))
            for row in rows:
                line = rows.line_num
                if odd is None and "".join(row).count('"') % 2:
                    odd = f"{path}, line {line}: a double quote stands alone in a value"
                if len(row) > width:
                    return f"{path}, line {line}: {len(row)} columns under a header of {width}"
        except csv.Error:
            return f"{path}, line {line + 1}: a double quote is opened there and not closed"
    return odd


def fields(path: Path, line: int, delimiter: str) -> list[str]:
    """Return the fields of a line of a delimited file; a blank line has none."""
    with open_bytes(path) as file:
        raw = next(islice(file, line - 1, None), b"")
    text = raw.decode("utf-8-sig", errors="replace").strip("\r\n")
    return next(csv.reader([text], delimiter=delimiter), [])


def filled(name: str) -> pl.Expr:
    """Return a text column without outer blanks, null where the value only says it is missing."""
    text = pl.col(name).str.strip_chars()
    return pl.when(~text.is_in(MISSING)).then(text)


def tidied(name: str) -> pl.Expr:
    """Return `filled`, fast for columns of numbers and of few distinct values."""
    return pl.col(name).map_batches(_tidied, return_dtype=pl.String)


def _tidied(text: pl.Series) -> pl.Series:
    kinds = (pl.Int64, pl.Float64)
    if any(_numbers(text.head(FIRST_ROWS), k) and _numbers(text, k) for k in kinds):
        return text
    distinct = text.unique()
    if len(distinct) > len(text) // 2:
        return text.to_frame("text").select(filled("text")).to_series()
    known = distinct.to_frame("text").select("text", tidy=filled("text"))
    known = known.filter(pl.col("text").ne_missing(pl.col("tidy")))
    return text.replace(known["text"], known["tidy"]) if known.height else text


def _numbers(text: pl.Series, kind: type[Any]) -> bool:
    """Tell whether every value, where there is one, spells a finite number."""
    numbers = text.cast(kind, strict=False)
    return numbers.null_count() == text.null_count() and bool(numbers.is_finite().all())


def unquoted(name: str) -> pl.Expr:
    """Return `filled` without the double quotes around the value."""
    text = pl.col(name).str.strip_chars().str.replace(r'^"(.*)"$', "${1}")
    text = text.str.replace_all('""', '"', literal=True)
    return pl.when(~text.is_in(MISSING)).then(text)


def number(name: str) -> pl.Expr:
    """Return a text column as Float64, null where it is no number."""
    return pl.col(name).str.strip_chars().cast(pl.Float64, strict=False)


def whole(name: str) -> pl.Expr:
    """Return a text column as Int64, null where it is no number; fractions are cut off."""
    text = pl.col(name).str.strip_chars()
    return pl.coalesce(
        text.cast(pl.Int64, strict=False),
        text.cast(pl.Float64, strict=False).cast(pl.Int64, strict=False),
    )


def moment(name: str) -> pl.Expr:
    """Return a text column of dates with clock times as Int64 ms since 1970, read as UTC."""
    text = pl.col(name).str.strip_chars().str.strip_chars('"').str.replace(r"(Z|\+00:?00)$", "")
    return pl.coalesce(
        text.str.to_datetime(form, strict=False, time_unit="ms") for form in MOMENTS
    ).dt.epoch("ms")


def minutes_only(frame: pl.LazyFrame, name: str, n_rows: int = FIRST_ROWS) -> bool:
    """Tell whether a text column of times has no seconds, from its first rows."""
    sample = frame.select(filled(name)).head(n_rows).collect().to_series().drop_nulls()
    return bool(len(sample)) and not bool(sample.str.contains(r"\d:\d\d:\d\d").any())


def stem(path: Path) -> str:
    """Return the name of a file without ``.gz`` and without its last ending."""
    return re.sub(r"\.[^.]+$", "", re.sub(r"\.gz$", "", path.name))


def find(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a folder whose name, without ``.gz``, matches a pattern in full."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and re.fullmatch(pattern, re.sub(r"\.gz$", "", path.name))
    )


def _decodes(decoder: IncrementalDecoder, chunk: bytes, *, final: bool = False) -> bool:
    if chunk.isascii() and not decoder.getstate()[0]:
        return True
    try:
        decoder.decode(chunk, final)
    except UnicodeDecodeError:
        return False
    return True
