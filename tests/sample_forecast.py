"""A forecasting run's record in which every part of the report has something to show."""

import dataclasses
from datetime import datetime, timedelta

import numpy as np

from kt_forecast.report import (
    Band,
    ByStep,
    Check,
    Citation,
    CurveRow,
    Fan,
    ForecastProtocol,
    ForecastRecord,
    IntervalScore,
    IntervalSteps,
    Score,
    SeriesFacts,
    SeriesPart,
    SeriesSplitFacts,
    SystemFacts,
    Verdict,
)

LEVELS = {50.0: 0.67, 80.0: 1.28, 90.0: 1.64, 95.0: 1.96}
"""Nominal levels, and half the width of their intervals in standard deviations."""
BASELINES = {"ridge": 0.02, "dlinear": 0.03, "seasonal_naive": 0.14, "last_value": 0.9}
"""How much more than the model each baseline errs."""


def score(value, half=0.01):
    return Score(value=value, low=value - half, high=value + half)


def a_fan(rank="best", series="HUFL", horizon=12, n_past=40, scale=1.0, seed=0, **changes):
    """A forecast of an hourly series with a daily cycle."""
    random = np.random.default_rng(seed)
    n = n_past + horizon
    clean = 10 * scale + 4 * scale * np.sin(2 * np.pi * np.arange(n) / 24)
    values = clean + scale * random.normal(size=n)
    point = clean[n_past:] + 0.3 * scale
    grown = scale * np.sqrt(1 + np.arange(horizon) / horizon)
    stamps = [str(datetime(2017, 10, 20) + i * timedelta(hours=1)) for i in range(n)]
    fan = Fan(
        rank=rank,
        series=series,
        metric="mase",
        value=0.5 * scale,
        window="The last window of the test rows.",
        past_stamps=tuple(stamps[:n_past]),
        past=tuple(values[:n_past].tolist()),
        stamps=tuple(stamps[n_past:]),
        actual=tuple(values[n_past:].tolist()),
        point=tuple(point.tolist()),
        bands=tuple(
            Band(
                level=level,
                low=tuple((point - z * grown).tolist()),
                high=tuple((point + z * grown).tolist()),
            )
            for level, z in LEVELS.items()
        ),
        beside={
            "seasonal_naive": tuple(
                np.resize(values[max(0, n_past - 24) : n_past], horizon).tolist()
            ),
            "ridge": tuple((point + 0.6 * scale).tolist()),
        },
    )
    return dataclasses.replace(fan, **changes)


def a_protocol(name="gpt", rivals=BASELINES, horizon=12, error=0.37, **changes):
    """The scores of one horizon."""

    def of(mse):
        return {
            "mse": score(mse),
            "mae": score(mse**0.5 * 0.65),
            "mase": score(mse**0.5 * 1.4),
            "smape": score(mse / 2),
            "wql": score(mse / 3),
            "crps": score(mse / 1.4),
            "mse_original": score(31.5 * mse, 1.2),
            "mae_original": score(4.1 * mse, 0.2),
        }

    steps = tuple(range(1, horizon + 1))
    far = np.sqrt(np.arange(1, horizon + 1) / horizon)

    def ahead(mse):
        return tuple((mse * (0.4 + 0.9 * far)).tolist())

    protocol = ForecastProtocol(
        name=f"horizon {horizon}",
        what="Rolling origins over the test rows, without refitting.",
        horizon=horizon,
        context=336,
        n_windows=7 * 2785,
        n_series=7,
        n_values=7 * 2785 * horizon,
        model=of(error),
        baselines={rival: of(error + more) for rival, more in rivals.items()},
        differences={
            rival: {key: score(-more, 0.008) for key in of(error)} for rival, more in rivals.items()
        },
        intervals={
            name: tuple(
                IntervalScore(
                    level=level,
                    coverage=score(level / 100 - 0.011),
                    width=score(2 * z * error**0.5),
                )
                for level, z in LEVELS.items()
            )
        },
        by_step=ByStep(
            steps=steps,
            mse={name: ahead(error)} | {r: ahead(error + m) for r, m in rivals.items()},
            mae={name: ahead(error)} | {r: ahead(error + m) for r, m in rivals.items()},
            intervals=tuple(
                IntervalSteps(
                    level=level,
                    coverage=tuple((level / 100 + 0.02 - 0.05 * far).tolist()),
                    width=tuple((2 * z * (0.4 + 0.6 * far)).tolist()),
                )
                for level, z in LEVELS.items()
            ),
        ),
        notes=("smape is dominated by values near nought.",),
    )
    return dataclasses.replace(protocol, **changes)


def a_forecast(name="gpt", rivals=BASELINES, horizon=12, **changes):
    """A small run in which every part of the page has something to show."""
    record = ForecastRecord(
        title="A forecasting run",
        created="2026-01-05",
        data=SeriesFacts(
            name="etth1",
            n_series=7,
            n_rows=7 * 17420,
            shortest=17420,
            longest=17420,
            frequency="1h",
            season=24,
            first="2016-07-01 00:00",
            last="2018-06-26 19:00",
            past=("load",),
            future=("holiday", "price"),
            static=("region",),
            missing=0.012,
            data_hash="d" * 64,
            licence="CC BY-ND 4.0",
            citation=Citation(title="The transformers", url="https://example.org/ett"),
            notes=("Two stamps were repeated.",),
        ),
        split=SeriesSplitFacts(
            kind="ltsf",
            scheme="By time: the borders of the published protocol.",
            parts=(
                SeriesPart(
                    name="train",
                    first="2016-07-01 00:00",
                    last="2017-06-25 23:00",
                    n_rows=60480,
                    n_windows=59815,
                ),
                SeriesPart(
                    name="test",
                    first="2017-10-24 00:00",
                    last="2018-02-20 23:00",
                    n_rows=20160,
                    n_windows=19495,
                ),
            ),
            split_hash="e" * 64,
            notes=("The tail of the file is not used.",),
        ),
        system=SystemFacts(
            name=name,
            paper=Citation(title="The paper", authors="A. Author", year=2023),
            promises={"causality": "step"},
            departures=("Patches do not overlap.",),
            n_parameters=1_234_567,
        ),
        protocols=(a_protocol(name, rivals, horizon),),
        verdict=Verdict(
            verdict="proved",
            scope={"contract": "forecasting", "modes": ["evaluation", "training"]},
            tried=(Check(name="Replace the future", outcome="passed", detail="both modes"),),
            not_covered=("Other lengths.",),
        ),
        fans=(
            a_fan("best", "OT", horizon, seed=0, scale=0.8),
            a_fan("median", "MUFL", horizon, seed=1),
            a_fan("worst", "LULL", horizon, seed=2, scale=1.7),
        ),
        settings={"seed": 0, "training": {"clip": 1.0}},
        curve=tuple(
            CurveRow(epoch=e, loss=0.3 + 0.2 / e, metrics={"mse": 0.4 + 0.1 / e}) for e in (1, 2, 3)
        ),
        best_epoch=3,
        environment={"Python": "3.11"},
        code_version="0.1.0",
        command="kt-forecast train pipelines/etth1.toml",
        citations=(Citation(title="A work", url="https://example.org/work"),),
    )
    return dataclasses.replace(record, **changes)


def with_protocol(record, **changes):
    first = dataclasses.replace(record.protocols[0], **changes)
    return dataclasses.replace(record, protocols=(first,))
