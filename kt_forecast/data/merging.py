"""One question is one step: rows that a log repeats for each concept become one row again.

Logs that write a question with several concepts as several rows give the answer away, because
the second row follows a row that holds its response. What tells such rows from genuine new
attempts is that they never contradict each other: a repeated row copies the response, a second
attempt often changes it.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from kt_forecast.data.encoding import concept_lists, distinct_sets, lookup, places
from kt_forecast.data.place import Place, count, share
from kt_forecast.errors import InputError
from kt_forecast.schema import ORDER, QUESTION, RESPONSE, STUDENT, TIME

Repeats = Literal["auto", "merge", "keep"]
"""What to do with rows that repeat the student's previous question: decide by the data, merge
those of equal response, or keep all as attempts."""

CONCEPT_SET = "concept_set"
"""Code of the row's concept set; stands for the concepts until the table leaves the door."""

ROW = "row"
"""Place of the row in the table as it was read, from 0."""

NEVER_CONTRADICT = 0.99
"""Share of repeated rows with the same response from which they count as copies."""

OFTEN_AGREE = 0.9
"""Share from which copies and attempts cannot be told apart."""

ENOUGH_PAIRS = 100
"""Repeated rows from which agreement counts as evidence where the concept does not change."""

_CHANCE = 0.01
"""Probability below which agreement is not put down to chance."""

_EVENT = "event"
_GROUP = "group"
_PLACE = "place"
_HEAD = "head"


@dataclass(frozen=True)
class CodedTable:
    """The table inside the door: codes, sorted by student, time and order.

    Attributes:
        frame: codes and values, with `CONCEPT_SET` and `ROW`.
        sets: the concept set behind each set code.
        notes: what was changed so far.
        merged: for each merge, the `ROW` of the rows that are gone and of those that stand for
            them.
    """

    frame: pl.DataFrame
    sets: pl.Series
    notes: tuple[str, ...] = ()
    merged: tuple[tuple[pl.Series, pl.Series], ...] = ()

    def note(self, sentence: str) -> "CodedTable":
        """Return the table with one more note."""
        return replace(self, notes=(*self.notes, sentence))


def merge(table: CodedTable, where: Place, *, bundled: bool, repeats: Repeats) -> CodedTable:
    """Merge rows that are one event, by event id, by equal time, and by the pattern of copies.

    Raises:
        InputError: one event id holds two responses, or copies cannot be told from attempts.
    """
    keyed = True
    if ORDER in table.frame.columns:
        table = _merge_orders(table, where)
    elif TIME in table.frame.columns and bundled:
        table = _merge_times(table)
    else:
        keyed = False
    if QUESTION not in table.frame.columns:
        return table
    table = _merge_expanded(table, where, keyed=keyed, repeats=repeats)
    return _judge_repeats(table, where, repeats)


def starts(frame: pl.DataFrame, columns: list[str]) -> npt.NDArray[np.bool_]:
    """Return True where any of the columns differs from the row before, and at the first row."""
    changed = np.zeros(frame.height, dtype=np.bool_)
    changed[:1] = True
    for column in columns:
        values = frame[column].to_numpy()
        changed[1:] |= values[1:] != values[:-1]
    return changed


def _shared(frame: pl.DataFrame, first: npt.NDArray[np.bool_]) -> pl.DataFrame:
    """Return the rows of groups of two rows or more, with the group and the row's place."""
    alone = first.copy()
    alone[:-1] &= first[1:]
    chosen = np.flatnonzero(~alone)
    columns = [c for c in (QUESTION, CONCEPT_SET, RESPONSE, ROW) if c in frame.columns]
    rows = frame.select(columns)[chosen]
    group = np.cumsum(first[chosen], dtype=np.uint32)
    return rows.with_columns(pl.Series(_EVENT, group), pl.Series(_PLACE, chosen))


def _merge_orders(table: CodedTable, where: Place) -> CodedTable:
    rows = _shared(table.frame, starts(table.frame, [STUDENT, ORDER]))
    keys = [_EVENT, QUESTION] if QUESTION in rows.columns else [_EVENT]
    contradicting = rows.filter(pl.col(RESPONSE).n_unique().over(keys) > 1)
    if contradicting.height:
        row = contradicting[ROW].sort()[1]
        raise InputError(
            f"{where.at(row, RESPONSE)}: the student's rows of one {where.name(ORDER)} hold both"
            f" responses 0 and 1; accepted is one response for each {where.name(ORDER)}, or the"
            f" table without that column"
        )
    return _unite(table, rows, keys, f"the same {where.name(ORDER)}")


def _merge_times(table: CodedTable) -> CodedTable:
    rows = _shared(table.frame, starts(table.frame, [STUDENT, TIME]))
    if QUESTION not in rows.columns:
        return _unite(table, rows, [_EVENT, CONCEPT_SET, RESPONSE], "the same time and concepts")
    keys = [_EVENT, QUESTION]
    rows = rows.filter(pl.len().over(keys) > 1)
    groups = rows.group_by(keys).agg(pl.col(RESPONSE).n_unique())
    agreeing = int((groups[RESPONSE] == 1).sum()) / max(1, groups.height)
    if groups.height and agreeing < NEVER_CONTRADICT:
        return table.note(
            f"{count(groups.height, 'time')} with the same question more than once,"
            f" {share(1 - agreeing)} of them with both responses: kept as attempts"
        )
    return _unite(table, rows, [*keys, RESPONSE], "the same time and question")


def _merge_expanded(
    table: CodedTable, where: Place, *, keyed: bool, repeats: Repeats
) -> CodedTable:
    """Merge consecutive rows of one question and response whose concepts differ.

    Within a run of one question the n-th occurrence of a concept belongs to the n-th attempt, so
    that two attempts at a question of two concepts stay two.

    Raises:
        InputError: copies cannot be told from attempts.
    """
    rows = _shared(table.frame, starts(table.frame, [STUDENT, QUESTION]))
    other = pl.Series(starts(rows, [_EVENT, CONCEPT_SET])) & ~pl.Series(starts(rows, [_EVENT]))
    if not other.any() or repeats == "keep":
        return table
    runs = rows[_EVENT].filter(other).unique()
    rows = rows.filter(pl.col(_EVENT).is_in(runs.implode()))
    attempt = [_EVENT, _GROUP]
    rows = rows.with_columns(pl.int_range(pl.len()).over(_EVENT, CONCEPT_SET).alias(_GROUP))
    equal = rows.select(
        (pl.col(RESPONSE) == pl.col(RESPONSE).shift(1).over(attempt)).alias("equal")
    )["equal"].drop_nulls()
    if not len(equal):
        return table
    agreeing = float(equal.mean() or 0.0)  # type: ignore[arg-type]
    found = (
        f"{count(len(equal), 'row')} ({share(len(equal) / table.frame.height)})"
        f" {'repeats' if len(equal) == 1 else 'repeat'} the student's"
        f" previous question with another concept, the response equal in {share(agreeing)}"
    )
    doubtful = agreeing >= OFTEN_AGREE and len(equal) >= ENOUGH_PAIRS
    copied = agreeing >= NEVER_CONTRADICT and not keyed and _telling(table.frame, len(equal))
    if repeats == "merge" or copied:
        return _unite(table, rows, [*attempt, RESPONSE], f"{found}; they")
    if doubtful and (agreeing >= NEVER_CONTRADICT or not keyed):
        raise InputError(f"{where.path}, column {where.name(QUESTION)}: {found}; {_CHOICES}")
    return table.note(f"{found}: kept as attempts")


def _telling(frame: pl.DataFrame, count: int) -> bool:
    """Tell whether ``count`` agreeing repeats with another concept can hardly be attempts.

    Repeats with the same concepts show how often attempts agree. Where they are the rule, a few
    agreeing repeats with another concept say nothing.
    """
    again, agreeing = _same_again(frame)
    return count >= int(again.sum()) or agreeing**count < _CHANCE


def _same_again(frame: pl.DataFrame) -> tuple[npt.NDArray[np.bool_], float]:
    """Return the rows that repeat question and concepts, and how often their responses agree."""
    again = ~starts(frame, [STUDENT, QUESTION, CONCEPT_SET])
    response = frame[RESPONSE].to_numpy()
    equal = np.zeros(frame.height, dtype=np.bool_)
    equal[1:] = response[1:] == response[:-1]
    return again, float(equal[again].mean()) if again.any() else 1.0


_CHOICES = (
    "accepted are an order or time column that is equal within one event, or the choice"
    " repeats='merge' (rows of one question are one step) or repeats='keep' (they are attempts)"
)


def _judge_repeats(table: CodedTable, where: Place, repeats: Repeats) -> CodedTable:
    """Refuse, merge or report rows that repeat question and concepts of the row before.

    Raises:
        InputError: they agree as copies do, and nothing else tells that they are.
    """
    frame = table.frame
    again, agreeing = _same_again(frame)
    repeated = int(again.sum())
    if not repeated:
        return table
    found = (
        f"{count(repeated, 'row')} ({share(repeated / frame.height)})"
        f" {'repeats' if repeated == 1 else 'repeat'} the student's previous question and"
        f" concepts, the response equal in {share(agreeing)}"
    )
    if repeats == "merge":
        copies = again & ~starts(frame, [STUDENT, QUESTION, CONCEPT_SET, RESPONSE])
        rows = _shared(frame, ~copies)
        return _unite(table, rows, [_EVENT], f"{found}; those of equal response")
    # Where nearly every response of the table is the same, agreement says nothing.
    mean = float(frame[RESPONSE].mean() or 0.0)  # type: ignore[arg-type]
    telling = repeated >= ENOUGH_PAIRS and mean**2 + (1 - mean) ** 2 < OFTEN_AGREE
    if repeats == "auto" and telling and agreeing >= NEVER_CONTRADICT:
        raise InputError(f"{where.path}, column {where.name(QUESTION)}: {found}; {_CHOICES}")
    return table.note(f"{found}: kept as attempts")


def _unite(table: CodedTable, rows: pl.DataFrame, keys: list[str], what: str) -> CodedTable:
    """Keep the first row of each group of ``rows`` and give it the concepts of all."""
    rows = rows.with_columns(pl.col(_PLACE).min().over(keys).alias(_HEAD))
    rows = rows.filter(pl.len().over(_HEAD) > 1)
    absorbed = rows.filter(pl.col(_PLACE) != pl.col(_HEAD)).select(_PLACE, _HEAD)
    gone = absorbed[_PLACE].to_numpy()
    if not len(gone):
        return table
    row = table.frame[ROW]
    pair = row.gather(absorbed[_PLACE]), row.gather(absorbed[_HEAD])
    head = rows[_HEAD].unique().sort()
    owner = lookup(rows[_HEAD], head, places(len(head)))
    copies = rows.height - rows.select(_HEAD, CONCEPT_SET).n_unique()
    flat = pl.DataFrame({"owner": owner, "set": table.sets.gather(rows[CONCEPT_SET])})
    flat = flat.explode("set", empty_as_null=False, keep_nulls=False)
    united = concept_lists(flat["owner"], flat["set"], len(head))
    sets = distinct_sets(pl.concat([table.sets, united]))
    codes = lookup(table.sets, sets, places(len(sets))).gather(table.frame[CONCEPT_SET])
    new = codes.to_numpy().copy()
    new[head.to_numpy()] = lookup(united, sets, places(len(sets))).to_numpy()
    kept = np.ones(table.frame.height, dtype=np.bool_)
    kept[gone] = False
    frame = table.frame.with_columns(pl.Series(CONCEPT_SET, new)).filter(pl.Series(kept))
    merged = replace(table, frame=frame, sets=sets, merged=(*table.merged, pair))
    exact = f", {copies} of them {'an exact copy' if copies == 1 else 'exact copies'}"
    return merged.note(
        f"{what}: merged {count(len(gone), 'row')} ({share(len(gone) / table.frame.height)}) into"
        f" {count(len(head), 'step')}{exact if copies else ''}"
    )
