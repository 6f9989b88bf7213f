"""What will be trained on students, and how: every setting resolved and checked first."""

from dataclasses import dataclass
from numbers import Integral
from typing import Any

from kt_forecast.baselines import Baseline
from kt_forecast.catalogue import find
from kt_forecast.config import Config
from kt_forecast.errors import InputError
from kt_forecast.nn.system import System, SystemConfig
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
        system: a word of the catalogue.
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
    if loop.segment is not None:
        refuse_stateless(system, part, "training.segment")
    return Plan(system, part, own, task, loop, history, seed)


def refuse_stateless(name: str, part: System | Baseline, asked: str) -> None:
    """Refuse what carries a state, for a system that keeps none.

    Raises:
        InputError: it does.
    """
    if isinstance(part, System) and not part.promises.streaming:
        raise InputError(
            f"{asked} carries a state from segment to segment, and {name} keeps none; accepted is a"
            " system that streams, as `kt-forecast zoo` says of each"
        )


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least
