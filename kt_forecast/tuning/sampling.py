"""How the next settings are chosen, and which trials are given up early."""

from collections.abc import Callable
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from kt_forecast.tuning.settings import Pruner, Sampler
from kt_forecast.tuning.space import Dimension, Space

RUNGS = 9
"""A trial is first looked at after this share of its epochs, and after a third of them."""
REDUCTION = 3
MANY = 1_000_003
STARTUP = 10
"""Trials at random before a model of them is trusted."""


class Seeded(BaseSampler):  # type: ignore[misc]
    """A sampler whose choice for a trial follows from the study's seed and the trial's number.

    One process draws the same trials each time, and two that draw at once do not draw the same.

    Args:
        make: makes the sampler from a seed.
        seed: of the study.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make = make
        self._seed = seed
        self._inner = make(seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Start anew for a trial."""
        self._inner = self._make((self._seed * MANY + trial.number) % 2**32)
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return what is sampled together."""
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return values that were sampled together."""
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:  # noqa: ANN401
        """Return a value that was sampled alone."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Any,  # noqa: ANN401
    ) -> None:
        """Keep what the sampler keeps of a trial."""
        self._inner.after_trial(study, trial, state, values)


def sampler(name: Sampler, seed: int) -> BaseSampler:
    """Return a sampler by its name."""

    def make(own: int) -> BaseSampler:
        if name == "gp":
            return GPSampler(seed=own, n_startup_trials=STARTUP)
        if name == "cmaes":
            return CmaEsSampler(seed=own, n_startup_trials=STARTUP)
        if name == "nsga2":
            return NSGAIISampler(seed=own, population_size=16)
        return TPESampler(seed=own, n_startup_trials=STARTUP, constant_liar=True)

    return Seeded(make, seed)


def pruner(name: Pruner, chooses: Sampler, epochs: int) -> BasePruner:
    """Return a pruner by its name.

    Args:
        name: ``auto`` is ``halving`` with ``tpe``, which learns from pruned trials too, else none.
        chooses: the sampler.
        epochs: the most that a trial trains.
    """
    if name == "none" or (name == "auto" and chooses != "tpe") or epochs < REDUCTION:
        return NopPruner()
    least = max(1, epochs // RUNGS)
    if name == "hyperband":
        return HyperbandPruner(min_resource=least, max_resource=epochs, reduction_factor=REDUCTION)
    return SuccessiveHalvingPruner(min_resource=least, reduction_factor=REDUCTION)


def suggested(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """Return the values of a trial by dotted name."""
    return {one.name: unlabelled(one, _suggested(trial, one)) for one in space.dimensions}


def _suggested(trial: optuna.Trial, one: Dimension) -> Any:  # noqa: ANN401
    if one.choices:
        return trial.suggest_categorical(one.name, [label(choice) for choice in one.choices])
    if one.whole:
        return trial.suggest_int(one.name, round(one.low), round(one.high), log=one.log)
    return trial.suggest_float(one.name, one.low, one.high, log=one.log)


def label(choice: Any) -> Any:  # noqa: ANN401
    """Return a value as Optuna can keep it."""
    return (
        choice if choice is None or isinstance(choice, bool | int | float | str) else repr(choice)
    )


def unlabelled(one: Dimension, kept: Any) -> Any:  # noqa: ANN401
    """Return the choice that a label stands for."""
    if not one.choices:
        return kept
    return next(choice for choice in one.choices if label(choice) == kept)
