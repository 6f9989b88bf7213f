"""The auditor of pipelines must find each planted leak and accuse no honest function."""

import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pytest
from audit.pipeline_cases import (
    FITTED,
    HONEST,
    LEAKS,
    SERIES,
    STUDENTS,
    TRACING,
    D,
    K,
    S,
    T,
    X,
    Y,
    answers,
    in_polars,
    lag,
    loads,
    own,
    split,
)

from kt_forecast.audit import LeakError
from kt_forecast.audit.pipeline import (
    PROBES,
    PipelineError,
    audit_pipeline,
    replay,
    rows,
    rows_ahead,
)


def named(cases):
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


def test_there_are_enough_of_both():
    assert len(LEAKS) >= 25
    assert len(HONEST) >= 15


@named(LEAKS)
def test_a_planted_leak_is_found_named_and_replayed(case):
    report = case.audit()
    assert report.verdict == "leak"
    if case.pattern:
        assert case.pattern in {finding.pattern for finding in report.findings}
    if case.ahead is not None:
        assert case.ahead in {finding.ticks for finding in report.findings}
    first = report.findings[0]
    assert first.repair
    assert first.type
    with pytest.raises(LeakError, match="Repair"):
        report.raise_for_leaks()
    if "change" in first.counterexample:
        again = replay(
            case.function,
            case.table(),
            case.contract,
            first,
            form=case.form,
            beside=case.beside,
        )
        assert again == pytest.approx(first.effect)


@named(HONEST)
def test_an_honest_function_is_not_accused(case):
    report = case.audit()
    assert report.findings == ()
    assert report.verdict == "unproven"
    ran = {r["probe"] for r in report.scope["probes"] if r["ran"]}
    assert "mutate" in ran
    assert report.to_json()


def test_every_probe_says_what_it_ran_on():
    report = audit_pipeline(lag, split(answers(), by="student"), FITTED, moments=2)
    assert [record["probe"] for record in report.scope["probes"]] == list(PROBES)
    for record in report.scope["probes"]:
        assert record["ran"] > 0
        assert record["rows_compared"] > 0
    assert report.scope["joined_by"] == "key"
    assert report.scope["features"] == ["feature"]


def test_a_probe_that_always_fails_is_reported_not_passed():
    whole = len(answers())

    def fragile(d):
        if len(d) != whole:
            raise ValueError("all rows please")
        return lag(d)

    report = audit_pipeline(fragile, answers(), TRACING, moments=2)
    truncate = report.scope["probes"][0]
    assert truncate["ran"] == 0
    assert sum(truncate["failed"].values()) == 4
    assert any("all rows please" in reason for reason in report.scope["open"])
    assert audit_pipeline(
        lambda d: fragile(d).assign(feature=d.groupby(S)[X].shift(-1)), answers(), TRACING
    ).findings


def test_a_feature_that_differs_between_equal_runs_is_left_open():
    draws = np.random.default_rng(0)

    def restless(d):
        return lag(d).assign(noise=draws.normal(size=len(d)))

    report = audit_pipeline(restless, answers(), TRACING, moments=2)
    assert report.verdict == "unproven"
    assert "noise: differs between two equal runs" in report.scope["open"]


def test_a_leak_under_seeded_noise_is_found():
    def noisy(d):
        noise = np.random.normal(size=len(d))  # noqa: NPY002
        return d[[S, T]].assign(f=d.groupby(S)[X].shift(-1) + noise)

    report = audit_pipeline(noisy, answers(), TRACING, moments=2)
    assert {finding.method for finding in report.findings} == {"mutate"}


def test_a_numbered_result_of_other_length_is_not_joined_by_its_numbers():
    def by_student(d):
        return d.pivot_table(index=S, columns=K, values=X).reset_index()

    with pytest.raises(PipelineError, match="return student, seconds with them"):
        audit_pipeline(by_student, answers(), TRACING)


def test_columns_that_follow_the_values_found_are_a_condition():
    def indicators(d):
        return pd.concat([d[[S, T]], pd.get_dummies(d[K])], axis=1)

    report = audit_pipeline(indicators, answers(), TRACING, moments=2)
    assert report.verdict == "unproven"
    assert any(c.startswith("which columns") for c in report.scope["conditions"])


def test_a_function_that_needs_its_order_is_told_so():
    def by_position(d):
        windows = [np.convolve(x.fillna(0), [1, 1])[: len(x)] for _, x in d.groupby(S)[X]]
        return d[[S, T]].assign(f=np.concatenate(windows))

    report = audit_pipeline(by_position, answers(), TRACING, moments=2)
    assert report.verdict == "unproven"
    assert sum("in the order given only" in c for c in report.scope["conditions"]) == 2


def test_reach_is_counted_in_rows_and_time():
    table = loads()

    def ahead(by):
        return lambda d: d[["unique_id", "ds"]].assign(f=d.groupby("unique_id")["y"].shift(by))

    far = rows_ahead(ahead(-5), table, SERIES, "f", row=20)
    assert (far.rows, far.own) == (5, True)
    assert far.time == pd.Timedelta("5h").value
    assert rows_ahead(ahead(5), table, SERIES, "f", row=20) is None
    with pytest.raises(PipelineError, match="returns no g"):
        rows_ahead(ahead(5), table, SERIES, "g", row=20)


def test_a_feature_that_nothing_moves_is_left_open():
    def hour(d):
        return d[["unique_id", "ds"]].assign(hour=d["ds"].dt.hour)

    report = audit_pipeline(hour, loads(), SERIES, moments=2)
    assert any(reason.startswith("hour: no replacement") for reason in report.scope["open"])


def test_a_captured_table_is_named():
    table = answers()
    report = audit_pipeline(lambda d: lag(d).assign(n=len(table)), table, TRACING, moments=2)
    assert any(reason.startswith("table: ") for reason in report.scope["open"])


def test_reading_other_students_is_a_condition_until_declared():
    def mixed(d):
        d = d.sort_values(T, kind="stable")
        return d[[S, T]].assign(f=d[X].ffill().shift(1).rolling(3).mean())

    table = answers().drop_duplicates(T)

    def contract(pooled):
        return rows(time=T, entity=S, target=Y, pooled=pooled)

    undeclared = audit_pipeline(mixed, table, contract(None), moments=2)
    assert undeclared.verdict == "unproven"
    assert any("declare pooled" in condition for condition in undeclared.scope["conditions"])
    assert audit_pipeline(mixed, table, contract(False), moments=2).verdict == "leak"
    legal = audit_pipeline(mixed, table, contract(True), moments=2)
    assert legal.verdict == "unproven"
    assert legal.scope["conditions"] == []


def test_answers_given_at_one_moment_are_hidden_from_each_other():
    table = answers().assign(**{T: answers().groupby(S).cumcount() // 2})
    table["row"] = table.groupby(S).cumcount()

    def previous(d):
        return d[[S, "row"]].assign(f=d.groupby(S)[Y].shift(1))

    def contract(bundles):
        return rows(time=T, entity=S, target=Y, key=(S, "row"), bundles=bundles, pooled=False)

    together = audit_pipeline(previous, table, contract(True), moments=2)
    assert [f.pattern for f in together.findings] == ["own answer"]
    assert audit_pipeline(previous, table, contract(False), moments=2).verdict == "unproven"


def test_rows_released_late_are_late():
    table = loads().assign(known=loads()["ds"] + pd.Timedelta("3h"))

    def shifted(by):
        return lambda d: d[["unique_id", "ds"]].assign(f=d.groupby("unique_id")["y"].shift(by))

    contract = rows(time="ds", entity="unique_id", released="known")
    assert audit_pipeline(shifted(1), table, contract, moments=2).verdict == "leak"
    assert audit_pipeline(shifted(3), table, contract, moments=2).verdict == "unproven"


def test_lengths_leak_unless_later_times_are_known():
    def total(d):
        return d[["unique_id", "ds"]].assign(n=d.groupby("unique_id")["ds"].transform("max"))

    assert audit_pipeline(total, loads(), SERIES, moments=2).verdict == "leak"
    known = rows(time="ds", entity="unique_id", known=("holiday", "ds"))
    assert audit_pipeline(total, loads(), known, moments=2).verdict == "unproven"


def test_a_column_that_knows_the_answer_and_is_not_read_is_a_doubt():
    table = answers().assign(points=answers()[Y] * 10)
    report = audit_pipeline(lag, table, rows(time=T, entity=S, target=Y), moments=2)
    assert report.verdict == "unproven"
    assert any(
        condition.startswith("points alone tells") for condition in report.scope["conditions"]
    )


def test_the_audit_changes_neither_the_table_nor_the_generators():
    table, before = answers().copy(), answers()
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    audit_pipeline(own(lambda x: x.ffill()), table, TRACING, moments=2)
    pd.testing.assert_frame_equal(table, before)
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


def sorts():
    """Tables whose columns are of every kind that users have."""
    frame = answers()
    dates = pd.Timestamp("2024-01-01") + pd.to_timedelta(frame[T], unit="h")
    made = frame.assign(
        **{T: dates, S: "s" + frame[S].astype(str), K: frame[K].astype("category")},
        right=frame[Y].astype(bool),
        count=frame[D].round().astype("Int64").mask(frame[X].isna()),
        due=dates + pd.Timedelta("1D"),
    )
    yield made
    yield made.assign(**{T: made[T].dt.tz_localize("UTC")})
    yield made.convert_dtypes()
    many = pl.from_pandas(made).with_columns(pl.col(K).cast(pl.String).cast(pl.Categorical))
    yield many
    yield many.with_columns(pl.concat_list(X, D).alias("both"), pl.col("due").cast(pl.Date))


@pytest.mark.parametrize("which", range(5))
def test_columns_of_every_kind_are_replaced(which):
    table = list(sorts())[which]
    contract = rows(time=T, entity=S, target="right")

    def every(d, by):
        names = [K, X, "count", "due", "right"]
        if isinstance(d, pd.DataFrame):
            moved = d.groupby(S, observed=True)[names].shift(by).add_prefix("f_")
            return pd.concat([d[[S, T]], moved], axis=1)
        return d.select(S, T, *(pl.col(n).shift(by).over(S).name.prefix("f_") for n in names))

    honest = audit_pipeline(lambda d: every(d, 1), table, contract, moments=2)
    assert honest.findings == ()
    assert all(
        not record["failed"] for record in honest.scope["probes"] if record["probe"] == "own"
    )
    leaking = audit_pipeline(lambda d: every(d, -1), table, contract, moments=2)
    assert {f.output for f in leaking.findings} == {
        f"f_{n}" for n in (K, X, "count", "due", "right")
    }
    by_value = next(r for r in leaking.scope["probes"] if r["probe"] == "mutate")
    assert len(by_value["found"]) == 5


@pytest.mark.parametrize(
    ("function", "contract", "message"),
    [
        (lag, rows(time="when"), "the contract names when, which the table lacks"),
        (lambda d: d.head(3).to_numpy(), TRACING, "cannot be joined"),
        (lambda d: "text", TRACING, "returned str"),
        (lag, rows(time=T, split=Y, train=("9",)), "the split must hold rows to train on"),
        (lag, rows(time=X), "rows without pace"),
    ],
)
def test_what_does_not_fit_is_said(function, contract, message):
    with pytest.raises(PipelineError, match=message):
        audit_pipeline(function, answers(), contract)


def test_no_table_of_either_library_is_no_table():
    with pytest.raises(PipelineError, match="got list"):
        audit_pipeline(lag, [1], TRACING)
    with pytest.raises(PipelineError, match="no rows"):
        audit_pipeline(lag, answers().head(0), TRACING)


def test_a_polars_function_is_given_what_was_passed():
    seen = set()

    def look(d):
        seen.add(type(d).__name__)
        return d.select(S, T)

    audit_pipeline(look, in_polars(), TRACING, probes=("truncate",))
    audit_pipeline(look, in_polars().lazy(), TRACING, probes=("truncate",))
    assert seen == {"DataFrame", "LazyFrame"}
    assert STUDENTS > 1


def test_neither_library_is_imported_without_need():
    code = "import sys, kt_forecast.audit.pipeline; print({'pandas', 'polars'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
