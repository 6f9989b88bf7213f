"""The checked table of interactions: what every later stage starts from."""

from dataclasses import dataclass, field

import polars as pl


@dataclass(frozen=True)
class Interactions:
    """Checked interactions, one row a step, sorted by student and then by time.

    Attributes:
        frame: columns of `kt_forecast.schema`. ``student`` and ``question`` are UInt32 codes,
            ``concepts`` a List(UInt32) of sorted distinct codes (empty where unknown),
            ``response`` UInt8 in {0, 1}, ``time`` Int64 milliseconds (absent where the table has
            none), answer-side extras Float32 (absent where the table has none), ``fold`` Int8
            (absent where none was published).
        students: the name behind each student code, as text.
        questions: the name behind each question code, as text.
        concepts: the name behind each concept code, as text.
        name: a short name of the data set, for tables and reports.
        data_hash: SHA-256 of the canonical content; equal content gives an equal hash.
        bundled: equal times form bundles whose questions see none of each other's responses.
        notes: what was merged, dropped or reordered at the door, one sentence each.
        source: where it was asked for, the row here that each row of the table as it was read
            became: merged rows share one, null where a row was left out.
        asked: where ``source`` is, whether a row has no response, which is 0 then.
    """

    frame: pl.DataFrame
    students: pl.Series
    questions: pl.Series
    concepts: pl.Series
    name: str
    data_hash: str
    bundled: bool = True
    notes: tuple[str, ...] = field(default=())
    source: pl.Series | None = None
    asked: pl.Series | None = None

    def __len__(self) -> int:
        """Return the number of interactions."""
        return self.frame.height
