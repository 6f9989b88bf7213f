"""Names to codes, concept sets to codes of sets, and the hash of what a table holds.

A column is encoded through its distinct values: millions of rows cost one join, and the codes
follow the sorted names, so that neither the order of the rows nor the file format shows.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

_SMALL_RANGE = 1 << 20
_ROOM_A_ROW = 4
_SAMPLE_ROWS = 1 << 10
_BLOCK_ROWS = 1 << 17
_INTEGER_BITS = 64
_SET = "set"
_NAME = "name"


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


def number(series: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Return the number of each row's value among the distinct values, and these.

    Whole numbers within a small range are numbered through a table, all else by a join.
    """
    if series.dtype.is_integer() and len(series) and not series.null_count():
        values = series.to_numpy()
        low, high = int(values.min()), int(values.max())
        if high - low < max(_SMALL_RANGE, _ROOM_A_ROW * len(values)):
            seen = np.zeros(high - low + 1, dtype=np.bool_)
            for block in _blocks(len(values)):
                seen[values[block] - values.dtype.type(low)] = True
            found = np.flatnonzero(seen)
            table = np.empty(len(seen), dtype=np.uint32)
            table[found] = np.arange(len(found), dtype=np.uint32)
            numbers = np.empty(len(values), dtype=np.uint32)
            for block in _blocks(len(values)):
                numbers[block] = table[values[block] - values.dtype.type(low)]
            return pl.Series(numbers), pl.Series(found + low)
    distinct = series.unique()
    return lookup(series, distinct, places(len(distinct))), distinct


def _blocks(count: int) -> Iterator[slice]:
    """Give slices that cover ``count`` rows; what is computed in between stays in the cache."""
    for start in range(0, count, _BLOCK_ROWS):
        yield slice(start, min(start + _BLOCK_ROWS, count))


def spelled_numbers(series: pl.Series) -> pl.Series | None:
    """Return text as the integers it spells, or None where the text could not be had back.

    Integers are numbered far faster than text, but ``007`` and ``7`` are two names: every value
    must be spelled as the integer itself is printed.
    """
    if series.null_count() or not len(series):
        return None
    for part in (series.head(_SAMPLE_ROWS), series):
        whole = part.cast(pl.Int64, strict=False)
        if whole.null_count():
            return None
    values = whole.to_numpy()
    if values.min() < 0:
        return None
    # No spelling of an integer is shorter than the printed one, so that equal sums are equal texts.
    powers = [10**more for more in range(1, len(str(values.max())))]
    digits = len(values)
    for block in _blocks(len(values)):
        digits += sum(int(np.count_nonzero(values[block] >= power)) for power in powers)
    return whole if int(series.str.len_bytes().sum()) == digits else None


def encode(series: pl.Series) -> Encoded:
    """Encode a column without nulls; surrounding blanks are no part of a name."""
    numbers, distinct = number(series)
    text = as_text(distinct)
    names = text.unique().sort()
    return Encoded(lookup(text, names, places(len(names))).gather(numbers), names)


def as_text(series: pl.Series) -> pl.Series:
    """Return values as text; a float that is a whole number reads as the integer it is."""
    if series.dtype.is_float() and (series == series.floor()).all() and series.is_finite().all():
        series = series.cast(pl.Int64)
    return series.cast(pl.String).str.strip_chars()


def encode_sets(series: pl.Series, separator: str) -> EncodedSets:
    """Encode concept sets, given as lists, as text joined by ``separator``, or one a row.

    A null or an empty text is the empty set.
    """
    numbers, members, count = _members(series, separator)
    members = members.with_columns(pl.col(_NAME).str.strip_chars()).filter(pl.col(_NAME) != "")
    encoded = encode(members[_NAME])
    lists = concept_lists(members[_SET], encoded.codes, count)
    sets = distinct_sets(lists)
    codes = lookup(lists, sets, places(len(sets))).gather(numbers)
    return EncodedSets(codes, sets, encoded.names)


def _members(series: pl.Series, separator: str) -> tuple[pl.Series, pl.DataFrame, int]:
    """Return the number of each row's set as written, the names in each set, and their count."""
    if isinstance(series.dtype, pl.List):
        if series.dtype.inner.is_integer() and (packed := _packed(series)):
            return packed
        numbers, distinct = number(series)
        whole = isinstance(series.dtype.inner, pl.Float32 | pl.Float64)
        lists = distinct.cast(pl.List(pl.Int64)) if whole else distinct
        lists = lists.cast(pl.List(pl.String))
    else:
        numbers, distinct = number(series)
        lists = as_text(distinct).str.split(separator)
    members = pl.DataFrame({_SET: places(len(lists)), _NAME: lists})
    return numbers, members.explode(_NAME, empty_as_null=False, keep_nulls=False), len(lists)


def _packed(series: pl.Series) -> tuple[pl.Series, pl.DataFrame, int] | None:
    """Return `_members` of short lists of integers, or None.

    Lists are numbered by their first member, then by that number and the second, and so on: small
    numbers all the way. 0 is no member.
    """
    if series.null_count():
        series = series.fill_null(pl.Series([[]], dtype=series.dtype))
    offsets, values = flatten(series)
    if not len(values) or values.dtype.kind == "f":
        return None
    numbers, distinct = number(pl.Series(values))
    longest = max(int(np.diff(offsets[b.start : b.stop + 1]).max()) for b in _blocks(len(series)))
    bits = len(distinct).bit_length()
    if bits * longest >= _INTEGER_BITS:
        return None
    # Beyond the last value stands nothing, so that every list can be read to the longest length.
    member = np.append(numbers.to_numpy(), np.zeros(longest, dtype=np.uint32))
    room = len(distinct) + 1
    codes, slots = pl.repeat(0, len(series), dtype=pl.UInt32, eager=True), np.zeros((1, 0), int)
    for nth in range(longest):
        joint = codes.to_numpy() * np.int64(room)
        for block in _blocks(len(series)):
            first = offsets[block]
            sizes = offsets[block.start + 1 : block.stop + 1] - first
            joint[block] += (member[first + nth] + np.uint32(1)) * (sizes > nth)
        codes, seen = number(pl.Series(joint))
        before, last = np.divmod(seen.to_numpy(), room)
        slots = np.column_stack([slots[before], last])
    owner, slot = np.nonzero(slots)
    names = as_text(distinct).gather(pl.Series(slots[owner, slot] - 1))
    return codes, pl.DataFrame({_SET: owner.astype(np.uint32), _NAME: names}), len(slots)


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


def flatten(lists: pl.Series) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """Return the offsets (rows + 1) and the values of a list column without null lists."""
    offsets = np.zeros(len(lists) + 1, dtype=np.int64)
    np.cumsum(lists.list.len().to_numpy(), out=offsets[1:])
    return offsets, lists.explode(empty_as_null=False, keep_nulls=False).to_numpy()


def stable_order(codes: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Return the places of the codes in ascending order, equal codes in the order they come in."""
    if codes.max(initial=0) <= np.iinfo(np.uint16).max:
        # Numpy sorts numbers of two bytes by counting.
        return np.argsort(codes.astype(np.uint16), kind="stable").astype(np.uint32)
    # With its place behind it every code is another number, and plain sorting is the fastest.
    packed = codes.astype(np.uint64)
    packed <<= np.uint64(32)
    packed |= np.arange(len(codes), dtype=np.uint64)
    packed.sort()
    return packed.astype(np.uint32)


def used(codes: pl.Series, count: int) -> npt.NDArray[np.bool_]:
    """Return which of ``count`` codes occur."""
    seen = np.zeros(count, dtype=np.bool_)
    seen[codes.to_numpy()] = True
    return seen


def compact(codes: pl.Series, names: pl.Series) -> Encoded:
    """Drop names that no row uses any more and renumber the codes."""
    seen = used(codes, len(names))
    if seen.all():
        return Encoded(codes, names)
    table = (np.cumsum(seen) - 1).astype(np.uint32)
    return Encoded(pl.Series(table[codes.to_numpy()]), names.filter(pl.Series(seen)))


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
