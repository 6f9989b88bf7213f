"""Splits: who trains, who is scored, and that a saved split cannot drift."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from kt_forecast.data.simulate import Simulation, simulate
from kt_forecast.data.splits import (
    ByFolds,
    ByFraction,
    ByStudents,
    ByTime,
    Role,
    checked,
    load_split,
    split,
)
from kt_forecast.data.tables import load
from kt_forecast.errors import InputError
from kt_forecast.schema import FOLD, STUDENT, TEST_FOLD, TIME

KINDS = [ByStudents(), ByFolds(), ByTime(), ByFraction()]


@pytest.fixture(scope="module")
def raw() -> pl.DataFrame:
    return simulate(Simulation(students=60, mean_steps=20, seed=5, bundled=0.2))


@pytest.fixture(scope="module")
def table(raw):
    return load(raw, name="simulated")


@pytest.fixture(scope="module")
def published(raw):
    folds = pl.col(STUDENT).cast(pl.Int64) % 6 - 1
    return load(raw.with_columns(folds.alias(FOLD)), name="published")


def students_of(table, made, role) -> set[int]:
    return set(table.frame[STUDENT].filter(pl.Series(made.scored(role))).to_list())


@pytest.mark.parametrize("settings", KINDS, ids=lambda s: s.kind)
def test_every_row_has_one_role_and_every_role_has_rows(table, settings):
    made = split(table, settings)
    assert made.role.dtype == pl.UInt8
    assert len(made.role) == len(table)
    counts = [int(made.scored(role).sum()) for role in (Role.TRAIN, Role.VALID, Role.TEST)]
    assert sum(counts) == len(table)
    assert min(counts) > 0
    assert counts[0] == max(counts)


@pytest.mark.parametrize("settings", KINDS[:2], ids=lambda s: s.kind)
def test_whole_students_have_one_role(table, settings):
    made = split(table, settings)
    parts = [students_of(table, made, role) for role in (Role.TRAIN, Role.VALID, Role.TEST)]
    assert sum(map(len, parts)) == len(table.students)
    for role in Role:
        assert (made.visible(role) == made.scored(role)).all()


def test_shares_of_students_and_seeds(table):
    made = split(table, ByStudents(valid=0.1, test=0.3))
    assert len(students_of(table, made, Role.VALID)) == 6
    assert len(students_of(table, made, Role.TEST)) == 18
    again = split(table, ByStudents(valid=0.1, test=0.3))
    other = split(table, ByStudents(valid=0.1, test=0.3, seed=1))
    assert again.role_hash == made.role_hash != other.role_hash


def test_the_order_of_the_input_does_not_move_a_student(raw, table):
    shuffled = load(raw.sample(fraction=1.0, shuffle=True, seed=3), name="simulated")
    assert split(shuffled, ByStudents()).role_hash == split(table, ByStudents()).role_hash


def test_drawn_folds_validate_each_student_once_and_share_one_test(table):
    made = [split(table, ByFolds(fold=fold)) for fold in range(5)]
    tests = [students_of(table, one, Role.TEST) for one in made]
    valids = [students_of(table, one, Role.VALID) for one in made]
    assert all(one == tests[0] for one in tests)
    assert len(tests[0]) == 12
    assert sum(map(len, valids)) == len(set().union(*valids)) == 48


def test_published_folds_are_taken(published):
    made = split(published, ByFolds(fold=3))
    fold = published.frame[FOLD].to_numpy()
    assert (made.scored(Role.VALID) == (fold == 3)).all()
    assert (made.scored(Role.TEST) == (fold == TEST_FOLD)).all()
    with pytest.raises(InputError, match="has no fold 5; accepted are 0, 1, 2, 3, 4"):
        split(published, ByFolds(fold=5))


def test_without_published_test_students_the_next_fold_tests(raw):
    folds = load(raw.with_columns((pl.col(STUDENT).cast(pl.Int64) % 5).alias(FOLD)))
    for fold, following in ((0, 1), (4, 0)):
        made = split(folds, ByFolds(fold=fold))
        assert (made.scored(Role.TEST) == (folds.frame[FOLD].to_numpy() == following)).all()


def test_a_cut_in_time_leaves_the_future_to_the_test(table):
    made = split(table, ByTime(test=0.25))
    time = table.frame[TIME].to_numpy()
    train, valid, test = (time[made.scored(role)] for role in list(Role)[:3])
    assert train.max() < valid.min() <= valid.max() < test.min()
    assert len(test) / len(time) == pytest.approx(0.25, abs=0.01)
    assert len(valid) / (len(train) + len(valid)) == pytest.approx(0.1, abs=0.01)
    assert (made.visible(Role.TEST) == np.ones(len(time), dtype=bool)).all()
    assert (made.visible(Role.TRAIN) == made.scored(Role.TRAIN)).all()


def test_rows_at_the_moment_of_the_cut_are_test_rows(table):
    moment = int(table.frame[TIME].sort()[len(table) // 2])
    made = split(table, ByTime(cut=moment))
    assert (made.scored(Role.TEST) == (table.frame[TIME] >= moment).to_numpy()).all()
    date = split(table, ByTime(cut="2024-01-01"))
    assert (date.scored(Role.TEST) == (table.frame[TIME] >= 1_704_067_200_000).to_numpy()).all()


def test_a_fraction_cuts_every_student_and_no_bundle(table):
    made = split(table, ByFraction(train=0.6, valid=0.2))
    frame = table.frame.with_columns(made.role)
    assert frame.group_by(STUDENT, TIME).agg(pl.col("role").n_unique())["role"].max() == 1
    moves = frame.select(pl.col("role").cast(pl.Int8).diff().over(STUDENT))["role"]
    assert moves.min() == 0
    longest = frame.filter(pl.len().over(STUDENT) > 15)
    shares = longest.group_by(STUDENT).agg((pl.col("role") == Role.TRAIN).mean())
    assert shares["role"].is_between(0.55, 0.75).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (ByStudents(valid=0.001), "60 students are too few"),
        (ByStudents(valid=0.5, test=0.5), "too few"),
        (ByFolds(fold=5), "fold 5 of 5 does not exist; accepted are folds from 0 to 4"),
        (ByFolds(n_folds=50), "too few for 50 folds"),
        (ByTime(cut=0), "leaves no row for training"),
        (ByTime(cut=10**15), "no row lies at or after the cut"),
        (ByTime(cut="noon"), "'noon' is no moment"),
        (ByFraction(train=0.9, valid=0.1), "leave nothing to test"),
    ],
)
def test_what_cannot_be_split_is_refused(table, settings, said):
    with pytest.raises(InputError, match=said):
        split(table, settings)


def test_a_cut_in_time_needs_times(table):
    timeless = replace(table, frame=table.frame.drop(TIME))
    with pytest.raises(InputError, match="has no time column"):
        split(timeless, ByTime())


def test_a_student_with_two_roles_is_refused(table):
    role = split(table, ByStudents()).role.to_numpy().copy()
    row = int(np.flatnonzero(role == Role.TRAIN)[0])
    role[row] = Role.TEST
    with pytest.raises(InputError, match=r"is in (train and test|test and train)"):
        checked(table, ByStudents(), role)
    assert checked(table, ByFraction(), role).scored(Role.TEST)[row]


@pytest.mark.parametrize("settings", [*KINDS, ByTime(cut="2024-01-01")], ids=lambda s: s.kind)
def test_a_saved_split_comes_back(table, settings, tmp_path):
    made = split(table, settings)
    made.save(tmp_path / "deep" / "split.json")
    again = load_split(tmp_path / "deep" / "split.json", table)
    assert again.role.equals(made.role)
    assert again.settings == made.settings
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["split.json"]
    plain = json.loads((tmp_path / "deep" / "split.json").read_text())
    assert plain["settings"]["kind"] == settings.kind
    assert plain["data_hash"] == table.data_hash


def test_a_split_of_other_data_is_refused(table, published, tmp_path):
    split(table, ByStudents()).save(tmp_path / "split.json")
    with pytest.raises(InputError, match="was made for other data"):
        load_split(tmp_path / "split.json", published)


def test_a_split_that_drifted_or_is_none_is_refused(table, tmp_path):
    path = tmp_path / "split.json"
    split(table, ByStudents()).save(path)
    plain = json.loads(path.read_text())
    path.write_text(json.dumps(plain | {"role_hash": "0"}))
    with pytest.raises(InputError, match="no longer give the roles"):
        load_split(path, table)
    for text in ("", "[]", "{}", json.dumps(plain | {"settings": {"kind": "moon"}})):
        path.write_text(text)
        with pytest.raises(InputError, match="not a split"):
            load_split(path, table)
