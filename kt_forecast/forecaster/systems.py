"""What will be trained to forecast, and how: every setting resolved and checked first."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

from kt_forecast.baselines import Baseline
from kt_forecast.catalogue import FORECASTING, find, serves, serving
from kt_forecast.config import Config
from kt_forecast.errors import InputError
from kt_forecast.nn.system import System, SystemConfig, unknown
from kt_forecast.tasks.forecasting import ForecastingConfig, Loss, refuse_unfit, refuse_unstreamed
from kt_forecast.training import TrainingConfig

CONTEXT = "context"
WINDOWS_PER_BATCH = "windows_per_batch"
STEPS_PER_BATCH = "steps_per_batch"
SEED_APART = 1000
"""Seeds between two members, so that runs of neighbouring seeds share none."""

HORIZON = "horizon"
OF_ANY = (HORIZON, CONTEXT)
"""Settings of the task that a fitted baseline has too."""

UNFIT = {"dense": False, "start": "random"}
"""Settings of the task that not every system can be trained with, and what all can."""

OF_MEMBER = ("system", "settings", "forecasting", "training", "seed")
"""What a member of an ensemble may have of its own."""

ALIKE = ("mixing", "calendar", "output")
"""Settings of the task that all members of an ensemble share."""

METRICS: dict[Loss, str] = {
    "mse": "mse",
    "mae": "mae",
    "huber": "mae",
    "pinball": "pinball",
    "crps": "pinball",
    "nll": "pinball",
}
"""The error on the validation windows that chooses the epoch where no setting says so."""


@dataclass(frozen=True)
class Plan:
    """What will be trained, and how, with every setting resolved and checked.

    Attributes:
        name: the word that reaches it.
        part: the system, or the fitted baseline.
        settings: its own settings.
        forecasting: settings of the task; of a fitted baseline only horizon and context count.
        training: settings of the loop; None for a fitted baseline.
        seed: of first weights and training.
        members: what else is trained, each by itself; the forecast is the mean of all.
    """

    name: str
    part: System | Baseline
    settings: Config
    forecasting: ForecastingConfig
    training: TrainingConfig | None
    seed: int
    members: tuple["Plan", ...] = ()

    @property
    def horizon(self) -> int:
        """Steps ahead."""
        return self.forecasting.horizon

    @property
    def mixing(self) -> bool:
        """Whether a window holds all series of an aligned table as its channels."""
        return self.forecasting.mixing

    def plain(self) -> dict[str, Any]:
        """Return what `plan` needs to make the same plan again, as JSON can hold it."""
        fitted = isinstance(self.part, Baseline)
        task = self.forecasting.model_dump(mode="json", include=set(OF_ANY) if fitted else None)
        loop = {"seed", STEPS_PER_BATCH}
        return {
            "system": self.name,
            "settings": self.settings.model_dump(mode="json"),
            "forecasting": task,
            "training": self.training.model_dump(mode="json", exclude=loop)
            if self.training
            else {},
            "seed": self.seed,
        } | ({"members": [member.plain() for member in self.members]} if self.members else {})


def plan(
    system: str,
    settings: dict[str, Any] | None = None,
    forecasting: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    *,
    seed: int = 0,
    members: Iterable[Any] = (),
) -> Plan:
    """Resolve and check what will be trained.

    Args:
        system: a word of the catalogue.
        settings: the system's own settings.
        forecasting: settings of the task, beside those that the system was published with. The
            context of a fitted baseline that has one of its own is that one.
        training: settings of the loop; the loss names the metric that chooses the epoch.
        seed: of first weights and training.
        members: what else is trained, each by itself, for the mean of all their forecasts: the
            changes that make a member of what stands above, by the same names, ``system`` among
            them. A member of another system takes over the horizon alone. Seeds follow ``seed``.

    Raises:
        InputError: the word, a key or a value is unknown, or the system may not be used so.
    """
    settings, forecasting, training = settings or {}, forecasting or {}, training or {}
    first = _alone(system, settings, forecasting, training, seed)
    others = tuple(
        _alone(**_member(first, (settings, forecasting, training), change, number))
        for number, change in enumerate(members, 1)
    )
    for number, other in enumerate(others, 1):
        _refuse_unlike(first, other, f"members[{number}]")
    return replace(first, members=others)


def taken_over(system: str, forecasting: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return what of another system's task this one takes over, and the names of the rest.

    Systems that mix steps share all settings of the task. A whole network stays what it was
    published with, but for horizon and context; a fitted baseline has these two alone. What a
    system cannot be trained with is left behind.

    Args:
        system: a word of the catalogue.
        forecasting: settings of the task, as a recipe gives them.

    Raises:
        InputError: the word or a setting is unknown.
    """
    part, kept = find(system), dict(forecasting)
    if isinstance(part, Baseline):
        kept = {key: value for key, value in forecasting.items() if key in OF_ANY}
        return kept, [key for key in forecasting if key not in kept]
    published, own = part.forecasting or {}, part.config()
    assert isinstance(own, SystemConfig)  # noqa: S101 - what `System.config` promises
    if part.is_network(own):
        kept = {k: v for k, v in forecasting.items() if k in OF_ANY or k not in published}
    for name in UNFIT:
        neutral = {other: value for other, value in UNFIT.items() if other != name}
        task = ForecastingConfig.parse(published | kept | neutral, f"forecasting of {system}")
        try:
            refuse_unfit(part, own, task)
        except InputError:
            kept.pop(name, None)
    same = published | kept
    return kept, [key for key, value in forecasting.items() if same.get(key) != value]


def _alone(
    system: str,
    settings: dict[str, Any],
    forecasting: dict[str, Any],
    training: dict[str, Any],
    seed: int,
) -> Plan:
    """Resolve and check one member.

    Raises:
        InputError: the word, a key or a value is unknown, or the system may not be used so.
    """
    part = find(system)
    if FORECASTING not in serves(part):
        raise InputError(
            f"{system} traces students and cannot forecast series; accepted are"
            f" {', '.join(serving(FORECASTING))}"
        )
    if not isinstance(seed, Integral) or isinstance(seed, bool) or int(seed) < 0:
        raise InputError(f"seed is {seed!r}; accepted are whole numbers from 0")
    seed, where = int(seed), f"forecasting of {system}"
    if isinstance(part, Baseline):
        settings = _of_baseline(system, part, settings, forecasting, training)
        own = part.config.parse(settings, f"settings of {system}")
        context = getattr(own, CONTEXT, None)
        longest = max(context) if isinstance(context, tuple) else context
        known = {} if longest is None else {CONTEXT: longest}
        task = ForecastingConfig.parse(forecasting | known, where)
        return Plan(system, part, own, task, None, seed)
    own = part.config.parse(settings, f"settings of {system}")
    task = ForecastingConfig.parse((part.forecasting or {}) | forecasting, where)
    assert isinstance(own, SystemConfig)  # noqa: S101 - what `System.config` promises
    refuse_unfit(part, own, task)
    if STEPS_PER_BATCH in training:
        raise InputError(
            f"training: {STEPS_PER_BATCH} is for students; accepted for series is"
            f" {WINDOWS_PER_BATCH} of forecasting"
        )
    chosen = {"metric": METRICS[task.loss], "direction": "min"}
    loop = TrainingConfig.parse(chosen | training | {"seed": seed}, "training")
    if loop.segment is not None:
        refuse_unstreamed(system, part, task)
        if loop.segment % task.patch:
            raise InputError(
                f"training.segment is {loop.segment} steps; accepted are multiples of"
                f" forecasting.patch, which is {task.patch}"
            )
    return Plan(system, part, own, task, loop, seed)


def _member(
    first: Plan,
    own: tuple[dict[str, Any], ...],
    change: Any,  # noqa: ANN401 - refused below where it is no table
    number: int,
) -> dict[str, Any]:
    """Return what makes a member: the first one's, changed.

    Raises:
        InputError: the change is none, or has an unknown key.
    """
    where = f"members[{number}]"
    if not isinstance(change, dict):
        raise InputError(f"{where} is {change!r}; accepted is a table of {', '.join(OF_MEMBER)}")
    for key in change:
        if key not in OF_MEMBER:
            raise InputError(f"{where}: {unknown(key, list(OF_MEMBER), 'key of a member')}")
    name = change.get("system", first.name)
    if name != first.name:
        own = ({}, {}, {})
    found = {key: kept | change.get(key, {}) for key, kept in zip(OF_MEMBER[1:4], own, strict=True)}
    found["forecasting"][HORIZON] = first.horizon
    return found | {"system": name, "seed": change.get("seed", first.seed + number * SEED_APART)}


def _refuse_unlike(first: Plan, other: Plan, where: str) -> None:
    """Refuse a member whose forecasts cannot be averaged with the first one's.

    Raises:
        InputError: it is one.
    """
    if first.forecasting.output != "point":
        raise InputError(
            f"members are averaged, and forecasting.output is {first.forecasting.output!r};"
            " accepted is 'point', from which intervals are calibrated"
        )
    if isinstance(other.part, Baseline) and not first.mixing:
        return
    for name in ALIKE:
        mine, own = getattr(first.forecasting, name), getattr(other.forecasting, name)
        if mine != own:
            raise InputError(
                f"{where}: forecasting.{name} is {own!r} where the first member's is {mine!r};"
                f" accepted is the same {', '.join(ALIKE)} for all"
            )


def _of_baseline(
    system: str,
    part: Baseline,
    settings: dict[str, Any],
    forecasting: dict[str, Any],
    training: dict[str, Any],
) -> dict[str, Any]:
    """Return the settings of a fitted baseline, its context among them.

    Raises:
        InputError: it is given what only a trained system has.
    """
    other = [name for name in forecasting if name not in OF_ANY]
    if training or other:
        what = "training" if training else f"forecasting setting {other[0]!r}"
        raise InputError(
            f"{system} is a fitted baseline and has no {what}; accepted are settings of its own,"
            f" and {' and '.join(OF_ANY)}"
        )
    if CONTEXT in forecasting and CONTEXT in part.config.model_fields:
        return {CONTEXT: forecasting[CONTEXT]} | settings
    return settings
