"""Where in the user's input something stands, in the words of the user's own file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from kt_forecast.data.readers import RawTable
from kt_forecast.data.readers._files import MISSING, fields
from kt_forecast.schema import LINE


def share(fraction: float) -> str:
    """Return a fraction as a percentage for a sentence."""
    return f"{fraction:.1%}"


def count(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun, which has an s in the plural unless ``many`` is given."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


@dataclass(frozen=True)
class Place:
    """Names rows and columns of a table as its owner knows them.

    Attributes:
        raw: the table as it was read.
        lines: line of the file of each row, or None where the table is not one text file.
        names: the owner's name of each canonical column that was renamed.
    """

    raw: RawTable
    lines: pl.Series | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """File or folder of the table."""
        return self.raw.path

    def name(self, column: str) -> str:
        """Return the owner's name of a canonical column."""
        return self.names.get(column, column)

    def at(self, row: int, column: str) -> str:
        """Return file, line (or row) and column; ``row`` counts from 0."""
        part, row, line = self._find(row)
        where = f"row {row + 1}" if line is None else f"line {line}"
        return f"{part.path}, {where}, column {self.name(column)}"

    def emptiness(self, row: int, column: str) -> str:
        """Return how a value is missing: the word for it, or a row or line that ends before it.

        Rows that are too short are read as if their last fields were empty.
        """
        part, row, line = self._find(row)
        if line is None or part.delimiter is None or not Path(part.path).is_file():
            return "is empty"
        header, found = (fields(Path(part.path), n, part.delimiter) for n in (1, line))
        if not found:
            return "is empty, for the line is blank"
        if len(found) < len(header):
            own = count(len(found), "field")
            return f"is empty, for the row has {own} under a header of {len(header)}"
        words = dict(zip((name.strip() for name in header), found, strict=False))
        word = words.get(self.name(column), "").strip()
        return f"holds {word!r}" if word in MISSING and word else "is empty"

    def _find(self, row: int) -> tuple[RawTable, int, int | None]:
        """Return the part of the table that a row lies in, its row there and its line."""
        for part in self.raw.parts:
            height = part.frame.select(pl.len()).collect().item()
            if row < height:
                held = LINE in part.frame.collect_schema()
                line = part.frame.select(LINE).slice(row, 1).collect().item() if held else None
                return part, row, line
            row -= height
        return self.raw, row, None if self.lines is None else self.lines[row]
