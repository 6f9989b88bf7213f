"""What a sceptic would use instead, fitted on the same rows; fitted once, then kept."""

import hashlib
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from filelock import FileLock

from kt_forecast.errors import InputError
from kt_forecast.forecaster import Plan as SeriesPlan
from kt_forecast.sequences.interactions import StudentSequences, Vocabulary
from kt_forecast.tracer import Fitted, Plan, fit_plan

CACHE = "cache"


@runtime_checkable
class Kept(Protocol):
    """What was fitted, of either task."""

    def save(self, folder: Path) -> None:
        """Write it, whole or not at all."""
        ...


F = TypeVar("F", bound=Kept)


def fit_beside(
    chosen: Plan,
    train: StudentSequences,
    valid: StudentSequences,
    vocabulary: Vocabulary,
    *,
    rows: str,
    cache: Path | None,
    device: str,
    say: Callable[[str], None],
) -> Fitted:
    """Return a fitted baseline, from the cache where it was fitted on the same rows before.

    Args:
        chosen: the baseline and its settings.
        train: students that train.
        valid: students that choose.
        vocabulary: names of the training rows.
        rows: hash of data, split and labels.
        cache: folder of the fitted baselines; None fits anew.
        device: where to compute.
        say: told what is done.
    """
    return from_cache(
        chosen,
        lambda: fit_plan(chosen, train, valid, vocabulary, device=device),
        lambda home: Fitted.load(home, device=device),
        rows=rows,
        cache=cache,
        say=say,
    )


def from_cache(
    chosen: Plan | SeriesPlan,
    fit: Callable[[], F],
    load: Callable[[Path], F],
    *,
    rows: str,
    cache: Path | None,
    say: Callable[[str], None],
) -> F:
    """Return what was fitted before with the same settings and code on the same rows, else fit.

    Args:
        chosen: the baseline and its settings.
        fit: fits it.
        load: reads it from a folder.
        rows: hash of data, split and labels.
        cache: folder of the fitted baselines; None fits anew.
        say: told what is done.
    """
    if cache is None:
        fitted = fit()
        say(f"{chosen.name}: fitted")
        return fitted
    home = cache / f"{chosen.name}-{_key(chosen, rows)}"
    cache.mkdir(parents=True, exist_ok=True)
    # Processes side by side want the same baselines: one fits, the others wait for it.
    with FileLock(home.with_name(f".{home.name}.lock")):
        if home.is_dir():
            try:
                found = load(home)
            except InputError:
                say(f"{chosen.name}: what the cache holds cannot be read, fitting anew")
            else:
                say(f"{chosen.name}: from the cache, fitted before on the same rows")
                return found
        fitted = fit()
        fitted.save(home)
    say(f"{chosen.name}: fitted")
    return fitted


def _key(chosen: Plan | SeriesPlan, rows: str) -> str:
    """Return a hash of all that decides a fitted baseline: rows, settings, and its own code."""
    code = inspect.getsource(sys.modules[chosen.part.config.__module__])
    plan = chosen.plain()
    if chosen.training is None:
        # Nothing is drawn where nothing is trained: every seed gives the same.
        plan.pop("seed")
    facts = {"rows": rows, "plan": plan, "code": code}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
