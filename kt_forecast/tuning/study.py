"""One study from its space to its winner."""

import hashlib
import json
import math
import warnings
from contextlib import suppress

import optuna
from optuna.storages import BaseStorage

from kt_forecast.errors import InputError
from kt_forecast.tuning import ledger
from kt_forecast.tuning.desk import Desk
from kt_forecast.tuning.frozen import seen
from kt_forecast.tuning.ledger import Slot, Trial, slots
from kt_forecast.tuning.place import Budget, Phase, Place, View, final_name
from kt_forecast.tuning.problem import Found, Problem
from kt_forecast.tuning.settings import Search
from kt_forecast.tuning.space import Sections, Space, space_of
from kt_forecast.tuning.storage import close, open_storage, opened

FEWEST = 10
"""Completed trials below which nothing is said of the importance of fields."""


def search(problem: Problem, settings: Search, place: Place, budget: Budget) -> Found:
    """Work on a study until its budget is used up, and return what it found.

    Args:
        problem: what it is about; test rows have no way into it.
        settings: how it searches.
        place: where it lives; other processes may work on it at the same time.
        budget: until when this process works.

    Raises:
        InputError: nothing can be searched, the storage cannot be opened, or the recipe as it
            stands cannot be trained.
    """
    space = _space(problem, settings)
    with opened(place.storage) as storage:
        desk = Desk(problem, settings, space, place, budget, storage)
        desk.work(settings.trials, reserve=True)
        _refuse_broken(desk)
        final = _finals(desk, settings)
        if final is not None:
            final.work(len(final.slots()))
        return _found(desk, settings)


def best_of(problem: Problem, settings: Search, name: str = "") -> tuple[Found, Sections]:
    """Search in this process alone; return what was found and the winner's settings.

    Args:
        problem: what the study is about.
        settings: how it searches; without a storage its trials are kept in memory.
        name: of the study in its storage; by default one that says what it is about.

    Raises:
        InputError: nothing can be searched, or no trial was completed.
    """
    place = Place(name or name_of(problem, settings), settings.storage)
    found = search(problem, settings, place, Budget.of(settings))
    if found.sections is None:
        raise InputError(
            f"{problem.system}: no trial was completed in the time that was given; accepted are"
            " more hours, or fewer epochs"
        )
    return found, found.sections


def name_of(problem: Problem, settings: Search, title: str = "") -> str:
    """Return a name that two studies share only if their trials can be compared.

    Args:
        problem: what the study is about.
        settings: how it searches.
        title: what the name begins with; by default the system's name.
    """
    about = [
        problem.system,
        problem.sections,
        problem.metric,
        problem.seed,
        problem.rows,
        _space(problem, settings).plain(),
        settings.cost if settings.weighs_cost else "",
    ]
    text = json.dumps(about, sort_keys=True, default=str)
    return f"{title or problem.system}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def collect(problem: Problem, settings: Search, place: Place) -> Found:
    """Return what a study has found by now, without work of this process's own.

    Raises:
        InputError: the storage cannot be opened.
    """
    with opened(place.storage) as storage:
        desk = Desk(problem, settings, _space(problem, settings), place, Budget(), storage)
        return _found(desk, settings)


class Viewer:
    """Tells how far a study is, for a process that does not work on it.

    Args:
        problem: what it is about.
        settings: how it searches.
        place: where it lives.
        deadline: when it ends, by the clock of `time.time`.

    Raises:
        InputError: the storage cannot be opened.
    """

    def __init__(
        self, problem: Problem, settings: Search, place: Place, deadline: float | None
    ) -> None:
        self._problem = problem
        self._settings = settings
        self._name = place.name
        self._deadline = deadline
        self._storage: BaseStorage = open_storage(place.storage)

    def close(self) -> None:
        """Let go of the storage."""
        close(self._storage)

    def now(self) -> View | None:
        """Return how far it is; None where nobody has begun it."""
        final = self._slots(final_name(self._name), None)
        if final:
            return self._view("finalists", final, len(final))
        taken = self._slots(self._name, self._settings.trials)
        return self._view("search", taken, self._settings.trials) if taken else None

    def _slots(self, name: str, total: int | None) -> list[Slot]:
        with suppress(KeyError):
            study = optuna.load_study(study_name=name, storage=self._storage)
            return slots(map(seen, study.get_trials(deepcopy=False)), total)
        return []

    def _view(self, phase: Phase, taken: list[Slot], total: int | None) -> View:
        name, deadline = self._problem.system, self._deadline
        return View(name, phase, tuple(taken), total, self._problem, deadline)


def _space(problem: Problem, settings: Search) -> Space:
    return space_of(problem.sections, problem.configs, settings.space, problem.check)


def _refuse_broken(desk: Desk) -> None:
    """Refuse a recipe that itself could not be trained.

    Raises:
        InputError: it could not, and nothing else could.
    """
    last = [slot.last for slot in desk.slots()]
    first = next((one for one in last if one.is_default), None)
    if first is not None and first.state == "pruned" and all(t.state != "complete" for t in last):
        raise InputError(f"{desk.problem.system}: the recipe as it stands: {first.reason}")


def _finals(desk: Desk, settings: Search) -> Desk | None:
    """Return the study of finalists, with a trial booked for each seed that is missing."""
    if settings.seeds == 1:
        return None
    chosen = finalists(desk, settings)
    if not chosen:
        return None
    final = Desk(
        desk.problem,
        settings,
        desk.space,
        desk.place,
        desk.budget,
        desk.storage,
        phase="finalists",
        run=desk.run,
    )
    there = {one.key for one in final.trials()}
    for one in chosen:
        for seed in _seeds(desk.problem, settings)[1:]:
            key = ledger.repeat_of(one.number, seed)
            if key not in there:
                notes = {ledger.KEY: key, ledger.OF: one.number, ledger.SEED: seed}
                if one.is_default:
                    notes[ledger.DEFAULT] = True
                final.book(desk.unlabelled(one), notes)
    return final


def _seeds(problem: Problem, settings: Search) -> list[int]:
    return [problem.seed + i for i in range(settings.seeds)]


def finalists(desk: Desk, settings: Search) -> list[Trial]:
    """Return the best completed trials, and the recipe as it stands beside them."""
    done = [s.last for s in desk.slots() if s.last.state == "complete"]
    sign = -1 if desk.problem.direction == "max" else 1
    ranked = sorted(done, key=lambda one: (sign * one.value, one.number))
    best = ranked[: settings.finalists]
    return best + [one for one in ranked if one.is_default and one not in best]


def _found(desk: Desk, settings: Search) -> Found:
    """Return what the study found by now."""
    desk.total = settings.trials
    problem, taken = desk.problem, desk.slots()
    trials = tuple(slot.last for slot in taken)
    lost = tuple(one for slot in taken for one in slot.tries if one.state == "failed")
    repeats = _repeats(desk, settings)
    wanted = min(settings.seeds, max(map(len, repeats.values()), default=1))
    full = [number for number, values in repeats.items() if len(values) >= wanted]
    sign = -1 if problem.direction == "max" else 1
    found = Found(
        name=desk.place.name,
        problem=problem,
        space=desk.space,
        trials=trials,
        lost=lost,
        repeats=repeats,
        importance=_importance(desk),
        front=_front(trials, problem, settings),
        run=desk.run,
    )
    if not full:
        return found
    best = min(full, key=lambda number: (sign * found.mean(number), number))
    winner = found.trial(best)
    sections = problem.sections
    if not winner.is_default:
        sections = desk.space.applied(sections, desk.unlabelled(winner))
    return Found(**{**vars(found), "winner": best, "sections": sections})


def _repeats(desk: Desk, settings: Search) -> dict[int, dict[int, float]]:
    """Return the scores of finalists by trial and seed."""
    seed = desk.problem.seed
    found = {one.number: {seed: one.value} for one in finalists(desk, settings)}
    if settings.seeds == 1:
        return found
    with suppress(KeyError):
        study = optuna.load_study(study_name=final_name(desk.place.name), storage=desk.storage)
        for slot in slots(map(seen, study.get_trials(deepcopy=False))):
            of, own = slot.last.notes.get(ledger.OF), slot.last.notes.get(ledger.SEED)
            if (
                slot.last.state == "complete"
                and of in found
                and own in _seeds(desk.problem, settings)
            ):
                found[of][own] = slot.last.value
    return found


def _front(trials: tuple[Trial, ...], problem: Problem, settings: Search) -> tuple[int, ...]:
    """Return the trials that no other beats in score and cost at once, cheapest first."""
    priced = [
        (float(cost), one)
        for one in trials
        if one.state == "complete" and (cost := one.facts.get(settings.cost)) is not None
    ]
    found: list[Trial] = []
    sign = -1 if problem.direction == "max" else 1
    for _, one in sorted(priced, key=lambda pair: (pair[0], sign * pair[1].value, pair[1].number)):
        if not found or problem.better(one.value, found[-1].value):
            found.append(one)
    return tuple(one.number for one in found)


def _importance(desk: Desk) -> dict[str, float]:
    """Return the share of the score's variation that each field explains; none for few trials."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    done = [s.last for s in desk.slots() if s.last.state == "complete"]
    if len(done) < FEWEST or len({one.value for one in done}) < 2:
        return {}
    study = desk.study
    # The importance of two objectives is that of a number to lower.
    sign = -1.0 if desk.problem.direction == "max" else 1.0
    target = (lambda t: sign * t.values[0]) if len(study.directions) > 1 else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of any target, of the right one too
        try:
            found = get_param_importances(
                study, evaluator=PedAnovaImportanceEvaluator(), target=target
            )
        except (ValueError, RuntimeError):
            return {}
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}
