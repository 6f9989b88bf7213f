"""Functions from tables to features that leak, and honest ones that come close to leaking.

Run as a program, it prints which probe alone finds which leak.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import polars as pl

from kt_forecast.audit.pipeline import PROBES, Rows, audit_pipeline, rows
from kt_forecast.audit.report import Report

S, T, X, Y, K, D = "student", "seconds", "pace", "response", "skill", "elapsed"
STUDENTS, STEPS = 5, 22


@cache
def answers() -> pd.DataFrame:
    """Answers of students in the order of time, some paces missing."""
    rng = np.random.default_rng(0)
    n = STUDENTS * STEPS
    frame = pd.DataFrame(
        {
            S: np.repeat(np.arange(STUDENTS), STEPS),
            T: np.concatenate(
                [np.sort(rng.choice(900, STEPS, replace=False)) for _ in range(STUDENTS)]
            ),
            K: rng.choice(["add", "divide", "multiply", "subtract"], n),
            Y: rng.integers(0, 2, n),
            X: rng.gamma(2.0, 10.0, n),
            D: rng.gamma(2.0, 10.0, n),
        }
    )
    frame.loc[rng.random(n) < 0.05, X] = np.nan
    return frame.sort_values([S, T], ignore_index=True)


@cache
def loads() -> pd.DataFrame:
    """Hourly loads of three series with a calendar known in advance."""
    rng = np.random.default_rng(1)
    n = 60
    hours = pd.date_range("2024-01-01", periods=n, freq="h")
    parts = []
    for name in ("east", "north", "west"):
        level = 20 + 5 * np.sin(np.arange(n) / 4) + rng.normal(size=n).cumsum()
        holiday = (np.arange(n) % 17 < 3).astype(int)
        parts.append(pd.DataFrame({"unique_id": name, "ds": hours, "y": level, "holiday": holiday}))
    return pd.concat(parts, ignore_index=True)


def split(frame: pd.DataFrame, *, by: str = "time") -> pd.DataFrame:
    """Add the split of each row: later rows, or other students, are for testing."""
    if by == "time":
        test = frame[T] > frame[T].quantile(0.7)
    elif by == "student":
        test = frame[S] >= STUDENTS - 3
    else:
        test = pd.Series(np.random.default_rng(2).random(len(frame)) < 0.3)
    return frame.assign(part=np.where(test, "test", "train"))


TRACING = rows(time=T, entity=S, target=Y, answered=(D,))
SERIES = rows(time="ds", entity="unique_id", known=("holiday",))
FITTED = rows(time=T, entity=S, target=Y, answered=(D,), split="part")


@dataclass(frozen=True)
class Case:
    """A function, its table and contract, and what the auditor must say of it."""

    name: str
    function: Callable[..., Any]
    table: Callable[[], Any] = answers
    contract: Rows = TRACING
    form: str = "features"
    beside: Mapping[str, tuple[Any, Rows]] = field(default_factory=dict)
    pattern: str = ""
    ahead: int | None = None

    def audit(
        self, probes: tuple[str, ...] = tuple(PROBES), *, moments: int = 2, seed: int = 0
    ) -> Report:
        return audit_pipeline(
            self.function,
            self.table(),
            self.contract,
            form=self.form,
            beside=self.beside,
            probes=probes,
            moments=moments,
            seed=seed,
        )


def feature(make: Callable[[pd.DataFrame], Any]) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Wrap a column of pandas with its keys, rows sorted first."""

    def features(frame: pd.DataFrame) -> pd.DataFrame:
        frame = frame.sort_values([S, T], kind="stable")
        return frame[[S, T]].assign(feature=make(frame))

    return features


def own(make: Callable[[pd.Series], pd.Series], column: str = X):
    return feature(lambda d: d.groupby(S)[column].transform(make))


def polar(*columns: pl.Expr) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Make a function on frames of polars, rows sorted first."""
    return lambda frame: frame.sort(S, T).select(S, T, *columns)


def in_polars() -> pl.DataFrame:
    return pl.from_pandas(answers())


def lazily() -> pl.LazyFrame:
    return in_polars().lazy()


def code(d: pd.DataFrame, order: list) -> pd.Series:
    return d[K].map({name: i for i, name in enumerate(order)}).fillna(-1)


def of_week(d: pd.DataFrame) -> pd.DataFrame:
    """Mean by hour of the day over all rows: the seasonal part of a decomposition."""
    season = d.groupby(["unique_id", d["ds"].dt.hour])["y"].transform("mean")
    return d[["unique_id", "ds"]].assign(season=season)


def bins(d: pd.DataFrame) -> pd.DataFrame:
    total = d.set_index("ds").groupby("unique_id")["y"].resample("4h", label="left").sum()
    return total.rename("total").reset_index()


def bins_over(d: pd.DataFrame) -> pd.DataFrame:
    """The same, joined to the rows after the bin is over."""
    made = d.set_index("ds").groupby("unique_id")["y"]
    total = made.resample("4h", label="right", closed="left").sum().rename("total").reset_index()
    left, right = d[["unique_id", "ds"]].sort_values("ds"), total.sort_values("ds")
    return pd.merge_asof(left, right, on="ds", by="unique_id", direction="backward")


@cache
def weather() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    hours = pd.date_range("2024-01-01 00:30", periods=40, freq="90min")
    return pd.DataFrame({"at": hours, "wind": rng.gamma(2.0, 3.0, len(hours))})


def joined(direction: str):
    def features(d: pd.DataFrame, weather: pd.DataFrame) -> pd.DataFrame:
        left = d[["unique_id", "ds"]].sort_values("ds")
        made = pd.merge_asof(left, weather, left_on="ds", right_on="at", direction=direction)
        return made[["unique_id", "ds", "wind"]]

    return features


def joined_polars(strategy: str):
    def features(d: pl.DataFrame, weather: pl.DataFrame) -> pl.DataFrame:
        left, right = d.select("unique_id", "ds").sort("ds"), weather.sort("at")
        made = left.join_asof(right, left_on="ds", right_on="at", strategy=strategy)
        return made.select("unique_id", "ds", "wind")

    return features


def scaled(*, on: str):
    def fit_transform(train: pd.DataFrame, test: pd.DataFrame):
        seen = pd.concat([train, test]) if on == "all" else train
        mean, spread = seen[X].mean(), seen[X].std()
        made = [d[[S, T]].assign(z=(d[X] - mean) / spread) for d in (train, test)]
        return *made, {"mean": mean, "spread": spread}

    return fit_transform


def vocabulary(*, on: str):
    def fit_transform(train: pd.DataFrame, test: pd.DataFrame):
        seen = pd.concat([train, test]) if on == "all" else train
        names = sorted(seen[K].dropna().unique())
        return *(d[[S, T]].assign(code=code(d, names)) for d in (train, test)), names

    return fit_transform


def selected(*, on: str):
    def fit_transform(train: pd.DataFrame, test: pd.DataFrame):
        seen = pd.concat([train, test]) if on == "all" else train
        candidates = {X: seen[X], "late": seen[T] % 7, "odd": seen[T] % 2, "third": seen[T] % 3}
        best = max(candidates, key=lambda c: abs(candidates[c].fillna(0).corr(seen[Y])))
        every = [
            d[[S, T]].assign(**{X: d[X], "late": d[T] % 7, "odd": d[T] % 2, "third": d[T] % 3})
            for d in (train, test)
        ]
        return tuple(d[[S, T, best]] for d in every)

    return fit_transform


def encoded(*, on: str):
    def fit_transform(train: pd.DataFrame, test: pd.DataFrame):
        seen = pd.concat([train, test]) if on == "all" else train
        hard = seen.groupby(K)[Y].mean()
        # Training rows are encoded without themselves.
        total, count = train.groupby(K)[Y].transform("sum"), train.groupby(K)[Y].transform("count")
        apart = (total - train[Y]) / (count - 1)
        return (
            train[[S, T]].assign(hard=apart if on == "train" else train[K].map(hard)),
            test[[S, T]].assign(hard=test[K].map(hard)),
        )

    return fit_transform


def windows(*, before_split: bool, width: int = 4):
    """Cut windows and split them: windows first, or rows first."""

    def cut(d: pd.DataFrame) -> pd.DataFrame:
        by = d.groupby("unique_id")["y"]
        lags = {f"lag_{i}": by.shift(i) for i in range(width)}
        ahead = {f"ahead_{i}": by.shift(-i) for i in range(1, 3)}
        return d[["unique_id", "ds"]].assign(**lags, **ahead).dropna()

    def prepare(d: pd.DataFrame):
        border = d["ds"].quantile(0.7)
        if before_split:
            made = cut(d)
            return made[made["ds"] < border], made[made["ds"] >= border]
        return cut(d[d["ds"] < border]), cut(d[d["ds"] >= border])

    return prepare


def scaled_then_split(d: pd.DataFrame):
    z = (d[X] - d[X].mean()) / d[X].std()
    made, border = d[[S, T]].assign(z=z), d[T].quantile(0.7)
    return made[made[T] <= border], made[made[T] > border]


def split_then_scaled(d: pd.DataFrame):
    border = 630
    train, test = d[d[T] <= border], d[d[T] > border]
    mean, spread = train[X].mean(), train[X].std()
    return tuple(p[[S, T]].assign(z=(p[X] - mean) / spread) for p in (train, test))


def twice() -> pd.DataFrame:
    frame = split(answers(), by="student")
    return pd.concat([frame, frame[frame[S] == 0].assign(part="test")], ignore_index=True)


def renamed() -> pd.DataFrame:
    frame = split(answers(), by="student")
    copied = frame[frame[S] == 0].assign(part="test", **{S: STUDENTS})
    return pd.concat([frame, copied], ignore_index=True)


def with_score() -> pd.DataFrame:
    frame = answers()
    rng = np.random.default_rng(4)
    return frame.assign(points=frame[Y] * 10 + rng.random(len(frame)))


def with_net() -> pd.DataFrame:
    frame = loads()
    rng = np.random.default_rng(5)
    return frame.assign(net=frame["y"] * 0.93 + 0.001 * rng.normal(size=len(frame)))


def stamped() -> pd.DataFrame:
    frame = loads()
    wind = np.random.default_rng(6).random(len(frame))
    return frame.assign(wind=wind, measured=frame["ds"] + pd.Timedelta("30min"))


def lag(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.sort_values([S, T], kind="stable")
    return frame[[S, T]].assign(feature=frame.groupby(S)[Y].shift(1))


def load_lag(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[["unique_id", "ds"]].assign(lag=frame.groupby("unique_id")["y"].shift(1))


MEAN5 = pl.col(X).fill_nan(None).fill_null(0.0)

LEAKS = [
    Case(
        "centred rolling mean",
        own(lambda x: x.rolling(5, center=True, min_periods=1).mean()),
        pattern="window reaching ahead",
        ahead=2,
    ),
    Case("shift(-1)", own(lambda x: x.shift(-1)), pattern="lead", ahead=1),
    Case("shift(-3)", own(lambda x: x.fillna(0).shift(-3)), pattern="lead", ahead=3),
    Case("difference to the next", own(lambda x: x.fillna(0).diff(-1)), ahead=1),
    Case("backward fill", own(lambda x: x.bfill()), pattern="backward fill"),
    Case("linear interpolation", own(lambda x: x.interpolate()), pattern="interpolation"),
    Case(
        "global z-score",
        feature(lambda d: (d[X] - d[X].mean()) / d[X].std()),
        pattern="statistic of the table",
    ),
    Case(
        "z-score per student",
        own(lambda x: (x - x.mean()) / x.std()),
        pattern="statistic of an entity",
    ),
    Case("min-max per student", own(lambda x: x / x.max()), pattern="statistic of an entity"),
    Case("filled by the median", feature(lambda d: d[X].fillna(d[X].median()))),
    Case("clipped at quantiles", feature(lambda d: d[X].clip(upper=d[X].quantile(0.9)))),
    Case(
        "target encoding",
        feature(lambda d: d.groupby(K)[Y].transform("mean")),
        pattern="target encoding",
    ),
    Case(
        "expanding mean with the own row",
        own(lambda y: y.expanding().mean(), Y),
        pattern="own answer",
        ahead=0,
    ),
    Case("own seconds taken", feature(lambda d: d[D]), pattern="post-answer field", ahead=0),
    Case("rank in student", own(lambda x: x.rank()), pattern="ranks or quantiles"),
    Case(
        "quantile bins",
        feature(lambda d: pd.qcut(d[X], 4, labels=False, duplicates="drop")),
        pattern="ranks or quantiles",
    ),
    Case(
        "attempts in total",
        feature(lambda d: d.groupby(S)[T].transform("count")),
        pattern="number of rows",
    ),
    Case(
        "position over length",
        feature(lambda d: d.groupby(S).cumcount() / d.groupby(S)[T].transform("count")),
        pattern="number of rows",
    ),
    Case(
        "time to the last event",
        feature(lambda d: d.groupby(S)[T].transform("max") - d[T]),
        pattern="times of later rows",
    ),
    Case(
        "time to the next event",
        feature(lambda d: -d.groupby(S)[T].diff(-1)),
        pattern="times of later rows",
        ahead=1,
    ),
    Case(
        "codes by frequency",
        feature(lambda d: code(d, list(d[K].value_counts().index))),
        pattern="codes or frequencies",
    ),
    Case(
        "counts of a skill",
        feature(lambda d: d.groupby(K)[K].transform("count")),
        pattern="codes or frequencies",
    ),
    Case(
        "reversed moving average",
        own(lambda x: x.fillna(0)[::-1].ewm(span=3).mean()[::-1].shift(-1)),
        pattern="reversed recursion",
    ),
    Case(
        "shift without groups",
        feature(lambda d: d[Y].shift(1)),
        contract=rows(time=T, entity=S, target=Y, pooled=False),
    ),
    Case(
        "target next to it", feature(lambda d: d.groupby(S)[Y].shift(-1)), pattern="lead", ahead=1
    ),
    Case(
        "share of all students' answers so far, with the bundle",
        lambda d: d.sort_values([T, S])[[S, T]].assign(f=d.sort_values([T, S])[Y].cumsum()),
        pattern="own answer",
    ),
    Case("bins labelled by their start", bins, loads, SERIES, pattern="label of a bin"),
    Case("season of the whole series", of_week, loads, SERIES, pattern="statistic of an entity"),
    Case(
        "spectral filter of the whole series",
        lambda d: d[["unique_id", "ds"]].assign(
            smooth=d.groupby("unique_id")["y"].transform(
                lambda y: np.fft.irfft(np.fft.rfft(y) * (np.arange(len(y) // 2 + 1) < 6), len(y))
            )
        ),
        loads,
        SERIES,
    ),
    Case(
        "as-of join forward",
        joined("forward"),
        loads,
        SERIES,
        beside={"weather": (weather(), rows(time="at"))},
        pattern="forward join",
        ahead=1,
    ),
    Case(
        "as-of join to the nearest",
        joined("nearest"),
        loads,
        SERIES,
        beside={"weather": (weather(), rows(time="at"))},
        pattern="forward join",
    ),
    Case(
        "covariate stamped later",
        load_lag,
        stamped,
        rows(time="ds", entity="unique_id", stamped={"wind": "measured"}),
        pattern="stamp after the row",
    ),
    Case(
        "polars: centred rolling mean",
        polar(MEAN5.rolling_mean(3, center=True, min_samples=1).over(S).alias("f")),
        in_polars,
        pattern="window reaching ahead",
        ahead=1,
    ),
    Case("polars: shift(-1)", polar(MEAN5.shift(-1).over(S).alias("f")), in_polars, ahead=1),
    Case("polars: lazy mean", polar((MEAN5 - MEAN5.mean().over(S)).alias("f")), lazily),
    Case(
        "polars: backward fill",
        polar(pl.col(X).fill_nan(None).fill_null(strategy="backward").over(S).alias("f")),
        in_polars,
        pattern="backward fill",
    ),
    Case(
        "polars: as-of join forward",
        joined_polars("forward"),
        lambda: pl.from_pandas(loads()),
        SERIES,
        beside={"weather": (pl.from_pandas(weather()), rows(time="at"))},
        pattern="forward join",
    ),
    Case(
        "scaler on all rows",
        scaled(on="all"),
        lambda: split(answers()),
        FITTED,
        "fit_transform",
        pattern="fitted on test rows",
    ),
    Case(
        "vocabulary with test rows",
        vocabulary(on="all"),
        lambda: split(answers(), by="student"),
        FITTED,
        "fit_transform",
        pattern="fitted on test rows",
    ),
    Case(
        "columns selected on all rows",
        selected(on="all"),
        lambda: split(answers(), by="student"),
        FITTED,
        "fit_transform",
        pattern="selected on test rows",
    ),
    Case(
        "difficulty from test rows",
        encoded(on="all"),
        lambda: split(answers(), by="student"),
        FITTED,
        "fit_transform",
        pattern="fitted on test rows",
    ),
    Case(
        "scaled before the split",
        scaled_then_split,
        form="split",
        pattern="fitted on test rows",
    ),
    Case(
        "windows before the split",
        windows(before_split=True),
        loads,
        rows(time="ds", entity="unique_id", labels=("ahead_1", "ahead_2")),
        "split",
        pattern="window over the border",
    ),
    Case(
        "rows split at random",
        lag,
        lambda: split(answers(), by="row"),
        FITTED,
        pattern="entity in two splits",
    ),
    Case("rows on both sides", lag, twice, FITTED, pattern="duplicated rows"),
    Case("a student under two names", lag, renamed, FITTED, pattern="entity under two names"),
    Case(
        "points given for the answer",
        feature(lambda d: d["points"]),
        with_score,
        rows(time=T, entity=S, target=Y),
        pattern="knows the answer",
    ),
    Case(
        "net of the load",
        lambda d: d[["unique_id", "ds"]].assign(net=d["net"]),
        with_net,
        rows(time="ds", entity="unique_id", target="y"),
        pattern="knows the answer",
    ),
]


def noisy(d: pd.DataFrame) -> pd.DataFrame:
    noise = np.random.normal(size=len(d))  # noqa: NPY002
    return d[[S, T]].assign(f=d.groupby(S)[X].shift(1) + noise)


def needs_many(d: pd.DataFrame) -> pd.DataFrame:
    if len(d) < 80:
        raise ValueError("too few rows")
    return lag(d)


def exploded(d: pd.DataFrame) -> pd.DataFrame:
    """Two rows an answer."""
    made = lag(d)
    return pd.concat([made.assign(which=0), made.assign(which=1)])


def in_place(d: pd.DataFrame) -> pd.DataFrame:
    d.sort_values([S, T], inplace=True)
    d[X] = d.groupby(S)[X].ffill()
    return d[[S, T, X]]


HONEST = [
    Case("rolling mean of the past", own(lambda x: x.rolling(5, min_periods=1).mean())),
    Case("expanding mean, shifted", own(lambda y: y.shift(1).expanding().mean(), Y)),
    Case("forward fill", own(lambda x: x.ffill())),
    Case("attempts so far", feature(lambda d: d.groupby(S).cumcount())),
    Case("previous answer", lag),
    Case("previous seconds taken", own(lambda x: x.shift(1), D)),
    Case("moving average", own(lambda x: x.ewm(span=3).mean())),
    Case("time since the previous", feature(lambda d: d.groupby(S)[T].diff())),
    Case("largest so far", own(lambda x: x / x.cummax())),
    Case("rank among the past", own(lambda x: x.expanding().rank())),
    Case("clipped at a constant", feature(lambda d: d[X].clip(upper=30))),
    Case("a fixed vocabulary", feature(lambda d: code(d, ["add", "divide"]))),
    Case("first rows dropped", lambda d: lag(d).dropna()),
    Case("several rows an answer", exploded),
    Case("sorts its copy in place", in_place),
    Case("aligned by index", lambda d: d.groupby(S)[X].shift(1)),
    Case("aligned by position", lambda d: d.groupby(S)[X].shift(1).to_numpy()),
    Case("noise of the global generator", noisy),
    Case("fails on few rows", needs_many),
    Case(
        "difficulty from all earlier answers",
        lambda d: d[[S, T]].assign(f=earlier_difficulty(d)),
        contract=rows(time=T, entity=S, target=Y, pooled=True),
    ),
    Case(
        "carries all columns along",
        lambda d: d.sort_values([S, T]).assign(f=d.sort_values([S, T]).groupby(S)[Y].shift(1)),
    ),
    Case("bins that are over", bins_over, loads, SERIES),
    Case(
        "holiday tomorrow",
        lambda d: d[["unique_id", "ds"]].assign(f=d.groupby("unique_id")["holiday"].shift(-1)),
        loads,
        SERIES,
    ),
    Case(
        "hours until the end, times known",
        lambda d: d[["unique_id", "ds"]].assign(f=(d["ds"].max() - d["ds"]).dt.total_seconds()),
        loads,
        rows(time="ds", entity="unique_id", known=("holiday", "ds")),
    ),
    Case(
        "hour of the day",
        lambda d: d[["unique_id", "ds"]].assign(f=d["ds"].dt.hour),
        loads,
        SERIES,
    ),
    Case(
        "as-of join backward",
        joined("backward"),
        loads,
        SERIES,
        beside={"weather": (weather(), rows(time="at"))},
    ),
    Case(
        "polars: as-of join backward",
        joined_polars("backward"),
        lambda: pl.from_pandas(loads()),
        SERIES,
        beside={"weather": (pl.from_pandas(weather()), rows(time="at"))},
    ),
    Case(
        "polars: rolling mean of the past",
        polar(MEAN5.rolling_mean(3, min_samples=1).over(S).alias("f")),
        in_polars,
    ),
    Case("polars: lazy lag", polar(pl.col(Y).shift(1).over(S).alias("f")), lazily),
    Case(
        "next answer as a label",
        own(lambda y: y.shift(-1), Y),
        contract=rows(time=T, entity=S, target=Y, labels=("feature",)),
    ),
    Case(
        "scaler on training rows",
        scaled(on="train"),
        lambda: split(answers()),
        FITTED,
        "fit_transform",
    ),
    Case(
        "vocabulary of training rows",
        vocabulary(on="train"),
        lambda: split(answers(), by="student"),
        FITTED,
        "fit_transform",
    ),
    Case(
        "columns selected on training rows",
        selected(on="train"),
        lambda: split(answers(), by="student"),
        FITTED,
        "fit_transform",
    ),
    Case(
        "difficulty from training rows, out of fold",
        encoded(on="train"),
        lambda: split(answers(), by="student"),
        FITTED,
        "fit_transform",
    ),
    Case(
        "scaler on training rows in one function",
        lambda d: d[[S, T]].assign(
            z=(d[X] - d.loc[d["part"] == "train", X].mean()) / d.loc[d["part"] == "train", X].std()
        ),
        lambda: split(answers(), by="student"),
        FITTED,
    ),
    Case("split, then scaled", split_then_scaled, form="split"),
    Case(
        "windows after the split",
        windows(before_split=False),
        loads,
        rows(time="ds", entity="unique_id", labels=("ahead_1", "ahead_2")),
        "split",
    ),
]


def earlier_difficulty(d: pd.DataFrame) -> pd.Series:
    """Share of right answers to a skill before the moment, all students together."""
    at = d.groupby([K, T])[Y].agg(["sum", "count"]).sort_index(level=T)
    before = at.groupby(level=K).cumsum() - at
    share = (before["sum"] + 1) / (before["count"] + 2)
    return pd.Series(share.loc[list(zip(d[K], d[T], strict=True))].to_numpy(), index=d.index)


def table() -> str:
    """Return which probe alone finds which leak, as text."""
    lines = [" " * 56 + " ".join(f"{p[:5]:>5}" for p in PROBES)]
    totals = dict.fromkeys(PROBES, 0)
    for case in LEAKS:
        marks = []
        for probe in PROBES:
            found = case.audit((probe,)).verdict == "leak"
            totals[probe] += found
            marks.append(f"{'x' if found else '.':>5}")
        lines.append(f"{case.name:<56}" + " ".join(marks))
    lines.append(f"{'found by it alone':<56}" + " ".join(f"{n:>5}" for n in totals.values()))
    return "\n".join(lines)


if __name__ == "__main__":
    started = time.perf_counter()
    print(table())
    for case in [*LEAKS, *HONEST]:
        report = case.audit()
        first = report.findings[0].pattern if report.findings else ""
        print(f"{case.name:<56} {report.verdict:<9} {first}")
    print(f"{time.perf_counter() - started:.1f} s")
