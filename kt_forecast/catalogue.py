"""One word reaches everything that can be trained: published systems, neural and fitted baselines.

The folders ``zoo/`` and ``baselines/`` are the registry; there is no list.
"""

import sys
from typing import Any

from kt_forecast import baselines, zoo
from kt_forecast.baselines import Baseline
from kt_forecast.config import Range
from kt_forecast.errors import InputError
from kt_forecast.nn.system import Paper, System, unknown

TRACING = "students"
FORECASTING = "series"
"""What a system is for, in the catalogue's words."""


def names() -> list[str]:
    """Return every word that reaches something to train."""
    return sorted({*zoo.names(), *baselines.names()})


def find(name: str) -> System | Baseline:
    """Return what a word reaches.

    Raises:
        InputError: it reaches nothing; the nearest word is suggested.
    """
    if name in zoo.names():
        return zoo.load(name)
    if name not in names():
        raise InputError(unknown(str(name), names(), "system"))
    return baselines.load(name)


def serves(part: System | Baseline) -> tuple[str, ...]:
    """Return what a system or baseline is for: students, series, or both.

    A mixer of steps traces students and forecasts; a whole network forecasts only.
    """
    if isinstance(part, System):
        return (FORECASTING,) if part.build is None else (TRACING, FORECASTING)
    return (FORECASTING,) if part.task == "forecasting" else (TRACING,)


def serving(task: str) -> list[str]:
    """Return every word that reaches something for students, or for series."""
    return [name for name in names() if task in serves(find(name))]


def catalogue() -> list[tuple[str, str, str, str, str]]:
    """Return name, family, what it is for, promises and paper of everything that can be trained."""
    rows = []
    for name in names():
        part = find(name)
        family, promises = "baseline", "causal: fitted on training rows"
        if isinstance(part, System):
            family, promises = part.family, part.promises.summary()
        rows.append((name, family, ", ".join(serves(part)), promises, _cited(part.paper)))
    return rows


def entry(name: str) -> dict[str, Any]:
    """Return all that its file says of one system or baseline.

    Returns:
        ``page`` (its docstring, with the departures from the paper), ``serves``, ``promises``,
        ``paper``, ``url``, and ``settings``: name, default and search space of each.

    Raises:
        InputError: the word reaches nothing; the nearest is suggested.
    """
    part = find(name)
    spaces = part.config.spaces()
    return {
        "page": (sys.modules[part.config.__module__].__doc__ or "").strip(),
        "serves": ", ".join(serves(part)),
        "promises": part.promises.summary() if isinstance(part, System) else "",
        "paper": _cited(part.paper),
        "url": part.paper.url if part.paper else "",
        "settings": [
            (key, str(field.default), _space(spaces.get(key)))
            for key, field in part.config.model_fields.items()
        ],
    }


def _cited(paper: Paper | None) -> str:
    return f"{paper.authors} {paper.year}: {paper.title}" if paper else ""


def _space(space: Range | list[Any] | None) -> str:
    if isinstance(space, Range):
        return f"{space.low} to {space.high}" + (", by its logarithm" if space.log else "")
    return "" if space is None else ", ".join(map(str, space))
