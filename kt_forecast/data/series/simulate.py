"""Simulated demand: several cycles, a break in the trend, and what the weather and holidays add.

A series is its level times a daily shape that depends on what the building is and on whether the
day is a working day, plus heating below one temperature and cooling above another, plus noise that
remembers. The temperature wanders over days, so that what a series did does not tell what it will
do, but the forecast of the temperature does; it and the holidays are known in advance.
"""

import gzip
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from kt_forecast.config import Config
from kt_forecast.data.series.frequency import HOUR
from kt_forecast.schema import DS, UNIQUE_ID, Y

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

TEMPERATURE = "temperature"
"""Forecast of the temperature in degrees Celsius, known in advance."""

HOLIDAY = "holiday"
"""1 on a holiday, known in advance."""

BUILDING = "building"
"""What the building is; a fact of the series."""

_FIRST_HOUR = 1_772_409_600_000_000
_DAY_HOURS = 24
_MONDAY = 0
_HEATING_BELOW = 13.0
_COOLING_ABOVE = 21.0
_MILD = 17.0
_BUILDINGS = {
    # hours of the two peaks, weight of the second, how much is left on a day off, heating, cooling
    "home": (7.0, 19.0, 1.2, 1.15, 0.055, 0.030),
    "office": (10.0, 15.0, 0.9, 0.45, 0.040, 0.080),
    "shop": (12.0, 18.0, 1.0, 0.75, 0.030, 0.070),
}


class SeriesSimulation(Config):
    """What to simulate.

    Attributes:
        series: how many.
        days: of each series, hourly.
        weather: how far the temperature wanders over days, in degrees.
        noise: standard deviation of what nothing explains, as a share of the level.
        holidays: share of days that are holidays, the same for all series.
        seed: of everything.
    """

    series: int = Field(12, ge=1)
    days: int = Field(90, ge=14)
    weather: float = Field(6.0, ge=0.0)
    noise: float = Field(0.06, ge=0.0)
    holidays: float = Field(0.12, ge=0.0, lt=1.0)
    seed: int = 0


def simulate(settings: SeriesSimulation) -> pl.DataFrame:
    """Return a long table of simulated series with two covariates known in advance and a fact."""
    draw = np.random.default_rng(settings.seed)
    hours = settings.days * _DAY_HOURS
    hour = np.arange(hours)
    day = hour // _DAY_HOURS
    holiday = draw.random(settings.days) < settings.holidays
    off = holiday[day] | ((day + _MONDAY) % 7 >= 5)
    kinds = [list(_BUILDINGS)[series % len(_BUILDINGS)] for series in range(settings.series)]
    temperature = _temperatures(settings, draw, hour)
    forecast = temperature + draw.normal(0.0, 0.4, temperature.shape)
    y = np.stack(
        [
            _demand(_BUILDINGS[kind], off, own, settings.noise, draw)
            for kind, own in zip(kinds, temperature, strict=True)
        ]
    )
    ids = [f"{kind}-{series + 1}" for series, kind in enumerate(kinds)]
    stamps = pl.Series(_FIRST_HOUR + hour * HOUR).cast(pl.Datetime("us"))
    return pl.DataFrame(
        {
            UNIQUE_ID: np.repeat(np.array(ids), hours),
            DS: pl.concat([stamps] * settings.series),
            Y: y.reshape(-1).round(2),
            TEMPERATURE: forecast.reshape(-1).round(1),
            HOLIDAY: np.tile(holiday[day].astype(np.int8), settings.series),
            BUILDING: np.repeat(np.array(kinds), hours),
        }
    )


def write(frame: pl.DataFrame, path: Path) -> None:
    """Write a table of series as gzipped CSV; the same table gives the same bytes."""
    text = frame.write_csv(datetime_format="%Y-%m-%d %H:%M")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(gzip.compress(text.encode(), mtime=0))
    part.replace(path)


def _temperatures(settings: SeriesSimulation, draw: np.random.Generator, hour: Ints) -> Floats:
    """Return the temperature where each series is: fronts for all, a little of its own."""
    shared = _wandering(len(hour), 18.0, draw) * settings.weather
    daily = 4.0 * np.sin(2 * np.pi * (hour - 9) / _DAY_HOURS)
    own = [_wandering(len(hour), 24.0, draw) * settings.weather / 3 for _ in range(settings.series)]
    return _MILD + daily + shared + np.stack(own)


def _demand(
    building: tuple[float, ...],
    off: npt.NDArray[np.bool_],
    temperature: Floats,
    noise: float,
    draw: np.random.Generator,
) -> Floats:
    """Return one series."""
    first, second, weight, left, heating, cooling = building
    hours = len(temperature)
    clock = np.arange(hours) % _DAY_HOURS
    shape = 0.4 + _peak(clock, first) + weight * _peak(clock, second)
    shape = np.where(off, 0.4 + left * (shape - 0.4), shape)
    cold = np.maximum(0.0, _HEATING_BELOW - temperature)
    hot = np.maximum(0.0, temperature - _COOLING_ABOVE)
    # Nobody heats or cools an empty building much: the weather's part follows the shape of the day.
    weather = (heating * cold + cooling * hot) * (0.3 + shape)
    place = np.arange(hours) / hours
    broken = draw.uniform(0.3, 0.6)
    before, after = draw.normal(0.0, 0.25, 2)
    trend = 1.0 + before * np.minimum(place, broken) + after * np.maximum(0.0, place - broken)
    level = draw.lognormal(3.0, 0.6)
    return level * (trend * shape + weather + noise * _wandering(hours, 2.0, draw))


def _peak(clock: Ints, at: float) -> Floats:
    away = (clock - at + _DAY_HOURS / 2) % _DAY_HOURS - _DAY_HOURS / 2
    return np.exp(-0.5 * (away / 2.5) ** 2)


def _wandering(hours: int, memory: float, draw: np.random.Generator) -> Floats:
    """Return noise of unit spread that forgets within ``memory`` hours, in both directions alike.

    White noise is smoothed in the domain of frequencies; the series is cut out of a longer one, so
    that its ends do not meet.
    """
    length = 2 * hours
    frequency = np.fft.rfftfreq(length)
    weight = 1.0 / (1.0 + (2 * np.pi * memory * frequency) ** 2)
    noise = np.fft.irfft(np.fft.rfft(draw.normal(size=length)) * weight, length)[:hours]
    return (noise - noise.mean()) / noise.std()
