"""What a sceptic would use instead, fitted on the same rows; fitted once, then kept."""

import hashlib
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path

from kt_forecast.errors import InputError
from kt_forecast.sequences.interactions import StudentSequences, Vocabulary
from kt_forecast.tracer import Fitted, Plan, fit_plan

CACHE = "cache"


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
    if cache is None:
        say(f"{chosen.name}: fitted")
        return fit_plan(chosen, train, valid, vocabulary, device=device)
    home = cache / f"{chosen.name}-{_key(chosen, rows)}"
    if home.is_dir():
        try:
            found = Fitted.load(home, device=device)
        except InputError:
            say(f"{chosen.name}: what the cache holds cannot be read, fitting anew")
        else:
            say(f"{chosen.name}: from the cache, fitted before on the same rows")
            return found
    fitted = fit_plan(chosen, train, valid, vocabulary, device=device)
    fitted.save(home)
    say(f"{chosen.name}: fitted")
    return fitted


def _key(chosen: Plan, rows: str) -> str:
    """Return a hash of all that decides a fitted baseline: rows, settings, and its own code."""
    code = inspect.getsource(sys.modules[chosen.part.build.__module__])
    facts = {"rows": rows, "plan": chosen.plain(), "code": code}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
