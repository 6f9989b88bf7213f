"""The report of a forecasting run: what it says, what it survives, and what it may not claim."""

import dataclasses
import json
import math
import re
from datetime import datetime, timedelta
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from kt_forecast.errors import InputError
from kt_forecast.evaluation.forecasting import (
    ForecastRules,
    compare,
    evaluate,
    every_window,
    scale_of,
)
from kt_forecast.metrics.forecasting import POINT_METRICS
from kt_forecast.report import (
    ByStep,
    Citation,
    CurveRow,
    ForecastRecord,
    RunRecord,
    Score,
    Verdict,
    fan_of,
    figures,
    forecast_protocol_of,
    load_record,
    readings,
    render,
    tables,
    words,
)
from kt_forecast.report.ahead import ahead, apart
from kt_forecast.report.drawing import columns_that_fit
from kt_forecast.report.fans import MOST_TICKS, fan_chart, stamp_ticks
from kt_forecast.report.headlines import headline
from kt_forecast.report.kinds import AnyRecord
from kt_forecast.sequences.series import Forecast
from tests.forecast_cases import LEVELS, Naive, seasonal, series_set
from tests.page import Page
from tests.sample_forecast import BASELINES, a_fan, a_forecast, a_protocol, score, with_protocol
from tests.sample_record import HOSTILE, a_record

LARGEST_PAGE_BYTES = 1_500_000
NAN = Score(value=math.nan)


def bare(**changes):
    """A record with few figures, which are what takes time."""
    protocol = dataclasses.replace(a_protocol(), by_step=None)
    return a_forecast(**({"protocols": (protocol,), "fans": (), "curve": ()} | changes))


@cache
def sample_html():
    return render(a_forecast())


@cache
def sample_page():
    return Page(sample_html())


def test_record_survives_json_and_is_told_from_that_of_the_other_task():
    record = a_forecast()
    text = record.to_json()
    assert json.loads(text)["task"] == "forecasting"
    assert ForecastRecord.from_json(text) == record
    assert load_record(text) == record
    assert isinstance(load_record(a_record().to_json()), RunRecord)
    assert isinstance(record, AnyRecord)


@pytest.mark.parametrize(
    ("read", "text", "said"),
    [
        (RunRecord.from_json, a_forecast().to_json(), "a record of 'forecasting'"),
        (ForecastRecord.from_json, a_record().to_json(), "a record of 'knowledge_tracing'"),
        (load_record, '{"format": 1, "task": "weather"}', "'knowledge_tracing' and 'forecasting'"),
        (load_record, '{"format": 99}', "record format 99"),
        (load_record, "{", "line 1: not JSON"),
        (load_record, a_forecast().to_json().replace('"licence"', '"license"'), "data.license"),
    ],
)
def test_a_record_that_cannot_be_read_is_refused_in_one_sentence(read, text, said):
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        read(text, "run.json")
    assert str(caught.value).startswith("run.json")
    assert "\n" not in str(caught.value)


def test_missing_values_pass_through_strict_json():
    fan = a_fan(actual=(math.nan,) * 12)
    text = a_forecast(fans=(fan,)).to_json()
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert all(map(math.isnan, load_record(text).fans[0].actual))


@pytest.mark.parametrize(
    "make",
    [
        lambda: ByStep(steps=(1, 2), mse={"gpt": (0.1,)}),
        lambda: dataclasses.replace(a_protocol().by_step, steps=(1,)),
        lambda: a_fan(actual=(1.0,)),
        lambda: a_fan(past=(1.0,)),
        lambda: a_fan(beside={"ridge": (1.0,)}),
        lambda: a_fan(bands=a_fan(horizon=3).bands),
    ],
)
def test_axes_that_disagree_are_refused(make):
    with pytest.raises(ValueError, match="stamps or steps"):
        make()


def test_headline_quotes_the_model_the_best_baseline_their_difference_and_the_intervals():
    said = headline(a_forecast())
    assert "gpt forecasts 12 steps ahead with MSE 0.3700 [0.3600, 0.3800]" in said
    assert "the best baseline, ridge, reaches 0.3900" in said
    assert "ahead by 0.0200 [0.0120, 0.0280]" in said
    assert "Its 90% intervals held 88.9% of the values." in said


@pytest.mark.parametrize(
    ("gap", "said"),
    [
        (score(0.02), "behind by 0.0200 [0.0100, 0.0300]"),
        (score(0.0), "not clear from these windows"),
        (Score(value=-0.02), "reaches 0.3900 [0.3800, 0.4000]."),
    ],
)
def test_headline_does_not_claim_what_the_interval_does_not_show(gap, said):
    page_says = headline(with_protocol(a_forecast(), differences={"ridge": {"mse": gap}}))
    assert said in page_says
    assert "ahead by" not in page_says


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"baselines": {}, "differences": {}}, "No baseline"),
        ({"model": {"mse": NAN}}, "has no MSE"),
        ({"headline": "mase"}, "with MASE"),
        ({"horizon": 1}, "1 step ahead"),
    ],
)
def test_headline_says_what_there_is(changes, said):
    assert said in headline(with_protocol(a_forecast(), **changes))


def test_headline_without_intervals_or_scores():
    assert "intervals held" not in headline(with_protocol(a_forecast(), intervals={}))
    assert "was not evaluated" in headline(a_forecast(protocols=()))


def test_headline_counts_the_protocols_in_which_the_best_baseline_is_beaten():
    lost = a_protocol(horizon=24, differences={"ridge": {"mse": score(0.0)}})
    record = bare(protocols=(a_protocol(), lost, a_protocol(horizon=48)))
    assert "beats the best baseline in 2 of 3 protocols" in headline(record)


def test_a_leak_is_loud():
    record = bare(verdict=Verdict(verdict="leak", findings=("the target reaches step 3",)))
    page = Page(render(record))
    assert page.text.count("LEAKS") >= 4
    assert "LEAKS" in headline(record)
    assert "the target reaches step 3" in page.text


def test_the_baseline_of_the_least_error_is_the_best():
    protocol = a_protocol()
    assert words.baselines_by_score(protocol) == list(BASELINES)
    assert words.best_baseline(protocol) == "ridge"
    by_mase = dataclasses.replace(
        protocol,
        headline="mase",
        baselines={"a": {"mase": score(2.0)}, "b": {"mase": score(1.0)}, "c": {"mase": NAN}},
    )
    assert words.baselines_by_score(by_mase) == ["b", "a", "c"]


def test_every_metric_of_forecasts_has_a_reading_and_less_of_it_is_better():
    assert set(readings.FORECASTING) == {*POINT_METRICS, "wql", "crps"}
    assert all(metric.higher is False for metric in readings.FORECASTING.values())
    assert all(metric.reading for metric in readings.FORECASTING.values())
    assert tables.scores("gpt", a_protocol())["best"]["mse"] == 0.37


@pytest.mark.parametrize(
    ("values", "by", "decimals"),
    [
        ([0.37, 0.2], max, 4),
        ([0.37, 1.27], min, 4),
        ([0.37, 1.27], max, 3),
        ([0.37, 40_000.0], min, 4),
        ([12345.0], max, 0),
        ([0.00123], max, 6),
        ([2e9], max, words.SCIENTIFIC),
        ([0.37, 2e9], min, words.SCIENTIFIC),
        ([1e-12], max, words.SCIENTIFIC),
        ([0.0, math.nan, -0.0], max, 4),
        ([], max, 4),
    ],
)
def test_a_column_has_the_decimals_that_its_figures_need(values, by, decimals):
    assert words.decimals(values, by=by) == decimals


def test_small_differences_of_large_scores_keep_their_digits():
    page = Page(render(bare())).text
    assert "\N{MINUS SIGN}0.0200 [\N{MINUS SIGN}.0280, \N{MINUS SIGN}.0120]" in page
    assert tables.scores("gpt", a_protocol())["digits"]["mse_original"] == 2
    assert tables.scores("gpt", a_protocol())["gap_digits"]["mse_original"] == 4


def test_figures_far_apart_are_all_readable():
    assert words.number(12345.678, 1) == "12\u202f345.7"
    assert words.number(2.5e9, words.SCIENTIFIC) == "2.500e+09"
    assert words.signed(-2.5e-9, words.SCIENTIFIC).startswith("\N{MINUS SIGN}2.5")
    assert words.signed(-0.0, 2) == "\N{MINUS SIGN}0.00"
    exploded = {"ridge": {"mse": Score(value=4e4)}}
    page = Page(render(with_protocol(bare(), baselines=exploded, differences={})))
    assert "0.3700" in page.text
    assert "logarithmic axis" in page.text


def test_page_shows_every_part():
    text = sample_page().text
    for said in (
        "0.3700",
        "[.3600, .3800]",
        "\N{MINUS SIGN}0.0200",
        "better",
        "MASE",
        "MSE, own unit",
        "78.9%",
        "[77.9%, 79.9%]",
        "Step by step ahead",
        "Best series: OT",
        "Median series: MUFL",
        "Worst series: LULL",
        "The last window of the test rows.",
        "1h, season of 24",
        "holiday, price",
        "1.2% missing",
        "2017-10-24 00:00",
        "59 815",
        "Two stamps were repeated.",
        "The tail of the file is not used.",
        "d" * 64,
        "e" * 64,
        "Patches do not overlap.",
        "training.clip",
        "kt-forecast train pipelines/etth1.toml",
        "validation chose epoch 3",
        "Test windows take no part",
        "on the same windows",
        "Replace the future",
        "twice this, in percent",
    ):
        assert said in text, said
    for other in ("student", "coin", "AUC", "log loss"):
        assert other not in text, other


def test_page_is_self_contained_and_runs_nothing():
    page = sample_page()
    assert not {"script", "link", "iframe", "img", "object", "embed"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on")
        if name in {"src", "srcset", "data", "action", "poster"} or name.endswith("href"):
            inside = value.startswith(("#", "data:image/png"))
            assert inside or (tag == "a" and value.startswith("https://example.org/"))
    assert not re.search(r"url\((?!#)|@import", sample_html())


def test_hostile_names_stay_text():
    fan = a_fan(series=HOSTILE, rank=HOSTILE, window=HOSTILE, beside={HOSTILE: (0.0,) * 12})
    record = a_forecast(
        name=HOSTILE,
        rivals={HOSTILE[::-1]: 0.1, "_x$y$": 0.2},
        title=HOSTILE,
        command=HOSTILE,
        fans=(fan, dataclasses.replace(fan, past_stamps=(HOSTILE,) * 40, stamps=(HOSTILE,) * 12)),
        data=dataclasses.replace(
            a_forecast().data, frequency=HOSTILE, past=(HOSTILE,), first=HOSTILE, name=HOSTILE
        ),
        citations=(Citation(title=HOSTILE, url="javascript:alert(1)"),),
    )
    page = Page(render(record))
    assert not {"script", "img"} & set(page.tags)
    assert not [value for _, _, value in page.attributes if value.startswith("javascript")]
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "<script>document.title" in page.text
    assert "_x$y$" in page.text


def test_every_figure_has_words_and_ids_of_its_own():
    page, alone = sample_page(), figures(a_forecast())
    assert len(page.ids) == len(set(page.ids))
    images = [value for _, name, value in page.attributes if (name, value) == ("role", "img")]
    labels = [v for t, name, v in page.attributes if (t, name) == ("div", "aria-label") and v]
    assert page.tags.count("svg") == len(images) == len(alone)
    for said in (
        "gpt 0.3700 [0.3600, 0.3800]",
        "90% intervals from 90.6% to 87.0%",
        "Forecast of series OT from 2017-10-21 15:00, 12 steps ahead",
        "last_value from",
    ):
        assert any(said in label for label in labels), said
    scopes = [v for t, n, v in page.attributes if (t, n) == ("th", "scope")]
    assert set(scopes) == {"col", "row"}
    assert len(scopes) == page.tags.count("th")
    wanted = {v[1:] for _, n, v in page.attributes if n.endswith("href") and v.startswith("#")}
    wanted |= set(re.findall(r"url\(#([^)]*)\)", sample_html()))
    assert len(wanted) > 20
    assert wanted <= set(page.ids)


def test_figures_stand_alone_and_are_the_same_to_the_byte():
    alone = figures(a_forecast())
    assert set(alone) == {
        *(f"scores_1_horizon_12_{name}" for name in ("mse", "mae", "mase", "wql")),
        "ahead_1_mse",
        "ahead_1_mae",
        "coverage_1",
        "width_1",
        "fan_1",
        "fan_2",
        "fan_3",
        "loss",
        "validation_mse",
    }
    assert all(svg.startswith(b"<?xml") and b"var(--" not in svg for svg in alone.values())
    assert figures(a_forecast()) == alone
    assert render(a_forecast()) == sample_html()
    assert "var(--model)" in sample_html()


def test_the_fan_names_its_bands_its_origin_and_its_lines():
    svg = fan_chart(a_forecast(), 0).svg.decode()
    for said in (
        "50% interval",
        "95% interval",
        "origin, 2017-10-21 15:00",
        "actual",
        "gpt",
        "seasonal_naive",
        "ridge",
        "10-21 18:00",
    ):
        assert said in svg, said


def test_the_words_for_a_fan_count_what_its_bands_held():
    fan = a_fan(horizon=4)
    low, high = (0.0, 0.0, 0.0, 0.0), (10.0, 10.0, 10.0, 10.0)
    fan = dataclasses.replace(
        fan,
        actual=(5.0, 11.0, math.nan, 10.0),
        point=(4.0, 9.0, 1.0, 10.0),
        bands=(dataclasses.replace(fan.bands[0], level=90.0, low=low, high=high),),
        beside={"ridge": (5.0, 11.0, 0.0, 10.0)},
    )
    alt = fan_chart(a_forecast(fans=(fan,)), 0).alt
    assert "The 90% interval holds 66.7% of them." in alt
    assert "gpt 1.00, ridge 0.00" in alt
    assert "between 5.00 and 11.00" in alt


def test_a_long_past_is_cut_and_said_to_be():
    picture = fan_chart(a_forecast(fans=(a_fan(n_past=900),)), 0)
    assert "the last 48 steps are shown" in picture.caption
    whole = fan_chart(a_forecast(fans=(a_fan(n_past=48),)), 0)
    assert "steps are shown" not in whole.caption


def test_of_a_long_past_the_newest_is_drawn():
    fan = a_fan(n_past=900)
    old = dataclasses.replace(fan, past=(1e9,) * 852 + fan.past[852:])
    first, second = (fan_chart(a_forecast(fans=(one,)), 0).svg for one in (fan, old))
    assert first == second


@pytest.mark.parametrize(
    ("labels", "inches", "columns"),
    [
        (["gpt", "ridge", "dlinear", "seasonal_naive", "last_value"], 3.9, 3),
        (["x" * 22] * 6, 3.9, 1),
        (["x" * 22] * 6, 8.7, 3),
        (["a", "b"], 8.7, 2),
        ([], 3.9, 1),
    ],
)
def test_legends_have_as_many_columns_as_fit(labels, inches, columns):
    assert columns_that_fit(labels, inches) == columns


def test_a_word_that_is_no_rank_is_of_the_window():
    assert fan_chart(a_forecast(fans=(a_fan("last"),)), 0).title.startswith("Last window of HUFL")


def stamps(step, n, first=datetime(2016, 2, 25)):
    return [str(first + i * step) for i in range(n)]


@pytest.mark.parametrize(
    ("found", "first"),
    [
        (stamps(timedelta(minutes=15), 30), "02-25 01:00"),
        (stamps(timedelta(hours=1), 60), "02-25 12:00"),
        (stamps(timedelta(hours=1), 150), "2016-02-26"),
        (stamps(timedelta(days=1), 120), "2016-03"),
        (stamps(timedelta(days=7), 400), "2017"),
        (["2016-02-25", "2016-02-26", "2016-02-27"], "2016-02-26"),
    ],
)
def test_ticks_stand_where_a_part_of_the_calendar_begins(found, first):
    ticks = stamp_ticks(found)
    assert 2 <= len(ticks) <= MOST_TICKS
    assert ticks[0][1] == first
    for at, label in ticks:
        assert label in found[at] or datetime.fromisoformat(found[at]) >= datetime(2017, 1, 1)


@pytest.mark.parametrize(
    "found", [[str(i) for i in range(1000)], ["20160701", "20160702"], ["x-y"], ["2016-07-01"], []]
)
def test_ticks_of_stamps_that_are_no_dates_stand_at_equal_distances(found):
    ticks = stamp_ticks(found)
    assert len(ticks) <= MOST_TICKS
    assert all(found[at] == label for at, label in ticks)
    assert len({b[0] - a[0] for a, b in pairwise(ticks)}) <= 1


@pytest.mark.parametrize(
    "heights", [[0.9, 0.95, 0.5], [1.0, 1.0, 1.0, 1.0], [0.1, 0.9], [0.0, 0.06, 0.12, 0.5], []]
)
def test_labels_beside_a_chart_keep_apart_and_in_order(heights):
    found = apart(heights, 0.1)
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    gaps = [found[b] - found[a] for a, b in pairwise(order)]
    assert all(gap >= 0.1 - 1e-9 for gap in gaps)
    assert np.isclose(sum(found), sum(heights)), "moved further than needed"


def test_labels_that_are_apart_are_not_moved():
    assert apart([0.9, 0.1, 0.5], 0.1) == [0.9, 0.1, 0.5]


def test_a_line_far_above_the_others_is_named_and_does_not_flatten_them():
    pictures = {p.name: p for p in ahead(a_forecast())}
    assert "Beyond the top of the chart at its highest: last_value (1.65" in (
        pictures["ahead_1_mse"].caption
    )
    near = {p.name: p for p in ahead(a_forecast(rivals={"ridge": 0.02}))}
    assert "Beyond" not in near["ahead_1_mse"].caption


def test_an_objective_that_validation_does_not_have_stands_apart():
    page = Page(render(a_forecast(objective="Pinball loss of nine quantiles"))).text
    assert "Pinball loss of nine quantiles. Not to be compared with the scores" in page
    assert "nats" not in page


@pytest.mark.parametrize(
    "record",
    [
        with_protocol(a_forecast(), model={"mse": NAN}),
        with_protocol(a_forecast(), model={}, baselines={}, differences={}, intervals={}),
        with_protocol(a_forecast(), baselines={"ridge": {"mse": NAN}}),
        with_protocol(a_forecast(), by_step=None, context=None),
        with_protocol(a_forecast(), by_step=ByStep(steps=())),
        with_protocol(
            a_forecast(),
            by_step=ByStep(
                steps=(1, 2), mse={"gpt": (math.nan, math.nan)}, mae={"gpt": (0.0, 0.0)}
            ),
        ),
        with_protocol(
            a_forecast(),
            by_step=dataclasses.replace(
                a_protocol().by_step,
                intervals=tuple(
                    dataclasses.replace(one, coverage=(math.nan,) * 12, width=(math.nan,) * 12)
                    for one in a_protocol().by_step.intervals
                ),
            ),
        ),
        a_forecast(horizon=1),
        a_forecast(protocols=()),
        a_forecast(verdict=None, curve=(), best_epoch=None),
        a_forecast(curve=(CurveRow(epoch=1, loss=math.nan, metrics={"mse": math.nan}),)),
        a_forecast(fans=(a_fan(bands=(), beside={}),)),
        a_forecast(fans=(a_fan(past=(), past_stamps=()),)),
        a_forecast(fans=(a_fan(past=(math.nan,) * 40, actual=(math.nan,) * 12),)),
        a_forecast(fans=(a_fan(value=math.nan),)),
    ],
)
def test_what_is_missing_leaves_a_whole_page(record):
    text = render(record)
    assert "</html>" in text
    assert "nan" not in re.split(r"\W+", Page(text).text.lower())
    assert "nan" not in re.split(
        r"\W+", " ".join(v for _, n, v in Page(text).attributes if n == "aria-label").lower()
    )
    assert load_record(record.to_json()).to_json() == record.to_json()


def test_long_horizons_and_many_baselines_fit_the_page():
    rivals = {f"baseline_{i} " + "x" * 60: 0.01 * i for i in range(12)}
    record = a_forecast(
        rivals=rivals,
        horizon=720,
        protocols=tuple(a_protocol(rivals=rivals, horizon=h) for h in (720, 96, 192, 336)),
        fans=tuple(a_fan(rank, horizon=720, n_past=2000) for rank in ("best", "median", "worst")),
    )
    page = render(record)
    assert len(page.encode()) < LARGEST_PAGE_BYTES
    assert "Of the baselines the best are shown" in page
    parsed = Page(page)
    assert len(parsed.ids) == len(set(parsed.ids))


def test_evaluations_become_parts_of_the_record():
    columns = [seasonal(90, seed=1), 100 * seasonal(90, seed=2), seasonal(90, seed=3) - 5]
    series = series_set(columns, train=50)
    low, high = np.full(3, 60), np.full(3, 90)
    chosen = every_window(series, low, high, horizon=7)
    rules = ForecastRules(resamples=20)
    ids = ["a", "b", "c"]
    scale = scale_of(series, np.full(3, 50), 7)
    ours, theirs = (
        evaluate(
            kind(7, levels=LEVELS), series, chosen, horizon=7, rules=rules, scale=scale, ids=ids
        )
        for kind in (Naive, Shifted)
    )
    gaps = compare(ours, theirs, resamples=20)
    protocol = forecast_protocol_of("gpt", ours, {"rival": theirs}, {"rival": gaps})
    assert protocol.n_windows == ours.n_windows == 3 * (30 - 7 + 1)
    assert set(protocol.model) == set(readings.FORECASTING)
    assert protocol.model["mse"].value == ours.metrics["mse"].value
    assert protocol.differences["rival"]["mse"].value == gaps["mse"].value
    assert [one.level for one in protocol.intervals["gpt"]] == [80.0, 90.0]
    assert protocol.intervals["gpt"][1].coverage.value == ours.metrics["coverage_90"].value
    assert protocol.by_step.steps == tuple(range(1, 8))
    assert np.isclose(np.mean(protocol.by_step.mse["rival"]), theirs.metrics["mse"].value)
    assert "bootstrap over" in protocol.interval

    worst = next(one for one in ours.examples if one.name == "worst")
    stamped = [str(i) for i in range(len(worst.context) + 7)]
    beside = {"rival": worst.point + 1}
    fan = fan_of(worst, ours, series=ids[worst.series], stamps=stamped, beside=beside)
    assert fan.value == max(ours.by_series["mse"].to_list())
    assert fan.past_stamps[-1] == str(len(worst.context) - 1)
    assert [band.level for band in fan.bands] == [80.0, 90.0]
    outer, inner = fan.bands[1], fan.bands[0]
    assert all(
        a <= b <= c <= d
        for a, b, c, d in zip(outer.low, inner.low, inner.high, outer.high, strict=True)
    )
    assert np.allclose(outer.low, worst.quantiles[:, LEVELS.index(0.05)])
    assert "Worst series" in Page(render(bare(protocols=(protocol,), fans=(fan,)))).text


class Shifted(Naive):
    """The same forecast, off by a constant."""

    def predict(self, batch):
        one = super().predict(batch)
        return Forecast(one.point + 0.5, one.quantiles + 0.5, one.levels)
