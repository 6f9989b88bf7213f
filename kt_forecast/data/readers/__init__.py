"""Formats that people really have, one file each; the folder is the registry.

A reader module holds ``NAME`` (how a user asks for the format), ``DESCRIPTION`` (one line),
``matches(path)`` (does this file look like the format?) and ``read(path)``, which translates
columns and units and nothing else. What is wrong with the values is found at the door,
`kt_forecast.data.check`.
"""

from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True)
class RawTable:
    """A table as it was found, under canonical column names, not yet checked.

    Attributes:
        frame: a subset of the columns of `kt_forecast.schema`; values may still be text.
            ``concepts`` is text joined by ``separator`` or a list. ``line`` may hold the line of
            the file, for messages.
        path: where it came from, for messages.
        separator: joins several concepts in one text value.
        bundled: equal times form bundles; False where the times are too coarse to say so.
        notes: what the reader left out, one sentence each.
    """

    frame: pl.LazyFrame
    path: str
    separator: str = "_"
    bundled: bool = True
    notes: tuple[str, ...] = ()
