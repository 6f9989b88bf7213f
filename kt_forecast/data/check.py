"""The door: a table as it was found becomes checked interactions, or one sentence of refusal.

What cannot be used is refused with file, row and column. What can be put right without a guess
(order, repeated concept rows, missing extras) is put right and said in a note.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import polars as pl

from kt_forecast.data import values
from kt_forecast.data.encoding import (
    EncodedSets,
    compact,
    concept_lists,
    content_hash,
    distinct_sets,
    encode,
    encode_sets,
    flatten,
    lookup,
    places,
    stable_order,
    used,
)
from kt_forecast.data.interactions import Interactions
from kt_forecast.data.merging import CONCEPT_SET, ROW, CodedTable, Repeats, merge, starts
from kt_forecast.data.place import Place, count, share
from kt_forecast.data.readers import RawTable, unreadable
from kt_forecast.errors import InputError
from kt_forecast.schema import (
    ANSWER_EXTRAS,
    COLUMNS,
    CONCEPTS,
    FOLD,
    LINE,
    ORDER,
    QUESTION,
    REQUIRED,
    RESPONSE,
    STUDENT,
    TIME,
)

_CONTENT = tuple(column for column in COLUMNS if column != ORDER)


def check(
    raw: RawTable,
    name: str,
    *,
    min_interactions: int = 1,
    repeats: Repeats = "auto",
    names: Mapping[str, str] | None = None,
    asking: bool = False,
) -> Interactions:
    """Return checked interactions, sorted by student and then by time.

    Args:
        raw: the table as a reader found it.
        name: short name of the data set.
        min_interactions: students with fewer steps are left out (and counted in a note).
        repeats: what to do with rows that repeat the student's previous question.
        names: the owner's name of each canonical column, for messages.
        asking: for predictions: rows without a response are accepted, and `Interactions.source`
            and `Interactions.asked` tell what became of every row.

    Raises:
        InputError: the table cannot be used; the sentence names file, row and column.
    """
    if asking and RESPONSE not in raw.frame.collect_schema():
        raw = replace(raw, frame=raw.frame.with_columns(pl.lit(None, pl.UInt8).alias(RESPONSE)))
    names = {**raw.names, **(names or {})}
    frame = _collect(raw, names)
    where = Place(raw, frame[LINE] if LINE in frame.columns else None, names)
    asked = _fill_asked(frame) if asking else None
    table, encoded_students, encoded_questions, encoded_sets = _code(frame, raw, where)
    del frame
    table = replace(table, notes=(*raw.notes, *table.notes))
    table = merge(_sort(table), where, bundled=raw.bundled, repeats=repeats)
    table = _drop_short(table, min_interactions, where)
    _refuse_two_folds(table, encoded_students, where)
    checked = _finish(table, (encoded_students, encoded_questions, encoded_sets), raw, name)
    return checked if asked is None else _traced(checked, table, asked)


def _fill_asked(frame: pl.DataFrame) -> pl.Series:
    """Put 0 where there is no response, and return where that is."""
    response = frame[RESPONSE]
    asked = response.is_null()
    if response.dtype == pl.String:
        asked |= response.str.strip_chars() == ""
    elif response.dtype.is_float():
        asked |= response.is_nan()
    elif response.dtype == pl.Null:
        response = response.cast(pl.UInt8)
    # The value stands for no answer: `Interactions.asked` says so, and nothing may read it.
    wrong = "0" if response.dtype == pl.String else False
    filled = pl.select(pl.when(asked.fill_null(value=True)).then(None).otherwise(response))
    frame.replace_column(
        frame.get_column_index(RESPONSE), filled.to_series().fill_null(wrong).alias(RESPONSE)
    )
    return asked.fill_null(value=True)


def _traced(checked: Interactions, table: CodedTable, asked: pl.Series) -> Interactions:
    """Return the interactions with what became of every row, and which rows lack a response."""
    source = _source(table, len(asked))
    final = np.zeros(len(checked), dtype=np.bool_)
    kept = source.filter(asked).drop_nulls()
    final[kept.to_numpy()] = True
    return replace(checked, source=source, asked=pl.Series("asked", final))


def _source(table: CodedTable, n_rows: int) -> pl.Series:
    """Return the row that each row of the table as it was read became; null where it was left."""
    owner = np.arange(n_rows)
    for gone, head in reversed(table.merged):
        # A row that stands for others may itself be merged later: later merges are known here.
        owner[gone.to_numpy()] = owner[head.to_numpy()]
    became = np.full(n_rows, -1)
    became[table.frame[ROW].to_numpy()] = np.arange(table.frame.height)
    final = pl.Series("source", became[owner])
    return final.set(final < 0, None)


def _collect(raw: RawTable, names: Mapping[str, str]) -> pl.DataFrame:
    """Read the columns of the schema.

    Raises:
        InputError: the file cannot be read, lacks a column, or holds no row.
    """
    try:
        found = raw.frame.collect_schema().names()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(unreadable([raw.path], error)) from error
    present = [c for c in found if c != LINE]
    missing = [c for c in REQUIRED if c not in present]
    if QUESTION not in present and CONCEPTS not in present:
        missing.append(QUESTION)
    if missing:
        raise InputError(
            f"{raw.path}: column {names.get(missing[0], missing[0])!r} is missing among"
            f" {', '.join(map(repr, present)) or 'no columns'}; accepted are tables with"
            f" {STUDENT}, {RESPONSE} and {QUESTION} or {CONCEPTS}, or a mapping of these names to"
            f" the table's own (--column {missing[0]}=NAME)"
        )
    kept = [c for c in (*COLUMNS, LINE) if c in found]
    table = replace(raw, frame=raw.frame.select(kept)).collect()
    if not table.height:
        raise InputError(f"{raw.path}: holds no rows; accepted is a table of one row or more")
    return table


_Coded = tuple[CodedTable, pl.Series, pl.Series | None, EncodedSets]


def _code(frame: pl.DataFrame, raw: RawTable, where: Place) -> _Coded:
    """Check every column and turn it into codes or numbers, releasing it as it goes."""
    coded: dict[str, pl.Series] = {}
    notes: list[str] = []
    students = encode(values.ids(frame.drop_in_place(STUDENT), STUDENT, where))
    coded[STUDENT] = students.codes
    coded[RESPONSE] = values.responses(frame.drop_in_place(RESPONSE), where)
    question_names = None
    if QUESTION in frame.columns:
        questions = encode(values.ids(frame.drop_in_place(QUESTION), QUESTION, where))
        coded[QUESTION], question_names = questions.codes, questions.names
    if CONCEPTS in frame.columns:
        column = values.concepts(frame.drop_in_place(CONCEPTS), CONCEPTS, where)
        sets = encode_sets(column, raw.separator)
        if column.dtype == pl.String and sets.sets.list.len().max() not in {0, 1}:
            notes.append(f"{where.name(CONCEPTS)}: text was split at {raw.separator!r}")
    else:
        empty = pl.Series([[]], dtype=pl.List(pl.UInt32))
        codes = pl.repeat(0, len(students.codes), dtype=pl.UInt32, eager=True)
        sets = EncodedSets(codes, empty, pl.Series([], dtype=pl.String))
    coded[CONCEPT_SET] = sets.codes
    if question_names is None:
        _refuse_nameless(sets, where)
    if TIME in frame.columns:
        coded[TIME] = values.times(frame.drop_in_place(TIME), where)
    if ORDER in frame.columns:
        coded[ORDER] = values.orders(frame.drop_in_place(ORDER), where)
    for extra in ANSWER_EXTRAS:
        if extra in frame.columns:
            coded[extra], changed = values.extras(frame.drop_in_place(extra), extra, where)
            notes.extend(changed)
    if FOLD in frame.columns:
        coded[FOLD] = values.folds(frame.drop_in_place(FOLD), where)
    coded[ROW] = places(len(students.codes))
    table = pl.DataFrame([series.alias(column) for column, series in coded.items()])
    return CodedTable(table, sets.sets, tuple(notes)), students.names, question_names, sets


def _refuse_nameless(sets: EncodedSets, where: Place) -> None:
    empty = sets.sets.list.len() == 0
    if not empty.any():
        return
    row = (sets.codes == empty.arg_max()).arg_max() or 0
    raise InputError(
        f"{where.at(row, CONCEPTS)} is empty and there is no {QUESTION} column; accepted is a"
        " question or a concept in every row"
    )


def _sort(table: CodedTable) -> CodedTable:
    """Sort by student, then time, then event id; equal rows keep the order of the file."""
    frame = table.frame
    clocks = [column for column in (TIME, ORDER) if column in frame.columns]
    frame = _sorted(frame, [STUDENT, *clocks])
    if not clocks:
        return replace(table, frame=frame).note(
            "neither time nor order is known: the rows of each student were taken in file order"
        )
    row = frame[ROW].to_numpy()
    late = ~starts(frame, [STUDENT])
    late[1:] &= row[1:] < row[:-1]
    if not late.any():
        return replace(table, frame=frame)
    students = frame[STUDENT].filter(pl.Series(late)).n_unique()
    return replace(table, frame=frame).note(
        f"the rows of {count(students, 'student')} were not in the order of"
        f" {' and '.join(clocks)} and were sorted"
    )


def _sorted(frame: pl.DataFrame, columns: list[str]) -> pl.DataFrame:
    """Sort by whole numbers, stably; one key made of all columns is sorted far faster than they."""
    key = np.zeros(frame.height, dtype=np.int64)
    room = 1
    for column in columns:
        values = frame[column].to_numpy()
        low, span = int(values.min()), int(values.max()) - int(values.min()) + 1
        room *= span
        if room > np.iinfo(np.int64).max:
            return frame.sort(columns, maintain_order=True)
        key *= span
        key += values - values.dtype.type(low)
    if (key[1:] >= key[:-1]).all():
        return frame
    # Logs are often in the order of time: then only students must be brought together.
    order = stable_order(frame[columns[0]].to_numpy())
    key = key[order]
    if (key[1:] < key[:-1]).any():
        order = order[np.argsort(key, kind="stable")]
    return frame[pl.Series(order)]


def _drop_short(table: CodedTable, min_interactions: int, where: Place) -> CodedTable:
    """Leave out students with too few steps, and count those with a single one.

    Raises:
        InputError: no student has enough steps.
    """
    frame = table.frame
    code = frame[STUDENT].to_numpy()
    steps = np.bincount(code)
    if single := int((steps == 1).sum()):
        table = table.note(
            f"{count(single, 'student')} ({share(single / int((steps > 0).sum()))})"
            f" {'has' if single == 1 else 'have'} one interaction"
        )
    short = (steps > 0) & (steps < min_interactions)
    if not short.any():
        return table
    kept = pl.Series(~short[code])
    if not kept.any():
        raise InputError(
            f"{where.path}: no student has {min_interactions} interactions; accepted is a smaller"
            " min_interactions"
        )
    return replace(table, frame=frame.filter(kept)).note(
        f"left out {count(int(short.sum()), 'student')} with fewer than {min_interactions}"
        " interactions"
    )


def _refuse_two_folds(table: CodedTable, students: pl.Series, where: Place) -> None:
    if FOLD not in table.frame.columns:
        return
    fold = table.frame[FOLD].to_numpy()
    moved = ~starts(table.frame, [STUDENT])
    moved[1:] &= fold[1:] != fold[:-1]
    if moved.any():
        row = int(moved.argmax())
        raise InputError(
            f"{where.at(table.frame[ROW][row], FOLD)}: student"
            f" {students[table.frame[STUDENT][row]]!r} is in folds {fold[row - 1]} and"
            f" {fold[row]}; accepted is one fold a student"
        )


def _finish(
    table: CodedTable,
    encoded: tuple[pl.Series, pl.Series | None, EncodedSets],
    raw: RawTable,
    name: str,
) -> Interactions:
    """Renumber what is left and lay out the columns."""
    frame = table.frame
    student_names, question_names, sets = encoded
    students = compact(frame[STUDENT], student_names)
    lists, concept_names = _compact_sets(frame[CONCEPT_SET], table.sets, sets.names)
    if question_names is None:
        texts = _set_names(lists.sets, concept_names, raw.separator)
        order = lookup(texts, texts.sort(), places(len(texts)))
        questions = compact(order.gather(lists.codes), texts.sort())
    else:
        questions = compact(frame[QUESTION], question_names)
    columns = [
        students.codes.alias(STUDENT),
        questions.codes.alias(QUESTION),
        lists.sets.gather(lists.codes).alias(CONCEPTS),
    ]
    kept = [c for c in (RESPONSE, TIME, *ANSWER_EXTRAS, FOLD) if c in frame.columns]
    final = pl.DataFrame([*columns, *(frame[c] for c in kept)])
    names = [students.names, questions.names, concept_names]
    return Interactions(
        frame=final,
        students=students.names.alias(STUDENT),
        questions=questions.names.alias(QUESTION),
        concepts=concept_names.alias(CONCEPTS),
        name=name,
        data_hash=content_hash(final, _CONTENT, names),
        bundled=raw.bundled,
        notes=table.notes,
    )


def _compact_sets(
    codes: pl.Series, sets: pl.Series, names: pl.Series
) -> tuple[EncodedSets, pl.Series]:
    seen = used(codes, len(sets))
    kept = sets.filter(pl.Series(seen))
    offsets, concept = flatten(kept)
    owner = pl.Series(np.repeat(np.arange(len(kept), dtype=np.uint32), np.diff(offsets)))
    concepts = compact(pl.Series(concept, dtype=pl.UInt32), names)
    lists = concept_lists(owner, concepts.codes, len(kept))
    distinct = distinct_sets(lists)
    place = np.zeros(len(sets), dtype=np.uint32)
    place[seen] = lookup(lists, distinct, places(len(distinct))).to_numpy()
    final = pl.Series(place[codes.to_numpy()])
    return EncodedSets(final, distinct, concepts.names), concepts.names


def _set_names(sets: pl.Series, names: pl.Series, separator: str) -> pl.Series:
    offsets, concept = flatten(sets)
    owner = np.repeat(np.arange(len(sets), dtype=np.uint32), np.diff(offsets))
    flat = pl.DataFrame({"owner": owner, "name": names.gather(pl.Series(concept))})
    joined = flat.group_by("owner", maintain_order=True).agg(pl.col("name").str.join(separator))
    return lookup(places(len(sets)), joined["owner"], joined["name"])
