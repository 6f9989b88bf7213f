"""Series followed one value at a time are forecast as the batch form forecasts their table."""

import asyncio
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from kt_forecast import Forecaster

CLOSE = 1e-5
BEGIN = datetime(2023, 1, 1)
ROWS = 60


def _values(seed: int, rows: int = ROWS, level: float = 50.0) -> list[dict]:
    random = np.random.default_rng(seed)
    hours = np.arange(rows)
    y = level + 10 * np.sin(2 * np.pi * hours / 24) + random.normal(size=rows)
    stamps = [(BEGIN + timedelta(hours=int(hour))).isoformat() for hour in hours]
    return [{"ds": stamp, "y": float(value)} for stamp, value in zip(stamps, y, strict=True)]


def _table(series: dict[str, list[dict]]) -> pl.DataFrame:
    rows = [{"unique_id": name, **row} for name, rows in series.items() for row in rows]
    return pl.DataFrame(rows).with_columns(pl.col("ds").str.to_datetime())


async def _forecast(client, name: str, **more):
    reply = await client.post("/v1/forecast", json={"series": name, **more})
    assert reply.status_code == 200, reply.text
    return reply.json()


def _compare(reply: dict, ahead: pl.DataFrame, system: str) -> None:
    own = ahead.filter(unique_id=reply["series"])
    assert len(reply["steps"]) == len(own)
    for step, row in zip(reply["steps"], own.rows(named=True), strict=True):
        if "ds" in row and not isinstance(row["ds"], int):
            assert datetime.fromisoformat(step["ds"]) == row["ds"]
        scale = max(1.0, abs(row[system]))
        assert abs(step["y"] - row[system]) < CLOSE * scale
        for interval in step["intervals"]:
            for end, word in (("low", "lo"), ("high", "hi")):
                wanted = row[f"{system}-{word}-{interval['level']:g}"]
                assert abs(interval[end] - wanted) < CLOSE * scale


@pytest.fixture(scope="module")
def sample_names(forecaster):
    return forecaster[0].fitted_.scale.ids


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Return a forecaster of hourly series without covariates, and its folder."""
    place = tmp_path_factory.mktemp("plain")
    table = _table({"a": _values(1, 240), "b": _values(2, 240, 5.0)})
    model = Forecaster(
        "nlinear", horizon=6, context=24, training={"epochs": 1}, seed=0, levels=(80, 90)
    )
    model.fit(table)
    model.save(place)
    return model, place


def test_a_series_one_value_at_a_time_equals_its_table(plain, serving):
    model, folder = plain
    # `a` was trained on, `new` was not and is measured by its own values.
    series = {"a": _values(3), "new": _values(4, ROWS, -7.0)}

    async def run():
        async with serving(folder, live=1) as (_, client):
            for rows in zip(*series.values(), strict=True):
                for name, row in zip(series, rows, strict=True):
                    body = {"series": name, "observations": [row]}
                    reply = await client.post("/v1/observations", json=body)
                    assert reply.status_code == 200, reply.text
            first = [await _forecast(client, name) for name in series]
        async with serving(folder) as (_, client):
            both = await asyncio.gather(*(_forecast(client, name) for name in series))
        return first, both

    expected = model.predict(_table(series), level=[80, 90])
    for replies in asyncio.run(run()):
        for reply in replies:
            assert reply["n_observations"] == ROWS
            _compare(reply, expected, "nlinear")
        assert [reply["known"] for reply in replies] == [True, False]
        assert "not trained on" in replies[1]["notes"][0]


def test_missing_values_and_holes_are_as_the_model_was_trained(tmp_path, serving):
    rows = _values(5, 240)
    for i in (30, 31, 100):
        rows[i]["y"] = None
    model = Forecaster("nlinear", horizon=6, context=24, gaps="mask", training={"epochs": 1})
    model.fit(_table({"a": rows, "b": _values(6, 240)}))
    model.save(tmp_path / "model")
    told = _values(7)
    for i in (20, 45, 46, ROWS - 1):
        told[i]["y"] = None
    holes = [row for i, row in enumerate(told) if i not in {45, 46}]

    async def run():
        async with serving(tmp_path / "model") as (_, client):
            for name, some in (("a", told), ("b", holes)):
                body = {"series": name, "observations": some}
                reply = await client.post("/v1/observations", json=body)
                assert reply.status_code == 200, reply.text
            return [await _forecast(client, name) for name in ("a", "b")]

    expected = model.predict(_table({"a": told, "b": told}), level=[80, 90])
    for reply in asyncio.run(run()):
        _compare(reply, expected, "nlinear")


@pytest.mark.parametrize("system", ["nlinear", "itransformer", "ridge", "gpt"])
def test_covariates_and_mixed_series(tmp_path, serving, system):
    random = np.random.default_rng(0)
    table = _table({"a": _values(1, 200), "b": _values(2, 200)})
    table = table.with_columns(
        wind=pl.Series(random.normal(size=len(table))),
        price=pl.Series(random.normal(size=len(table))),
    )
    training = None if system == "ridge" else {"epochs": 1}
    model = Forecaster(
        system, horizon=6, context=24, past=["wind"], future=["price"], training=training
    )
    model.fit(table)
    model.save(tmp_path / "model")
    ahead = [{"price": float(x)} for x in random.normal(size=6)]
    last = table["ds"].max()
    future = pl.DataFrame(
        {
            "ds": [last + timedelta(hours=i + 1) for i in range(6)],
            "price": [x["price"] for x in ahead],
        }
    )

    async def run():
        async with serving(tmp_path / "model") as (_, client):
            for name in ("a", "b"):
                rows = [
                    {
                        "ds": row["ds"].isoformat(),
                        "y": row["y"],
                        "covariates": {"wind": row["wind"], "price": row["price"]},
                    }
                    for row in table.filter(unique_id=name).rows(named=True)
                ]
                body = {"series": name, "observations": rows}
                reply = await client.post("/v1/observations", json=body)
                assert reply.status_code == 200, reply.text
            return [await _forecast(client, name, future=ahead) for name in ("a", "b")]

    expected = model.predict(table, futr_df=future, level=[80, 90])
    for reply in asyncio.run(run()):
        _compare(reply, expected, system)


def test_what_cannot_be_taken_is_refused_in_one_sentence(plain, serving):
    _, folder = plain

    async def run():
        found = {}
        async with serving(folder) as (_, client):

            async def post(word: str, *rows: dict) -> None:
                body = {"series": "a", "observations": list(rows)}
                reply = await client.post("/v1/observations", json=body)
                found[word] = (reply.status_code, reply.json().get("detail", ""))

            found["empty"] = (await client.post("/v1/forecast", json={"series": "a"})).status_code
            await post("first", {"ds": "2024-01-01T00:00:00", "y": 1.0})
            await post("again", {"ds": "2024-01-01T00:00:00", "y": 1.0})
            await post("hole", {"ds": "2024-01-01T02:00:00", "y": 1.0})
            await post("off", {"ds": "2024-01-01T01:30:00", "y": 1.0})
            await post("no date", {"ds": "yesterday", "y": 1.0})
            await post("number", {"ds": 5, "y": 1.0})
            await post("missing", {"ds": "2024-01-01T01:00:00", "y": None})
            await post("zone", {"ds": "2024-01-01T02:00:00+01:00", "y": 1.0})
            reply = await client.post("/v1/forecast", json={"series": "a", "levels": [42]})
            found["level"] = (reply.status_code, reply.json()["detail"])
            found["values"] = (await client.get("/v1/series/a/values")).json()
        return found

    found = asyncio.run(run())
    assert found["empty"] == 422
    assert found["first"][0] == found["zone"][0] == 200
    for word in ("again", "hole", "off"):
        assert found[word][0] == 409
        assert "is not the next step" in found[word][1]
    for word in ("no date", "number", "missing", "level"):
        assert found[word][0] == 422
        assert "accepted are" in found[word][1]
    assert found["values"]["y"] == [1.0, 1.0]
