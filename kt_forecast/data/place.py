"""Where in the user's input something stands, in the words of the user's own file."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl


def share(fraction: float) -> str:
    """Return a fraction as a percentage for a sentence."""
    return f"{fraction:.1%}"


@dataclass(frozen=True)
class Place:
    """Names rows and columns of a table as its owner knows them.

    Attributes:
        path: file or folder.
        lines: line of the file of each row, or None where the table is not a text file.
        names: the owner's name of each canonical column that was renamed.
    """

    path: str
    lines: pl.Series | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    def name(self, column: str) -> str:
        """Return the owner's name of a canonical column."""
        return self.names.get(column, column)

    def at(self, row: int, column: str) -> str:
        """Return file, line (or row) and column; ``row`` counts from 0."""
        line = None if self.lines is None else self.lines[row]
        where = f"row {row + 1}" if line is None else f"line {line}"
        return f"{self.path}, {where}, column {self.name(column)}"
