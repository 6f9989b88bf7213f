import json

import numpy as np
import pandas as pd
import polars as pl
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import kt_forecast
from kt_forecast.data import tables
from kt_forecast.data.simulate import Simulation, simulate
from kt_forecast.errors import InputError
from kt_forecast.tracer import KnowledgeTracer, load
from kt_forecast.tracer.fitting import MODEL_FILE

TINY = {
    "settings": {"width": 16, "heads": 2},
    "training": {"epochs": 2, "steps_per_batch": 256, "learning_rate": 3e-3},
}


@pytest.fixture(scope="module")
def table() -> pl.DataFrame:
    return simulate(Simulation(students=30, mean_steps=12, questions=20, concepts=5, bundled=0.2))


@pytest.fixture(scope="module")
def gpt(table):
    return KnowledgeTracer("gpt", **TINY).fit(table)


@pytest.fixture(scope="module")
def logistic(table):
    return KnowledgeTracer("logistic").fit(table)


def test_parameters_follow_scikit_learn():
    tracer = KnowledgeTracer("gpt", settings={"width": 16}, seed=3)
    twin = clone(tracer)
    assert twin is not tracer
    assert twin.get_params() == tracer.get_params()
    assert twin.set_params(seed=4).seed == 4
    with pytest.raises(ValueError, match="sed"):
        twin.set_params(sed=4)


def test_nothing_is_checked_before_fit():
    KnowledgeTracer("no such system", settings={"nonsense": 1})
    with pytest.raises(NotFittedError):
        KnowledgeTracer().predict_proba(pl.DataFrame())


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"system": "gtp"}, "did you mean 'gpt'"),
        ({"system": "logistc"}, "did you mean 'logistic'"),
        ({"settings": {"hedas": 2}}, "did you mean 'heads'"),
        ({"tracing": {"shceme": "late"}}, "did you mean 'scheme'"),
        ({"training": {"epochz": 2}}, "did you mean 'epochs'"),
        ({"system": "logistic", "training": {"epochs": 2}}, "has no training"),
        ({"history": 0}, "history is 0"),
        ({"history": True}, "history is True"),
        ({"seed": -1}, "seed is -1"),
        ({"valid": 1.0}, r"valid is 1\.0"),
        ({"valid": -0.1}, "valid is -0"),
        ({"repeats": "drop"}, "repeats is 'drop'; accepted are auto"),
    ],
)
def test_bad_settings_are_named_before_the_table_is_read(parameters, sentence):
    with pytest.raises(InputError, match=sentence):
        KnowledgeTracer().set_params(**parameters).fit("no such table")


def test_one_student_cannot_train_and_choose(table):
    one = table.filter(pl.col("student") == 3)
    with pytest.raises(InputError, match="holds one student"):
        KnowledgeTracer("item_mean").fit(one)
    KnowledgeTracer("item_mean").fit(one, table.filter(pl.col("student") == 4))


def test_whatever_is_asked_before_fit_names_fit(table):
    tracer = KnowledgeTracer("item_mean")
    for ask in (tracer.stream, lambda: tracer.mastery("3"), lambda: tracer.evaluate(table)):
        with pytest.raises(NotFittedError, match="call fit first"):
            ask()


def test_the_kind_of_table_that_comes_in_goes_out(gpt, table):
    from_polars = gpt.predict_proba(table)
    assert isinstance(from_polars, pl.DataFrame)
    assert from_polars.drop("p_correct").equals(table)
    pandas = table.to_pandas().set_index(np.arange(len(table))[::-1])
    from_pandas = gpt.predict_proba(pandas)
    assert isinstance(from_pandas, pd.DataFrame)
    assert from_pandas.index.equals(pandas.index)
    assert np.array_equal(from_pandas["p_correct"], from_polars["p_correct"])
    lazy = gpt.predict_proba(table.lazy())
    assert isinstance(lazy, pl.LazyFrame)
    assert lazy.collect().equals(from_polars)


def test_a_file_gives_the_rows_of_the_file(gpt, table, tmp_path):
    path = tmp_path / "table.parquet"
    shuffled = table.sample(fraction=1.0, shuffle=True, seed=1)
    shuffled.write_parquet(path)
    found = gpt.predict_proba(path)
    expected = gpt.predict_proba(shuffled)
    assert found["question"].cast(pl.Int64).equals(shuffled["question"].cast(pl.Int64))
    assert np.array_equal(found["p_correct"], expected["p_correct"])


def test_rows_keep_their_order_and_merged_rows_share_a_value(logistic):
    rows = pl.DataFrame(
        {
            "student": ["b", "b", "a", "b", "a"],
            "question": ["1", "1", "2", "3", "1"],
            "concepts": ["0", "4", "1", "2", "0"],
            "response": [1, 1, 0, 1, 1],
            "order": [7, 7, 2, 5, 1],
        }
    )
    found = logistic.predict_proba(rows)["p_correct"].to_numpy()
    assert found[0] == found[1]
    one_row = rows.with_columns(concepts=pl.Series(["0_4", "0_4", "1", "2", "0"]))[[1, 3, 2, 4]]
    again = logistic.predict_proba(one_row)["p_correct"].to_numpy()
    assert np.allclose(found[[1, 3, 2, 4]], again, rtol=0, atol=1e-12)


def test_a_row_is_predicted_without_its_own_and_later_responses(gpt, table):
    alone = table.filter(pl.col("student") == 3).with_columns(time=pl.int_range(pl.len()) * 1000)
    flipped = alone.with_columns(
        response=pl.when(pl.int_range(pl.len()) >= 4)
        .then(1 - pl.col("response"))
        .otherwise(pl.col("response"))
    )
    one = gpt.predict_proba(alone)["p_correct"].to_numpy()
    other = gpt.predict_proba(flipped)["p_correct"].to_numpy()
    assert np.array_equal(one[:5], other[:5])
    assert not np.allclose(one[5:], other[5:], atol=1e-5)


@pytest.mark.parametrize("system", ["gpt", "logistic"])
def test_questions_without_an_answer_inform_nothing(system, request, table):
    tracer = request.getfixturevalue(system)
    alone = table.filter(pl.col("student") == 3).with_columns(time=pl.int_range(pl.len()) * 1000)
    last = alone.height - 1
    place = pl.int_range(pl.len())
    asked = alone.with_columns(
        response=pl.when(place >= last - 1).then(None).otherwise(pl.col("response"))
    )
    expected = tracer.predict_proba(alone)["p_correct"].to_numpy()
    found = tracer.predict_proba(asked)["p_correct"].to_numpy()
    assert np.allclose(found[:last], expected[:last], rtol=0, atol=1e-6)
    swapped = tracer.predict_proba(
        asked.with_columns(
            question=pl.when(place == last - 1).then(7).otherwise(pl.col("question")),
        )
    )["p_correct"].to_numpy()
    assert np.allclose(found[last], swapped[last], rtol=0, atol=1e-6)
    assert not np.isclose(found[last - 1], swapped[last - 1], rtol=0, atol=1e-6)
    text = asked.to_pandas().drop(columns="response")
    assert np.isfinite(tracer.predict_proba(text)["p_correct"]).all()


def test_an_answer_after_an_open_question_is_refused(gpt, table):
    alone = table.filter(pl.col("student") == 3).with_columns(time=pl.int_range(pl.len()) * 1000)
    asked = alone.with_columns(
        response=pl.when(pl.int_range(pl.len()) == 1).then(None).otherwise(pl.col("response"))
    )
    with pytest.raises(InputError, match="without a response before"):
        gpt.predict_proba(asked)
    with pytest.raises(InputError, match="response"):
        KnowledgeTracer("item_mean").fit(asked)


@pytest.mark.parametrize("system", ["gpt", "logistic"])
def test_the_stream_equals_the_whole_history(system, request, table):
    tracer = request.getfixturevalue(system)
    alone = table.filter(pl.col("student") == 3)
    expected = tracer.predict_proba(alone)["p_correct"].to_numpy()
    stream = tracer.stream()
    found = []
    for row in alone.iter_rows(named=True):
        put = {"question": row["question"], "concepts": row["concepts"], "time": row["time"]}
        found.append(stream.ask(**put))
        assert stream.ask(**put) == found[-1], "asking changes nothing"
        stream.take(**put, response=row["response"])
    assert alone["time"].n_unique() < len(alone), "the case should hold a bundle"
    assert np.allclose(found, expected, rtol=0, atol=2e-6)


def test_a_stream_under_a_history_limit_equals_the_batch(table):
    limited = KnowledgeTracer("gpt", **TINY, history=4).fit(table)
    alone = table.filter(pl.col("student") == 3)
    expected = limited.predict_proba(alone)["p_correct"].to_numpy()
    stream = limited.stream()
    found = []
    for row in alone.iter_rows(named=True):
        put = {"question": row["question"], "concepts": row["concepts"], "time": row["time"]}
        found.append(stream.ask(**put))
        stream.take(**put, response=row["response"])
    assert np.allclose(found, expected, rtol=0, atol=2e-6)


def test_an_answer_moves_the_belief_in_its_concept(logistic):
    stream = logistic.stream()
    right = stream.answer(question=None, concepts=["1"], response=1)
    wrong = logistic.stream().answer(question=None, concepts=["1"], response=0)
    assert set(right) == set(stream.concepts)
    assert right["1"] > wrong["1"]


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ({"response": 2}, "accepted are 0 and 1"),
        ({"response": 1, "time": 5.0}, "lies before"),
    ],
)
def test_a_stream_refuses_what_cannot_be(gpt, answer, sentence):
    stream = gpt.stream()
    stream.take("1", ["0"], 1, time=1000.0)
    with pytest.raises(InputError, match=sentence):
        stream.answer("1", ["0"], **answer)


def test_answer_side_columns_are_read_and_asked_for(table):
    tracer = KnowledgeTracer("gpt", **TINY, extras=("elapsed",)).fit(table)
    changed = table.with_columns(elapsed=pl.col("elapsed") * 10)
    found = tracer.predict_proba(table)["p_correct"].to_numpy()
    assert not np.allclose(found, tracer.predict_proba(changed)["p_correct"], atol=1e-6)
    with pytest.raises(InputError, match="elapsed"):
        tracer.predict_proba(table.drop("elapsed"))
    with pytest.raises(InputError, match="elapsed"):
        tracer.stream().answer("1", ["0"], 1)


def test_mastery_is_what_the_stream_believes(gpt, table):
    found = gpt.mastery(student="3")
    alone = table.filter(pl.col("student") == 3)
    assert found["step"].n_unique() == len(alone)
    stream = gpt.stream()
    for row in alone.iter_rows(named=True):
        put = {"question": row["question"], "concepts": row["concepts"], "time": row["time"]}
        stream.take(**put, response=row["response"])
    belief = dict(zip(stream.concepts, stream.mastery().tolist(), strict=True))
    last = found.filter(pl.col("step") == len(alone) - 1)
    expected = [belief[name] for name in last["concept"]]
    assert np.allclose(last["p_correct"], expected, rtol=0, atol=2e-6)
    with pytest.raises(InputError, match="no student"):
        gpt.mastery("nobody")


@pytest.mark.parametrize("system", ["gpt", "logistic"])
def test_a_saved_tracer_comes_back_the_same(system, request, table, tmp_path):
    tracer = request.getfixturevalue(system)
    tracer.save(tmp_path / "model")
    back = load(tmp_path / "model")
    before, after = tracer.predict_proba(table), back.predict_proba(table)
    assert np.array_equal(before["p_correct"], after["p_correct"])
    assert back.get_params()["system"] == system
    assert [path.name for path in (tmp_path / "model").iterdir()] == [MODEL_FILE]
    with pytest.raises(InputError, match="keeps no students"):
        back.mastery("3")
    assert len(back.mastery("3", table))


def test_a_file_of_another_format_or_with_other_weights_is_refused(gpt, tmp_path):
    with pytest.raises(InputError, match="holds no"):
        load(tmp_path)
    gpt.save(tmp_path)
    path = tmp_path / MODEL_FILE
    tensors = load_file(path)
    with safe_open(path, "np") as file:
        facts = json.loads(file.metadata()["facts"])

    def write(changed, arrays=tensors):
        save_file(arrays, path, metadata={"facts": json.dumps(changed)})

    write(facts | {"format": 0})
    with pytest.raises(InputError, match="format"):
        load(tmp_path)
    write(facts | {"plan": facts["plan"] | {"system": "os.system"}})
    with pytest.raises(InputError, match="no system"):
        load(tmp_path)
    some = dict(list(tensors.items())[1:])
    write(facts, some)
    with pytest.raises(InputError, match="do not fit"):
        load(tmp_path)
    path.write_bytes(b"not a model")
    with pytest.raises(InputError, match="safetensors"):
        load(tmp_path)


def test_the_same_seed_gives_the_same_bits(gpt, table):
    again = KnowledgeTracer("gpt", **TINY).fit(table)
    other = KnowledgeTracer("gpt", **TINY, seed=1).fit(table)
    found = gpt.predict_proba(table)["p_correct"]
    assert again.predict_proba(table)["p_correct"].equals(found)
    assert not other.predict_proba(table)["p_correct"].equals(found)


def test_validation_students_are_held_out_or_given(table):
    valid = table.filter(pl.col("student") >= 25)
    train = table.filter(pl.col("student") < 25)
    tracer = KnowledgeTracer("item_mean").fit(train, valid)
    assert len(tracer.interactions_.students) == 25
    with pytest.raises(InputError, match="share no student"):
        KnowledgeTracer("item_mean").fit(table, valid)


def test_scores_are_of_students_it_was_not_trained_on(table):
    train, test = table.filter(pl.col("student") < 20), table.filter(pl.col("student") >= 20)
    tracer = KnowledgeTracer("gpt", **TINY).fit(train)
    full = tracer.evaluate(test, resamples=0)
    assert full.n_rows == len(test)
    streamed = tracer.evaluate(test, "stream", resamples=0)
    one_pass, step_by_step = full.answers.p_correct, streamed.answers.p_correct
    assert np.allclose(one_pass, step_by_step, rtol=0, atol=2e-6)
    with pytest.raises(InputError, match=r"share no student|that trained"):
        tracer.evaluate(table)
    with pytest.raises(InputError, match="did you mean 'full'"):
        tracer.evaluate(test, "ful")


def test_the_package_gives_its_names_when_they_are_used():
    assert kt_forecast.KnowledgeTracer is KnowledgeTracer
    assert callable(kt_forecast.load)
    assert callable(kt_forecast.audit.audit)
    assert set(kt_forecast.__all__) <= set(dir(kt_forecast))
    with pytest.raises(AttributeError, match="nothing"):
        kt_forecast.nothing  # noqa: B018


def test_what_became_of_every_row(table):
    interactions = tables.load(table.sample(fraction=1.0, shuffle=True, seed=2), asking=True)
    assert interactions.source is not None
    assert sorted(interactions.source.to_list()) == list(range(len(interactions)))
    assert tables.load(table).source is None
