"""What a forecasting run leaves behind for its reader.

Errors are of standardised values, less the mean of the training rows of their series and over
their standard deviation, where nothing else is said. Stamps are text, as the table writes them.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from kt_forecast.report.record import Citation, Number, Plain, Record, Score, Scored


@dataclass(frozen=True, kw_only=True)
class IntervalScore(Plain):
    """How the intervals of one level did, over all steps ahead.

    Attributes:
        level: share of values that an interval promises to hold, in percent.
        coverage: share of values that it held.
        width: mean distance between its ends, standardised.
    """

    level: Number
    coverage: Score
    width: Score


@dataclass(frozen=True, kw_only=True)
class IntervalSteps(Plain):
    """How the model's intervals of one level did, step by step.

    Attributes:
        level: share of values that an interval promises to hold, in percent.
        coverage: share of values held, for each of the steps.
        width: mean distance between the ends, standardised, for each of the steps.
    """

    level: Number
    coverage: tuple[Number, ...]
    width: tuple[Number, ...]


@dataclass(frozen=True, kw_only=True)
class ByStep(Plain):
    """Errors and intervals by how far ahead they reach.

    Attributes:
        steps: steps ahead, counted from 1; all of them or some.
        mse: by name of the model or baseline, for each of the steps.
        mae: by name of the model or baseline, for each of the steps.
        intervals: of the model, one entry a level.

    Raises:
        ValueError: the lengths disagree.
    """

    steps: tuple[int, ...]
    mse: dict[str, tuple[Number, ...]] = field(default_factory=dict)
    mae: dict[str, tuple[Number, ...]] = field(default_factory=dict)
    intervals: tuple[IntervalSteps, ...] = ()

    def __post_init__(self) -> None:
        rows = [*self.mse.values(), *self.mae.values()]
        rows += [row for one in self.intervals for row in (one.coverage, one.width)]
        _same_length("errors by step", len(self.steps), rows)


@dataclass(frozen=True, kw_only=True)
class ForecastProtocol(Scored):
    """The scores of one horizon under one way of evaluating.

    Attributes:
        headline: name of the metric that the headline quotes and that orders the baselines.
        horizon: steps ahead.
        horizons: those that the scores are means over, the longest of which ``horizon`` is; empty
            for the scores of one.
        context: steps that the model looked back on; None where it reads all, or several did.
        n_windows: scored pairs of a series and an origin.
        n_series: series they come from.
        n_values: scored values.
        intervals: by name of the model or baseline, one entry a level.
        by_step: errors and intervals by how far ahead they reach.
    """

    headline: str = "mse"
    horizon: int
    horizons: tuple[int, ...] = ()
    context: int | None = None
    n_windows: int = 0
    n_series: int = 0
    n_values: int = 0
    intervals: dict[str, tuple[IntervalScore, ...]] = field(default_factory=dict)
    by_step: ByStep | None = None
    interval: str = "95% bootstrap over blocks of time"


@dataclass(frozen=True, kw_only=True)
class Band(Plain):
    """One interval of a forecast.

    Attributes:
        level: share of values that it promises to hold, in percent.
        low: lower end for each step ahead, in the series' own unit.
        high: upper end for each step ahead, in the series' own unit.
    """

    level: Number
    low: tuple[Number, ...]
    high: tuple[Number, ...]


@dataclass(frozen=True, kw_only=True)
class Fan(Plain):
    """One forecast of one series in full, in the series' own unit; nan where a value is missing.

    Attributes:
        rank: ``best``, ``median`` or ``worst``: place of the series among those of the test; of a
            single series a word for the window, such as ``last``.
        series: its name.
        metric: name of what ranks the series.
        value: of that metric, over all test windows of this series.
        window: one sentence: how the window shown was chosen.
        past_stamps: of the past values, the last of them the origin's.
        past: what came before the steps ahead, oldest first.
        stamps: of the steps ahead.
        actual: what happened.
        point: what the model forecast.
        bands: its intervals.
        beside: what baselines forecast, by name.

    Raises:
        ValueError: the lengths disagree.
    """

    rank: str
    series: str
    metric: str
    value: Number
    window: str = ""
    past_stamps: tuple[str, ...]
    past: tuple[Number, ...]
    stamps: tuple[str, ...]
    actual: tuple[Number, ...]
    point: tuple[Number, ...]
    bands: tuple[Band, ...] = ()
    beside: dict[str, tuple[Number, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _same_length("a fan's past", len(self.past_stamps), [self.past])
        rows = [self.actual, self.point, *self.beside.values()]
        rows += [row for band in self.bands for row in (band.low, band.high)]
        _same_length("a fan's steps ahead", len(self.stamps), rows)


def _same_length(what: str, length: int, rows: list[tuple[float, ...]]) -> None:
    """Refuse rows that do not have ``length`` entries.

    Raises:
        ValueError: one has not.
    """
    lengths = {len(row) for row in rows} - {length}
    if lengths:
        raise ValueError(f"{what}: {length} stamps or steps, rows of {sorted(lengths)}")


@dataclass(frozen=True, kw_only=True)
class SeriesFacts(Plain):
    """The table the run read.

    Attributes:
        name: of the data set.
        n_series: series.
        n_rows: rows of all series together, missing values among them.
        shortest: rows of the shortest series.
        longest: rows of the longest series.
        frequency: step of the grid, such as ``1h``.
        season: steps of the cycle that the seasonal naive repeats.
        first: earliest stamp.
        last: latest stamp.
        past: names of covariates known up to the origin.
        future: names of covariates known in advance.
        static: names of the facts of each series.
        missing: share of values that are missing, from 0 to 1.
        data_hash: SHA-256 of the canonical content.
        licence: of the data.
        citation: what its owners ask to be cited.
        notes: what was found and changed at the door; one sentence each.
    """

    name: str
    n_series: int
    n_rows: int
    shortest: int | None = None
    longest: int | None = None
    frequency: str
    season: int
    first: str = ""
    last: str = ""
    past: tuple[str, ...] = ()
    future: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    missing: Number = 0.0
    data_hash: str = ""
    licence: str = ""
    citation: Citation | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SeriesPart(Plain):
    """One part of a split by time.

    Attributes:
        name: ``train``, ``valid`` or ``test``.
        first: earliest stamp of a value that belongs to it.
        last: latest stamp of a value that belongs to it.
        n_rows: values of all series.
        n_windows: pairs of a series and an origin whose steps ahead all lie in it.
    """

    name: str
    first: str = ""
    last: str = ""
    n_rows: int
    n_windows: int


@dataclass(frozen=True, kw_only=True)
class SeriesSplitFacts(Plain):
    """How the series were divided.

    Attributes:
        kind: of the split, one word.
        scheme: one sentence.
        parts: training, validation, test.
        split_hash: of the stored split.
        notes: one sentence each.
    """

    kind: str
    scheme: str
    parts: tuple[SeriesPart, ...] = ()
    split_hash: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ForecastRecord(Record):
    """Everything the report of forecasting shows, without the model.

    Attributes:
        data: the table.
        split: how it was divided.
        protocols: scores, one entry a horizon; the first is the one the headline quotes.
        fans: the best, the median and the worst series.
    """

    TASK: ClassVar[str] = "forecasting"

    data: SeriesFacts
    split: SeriesSplitFacts
    protocols: tuple[ForecastProtocol, ...]
    fans: tuple[Fan, ...] = ()
