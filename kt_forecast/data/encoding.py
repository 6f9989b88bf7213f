"""Names to codes, concept sets to codes of sets, and the hash of what a table holds.

A column is encoded through its distinct values: millions of rows cost one join, and the codes
follow the sorted names, so that neither the order of the rows nor the file format shows.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

Codes = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Encoded:
    """A column as codes.

    Attributes:
        codes: UInt32, one a row; code k stands for the name at place k.
        names: distinct names in text order.
    """

    codes: pl.Series
    names: pl.Series


@dataclass(frozen=True)
class EncodedSets:
    """A column of concept sets as codes of distinct sets.

    Attributes:
        codes: UInt32, one a row; code k stands for the set at place k.
        sets: List(UInt32), distinct sets of sorted concept codes.
        names: the name behind each concept code, in text order.
    """

    codes: pl.Series
    sets: pl.Series
    names: pl.Series


def lookup(series: pl.Series, keys: pl.Series, values: pl.Series) -> pl.Series:
    """Return the value behind the key of each row; a key that is not there gives null."""
    table = pl.DataFrame({"key": keys, "value": values})
    rows = series.alias("key").to_frame()
    joined = rows.join(table, on="key", how="left", maintain_order="left", nulls_equal=True)
    return joined["value"]


def places(count: int) -> pl.Series:
    """Return 0, 1, ... ``count`` - 1 as UInt32."""
    return pl.Series(np.arange(count, dtype=np.uint32))


def encode(series: pl.Series) -> Encoded:
    """Encode a column without nulls; surrounding blanks are no part of a name."""
    distinct = series.unique()
    text = as_text(distinct)
    names = text.unique().sort()
    return Encoded(lookup(series, distinct, lookup(text, names, places(len(names)))), names)


def as_text(series: pl.Series) -> pl.Series:
    """Return values as text; a float that is a whole number reads as the integer it is."""
    if series.dtype.is_float() and (series == series.floor()).all() and series.is_finite().all():
        series = series.cast(pl.Int64)
    return series.cast(pl.String).str.strip_chars()


def encode_sets(series: pl.Series, separator: str) -> EncodedSets:
    """Encode concept sets, given as lists, as text joined by ``separator``, or one a row.

    A null or an empty text is the empty set.
    """
    distinct = series.unique()
    if isinstance(series.dtype, pl.List):
        lists = _list_text(distinct)
    else:
        lists = as_text(distinct).str.split(separator)
    owner = places(len(lists))
    flat = pl.DataFrame({"set": owner, "name": lists.fill_null(pl.Series([[]], dtype=lists.dtype))})
    flat = flat.explode("name", empty_as_null=False, keep_nulls=False)
    flat = flat.with_columns(pl.col("name").str.strip_chars()).filter(pl.col("name") != "")
    encoded = encode(flat["name"])
    keys = concept_lists(flat["set"], encoded.codes, len(lists))
    sets = distinct_sets(keys)
    return EncodedSets(
        lookup(series, distinct, lookup(keys, sets, places(len(sets)))), sets, encoded.names
    )


def _list_text(lists: pl.Series) -> pl.Series:
    """Return lists of any scalar as lists of text; whole floats read as integers."""
    inner = lists.dtype.inner if isinstance(lists.dtype, pl.List) else lists.dtype
    if inner in {pl.Float32, pl.Float64}:
        lists = lists.cast(pl.List(pl.Int64))
    return lists.cast(pl.List(pl.String))


def concept_lists(owner: pl.Series, concept: pl.Series, count: int) -> pl.Series:
    """Gather concept codes into one sorted, distinct list an owner; owners are 0 .. count - 1."""
    pairs = pl.DataFrame({"owner": owner.cast(pl.UInt32), "concept": concept.cast(pl.UInt32)})
    pairs = pairs.unique().sort("owner", "concept")
    grouped = pairs.group_by("owner", maintain_order=True).agg(pl.col("concept"))
    lists = lookup(places(count), grouped["owner"], grouped["concept"])
    return lists.fill_null(pl.Series([[]], dtype=pl.List(pl.UInt32)))


def distinct_sets(lists: pl.Series) -> pl.Series:
    """Return the distinct lists, in an order that depends on their content only."""
    distinct = lists.unique()
    frame = pl.DataFrame({"set": distinct, "size": distinct.list.len()})
    frame = frame.with_columns(text=pl.col("set").cast(pl.List(pl.String)).list.join(" "))
    return frame.sort("size", "text")["set"]


def flatten(lists: pl.Series) -> tuple[npt.NDArray[np.int64], Codes]:
    """Return the offsets (rows + 1) and the values of a list column without nulls."""
    arrow = lists.rechunk().to_arrow()
    offsets = np.asarray(arrow.offsets.to_numpy(zero_copy_only=False), dtype=np.int64)
    values = np.asarray(arrow.values.to_numpy(zero_copy_only=False))
    return offsets - offsets[0], values[offsets[0] : offsets[-1]].astype(np.uint32, copy=False)


def compact(codes: pl.Series, names: pl.Series) -> Encoded:
    """Drop names that no row uses any more and renumber the codes."""
    used = codes.unique().sort()
    if len(used) == len(names):
        return Encoded(codes, names)
    return Encoded(lookup(codes, used, places(len(used))), names.gather(used))


def content_hash(frame: pl.DataFrame, columns: tuple[str, ...], names: list[pl.Series]) -> str:
    """Return the SHA-256 of the columns, in the given order, and of the names behind the codes."""
    digest = hashlib.sha256()
    for series in names:
        digest.update(f"names {len(series)}\n".encode())
        digest.update("\0".join(series.to_list()).encode())
    for column in columns:
        if column not in frame.columns:
            continue
        digest.update(f"column {column} {frame.height}\n".encode())
        for part in _arrays(frame[column]):
            digest.update(np.ascontiguousarray(part).view(np.uint8).data)
    return digest.hexdigest()


def _arrays(series: pl.Series) -> list[npt.NDArray[Any]]:
    if isinstance(series.dtype, pl.List):
        offsets, values = flatten(series)
        return [np.diff(offsets).astype(np.uint32), values]
    return [series.to_numpy()]
