"""One word reaches everything that can be trained: published systems, neural and fitted baselines.

The folders ``zoo/`` and ``baselines/`` are the registry; there is no list.
"""

import sys
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from kt_forecast import zoo
from kt_forecast.baselines import Baseline
from kt_forecast.config import Config, Range
from kt_forecast.errors import InputError
from kt_forecast.nn.system import Paper, System, SystemConfig, modules_in, unknown
from kt_forecast.tasks.knowledge_tracing import TracingConfig, refuse_illegal
from kt_forecast.training import TrainingConfig


@dataclass(frozen=True)
class Plan:
    """What will be trained, and how, with every setting resolved and checked.

    Attributes:
        name: the word that reaches it.
        part: the system, or the fitted baseline.
        settings: its own settings.
        tracing: settings of the task; None for a fitted baseline.
        training: settings of the loop; None for a fitted baseline.
        history: the most a prediction may look back on, its own step included; None for all.
        seed: of first weights and training.
    """

    name: str
    part: System | Baseline
    settings: Config
    tracing: TracingConfig | None
    training: TrainingConfig | None
    history: int | None
    seed: int

    def plain(self) -> dict[str, Any]:
        """Return what `plan` needs to make the same plan again, as JSON can hold it."""
        return {
            "system": self.name,
            "settings": self.settings.model_dump(mode="json"),
            "tracing": self.tracing.model_dump(mode="json") if self.tracing else {},
            "training": self.training.model_dump(mode="json", exclude={"seed"})
            if self.training
            else {},
            "history": self.history,
            "seed": self.seed,
        }


def names() -> list[str]:
    """Return every word that reaches something to train."""
    return sorted({*zoo.names(), *modules_in("kt_forecast.baselines")})


def find(name: str) -> System | Baseline:
    """Return what a word reaches.

    Raises:
        InputError: it reaches nothing; the nearest word is suggested.
    """
    from importlib import import_module

    if name in zoo.names():
        return zoo.load(name)
    if name not in names():
        raise InputError(unknown(str(name), names(), "system"))
    module = import_module(f"kt_forecast.baselines.{name}")
    found: System | Baseline = getattr(module, "BASELINE", None) or module.SYSTEM
    return found


def plan(
    system: str,
    settings: dict[str, Any] | None = None,
    tracing: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    *,
    history: int | None = None,
    seed: int = 0,
) -> Plan:
    """Resolve and check what will be trained.

    Args:
        system: a word of `names`.
        settings: the system's own settings.
        tracing: settings of the task, beside those that the system was published with.
        training: settings of the loop.
        history: the most a prediction may look back on, its own step included; None for all.
        seed: of first weights and training.

    Raises:
        InputError: the word, a key or a value is unknown, or the system may not be used so.
    """
    part = find(system)
    if history is not None and not _is_whole(history, 1):
        raise InputError(f"history is {history!r}; accepted are whole numbers from 1, or none")
    if not _is_whole(seed, 0):
        raise InputError(f"seed is {seed!r}; accepted are whole numbers from 0")
    history, seed = None if history is None else int(history), int(seed)
    own = part.config.parse(settings or {}, f"settings of {system}")
    if isinstance(part, Baseline):
        if part.task != "knowledge_tracing":
            raise InputError(
                f"{system} forecasts series and cannot trace students; accepted are the systems"
                " and baselines of knowledge tracing"
            )
        for name, given in (("tracing", tracing), ("training", training)):
            if given:
                raise InputError(
                    f"{system} is a fitted baseline and has no {name}; accepted are settings of"
                    " its own"
                )
        return Plan(system, part, own, None, None, history, seed)
    task = TracingConfig.parse((part.tracing or {}) | (tracing or {}), f"tracing of {system}")
    assert isinstance(own, SystemConfig)  # noqa: S101 - what `System.config` promises
    refuse_illegal(part, own, task)
    loop = TrainingConfig.parse((training or {}) | {"seed": seed}, "training")
    return Plan(system, part, own, task, loop, history, seed)


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def catalogue() -> list[tuple[str, str, str, str]]:
    """Return name, family, promises and paper of everything that can be trained."""
    rows = []
    for name in names():
        part = find(name)
        family, promises = "baseline", "causal: fitted on training rows"
        if isinstance(part, System):
            family, promises = part.family, part.promises.summary()
        rows.append((name, family, promises, _cited(part.paper)))
    return rows


def entry(name: str) -> dict[str, Any]:
    """Return all that its file says of one system or baseline.

    Returns:
        ``page`` (its docstring, with the departures from the paper), ``promises``, ``paper``,
        ``url``, and ``settings``: name, default and search space of each.

    Raises:
        InputError: the word reaches nothing; the nearest is suggested.
    """
    part = find(name)
    spaces = part.config.spaces()
    return {
        "page": (sys.modules[part.config.__module__].__doc__ or "").strip(),
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
