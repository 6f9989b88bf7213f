"""Readers translate each format exactly, tell formats apart by content, and explain bad files."""

import gzip
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from kt_forecast.data import readers
from kt_forecast.data.readers import ONE_CONCEPT, RawTable, detect, formats, read
from kt_forecast.errors import InputError
from kt_forecast.schema import (
    ATTEMPTS,
    CONCEPTS,
    ELAPSED,
    FOLD,
    HINTS,
    LINE,
    ORDER,
    QUESTION,
    RESPONSE,
    STUDENT,
    TEST_FOLD,
    TIME,
)

FIXTURES = Path(__file__).parents[1] / "fixtures" / "kt"
DATA = (
    Path(os.environ.get("KT_FORECAST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "kt"
)

EXAMPLES = {
    "assistments2009/collapsed.csv": "assistments2009",
    "assistments2009/one_row_a_skill.csv": "assistments2009",
    "assistments2012/log.csv": "assistments2012",
    "assistments2015/log.csv": "assistments2015",
    "assistments2017/log.csv": "assistments2017",
    "datashop_transactions/tx.txt": "datashop_transactions",
    "datashop_transactions/practice.csv": "datashop_transactions",
    "datashop_steps/steps.txt": "datashop_steps",
    "statics2011/steps.csv": "statics2011",
    "kdd_cup2010/algebra.txt": "kdd_cup2010",
    "kdd_cup2010/bridge.txt": "kdd_cup2010",
    "ednet_kt1": "ednet_kt1",
    "ednet_kt1/KT1": "ednet_kt1",
    "junyi2015": "junyi2015",
    "junyi2015/junyi_ProblemLog_original.csv": "junyi2015",
    "pykt_folds": "pykt_folds",
    "pykt_folds/train_valid.csv": "pykt_folds",
    "xes3g5m": "xes3g5m",
    "xes3g5m/question_level": "pykt_folds",
    "pykt_lines/data.txt": "pykt_lines",
    "pykt_lines/no_questions.txt": "pykt_lines",
    "akt_lines": "akt_lines",
    "akt_lines/four_lines_test1.csv": "akt_lines",
    "dkvmn_lines/three_lines.csv": "akt_lines",
    "question_matrix": "question_matrix",
    "question_matrix/preprocessed_data.csv": "question_matrix",
    "long_table/canonical.csv": "long_table",
    "long_table/synonyms.tsv": "long_table",
}


def rows(raw: RawTable, *columns: str) -> list[tuple]:
    """Return chosen columns as tuples, concepts as sorted tuples of names."""
    frame = raw.collect()
    if CONCEPTS in columns:
        kind = frame.schema[CONCEPTS]
        split = pl.col(CONCEPTS).str.split(raw.separator) if kind == pl.String else pl.col(CONCEPTS)
        frame = frame.with_columns(split.list.sort())
    return [
        tuple(tuple(value) if isinstance(value, list) else value for value in row)
        for row in frame.select(columns).rows()
    ]


def ms(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp()) * 1000


def packed(path: Path, folder: Path) -> Path:
    """Copy a fixture with every text file in it as gzip."""
    target = folder / path.name
    if path.is_dir():
        shutil.copytree(path, target)
    else:
        shutil.copy(path, target)
    for file in [target] if target.is_file() else sorted(target.rglob("*")):
        if file.is_file() and file.suffix != ".npz":
            Path(f"{file}.gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()
    return target if path.is_dir() else Path(f"{target}.gz")


@pytest.mark.parametrize(("example", "name"), EXAMPLES.items())
def test_the_format_is_told_by_content_and_named_on_request(example, name):
    path = FIXTURES / example
    assert detect(path) == name
    assert read(path).collect().equals(read(path, name).collect())


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e != "ednet_kt1/KT1"])
def test_gzip_reads_like_plain(example, tmp_path):
    path = packed(FIXTURES / example, tmp_path)
    if example.startswith("question_matrix/"):
        shutil.copy(FIXTURES / "question_matrix/q_mat.npz", tmp_path)
    if example.startswith("junyi2015/"):
        shutil.copy(FIXTURES / "junyi2015/junyi_Exercise_table.csv", tmp_path)
    assert detect(path) == EXAMPLES[example]
    assert read(path).collect().equals(read(FIXTURES / example).collect())


def test_content_decides_and_not_the_name(tmp_path):
    odd = tmp_path / "data.txt"
    shutil.copy(FIXTURES / "assistments2012/log.csv", odd)
    assert detect(odd) == "assistments2012"


def test_every_module_of_the_folder_is_a_format_with_an_example():
    assert set(formats()) == set(EXAMPLES.values())
    assert all(formats().values())


def test_no_reader_imports_torch():
    code = (
        "import sys, kt_forecast.data.readers as r; r.formats(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_assistments2009_collapsed_joins_skills_and_latin1_is_noted():
    raw = read(FIXTURES / "assistments2009/collapsed.csv")
    assert rows(
        raw, LINE, STUDENT, QUESTION, CONCEPTS, RESPONSE, ORDER, ELAPSED, ATTEMPTS, HINTS
    ) == [
        (2, "s1", "p1", ("3", "7"), "1", 105, 2.5, 1, 0),
        (3, "s1", "p2", ("3",), "0", 107, 4.0, 2, 1),
        (4, "s2", "p1", ("3", "7"), "0", 103, 9.0, 3, 2),
        (5, "s2", "p3", None, "1", 111, 1.0, 1, 0),
    ]
    assert any("latin-1" in note for note in raw.notes)


def test_assistments2009_repeats_keep_their_order_id():
    raw = read(FIXTURES / "assistments2009/one_row_a_skill.csv")
    assert rows(raw, QUESTION, CONCEPTS, ORDER) == [
        ("p1", ("3",), 105),
        ("p1", ("7",), 105),
        ("p2", ("3",), 107),
    ]


def test_assistments2012_reads_times_and_counts_partial_credit_as_wrong():
    raw = read(FIXTURES / "assistments2012/log.csv")
    first = ms(2012, 10, 1, 8)
    assert rows(raw, QUESTION, CONCEPTS, RESPONSE, TIME, ELAPSED, ATTEMPTS, HINTS) == [
        ("11", ("21",), 1, first, 3.0, 1, 0),
        ("12", ("21",), 0, first + 60_250, 8.0, 2, 1),
        ("13", None, 0, ms(2012, 10, 2, 9), 5.0, 1, 0),
    ]
    assert any("Partial credit" in note for note in raw.notes)


def test_assistments2015_leaves_out_partial_credit_and_has_no_question():
    raw = read(FIXTURES / "assistments2015/log.csv")
    assert rows(raw, LINE, STUDENT, CONCEPTS, RESPONSE, ORDER) == [
        (2, "s1", ("7014",), "1", 900),
        (4, "s1", ("7020",), "0", 890),
        (5, "s2", ("7014",), "1", 905),
    ]
    assert QUESTION not in raw.collect().columns


def test_assistments2015_keeps_what_is_no_number_for_the_door(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("user_id,log_id,sequence_id,correct\na,1,2,yes\nb,2,2,7\n")
    assert rows(read(path), LINE, RESPONSE) == [(2, "yes"), (3, "7")]


def test_assistments2017_turns_seconds_into_ms_and_never_splits_a_skill():
    raw = read(FIXTURES / "assistments2017/log.csv")
    assert rows(raw, STUDENT, QUESTION, CONCEPTS, RESPONSE, TIME, ELAPSED, ATTEMPTS, HINTS) == [
        ("s1", "31", ("area_of-shapes",), "1", 1096470301000, 39.5, 1, 0),
        ("s1", "31", ("area_of-shapes",), "0", 1096470350000, 4.0, 3, 2),
        ("s2", "32", ("noskill",), "0", 1096470999000, 1.0, 1, 0),
    ]


def test_datashop_first_attempt_at_a_step_is_the_response():
    raw = read(FIXTURES / "datashop_transactions/tx.txt")
    start = ms(2020, 3, 4, 10)
    assert rows(
        raw, LINE, STUDENT, QUESTION, CONCEPTS, RESPONSE, TIME, ELAPSED, ATTEMPTS, HINTS
    ) == [
        (2, "s1", "adding----ones", ("add", "carry"), 0, start, 14.0, 2, 1),
        (5, "s1", "adding----tens", ("add",), 1, start + 12_000, 3.0, 1, 0),
        (7, "s1", "adding----ones", ("add", "carry"), 1, start + 20_000, 4.0, 1, 0),
        # Attempts of one second stand in the wrong order in the file; no problem view is known.
        (9, "s2", "adding----ones", ("add", "carry"), 0, start + 30_000, None, 1, 1),
        (10, "s2", "adding----ones", ("add", "carry"), 1, start + 40_000, None, 1, 0),
    ]
    assert raw.bundled
    assert "Concepts are those of column KC (Default); KC (Single-KC) are not used." in raw.notes


def test_practice_through_r_keeps_every_trial_and_drops_study():
    raw = read(FIXTURES / "datashop_transactions/practice.csv")
    assert rows(raw, LINE, STUDENT, CONCEPTS, RESPONSE, ELAPSED) == [
        (3, "s1", ("1-1 A mean",), 0, 6.0),
        (4, "s1", ("1-1 A mean",), 1, 4.0),
        (5, "s2", ("1-1 A mean",), 1, 4.0),
    ]


def test_without_attempt_numbers_the_problem_view_tells_visits_apart(tmp_path):
    path = tmp_path / "tx.csv"
    path.write_text(
        "Anon Student Id,Time,Problem Name,Problem View,Step Name,Outcome\n"
        "a,2020-01-01 00:00:01,p,1,s,INCORRECT\n"
        "a,2020-01-01 00:00:02,p,1,s,CORRECT\n"
        "a,2020-01-01 00:00:03,p,2,s,CORRECT\n"
    )
    raw = read(path)
    assert rows(raw, LINE, RESPONSE, ATTEMPTS) == [(2, 0, 2), (4, 1, 1)]
    assert any("no concepts" in note for note in raw.notes)


def test_datashop_steps_have_minutes_only_and_hints_are_wrong():
    raw = read(FIXTURES / "datashop_steps/steps.txt")
    assert rows(raw, LINE, QUESTION, CONCEPTS, RESPONSE, TIME, ELAPSED, ATTEMPTS, HINTS) == [
        (2, "lesson----first", ("tone1", "tone2"), 1, ms(2005, 10, 11, 4, 51), None, 1, 0),
        (3, 'lesson----second, "last"', ("tone1",), 0, ms(2005, 10, 11, 4, 51), 8.0, 3, 1),
        (4, "lesson----first", None, 0, ms(2005, 10, 12, 14), 3.0, 1, 2),
    ]
    assert not raw.bundled


def test_statics_takes_the_step_as_concept_and_leaves_hints_out():
    raw = read(FIXTURES / "statics2011/steps.csv")
    assert rows(raw, LINE, STUDENT, CONCEPTS, RESPONSE, TIME) == [
        (2, "s1", ("beam_1----r1_i1 Update",), 1, ms(2011, 9, 21, 17, 35)),
        (4, "s2", ("beam_1----r1_i1 Update",), 0, ms(2011, 9, 21, 17, 41)),
    ]
    assert QUESTION not in raw.collect().columns
    assert not raw.bundled


def test_kdd_cup_question_is_problem_and_step():
    raw = read(FIXTURES / "kdd_cup2010/algebra.txt")
    assert rows(raw, QUESTION, CONCEPTS, RESPONSE, TIME, ELAPSED, ATTEMPTS, HINTS) == [
        ("EG4----3(x+2) = 15", ("[Rule_a; {ab}]", "distribute"), "1", 1126268647000, 7.0, 1, 0),
        ("EG4----x+2 = 5", None, "0", 1126268656500, None, 3, 1),
    ]
    bridge = read(FIXTURES / "kdd_cup2010/bridge.txt")
    assert rows(bridge, CONCEPTS) == [(("compare", "find"),)]


@pytest.mark.parametrize("example", ["ednet_kt1", "ednet_kt1/KT1"])
def test_ednet_compares_answers_and_puts_a_bundle_at_one_time(example):
    raw = read(FIXTURES / example)
    assert rows(raw, STUDENT, QUESTION, CONCEPTS, RESPONSE, TIME, ELAPSED) == [
        ("u12", "q4366", ("9",), 1, 1565096190868, 38.5),
        ("u7", "q5012", ("1", "74"), 1, 1565096190868, 38.0),
        ("u7", "q4706", None, 1, 1565096221062, 24.0),
        ("u7", "q4366", ("9",), 0, 1565096221062, 24.0),
    ]
    assert raw.bundled
    assert any("left out" in note for note in raw.notes)


def test_ednet_needs_its_questions(tmp_path):
    shutil.copytree(FIXTURES / "ednet_kt1/KT1", tmp_path / "deep/KT1")
    with pytest.raises(InputError, match=r"questions\.csv"):
        read(tmp_path / "deep/KT1")


@pytest.mark.parametrize("example", ["junyi2015", "junyi2015/junyi_ProblemLog_original.csv"])
def test_junyi_finds_topics_and_turns_microseconds_into_ms(example):
    raw = read(FIXTURES / example)
    assert rows(raw, QUESTION, CONCEPTS, RESPONSE, TIME, ELAPSED, ATTEMPTS, HINTS) == [
        ("adding_1", ("basic_adding",), "1", 1420714810324, 9.0, 1, 0),
        ("unlisted", None, "0", 1420714897749, 32.0, 2, 1),
    ]


def test_junyi_without_its_table_says_that_no_concepts_are_known(tmp_path):
    shutil.copy(FIXTURES / "junyi2015/junyi_ProblemLog_original.csv", tmp_path)
    raw = read(tmp_path)
    assert CONCEPTS not in raw.collect().columns
    assert any("no concepts" in note for note in raw.notes)


def test_pykt_folds_number_the_events_over_the_chunks_of_a_student():
    raw = read(FIXTURES / "pykt_folds")
    assert rows(raw, STUDENT, FOLD, QUESTION, CONCEPTS, RESPONSE, ORDER) == [
        ("4", 0, "5", ("1",), "1", 1),
        ("4", 0, "5", ("2",), "1", 1),
        ("4", 0, "6", ("1",), "0", 2),
        ("9", 1, "5", ("1",), "0", 1),
        # The second chunk of student 4 begins inside the question that ended the first.
        ("4", 0, "6", ("3",), "0", 2),
        ("4", 0, "7", ("3",), "1", 3),
        ("2", TEST_FOLD, "6", ("1",), "1", 1),
        ("2", TEST_FOLD, "6", ("3",), "1", 2),
    ]


def test_pykt_folds_without_questions_are_events_one_by_one(tmp_path):
    path = tmp_path / "train_valid.csv"
    path.write_text('fold,uid,concepts,responses\n0,1,"7,7","1,1"\n')
    assert rows(read(path), CONCEPTS, ORDER) == [(("7",), 0), (("7",), 1)]


def test_pykt_folds_drop_padding_that_only_the_responses_show(tmp_path):
    path = tmp_path / "test.csv"
    path.write_text('fold,uid,questions,responses\n-1,1,"5,6,-1","1,0,-1"\n')
    assert rows(read(path), QUESTION, RESPONSE) == [("5", "1"), ("6", "0")]


def test_xes3g5m_prefers_whole_questions_and_drops_padding():
    raw = read(FIXTURES / "xes3g5m")
    assert rows(raw, STUDENT, FOLD, QUESTION, CONCEPTS, RESPONSE, TIME, ORDER) == [
        ("8", 3, "5", ("1", "2"), "1", 1640000000000, 1),
        ("8", 3, "6", ("4",), "0", 1640000009000, 2),
        ("8", 3, "7", ("4",), "1", 1640000010000, 3),
        ("11", TEST_FOLD, "5", ("1", "2"), "0", 1640000000000, 1),
        ("11", TEST_FOLD, "6", ("4",), "0", 1640000009000, 2),
    ]
    concept_rows = read(FIXTURES / "xes3g5m/kc_level")
    assert rows(concept_rows, QUESTION, CONCEPTS, ORDER)[:3] == [
        ("5", ("1",), 1),
        ("5", ("2",), 1),
        ("6", ("4",), 2),
    ]


def test_pykt_lines_give_names_back_and_know_absent_lines():
    raw = read(FIXTURES / "pykt_lines/data.txt")
    assert rows(raw, LINE, STUDENT, QUESTION, CONCEPTS, RESPONSE, TIME, ELAPSED, ORDER) == [
        (1, "Stu_1", "EG4----x,y", ("rule_a", "sum"), "1", 1126268647000, 7.5, 0),
        (1, "Stu_1", "EG4----z", ("sum",), "0", 1126268656000, 0.0, 1),
        (1, "Stu_1", "EG4----z", ("NA_b",), "1", 1126268660000, 0.3, 2),
        (7, "s2", "q1", ("sum",), "0", None, None, 0),
        (7, "s2", "q2", ("sum",), "1", None, None, 1),
    ]
    bare = read(FIXTURES / "pykt_lines/no_questions.txt").collect()
    assert not {QUESTION, TIME, ELAPSED} & set(bare.columns)


def test_four_lines_a_student_keep_the_order_of_the_file():
    raw = read(FIXTURES / "akt_lines/four_lines_test1.csv")
    assert rows(raw, LINE, STUDENT, QUESTION, CONCEPTS, RESPONSE) == [
        (1, "17", "5", ("1",), "1"),
        (1, "17", "5", ("2",), "1"),
        (1, "17", "6", ("1",), "0"),
        (5, "18", "7", ("3",), "1"),
    ]
    assert ORDER not in raw.collect().columns


def test_a_folder_of_test_parts_is_one_table_with_the_part_as_fold():
    raw = read(FIXTURES / "akt_lines")
    assert rows(raw, STUDENT, FOLD, QUESTION) == [
        ("17", 0, "5"),
        ("17", 0, "5"),
        ("17", 0, "6"),
        ("18", 0, "7"),
        ("19", 1, "6"),
        ("19", 1, "5"),
    ]


def test_a_folder_of_other_line_files_is_one_table_without_folds(tmp_path):
    for place, name in enumerate(("a.csv", "b.csv")):
        (tmp_path / name).write_text(f"2\n4,{place}\n0,1\n")
    raw = read(tmp_path)
    assert rows(raw, STUDENT, CONCEPTS) == [
        ("a:1", ("4",)),
        ("a:1", ("0",)),
        ("b:1", ("4",)),
        ("b:1", ("1",)),
    ]
    assert FOLD not in raw.collect().columns


def test_three_lines_have_concepts_only_and_students_are_numbered():
    raw = read(FIXTURES / "dkvmn_lines/three_lines.csv")
    assert rows(raw, STUDENT, CONCEPTS, RESPONSE) == [
        ("1", ("4",), "0"),
        ("1", ("4",), "1"),
        ("1", ("2",), "1"),
        ("2", ("2",), "1"),
        ("2", ("4",), "0"),
    ]


def test_question_matrix_gives_each_item_its_concepts(tmp_path):
    raw = read(FIXTURES / "question_matrix")
    assert rows(raw, STUDENT, QUESTION, CONCEPTS, RESPONSE, TIME) == [
        ("1", "0", ("0", "2"), "1", 0),
        ("1", "2", ("1",), "0", 13_000),
        ("2", "1", None, "1", 7_000),
    ]
    shutil.copy(FIXTURES / "question_matrix/preprocessed_data.csv", tmp_path)
    alone = read(tmp_path)
    assert rows(alone, CONCEPTS) == [(("5",),), (("6",),), (("7",),)]
    assert any("q_mat.npz" in note for note in alone.notes)


def test_question_matrix_refuses_pickled_objects(tmp_path):
    shutil.copy(FIXTURES / "question_matrix/preprocessed_data.csv", tmp_path)
    np.savez(tmp_path / "q_mat.npz", format=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match=r"q_mat\.npz is no sparse matrix"):
        read(tmp_path)


def test_long_table_takes_canonical_names_as_they_are():
    raw = read(FIXTURES / "long_table/canonical.csv")
    assert rows(raw, LINE, STUDENT, QUESTION, CONCEPTS, RESPONSE, TIME) == [
        (2, "a", "q1", ("c1", "c2"), "1", "1000"),
        (3, "a", "q2", None, "0", "2000"),
    ]


def test_long_table_reports_the_synonyms_it_took():
    raw = read(FIXTURES / "long_table/synonyms.tsv")
    assert rows(raw, STUDENT, QUESTION, CONCEPTS, RESPONSE, TIME)[0] == (
        "a",
        "q1",
        ("c1",),
        "1",
        "2020-01-01 00:00:01",
    )
    assert "Column user_id is taken as student." in raw.notes


def test_latin1_text_keeps_its_letters(tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes("student,question,response\nZoé,q1,1\n".encode("latin-1"))
    assert rows(read(path), STUDENT, LINE) == [("Zoé", 2)]


def test_long_table_takes_a_mapping():
    names = {STUDENT: "pupil", QUESTION: "task", RESPONSE: "ok"}
    raw = read(FIXTURES / "long_table/own_names.csv", columns=names)
    assert rows(raw, STUDENT, QUESTION, RESPONSE) == [("a", "q1", "1"), ("b", "q2", "0")]


def test_long_table_reads_parquet(tmp_path):
    path = tmp_path / "log.parquet"
    moment = datetime(2020, 1, 1, tzinfo=UTC).replace(tzinfo=None)
    pl.DataFrame(
        {"student": [1], "concepts": [["a", "b"]], "response": [1], "time": [moment]}
    ).write_parquet(path)
    raw = read(path)
    assert detect(path) == "long_table"
    assert rows(raw, STUDENT, CONCEPTS, RESPONSE, TIME) == [(1, ("a", "b"), 1, ms(2020, 1, 1))]


@pytest.mark.parametrize(
    ("columns", "format_name", "words"),
    [
        ({"pupil": "student"}, "auto", "pupil is no column of the schema"),
        ({STUDENT: "child"}, "auto", "no column child"),
        ({STUDENT: "pupil"}, "auto", "hold response"),
        ({STUDENT: "pupil"}, "junyi2015", "long_table only"),
    ],
)
def test_a_wrong_mapping_is_explained(columns, format_name, words):
    with pytest.raises(InputError, match=words):
        read(FIXTURES / "long_table/own_names.csv", format_name, columns)


def test_unknown_content_names_the_formats(tmp_path):
    path = tmp_path / "poem.csv"
    path.write_text("roses,are\nred,1\n")
    with pytest.raises(InputError, match=r"poem\.csv, line 1.*akt_lines.*xes3g5m"):
        read(path)
    with pytest.raises(InputError, match=r"no format 'poems'.*long_table"):
        read(path, "poems")
    with pytest.raises(InputError, match="does not exist"):
        read(tmp_path / "absent.csv")


HEAD = "student,question,concepts,response,time\n"
GOOD = "a,q1,c1,1,10\n"


@pytest.mark.parametrize(
    ("header", "lacking", "free"),
    [
        ("student,question,concepts,answer,time", "response", "answer"),
        ("child,question,concepts,response,time", "student", "child"),
        ("user,user_id,question,response", "student", "user, user_id"),
        ("user_id,problem_id,skill,outcome", "response", "outcome"),
    ],
)
def test_a_long_table_without_a_column_is_told_which_and_how_to_map_it(
    header, lacking, free, tmp_path
):
    path = tmp_path / "log.csv"
    path.write_text(f"{header}\n{','.join('1' for _ in header.split(','))}\n")
    with pytest.raises(InputError) as refused:
        read(path)
    said = str(refused.value)
    assert f"log.csv, line 1: no column is known to hold {lacking} among" in said
    assert header.replace(",", ", ") in said
    assert f"--column {lacking}=NAME with NAME one of {free}." in said


def test_no_mapping_is_offered_where_no_column_is_left(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("student,question\na,q\n")
    with pytest.raises(
        InputError, match=r"among student, question; accepted is a column of that n"
    ):
        read(path)
    with pytest.raises(InputError, match=r"that name\.$"):
        read(path)


def test_two_columns_that_could_be_one_are_both_named(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("user,user_id,question,response\na,a,q,1\n")
    with pytest.raises(InputError, match=r"\(user or user_id could be student\)"):
        read(path)


def test_a_parquet_table_without_a_column_has_no_lines(tmp_path):
    path = tmp_path / "log.parquet"
    pl.DataFrame({"x": [1], "y": [2]}).write_parquet(path)
    with pytest.raises(InputError, match=r"log\.parquet: no column .* student and response among"):
        read(path)


def test_a_header_that_is_unknown_is_shown_in_short(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(",".join(f"thing{n}" for n in range(99)) + "\n1\n")
    with pytest.raises(InputError, match=r"line 1: .* with thing0, thing1, .*thing11, \.\.\.; acc"):
        read(path)


@pytest.mark.parametrize("content", [HEAD.encode() + GOOD.encode(), b"PAR1 and no more", b""])
def test_what_is_called_parquet_and_is_not_is_refused(content, tmp_path):
    path = tmp_path / "log.parquet"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"log\.parquet is not a whole Parquet file; accepted"):
        read(path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ((HEAD + GOOD).encode("utf-16"), "UTF-16 text"),
        (bytes(range(256)), "bytes that are no text"),
    ],
)
def test_what_is_no_text_is_refused(content, found, tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"log\.csv, line 1, .*{found}; accepted"):
        read(path)


def test_folders_that_hold_nothing_readable_are_refused(tmp_path):
    with pytest.raises(InputError, match="is a folder without files"):
        read(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "b.csv").write_text(HEAD)
    with pytest.raises(InputError, match=r"the folder holds b\.csv, notes\.txt, which no known"):
        read(tmp_path)


def test_a_quote_left_open_is_found(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(HEAD + GOOD + 'a,"q2,c1,0,20\n' + GOOD * 3)
    with pytest.raises(InputError, match=r"log\.csv, line 3: a double quote is opened there"):
        read(path).collect()


def test_a_quote_within_a_value_is_found(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(HEAD + GOOD + 'a,q"2,c1,0,20\n' + GOOD * 3)
    with pytest.raises(InputError, match=r"log\.csv, line 3: a double quote stands alone in a val"):
        read(path).collect()


def test_the_note_on_milliseconds_stands_only_where_there_are_numbers(tmp_path):
    path = tmp_path / "log.csv"
    for moment, noted in (("10", True), ("2020-01-01", False), ("2020-01-01 10:00:00", False)):
        path.write_text(HEAD + GOOD.replace("10", moment))
        assert any("milliseconds" in note for note in read(path).notes) == noted
    parquet = tmp_path / "log.parquet"
    for moment, noted in ((10, True), (datetime(2020, 1, 1, tzinfo=UTC), False)):
        table = {"student": [1], "question": [1], "response": [1], "time": [moment]}
        pl.DataFrame(table).write_parquet(parquet)
        assert any("milliseconds" in note for note in read(parquet).notes) == noted


def test_words_for_missing_and_blanks_around_values_go(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(HEAD + "a, q1 ,NA,1,10\n7,NaN,c1, 0,20\n007,q1,None,1, 30\n")
    assert rows(read(path), STUDENT, QUESTION, CONCEPTS, RESPONSE, TIME) == [
        ("a", "q1", None, "1", "10"),
        ("7", None, ("c1",), "0", "20"),
        ("007", "q1", None, "1", "30"),
    ]


def test_two_formats_that_fit_are_both_named(monkeypatch):
    monkeypatch.setattr(readers.readers()["kdd_cup2010"], "matches", lambda path: True)
    with pytest.raises(InputError, match="assistments2012, kdd_cup2010"):
        detect(FIXTURES / "assistments2012/log.csv")


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("user_id,sequence_id,correct\na,1,1\n")
    with pytest.raises(InputError, match=r"log\.csv, line 1.*lacks column log_id.*sequence_id"):
        read(path, "assistments2015")


@pytest.mark.parametrize("content", [b"", b"\n \n", gzip.compress(b"", mtime=0)])
def test_an_empty_file_is_refused(content, tmp_path):
    path = tmp_path / "empty.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"empty\.csv is empty"):
        read(path)


def test_a_header_alone_is_refused(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("user_id,log_id,sequence_id,correct\n")
    with pytest.raises(InputError, match="no rows"):
        read(path)


def test_a_gzip_that_breaks_off_names_the_line(tmp_path):
    # The rows must not repeat, or all of them hide in the last bytes.
    numbers = np.random.default_rng(0).integers(10**9, size=20_000)
    text = "user_id,log_id,sequence_id,correct\n" + "".join(f"a,{n},1,1\n" for n in numbers)
    path = tmp_path / "log.csv.gz"
    path.write_bytes(gzip.compress(text.encode())[:-500])
    with pytest.raises(InputError, match=r"log\.csv\.gz breaks off after line \d{4,}"):
        read(path)
    path.write_bytes(gzip.compress(text.encode())[:12])
    with pytest.raises(InputError, match="cannot be unpacked"):
        read(path)


def test_a_row_that_is_too_wide_is_found(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("user_id,log_id,sequence_id,correct\na,1,1,1\na,2,1,1,9\n")
    with pytest.raises(InputError, match=r"log\.csv, line 3: 5 columns under a header of 4"):
        read(path).collect()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "pykt_lines",
            "s,2\n1\n1,2\n0,1\nNA\nNA\n",
            r"line 2 \(question\): 1 values stand beside 2",
        ),
        ("pykt_lines", "s,1\n1\n1\n0\nNA\nNA\nt,1\n1\n", "line 8: the file ends within a student"),
        (
            "pykt_folds",
            'fold,uid,questions,responses\n0,1,"5,6","1"\n',
            "line 2, column questions: 2",
        ),
    ],
)
def test_sequences_of_unequal_length_are_named(name, text, words, tmp_path):
    path = tmp_path / "data.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        read(path, name)


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(tmp_path):
    for example in ("assistments2017/log.csv", "pykt_lines/data.txt", "kdd_cup2010/algebra.txt"):
        text = (FIXTURES / example).read_bytes().replace(b"\n", b"\r\n")
        path = tmp_path / Path(example).name
        path.write_bytes(b"\xef\xbb\xbf" + text)
        assert read(path).collect().equals(read(FIXTURES / example).collect())


def test_one_concept_formats_use_a_separator_that_no_name_holds():
    assert ONE_CONCEPT not in "".join(
        chr(code) for code in range(0x20, 0x110000) if chr(code).isprintable()
    )


REAL = {
    "assist2009": ("pykt_folds", 337_424, 3_852, 17_737, 125),
    "assist2015": ("pykt_folds", 682_797, 19_093, None, 100),
    "assist2017": ("akt_lines", 941_502, 1_705, 3_162, 102),
    "assist2009_duplicated": ("akt_lines", 325_589, 4_150, 16_891, 110),
    "algebra2005_sample": ("question_matrix", 129_998, 114, 48_080, 111),
    "cloze2015/largerawsample.csv.gz": ("datashop_transactions", 55_122, 478, 792, 144),
    "datashop_exports/ds1_studentstep.txt.gz": ("datashop_steps", 9_999, 15, 948, 7),
    "datashop_exports/ds96_tx.txt.gz": ("datashop_transactions", 1_012, 7, 253, 20),
    "datashop_exports/ds6224_tx.txt.gz": ("datashop_transactions", 5_001, 15, 324, 42),
}


@pytest.mark.parametrize(("name", "expected"), REAL.items())
def test_real_files_have_their_known_counts(name, expected):
    path = DATA / name
    if not path.exists():
        pytest.skip(f"the data set {name} is not here")
    form, n_rows, n_students, n_questions, n_concepts = expected
    raw = read(path)
    frame = raw.collect()
    concepts = frame[CONCEPTS]
    split = concepts.str.split(raw.separator) if concepts.dtype == pl.String else concepts
    assert detect(path) == form
    assert frame.height == n_rows
    assert frame[STUDENT].n_unique() == n_students
    assert (frame[QUESTION].n_unique() if QUESTION in frame.columns else None) == n_questions
    assert split.explode().drop_nulls().n_unique() == n_concepts
    assert frame[RESPONSE].cast(pl.Int8).unique().sort().to_list() == [0, 1]
    assert frame[STUDENT].null_count() == 0


def test_real_repeats_regroup_to_the_published_interactions():
    path = DATA / "assist2009"
    if not path.exists():
        pytest.skip("the data set assist2009 is not here")
    frame = read(path).collect()
    assert frame.select(STUDENT, ORDER).n_unique() == 282_619
    events = frame.group_by(STUDENT, ORDER).agg(pl.col(QUESTION, RESPONSE).n_unique())
    assert events.select(pl.col(QUESTION, RESPONSE).max()).row(0) == (1, 1)
