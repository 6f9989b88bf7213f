"""A forecaster that follows many series at once, one measurement at a time.

A forecast reads a bounded window before a series' last value, so that this window, and of series
that were not trained on the mean and spread of all their values, is all that is kept of a series:
what it costs does not grow with what came before.
"""

import json
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from kt_forecast.data.series.frequency import at, ticks
from kt_forecast.data.series.table import Frequency, SeriesTable
from kt_forecast.errors import InputError
from kt_forecast.forecaster.fitting import READS_KNOWN, Ahead, Fitted
from kt_forecast.metrics.forecasting import ends, intervals_in, place_of
from kt_forecast.serving import wire
from kt_forecast.serving.store import Appended, Event, Store
from kt_forecast.serving.threads import Ticket, log, settle

EPOCH = datetime(1970, 1, 1)
DAY = 86_400_000_000
"""Microseconds."""

YEARS = (1700, 2200)
"""First and last year of a stamp."""

APART = 1_000_000
"""Steps between the windows of series that one pass may forecast together."""


@dataclass(frozen=True)
class Observation:
    """A value of a series.

    Attributes:
        stamp: microseconds since 1970, or the integer itself; None where rows have no stamps.
        y: the value; None where it is missing.
        covariates: known with it, by name.
        static: facts of the series, told with its first value.
    """

    stamp: int | None
    y: float | None
    covariates: dict[str, float] = field(default_factory=dict)
    static: dict[str, float | str] = field(default_factory=dict)

    def event(self) -> Event:
        """Return what the log keeps."""
        body: dict[str, Any] = {"y": self.y}
        if self.covariates:
            body["x"] = self.covariates
        if self.static:
            body["static"] = self.static
        return Event(self.stamp, json.dumps(body, ensure_ascii=False, separators=(",", ":")))

    @classmethod
    def of(cls, event: Event) -> "Observation":
        """Return what the log kept."""
        body = json.loads(event.body)
        return cls(event.time, body["y"], body.get("x", {}), body.get("static", {}))


@dataclass(frozen=True)
class Take:
    """Values that stand in the log."""

    ticket: Ticket
    name: str
    appended: Appended
    values: tuple[Observation, ...]


@dataclass(frozen=True)
class Ask:
    """A forecast of a series.

    Attributes:
        future: covariates known in advance, of each step ahead.
    """

    ticket: Ticket
    name: str
    future: tuple[dict[str, float], ...] = ()


@dataclass(frozen=True)
class Said:
    """What came of a job.

    Attributes:
        seq: how many values are known.
        appended: where the values of the job stand; None for one that brought none.
        stamps: of the steps ahead; none where rows have no stamps.
        point: what is predicted.
        intervals: lower and upper ends, by level.
        notes: what a reader should know.
    """

    seq: int
    appended: Appended | None = None
    stamps: tuple[int, ...] = ()
    point: tuple[float, ...] = ()
    intervals: dict[float, tuple[list[float], list[float]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass
class Followed:
    """What is kept of a series.

    Attributes:
        stream: its number; None for one that has none.
        seq: how many values are known, missing ones too.
        first: stamp of the first.
        tick: steps from the first to the last; -1 before it.
        end: steps from the first to the last value that is not missing; -1 before it.
        window: step, value and covariates of the newest.
        count: values that are not missing.
        mean: of them.
        squares: sum of their squared distances from it.
        static: facts, by name.
    """

    stream: int | None = None
    seq: int = 0
    first: int = 0
    tick: int = -1
    end: int = -1
    window: deque[tuple[int, float, dict[str, float]]] = field(default_factory=deque)
    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    static: dict[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Voice:
    """A loaded forecaster that can be asked."""

    fitted: Fitted
    version: str

    @property
    def short(self) -> str:
        """Return the beginning of the version, for replies."""
        return self.version[:12]

    @property
    def gaps(self) -> str:
        """Return what becomes of missing values: ``refuse``, ``mask`` or ``ffill``."""
        kept = self.fitted.facts.get("estimator", {}).get("gaps")
        return str(kept or ("mask" if self.fitted.shape.gaps else "refuse"))

    @property
    def is_ordered(self) -> bool:
        """Return whether rows have no stamps and are taken in their order."""
        return self.fitted.frequency.kind == "order"

    @property
    def levels(self) -> tuple[float, ...]:
        """Return the calibrated levels of intervals, in percent."""
        return tuple(round(100 * x, 6) for x in intervals_in(self.fitted.quantiles))

    def stamp(self, told: int | str | None) -> int | None:
        """Return a stamp as it is counted.

        Raises:
            InputError: it is not of the kind that the model's series have.
        """
        frequency = self.fitted.frequency
        if self.is_ordered:
            return None
        if frequency.kind == "integer":
            if isinstance(told, int):
                return told
            raise InputError(f"ds is {told!r}; accepted are whole numbers, as the model's series")
        if not isinstance(told, str):
            raise InputError(f"ds is {told!r}; accepted are dates such as 2024-03-01T12:00:00")
        return stamp_of(told)

    def told(self, stamp: int) -> int | str:
        """Return a stamp as a reply tells it."""
        frequency = self.fitted.frequency
        if frequency.kind == "integer":
            return stamp
        text = (EPOCH + timedelta(microseconds=stamp)).isoformat()
        days = frequency.kind != "duration" or frequency.step % DAY == 0
        return text.removesuffix("T00:00:00") if days else text

    def values(self, body: wire.Observations) -> tuple[Observation, ...]:
        """Return the values of a request.

        Raises:
            InputError: one cannot be used.
        """
        found = []
        for place, one in enumerate(body.observations):
            facts = body.static if place == 0 else {}
            value = Observation(self.stamp(one.ds), one.y, one.covariates, facts)
            self.refuse(value)
            found.append(value)
        return tuple(found)

    def refuse_future(self, count: int) -> None:
        """Refuse steps ahead that are not all, or are missing and read.

        Raises:
            InputError: they are.
        """
        fitted = self.fitted
        if count and count != fitted.horizon:
            raise InputError(f"future holds {count} steps; accepted are all {fitted.horizon}")
        names = fitted.scale.future_names
        if not count and names and fitted.facts.get(READS_KNOWN):
            raise InputError(
                f"the model reads {', '.join(names)} of the steps ahead; accepted is future with"
                f" {fitted.horizon} steps that hold them"
            )

    def refuse_levels(self, levels: Sequence[float]) -> None:
        """Refuse intervals that were not calibrated.

        Raises:
            InputError: one was not.
        """
        for level in levels:
            if level not in self.levels:
                known = ", ".join(f"{one:g}" for one in self.levels) or "none"
                raise InputError(
                    f"the interval of {level:g} % was not calibrated; accepted are {known}"
                )

    def refuse(self, value: Observation) -> None:
        """Refuse a value that lacks what the model reads.

        Raises:
            InputError: it does.
        """
        scale = self.fitted.scale
        wanted = (*scale.past_names, *scale.future_names)
        for name in wanted:
            if name not in value.covariates:
                raise InputError(f"covariates lack {name!r}, which the model reads")
        known = ", ".join(wanted) or "none"
        for name in value.covariates:
            if name not in wanted:
                raise InputError(f"the covariate {name!r} is not known; accepted are {known}")
        if value.y is None and self.gaps == "refuse":
            raise InputError(
                "y is missing, and the model was trained on series without gaps; accepted are"
                " values, or a model trained with gaps"
            )


def stamp_of(text: str) -> int:
    """Return an ISO date or moment in microseconds since 1970.

    Raises:
        InputError: it is none, or too far away.
    """
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            moment = moment.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        moment = datetime.min
    if not YEARS[0] <= moment.year <= YEARS[1]:
        raise InputError(
            f"ds is {text!r}; accepted are dates such as 2024-03-01T12:00:00, of the years"
            f" {YEARS[0]} to {YEARS[1]}"
        )
    return (moment - EPOCH) // timedelta(microseconds=1)


class Series:
    """The windows of series in memory, and the passes that use them; for one thread.

    Args:
        voice: the model.
        store: the log.
        live: series in memory, at most.
    """

    def __init__(self, voice: Voice, store: Store, live: int) -> None:
        self.voice, self._store, self._most = voice, store, live
        self._live: OrderedDict[str, Followed] = OrderedDict()
        self.loaded = self.rebuilt = self.evicted = 0

    def __len__(self) -> int:
        """Return how many series are in memory."""
        return len(self._live)

    @property
    def size(self) -> int:
        """Return roughly how many bytes the windows take."""
        return sum(_BYTES * len(one.window) for one in list(self._live.values()))

    def facts(self) -> dict[str, Any]:
        """Return what a caller may know of the model."""
        fitted = self.voice.fitted
        names = {"series": list(fitted.scale.ids[:_SHOWN]), "levels": list(self.voice.levels)}
        return names | {"horizon": fitted.horizon}

    def replace(self, voice: Voice) -> None:
        """Go on with another model; windows are read again as series return."""
        self.voice = voice
        self._live.clear()

    def save(self, keep: Callable[[Any], object]) -> None:
        """Hand over nothing: the log holds all there is."""

    def rule(self, name: str, last: int | None, events: Sequence[Event]) -> str | None:
        """Say why values may not follow a series' last stamp; None where they may."""
        if self.voice.is_ordered:
            return None
        frequency = self.voice.fitted.frequency
        stamps = [event.time for event in events if event.time is not None]
        if last is None:
            last, stamps = stamps[0], stamps[1:]
        if not stamps:
            return None
        now = np.array(stamps, dtype=np.int64)
        before = np.array([last, *stamps[:-1]], dtype=np.int64)
        step = ticks(frequency, before, now)
        right = (step >= 1) & (at(frequency, before, step) == now)
        if self.voice.gaps == "refuse":
            right &= step == 1
        if right.all():
            return None
        wrong = int((~right).argmax())
        said = [self.voice.told(int(x[wrong])) for x in (now, before)]
        wanted = "the next step" if self.voice.gaps == "refuse" else "a later step"
        return (
            f"series {name!r}: {said[0]} is not {wanted} of {frequency.text} after {said[1]};"
            " accepted are values in their order, on the grid of the model's series"
        )

    def handle(self, group: list[Any]) -> list[Iterator[Any]]:
        """Answer all jobs of a group."""
        asks: list[Ask] = []
        found: list[tuple[Ticket, Any]] = []
        for job in group:
            if isinstance(job, Take):
                # What was asked before these values came is answered without them.
                if any(ask.name == job.name for ask in asks) or self.voice.fitted.plan.mixing:
                    found += self._forecast(asks)
                    asks = []
                found.append(self._taken(job))
            else:
                asks.append(job)
        settle([*found, *self._forecast(asks)])
        while len(self._live) > self._most:
            self._live.popitem(last=False)
            self.evicted += 1
        return []

    def _taken(self, job: Take) -> tuple[Ticket, Any]:
        try:
            one = self._load(job.name, job.appended.stream, job.appended.first - 1)
            known = max(0, one.seq - job.appended.first + 1)
            for value in job.values[known:]:
                self._add(one, value)
            return job.ticket, Said(max(one.seq, job.appended.last), job.appended)
        except Exception as error:  # noqa: BLE001 - said to the one who asked
            log.exception("values of %r failed", job.name)
            self._live.pop(job.name, None)
            return job.ticket, RuntimeError(f"the model failed: {type(error).__name__}")

    def _load(self, name: str, stream: int | None, until: int | None) -> Followed:
        """Return a series, read from the log where it is not in memory, up to a place there."""
        one = self._live.get(name)
        if one is None:
            if stream is None:
                head = self._store.find(name)
                stream = None if head is None else head.stream
            one = Followed(stream)
            self._live[name] = one
            self.rebuilt += 1
        self._live.move_to_end(name)
        # One that was asked for before its first value has a stream from then on.
        one.stream = stream if one.stream is None else one.stream
        fresh = one.seq == 0 and until is None
        if one.stream is not None and (fresh or (until is not None and one.seq < until)):
            for event in self._store.events(one.stream, one.seq, until):
                self._add(one, Observation.of(event))
        return one

    def _add(self, one: Followed, value: Observation) -> None:
        frequency = self.voice.fitted.frequency
        if one.seq == 0:
            one.first = value.stamp or 0
        if value.static:
            one.static = value.static
        if value.stamp is None:
            one.tick += 1
        else:
            stamp = np.array([value.stamp], dtype=np.int64)
            one.tick = int(ticks(frequency, np.array([one.first]), stamp)[0])
        one.seq += 1
        y = math.nan if value.y is None else value.y
        if value.y is None and self.voice.gaps == "ffill" and one.window:
            y = one.window[-1][1]
        if value.y is not None:
            one.end = one.tick
            one.count += 1
            apart = value.y - one.mean
            one.mean += apart / one.count
            one.squares += apart * (value.y - one.mean)
        one.window.append((one.tick, y, value.covariates))
        while one.window and one.window[0][0] <= one.end - self.voice.fitted.context:
            one.window.popleft()

    def _forecast(self, asks: Sequence[Ask]) -> list[tuple[Ticket, Any]]:
        """Answer asks in as few passes as may be: a series has one place in each."""
        found: list[tuple[Ticket, Any]] = []
        rest = list(asks)
        while rest:
            now: dict[str, Ask] = {}
            later: list[Ask] = []
            for ask in rest:
                if ask.name in now:
                    later.append(ask)
                else:
                    now[ask.name] = ask
            rest = later
            for some in self._near(list(now.values())):
                found += self._together(some)
        return found

    def _near(self, asks: list[Ask]) -> Iterator[list[Ask]]:
        """Yield asks whose windows lie near each other, so that one calendar holds them."""
        if self.voice.fitted.plan.mixing:
            yield from ([ask] for ask in asks)
            return
        frequency = self.voice.fitted.frequency
        base = np.zeros(1, dtype=np.int64)

        def begins(ask: Ask) -> int:
            one = self._load(ask.name, None, None)
            if self.voice.is_ordered:
                return 0
            return int(ticks(frequency, base, np.array([one.first]))[0]) + max(one.end, 0)

        placed = sorted(((begins(ask), i) for i, ask in enumerate(asks)))
        some: list[Ask] = []
        low = 0
        for place, i in placed:
            if some and place - low > APART:
                yield some
                some = []
            if not some:
                low = place
            some.append(asks[i])
        if some:
            yield some

    def _together(self, asks: Sequence[Ask]) -> list[tuple[Ticket, Any]]:
        try:
            return [(ask.ticket, said) for ask, said in zip(asks, self._ahead(asks), strict=True)]
        except InputError as error:
            if len(asks) == 1:
                return [(asks[0].ticket, error)]
        except Exception as error:  # noqa: BLE001 - said to the one who asked
            if len(asks) == 1:
                log.exception("a forecast of %r failed", asks[0].name)
                failed = RuntimeError(f"the model failed: {type(error).__name__}")
                return [(asks[0].ticket, failed)]
        return [pair for ask in asks for pair in self._together([ask])]

    def _ahead(self, asks: Sequence[Ask]) -> list[Said]:
        """Return forecasts.

        Raises:
            InputError: a series has no value, or what a forecast reads is missing.
        """
        fitted = self.voice.fitted
        wanted = [ask.name for ask in asks]
        names = list(fitted.scale.ids) if fitted.plan.mixing else wanted
        futures = {ask.name: ask.future for ask in asks}
        if fitted.plan.mixing:
            # What is told of the steps ahead without a name holds for every series.
            futures = dict.fromkeys(names, asks[0].future)
        for name in wanted:
            if name not in names:
                raise InputError(
                    f"series {name!r} was not trained on, and the model reads all series together;"
                    f" accepted are its {len(names)} series"
                )
        followed = [self._load(name, None, None) for name in names]
        for name, one in zip(names, followed, strict=True):
            if one.end < 0:
                raise InputError(
                    f"series {name!r} has no value yet; accepted are series with observations"
                )
        table = self._table(names, followed, futures)
        found = self._measured(names, followed).forecast(table)
        place = {name: i for i, name in enumerate(names)}
        return [self._said(table, found, place[name], followed[place[name]]) for name in wanted]

    def _measured(self, names: Sequence[str], followed: Sequence[Followed]) -> Fitted:
        """Return the model with the scale of series that it was not trained on."""
        fitted = self.voice.fitted
        if fitted.plan.mixing or all(name in fitted.number for name in names):
            return fitted
        scale = fitted.scale
        shift, spread = [], []
        for name, one in zip(names, followed, strict=True):
            at_ = fitted.number.get(name)
            deviation = math.sqrt(one.squares / one.count)
            is_spread = deviation > _ROUNDING * max(abs(one.mean), _TINY)
            shift.append(one.mean if at_ is None else float(scale.shift[at_]))
            own = deviation if is_spread else 1.0
            spread.append(own if at_ is None else float(scale.spread[at_]))
        measured = replace(scale, ids=tuple(names), shift=np.array(shift), spread=np.array(spread))
        conformal = fitted.calibration(names)
        return replace(fitted, scale=measured, conformal=conformal)

    def _table(
        self,
        names: Sequence[str],
        followed: Sequence[Followed],
        futures: dict[str, tuple[dict[str, float], ...]],
    ) -> SeriesTable:
        """Return the windows of series, with rows for the steps ahead.

        Raises:
            InputError: series that are read together end at different steps.
        """
        fitted = self.voice.fitted
        scale, frequency, horizon = fitted.scale, fitted.frequency, fitted.horizon
        stops = [one.end for one in followed]
        if fitted.plan.mixing and len({_last(frequency, one) for one in followed}) > 1:
            raise InputError(
                "the model reads all series together, and they do not end at the same step;"
                " accepted are forecasts once each has its newest value"
            )
        starts = [max(0, end - fitted.context + 1) for end in stops]
        if fitted.plan.mixing:
            # Windows that are read together begin together.
            longest = max(end - start for end, start in zip(stops, starts, strict=True))
            starts = [end - longest for end in stops]
        sizes = [end - start + 1 + horizon for end, start in zip(stops, starts, strict=True)]
        begin = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        y = np.full(begin[-1], np.nan)
        past = np.full((begin[-1], len(scale.past_names)), np.nan, dtype=np.float32)
        known = np.full((begin[-1], len(scale.future_names)), np.nan, dtype=np.float32)
        for name, one, low, start in zip(names, followed, begin, starts, strict=False):
            for tick, value, covariates in one.window:
                row = low + tick - start
                y[row] = value if tick <= one.end else np.nan
                past[row] = [covariates.get(x, np.nan) for x in scale.past_names]
                known[row] = [covariates.get(x, np.nan) for x in scale.future_names]
            for i, covariates in enumerate(futures.get(name, ())[:horizon]):
                row = low + one.end + 1 - start + i
                known[row] = [covariates.get(x, np.nan) for x in scale.future_names]
        if self.voice.gaps == "ffill":
            _carry(y, begin, stops, starts)
        first = np.array([one.first for one in followed], dtype=np.int64)
        if not self.voice.is_ordered:
            first = at(frequency, first, np.array(starts, dtype=np.int64))
        return SeriesTable(
            name="request",
            ids=tuple(names),
            start=begin,
            first=first,
            frequency=frequency,
            y=y,
            past=past,
            past_names=scale.past_names,
            future=known,
            future_names=scale.future_names,
            static=np.stack([_facts(one.static, scale.static_names) for one in followed]),
            static_names=scale.static_names,
        )

    def _said(self, table: SeriesTable, found: Ahead, i: int, one: Followed) -> Said:
        fitted = self.voice.fitted
        horizon = fitted.horizon
        stamps: tuple[int, ...] = ()
        if not self.voice.is_ordered:
            after = one.end + 1 + np.arange(horizon, dtype=np.int64)
            stamps = tuple(at(fitted.frequency, one.first, after).tolist())
        intervals = {}
        if found.quantiles is not None:
            for level in intervals_in(found.levels):
                low, high = (place_of(end, found.levels) for end in ends(level))
                assert low is not None and high is not None  # noqa: S101, PT018
                both = (found.quantiles[i, :, place].tolist() for place in (low, high))
                intervals[round(100 * level, 6)] = tuple(both)
        single = replace(table, ids=(table.ids[i],), start=np.array([0, one.end + 1]))
        notes = () if fitted.plan.mixing else fitted.remarks(single)
        return Said(
            one.seq,
            stamps=stamps,
            point=tuple(found.point[i].tolist()),
            intervals=intervals,
            notes=notes,
        )


_BYTES = 200
"""Roughly what a step of a window takes."""

_SHOWN = 1000
"""Names of trained series that a caller is told."""

_ROUNDING, _TINY = 1e-12, 1e-300
"""As series are measured that train: a spread within the rounding of the mean is none."""


def _last(frequency: Frequency, one: Followed) -> int:
    if frequency.kind == "order":
        return one.end
    return int(at(frequency, one.first, np.array([one.end], dtype=np.int64))[0])


def _facts(static: dict[str, float | str], names: Sequence[str]) -> npt.NDArray[np.float32]:
    """Return the facts of a series in the model's columns; text is one column a value."""
    found = []
    for name in names:
        column, _, value = name.partition("=")
        told = static.get(column)
        if name in static:
            found.append(float(static[name]))
        elif value:
            found.append(math.nan if told is None else float(str(told) == value))
        else:
            found.append(math.nan)
    return np.array(found, dtype=np.float32)


def _carry(
    y: npt.NDArray[np.float64], begin: npt.NDArray[np.int64], stops: list[int], starts: list[int]
) -> None:
    """Repeat the last value over the holes before each series' end, in place."""
    for low, end, start in zip(begin, stops, starts, strict=False):
        for row in range(low + 1, low + end - start + 1):
            if math.isnan(y[row]):
                y[row] = y[row - 1]
