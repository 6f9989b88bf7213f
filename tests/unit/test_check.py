"""The door: what it accepts, refuses, merges and reports."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from kt_forecast.data.check import check
from kt_forecast.data.readers import RawTable
from kt_forecast.data.simulate import Simulation, simulate
from kt_forecast.data.tables import load
from kt_forecast.errors import InputError
from kt_forecast.schema import (
    CONCEPTS,
    ELAPSED,
    FOLD,
    LINE,
    ORDER,
    QUESTION,
    RESPONSE,
    STUDENT,
    TIME,
)

DATA = Path(os.environ.get("KT_FORECAST_DATA", Path(__file__).parents[3] / "shared" / "data"))


def real(name: str) -> Path:
    path = DATA / "kt" / name
    if not path.exists():
        pytest.skip(f"the data set {name} is not at {path}")
    return path


def raw(frame: pl.DataFrame, **settings) -> RawTable:
    return RawTable(frame.lazy(), "answers.csv", **settings)


def door(columns: dict, *, bundled: bool = True, **settings):
    return check(raw(pl.DataFrame(columns), bundled=bundled), "test", **settings)


BASE = {
    STUDENT: ["b", "b", "a"],
    QUESTION: ["q1", "q2", "q1"],
    CONCEPTS: ["x_y", "y", "x_y"],
    RESPONSE: [1, 0, 1],
    TIME: [10, 20, 30],
}


def concepts_of(interactions, row: int) -> list[str]:
    return interactions.concepts.gather(interactions.frame[CONCEPTS][row]).to_list()


def test_a_clean_table_is_coded_by_sorted_names():
    made = door(BASE)
    assert made.students.to_list() == ["a", "b"]
    assert made.questions.to_list() == ["q1", "q2"]
    assert made.concepts.to_list() == ["x", "y"]
    assert made.frame[STUDENT].to_list() == [0, 1, 1]
    assert made.frame[CONCEPTS].to_list() == [[0, 1], [0, 1], [1]]
    assert made.frame.schema == {
        STUDENT: pl.UInt32,
        QUESTION: pl.UInt32,
        CONCEPTS: pl.List(pl.UInt32),
        RESPONSE: pl.UInt8,
        TIME: pl.Int64,
    }


@pytest.mark.parametrize(
    "responses",
    [
        ["1", "0", "1"],
        ["true", "False", "TRUE"],
        ["1.0", "0.0", " 1 "],
        [1.0, 0.0, 1.0],
        [True, False, True],
    ],
)
def test_every_spelling_of_a_response_is_the_same_data(responses):
    assert door(BASE | {RESPONSE: responses}).data_hash == door(BASE).data_hash


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {RESPONSE: [1, 2, 1]},
            "answers.csv, row 2, column response holds 2; accepted are 0 and 1",
        ),
        ({RESPONSE: [1, None, 1]}, "row 2, column response is empty"),
        ({RESPONSE: ["1", "maybe", "0"]}, "row 2, column response holds 'maybe'"),
        ({RESPONSE: [0.5, 1.0, 0.0]}, "row 1, column response holds 0.5"),
        ({RESPONSE: [float("nan"), 1.0, 0.0]}, "row 1, column response holds nan"),
        ({STUDENT: ["b", None, "a"]}, "row 2, column student is empty"),
        ({STUDENT: ["b", "  ", "a"]}, "row 2, column student holds '  '"),
        ({STUDENT: [1.0, 2.0, float("nan")]}, "row 3, column student holds nan"),
        ({QUESTION: [None, "q2", "q1"]}, "row 1, column question is empty"),
        ({STUDENT: [[1], [2], [3]]}, "column student, is of type List"),
        ({TIME: [10, None, 30]}, "row 2, column time is empty"),
        ({TIME: [10.0, float("inf"), 30.0]}, "row 2, column time holds inf"),
        ({TIME: ["10", "soon", "30"]}, "row 2, column time holds 'soon'"),
        ({ORDER: ["1", "2a", "3"]}, "row 2, column order holds '2a'"),
        ({ELAPSED: [1.0, float("nan"), 2.0]}, "row 2, column elapsed holds nan"),
        ({ELAPSED: [1.0, float("inf"), 2.0]}, "row 2, column elapsed holds inf"),
        ({ELAPSED: ["1", "2s", "3"]}, "row 2, column elapsed holds '2s'"),
        ({FOLD: [0, 0, -7]}, "row 3, column fold holds -7"),
        ({FOLD: [0, 1, 1]}, "student 'b' is in folds 0 and 1"),
    ],
)
def test_bad_values_are_refused_where_they_stand(change, said):
    with pytest.raises(InputError) as refused:
        door(BASE | change)
    assert said in str(refused.value)
    assert "accepted" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_line_of_the_file_and_the_owners_column_are_named():
    table = pl.DataFrame(BASE | {RESPONSE: [1, 7, 0], LINE: [2, 3, 5]})
    with pytest.raises(InputError, match=r"answers\.csv, line 3, column is_right holds 7"):
        check(raw(table), "test", names={RESPONSE: "is_right"})


@pytest.mark.parametrize("column", [STUDENT, RESPONSE])
def test_a_missing_column_is_named(column):
    with pytest.raises(InputError, match=f"column '{column}' is missing among"):
        door({key: value for key, value in BASE.items() if key != column})


def test_a_table_without_question_and_concepts_is_refused():
    with pytest.raises(InputError, match="'question' is missing"):
        door({key: BASE[key] for key in (STUDENT, RESPONSE, TIME)})


def test_an_empty_table_is_refused():
    with pytest.raises(InputError, match="holds no rows"):
        check(raw(pl.DataFrame(BASE).clear()), "test")


def test_unsorted_times_are_sorted_and_reported():
    made = door(BASE | {TIME: [20, 10, 30]})
    assert made.frame[TIME].to_list() == [30, 10, 20]
    assert any("the rows of 1 student were not in the order of time" in n for n in made.notes)
    assert not any("order of time" in note for note in door(BASE).notes)


def test_without_time_and_order_the_rows_keep_the_files_order():
    columns = {STUDENT: ["a", "b", "a"], QUESTION: ["z", "y", "x"], RESPONSE: [1, 0, 0]}
    made = door(columns)
    assert made.questions.gather(made.frame[QUESTION]).to_list() == ["z", "x", "y"]
    assert any("taken in file order" in note for note in made.notes)


def test_rows_of_one_time_keep_the_files_order():
    count = 5000
    question = np.random.default_rng(0).permutation(count)
    columns = {STUDENT: [1] * count, QUESTION: question, RESPONSE: [0, 1] * (count // 2)}
    made = door(columns | {TIME: [9] * (count - 1) + [8]})
    expected = [question[-1], *question[:-1]]
    assert made.questions.gather(made.frame[QUESTION]).cast(int).to_list() == expected


def test_dates_are_milliseconds():
    texts = ["2020-01-01 00:00:00", "2020-01-01 00:00:01", "2020-01-02 00:00:00"]
    made = door(BASE | {TIME: texts})
    typed = door(BASE | {TIME: pd.to_datetime(texts)})
    assert made.frame[TIME].to_list() == typed.frame[TIME].to_list()
    assert made.frame[TIME][2] - made.frame[TIME][1] == 1000


@pytest.mark.parametrize(
    ("texts", "steps"),
    [
        (["2020-01-01", "2020-01-02", "2020-01-03"], [86_400_000]),
        (["01/31/2020 10:00:00", "01/31/2020 10:00:01", "01/31/20 10:00:02"], [1000]),
        (["2020-01-01T00:00:00Z", "2020-01-01 00:00:02", "2020-01-01 00:00"], [2000]),
        (["1577836800000", " 1577836800500", "1577836800001.0"], [500]),
    ],
)
def test_texts_of_times_are_milliseconds(texts, steps):
    made = door(BASE | {TIME: texts})
    assert np.diff(made.frame[TIME].to_numpy()[1:]).tolist() == steps


@pytest.mark.parametrize(
    ("texts", "wrong"),
    [
        (["10", "noon", "30"], "row 2, column time holds 'noon'"),
        (["10", "inf", "30"], "row 2, column time holds 'inf'"),
        (["noon", "20", "30"], "row 1, column time holds 'noon'"),
        (["10", "2020-01-01", "30"], "row 2, column time holds '2020-01-01'"),
        (["2020-01-01", "2020-01-02", "30"], "row 3, column time holds '30'"),
        (["2020-01-01", "2020-13-02", "2020-01-03"], "row 2, column time holds '2020-13-02'"),
        (["10", "99999999999999999999", "30"], "row 2, column time holds '99999999999999999999'"),
        (["10", "1e400", "30"], "row 2, column time holds '1e400'"),
    ],
)
def test_a_text_that_is_no_time_is_shown(texts, wrong):
    with pytest.raises(InputError) as refused:
        door(BASE | {TIME: texts})
    assert wrong in str(refused.value)


def test_missing_and_negative_extras_count_as_zero_and_are_reported():
    made = door(BASE | {ELAPSED: ["3", None, "-4"]})
    assert sorted(made.frame[ELAPSED].to_list()) == [0.0, 0.0, 3.0]
    assert "elapsed: 1 empty value counts as 0" in made.notes
    assert "elapsed: 1 negative value counts as 0" in made.notes


def test_short_students_are_noted_or_left_out():
    made = door(BASE)
    assert "1 student (50.0%) has one interaction" in made.notes
    cut = door(BASE, min_interactions=2)
    assert cut.students.to_list() == ["b"]
    assert "left out 1 student with fewer than 2 interactions" in cut.notes
    with pytest.raises(InputError, match="no student has 9 interactions"):
        door(BASE, min_interactions=9)


def test_what_is_left_out_leaves_no_names():
    table = {
        STUDENT: ["a", "b", "b"],
        QUESTION: ["only a", "q", "q2"],
        CONCEPTS: ["only a", "c", "d"],
        RESPONSE: [1, 0, 1],
        TIME: [1, 2, 3],
    }
    cut = door(table, min_interactions=2)
    assert cut.questions.to_list() == ["q", "q2"]
    assert cut.concepts.to_list() == ["c", "d"]
    same = door({key: value[1:] for key, value in table.items()})
    assert cut.data_hash == same.data_hash


def test_concepts_stand_for_the_question_where_there_is_none():
    made = door({key: value for key, value in BASE.items() if key != QUESTION})
    assert made.questions.to_list() == ["x_y", "y"]
    assert made.frame[QUESTION].to_list() == [0, 0, 1]
    with pytest.raises(
        InputError, match="row 2, column concepts is empty and there is no question"
    ):
        door({STUDENT: [1, 1], CONCEPTS: ["c", None], RESPONSE: [1, 0]})


def test_missing_concepts_are_the_empty_set():
    made = door(BASE | {CONCEPTS: ["x", None, ""]})
    assert made.frame[CONCEPTS].to_list() == [[], [0], []]
    assert door({k: v for k, v in BASE.items() if k != CONCEPTS}).frame[CONCEPTS][0].len() == 0


def test_lists_and_text_of_concepts_are_the_same_data():
    lists = door(BASE | {CONCEPTS: [["y", "x", "x"], ["y"], ["x", "y"]]})
    assert lists.data_hash == door(BASE).data_hash
    numbers = door(BASE | {CONCEPTS: [[2, 1], [2], [1, 2]]})
    assert numbers.data_hash == door(BASE | {CONCEPTS: ["1_2", "2", "2_1"]}).data_hash


@pytest.mark.parametrize("other", ["007", "+7", "07", "7.0", "x", "-7", "12345678901234567890"])
def test_names_that_look_like_one_number_stay_two(other):
    made = door(BASE | {STUDENT: ["7", "7", other], QUESTION: ["7", other, "8"]})
    assert made.students.to_list() == sorted(["7", other])
    assert made.questions.to_list() == sorted(["7", "8", other])


def test_names_as_text_and_as_numbers_are_the_same_data():
    numbers = {STUDENT: [100, 100, 9], QUESTION: [0, 10, 5], CONCEPTS: [3, 30, 3]}
    texts = {column: [str(value) for value in values] for column, values in numbers.items()}
    assert door(BASE | numbers).data_hash == door(BASE | texts).data_hash
    assert door(BASE | texts).students.to_list() == ["100", "9"]


def test_many_lists_of_numbers_are_what_they_were():
    draw = np.random.default_rng(2)
    lists = [draw.integers(-5, 3000, size).tolist() for size in draw.integers(0, 5, 4000)]
    made = door(
        {
            STUDENT: np.arange(4000) // 7,
            QUESTION: np.arange(4000),
            CONCEPTS: lists,
            RESPONSE: draw.integers(0, 2, 4000),
        }
    )
    order = made.questions.gather(made.frame[QUESTION]).cast(int).to_list()
    for row in range(0, 4000, 37):
        assert concepts_of(made, row) == sorted({str(concept) for concept in lists[order[row]]})


def test_rows_are_sorted_by_time_where_the_file_is_not():
    draw = np.random.default_rng(4)
    count, students = 30_000, 70_000
    table = pl.DataFrame(
        {
            STUDENT: draw.permutation(students)[draw.integers(0, students, count)],
            QUESTION: np.arange(count),
            RESPONSE: draw.integers(0, 2, count),
            TIME: draw.integers(-(10**9), 10**9, count),
        }
    )
    made = check(raw(table), "test")
    frame = made.frame.select(
        made.students.gather(made.frame[STUDENT]), TIME, made.questions.gather(made.frame[QUESTION])
    )
    expected = table.with_columns(pl.col(STUDENT, QUESTION).cast(pl.String))
    expected = expected.sort(STUDENT, TIME, maintain_order=True)
    assert frame.equals(expected.select(frame.columns))


# What is one event


def test_rows_of_one_order_become_one_step():
    made = door(
        {
            STUDENT: [1, 1, 1, 1],
            ORDER: [5, 5, 5, 9],
            QUESTION: ["q", "q", "q", "q"],
            CONCEPTS: ["b", "a", "b", "c"],
            RESPONSE: [1, 1, 1, 1],
            ELAPSED: [3.0, 4.0, 5.0, 6.0],
        }
    )
    assert len(made) == 2
    assert concepts_of(made, 0) == ["a", "b"]
    assert made.frame[ELAPSED].to_list() == [3.0, 6.0]
    assert (
        "the same order: merged 2 rows (50.0%) into 1 step, 1 of them an exact copy" in made.notes
    )


def test_an_order_with_both_responses_is_refused():
    with pytest.raises(InputError, match=r"row 2, column response: .* hold both responses"):
        door({STUDENT: [1, 1], ORDER: [5, 5], QUESTION: [3, 3], RESPONSE: [1, 0]})


def test_an_order_of_two_questions_stays_two_steps():
    made = door({STUDENT: [1, 1], ORDER: [5, 5], QUESTION: [3, 4], RESPONSE: [1, 0]})
    assert len(made) == 2


def test_one_time_and_question_is_one_step_even_interleaved():
    made = door(
        {
            STUDENT: [1, 1, 1, 1],
            TIME: [7, 7, 7, 7],
            QUESTION: ["p", "q", "p", "q"],
            CONCEPTS: ["a", "b", "c", "d"],
            RESPONSE: [1, 0, 1, 0],
        }
    )
    assert made.questions.gather(made.frame[QUESTION]).to_list() == ["p", "q"]
    assert concepts_of(made, 0) == ["a", "c"]
    assert concepts_of(made, 1) == ["b", "d"]
    assert any(note.startswith("the same time and question: merged 2 rows") for note in made.notes)


def test_times_too_coarse_for_bundles_merge_nothing():
    columns = {STUDENT: [1, 1], TIME: [7, 7], QUESTION: [3, 3], RESPONSE: [1, 1]}
    assert len(door(columns)) == 1
    assert len(door(columns, bundled=False)) == 2


def test_a_question_answered_both_ways_at_one_time_stays_two_attempts():
    made = door({STUDENT: [1, 1], TIME: [7, 7], QUESTION: [3, 3], RESPONSE: [1, 0]})
    assert len(made) == 2
    assert any("with both responses: kept as attempts" in note for note in made.notes)


def test_a_rare_contradiction_among_copies_is_not_merged():
    copies = pl.DataFrame({STUDENT: [1], TIME: [0], QUESTION: [0], RESPONSE: [1]})
    times = pl.DataFrame({TIME: range(300)})
    many = copies.drop(TIME).join(times, how="cross").select(copies.columns)
    table = pl.concat([many, many])
    table = table.with_columns(
        pl.when(pl.int_range(pl.len()) == 0).then(0).otherwise(RESPONSE).alias(RESPONSE)
    )
    made = check(raw(table), "test")
    assert len(made) == 301
    assert sorted(made.frame[RESPONSE].head(2)) == [0, 1]


def test_exact_copies_of_rows_go():
    twice = pl.concat([pl.DataFrame(BASE), pl.DataFrame(BASE)])
    made = check(raw(twice), "test")
    assert made.data_hash == door(BASE).data_hash
    assert any("3 of them exact copies" in note for note in made.notes)


def attempts(n: int, agreeing: float, *, same_concept: bool, seed: int = 0) -> dict:
    """One student, n questions answered twice in a row without time or order."""
    draw = np.random.default_rng(seed)
    first = draw.integers(0, 2, n)
    again = np.where(draw.random(n) < agreeing, first, 1 - first)
    concept = np.zeros(2 * n, dtype=int)
    if not same_concept:
        concept[1::2] = 1
    return {
        STUDENT: np.zeros(2 * n, dtype=int),
        QUESTION: np.repeat(np.arange(n), 2),
        CONCEPTS: concept,
        RESPONSE: np.stack([first, again], 1).ravel(),
    }


def test_rows_expanded_by_concept_are_recognised():
    made = door(attempts(300, 1.0, same_concept=False))
    assert len(made) == 300
    assert concepts_of(made, 0) == ["0", "1"]
    assert any("merged 300 rows (50.0%) into 300 steps" in note for note in made.notes)


def test_two_attempts_at_a_question_of_two_concepts_stay_two():
    made = door(
        {
            STUDENT: [1] * 6,
            QUESTION: ["q"] * 4 + ["r"] * 2,
            CONCEPTS: ["a", "b", "a", "b", "c", "d"],
            RESPONSE: [1, 1, 1, 1, 0, 0],
        }
    )
    assert len(made) == 3
    assert [concepts_of(made, row) for row in range(3)] == [["a", "b"], ["a", "b"], ["c", "d"]]


def test_attempts_that_contradict_are_kept():
    for same in (True, False):
        made = door(attempts(300, 0.7, same_concept=same))
        assert len(made) == 600
        assert any("kept as attempts" in note for note in made.notes)


def test_a_few_agreeing_repeats_among_many_attempts_are_kept():
    many = pl.DataFrame(attempts(300, 0.7, same_concept=True))
    few = pl.DataFrame(attempts(3, 1.0, same_concept=False)).with_columns(pl.col(QUESTION) + 1000)
    assert len(check(raw(pl.concat([many, few])), "test")) == 606


@pytest.mark.parametrize(("agreeing", "same"), [(1.0, True), (0.95, False)])
def test_what_could_be_either_is_refused_with_its_share(agreeing, same):
    columns = attempts(400, agreeing, same_concept=same)
    with pytest.raises(
        InputError, match=r"40\d rows \(50.0%\) repeat|400 rows \(50.0%\)"
    ) as refused:
        door(columns)
    assert "repeats='merge'" in str(refused.value)
    assert len(door(columns, repeats="keep")) == 800
    assert len(door(columns, repeats="merge")) <= 430


def test_without_a_question_nothing_is_an_attempt_at_one():
    columns = attempts(300, 1.0, same_concept=True)
    del columns[QUESTION]
    assert len(door(columns)) == 600


# What the hash says


@pytest.fixture(scope="module")
def simulated() -> pl.DataFrame:
    return simulate(Simulation(students=40, seed=3, bundled=0.0))


def test_the_order_of_rows_columns_and_students_does_not_show(simulated):
    plain = load(simulated)
    shuffled = simulated.sample(fraction=1.0, shuffle=True, seed=1)
    shuffled = shuffled.select(reversed(simulated.columns))
    assert load(shuffled).data_hash == plain.data_hash
    assert load(shuffled).frame.equals(plain.frame)


def test_the_file_format_does_not_show(simulated, tmp_path):
    text = simulated.with_columns(
        pl.col(CONCEPTS).cast(pl.List(pl.String)).list.join(";"), pl.col(ELAPSED).round(3)
    )
    text.write_csv(tmp_path / "a.csv")
    text.with_columns(pl.col(CONCEPTS).str.split(";")).write_parquet(tmp_path / "a.parquet")
    hashes = {
        load(tmp_path / "a.csv", separator=";").data_hash,
        load(tmp_path / "a.parquet").data_hash,
        load(text, separator=";").data_hash,
        load(text.to_pandas(), separator=";").data_hash,
        load(text.lazy(), separator=";").data_hash,
    }
    assert len(hashes) == 1


@pytest.mark.parametrize("column", [STUDENT, QUESTION, CONCEPTS, RESPONSE, TIME, ELAPSED])
def test_every_value_shows(simulated, column):
    changed = simulated.to_pandas()
    changed[column] = changed[column].astype(object)
    other = {STUDENT: 999, QUESTION: 999, CONCEPTS: [999], RESPONSE: 1 - changed[RESPONSE][5]}
    changed.at[5, column] = other.get(column, changed[column][5] + 1)
    assert load(pl.from_pandas(changed)).data_hash != load(simulated).data_hash


def test_a_parquet_folder_is_one_table(simulated, tmp_path):
    for part in range(3):
        simulated[part::3].write_parquet(tmp_path / f"part-{part}.parquet")
    assert load(tmp_path).data_hash == load(simulated).data_hash


# Sources


def test_own_column_names(simulated):
    own = simulated.rename({STUDENT: "who", QUESTION: "what", RESPONSE: "ok"})
    names = {STUDENT: "who", QUESTION: "what", RESPONSE: "ok"}
    assert load(own, columns=names).data_hash == load(simulated).data_hash
    with pytest.raises(InputError, match="no column 'whom'; did you mean 'who'"):
        load(own, columns=names | {STUDENT: "whom"})
    with pytest.raises(InputError, match="no column 'students'; did you mean 'student'"):
        load(own, columns={"students": "who"})
    with pytest.raises(InputError, match="the data frame, row 1, column ok holds 5"):
        load(own.with_columns(ok=pl.lit(5)), columns=names)


def test_a_column_of_mixed_types_is_named():
    frame = pd.DataFrame({STUDENT: [1, "x"], QUESTION: [1, 2], RESPONSE: [0, 1]})
    with pytest.raises(InputError, match="column 'student', mixes types"):
        load(frame)


def test_what_is_no_table_is_refused(tmp_path):
    with pytest.raises(InputError, match="a dict is no table"):
        load({})
    with pytest.raises(InputError, match=r"nowhere\.csv: no such file"):
        load(tmp_path / "nowhere.csv")
    with pytest.raises(InputError, match="did you mean 'sample'"):
        load("sampel")


HEAD = "student,question,concepts,response,time\n"
ROWS = "a,q1,c1,1,10\nb,q1,c1,0,20\n"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a,q2,c1,2,30", "column response holds '2'; accepted are 0 and 1"),
        ("a,q2,c1,,30", "column response is empty; accepted"),
        ("NaN,q2,c1,1,30", "column student holds 'NaN'; accepted"),
        (",q2,c1,1,30", "column student is empty; accepted"),
        ("a,NULL,c1,1,30", "column question holds 'NULL'; accepted"),
        ("a,q2,c1,1,noon", "column time holds 'noon'; accepted are whole milliseconds, dates"),
        ("a,q2,c1,1,inf", "column time holds 'inf'; accepted"),
        ("a,q2,c1,1,nan", "column time holds 'nan'; accepted"),
        ("a,q2,c1,1", "column time is empty, for the row has 4 fields under a header of 5; acc"),
        ("a", "column response is empty, for the row has 1 field under a header of 5; accepted"),
        ("", "column student is empty, for the line is blank; accepted"),
    ],
)
def test_a_bad_line_of_a_file_is_shown(row, said, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(f"{HEAD}{ROWS}{row}\n{ROWS}")
    with pytest.raises(InputError) as refused:
        load(path)
    assert f"{path}, line 4, {said}" in str(refused.value)


def test_a_line_that_is_too_wide_is_shown(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(f"{HEAD}{ROWS}a,q2,c1,1,30,7\n")
    with pytest.raises(InputError, match=r"log\.csv, line 4: 6 columns under a header of 5; accep"):
        load(path)


def test_the_files_own_name_of_a_column_is_told(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,is_correct\na,b,1\na,b,NA\n")
    with pytest.raises(InputError, match="line 3, column is_correct holds 'NA'; accepted"):
        load(path)


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_the_part_of_a_folder_is_named(bad, tmp_path):
    for part in range(3):
        row = "a,q2,c1,7,30\n" if part == bad else ""
        (tmp_path / f"part{part}.csv").write_text(HEAD + ROWS * (part + 1) + row)
    said = rf"part{bad}\.csv, line {2 * bad + 4}, column response holds '7'"
    with pytest.raises(InputError, match=said):
        load(tmp_path)
    (tmp_path / f"part{bad}.csv").write_text(HEAD + ROWS + "a,q2,c1,1,30,9\n")
    with pytest.raises(InputError, match=rf"part{bad}\.csv, line 4: 6 columns"):
        load(tmp_path)


def test_parts_that_do_not_fit_are_named(tmp_path):
    (tmp_path / "a.csv").write_text(HEAD + ROWS)
    (tmp_path / "b.csv").write_text("student,question,response\na,q,1\n")
    with pytest.raises(InputError, match=r"b\.csv, column concepts, is missing but String in a"):
        load(tmp_path)


def test_one_is_no_plural():
    columns = {STUDENT: [1, 1, 2], TIME: [7, 7, 1], QUESTION: [3, 3, 3], RESPONSE: [1, 1, 0]}
    assert door(columns).notes == (
        "the same time and question: merged 1 row (33.3%) into 1 step, 1 of them an exact copy",
        "2 students (100.0%) have one interaction",
    )


def test_real_duplicated_rows_are_merged():
    made = load(real("assist2009_duplicated"))
    assert len(made) + 51_028 == 325_589
    note = next(note for note in made.notes if "merged" in note)
    assert "51028 rows (15.7%)" in note
    assert "equal in 100.0%" in note


def test_real_attempts_are_kept():
    made = load(real("assist2017"))
    assert len(made) == 941_502
    assert any("equal in 68" in note and "kept as attempts" in note for note in made.notes)


def test_real_expanded_rows_become_questions():
    made = load(real("assist2009"))
    assert len(made) == 282_619
    assert len(made.students) == 3_852
