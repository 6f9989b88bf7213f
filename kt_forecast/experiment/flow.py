"""One experiment on students: table, split, training, audit, one reading of the test rows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from kt_forecast.audit import Report
from kt_forecast.data.interactions import Interactions
from kt_forecast.data.splits import Role, Split, load_split, split
from kt_forecast.errors import InputError
from kt_forecast.evaluation import PROTOCOLS, Scores, coin_flip, evaluate
from kt_forecast.experiment import facts, tables
from kt_forecast.experiment.auditing import audit_fitted
from kt_forecast.experiment.beside import CACHE, fit_beside
from kt_forecast.experiment.recipe import Recipe
from kt_forecast.experiment.running import (
    Place,
    Say,
    at_work,
    command,
    hashed,
    is_early,
    keep,
    now,
    refuse_trained,
    silent,
    told,
    track,
)
from kt_forecast.experiment.station import Left, Station
from kt_forecast.experiment.stored import RUNS, Run
from kt_forecast.nn.system import unknown
from kt_forecast.report import Protocol, RunRecord
from kt_forecast.sequences.build import build_role, fit_vocabulary
from kt_forecast.sequences.interactions import StudentSequences, Vocabulary
from kt_forecast.tracer import Fitted, Plan, fit_plan, plan
from kt_forecast.training import Epoch, workers


@dataclass(frozen=True)
class Rows:
    """The sequences of every role, and what identifies them.

    Attributes:
        interactions: the table.
        roles: the split.
        vocabulary: names of the training rows.
        parts: sequences by role.
        key: hash of data, split and labels.
    """

    interactions: Interactions
    roles: Split
    vocabulary: Vocabulary
    parts: Mapping[Role, StudentSequences]
    key: str


def run_one(
    recipe: Recipe,
    *,
    runs: Path,
    device: str = "auto",
    say: Say = print,
    station: Station | None = None,
) -> Run | None:
    """Do what a recipe describes, for one split.

    Args:
        recipe: what to do.
        runs: folder of the runs, of MLflow's database and of the cache.
        device: a torch device, or ``auto``.
        say: told what happens, one sentence at a time.
        station: what other runs of this process have made, and when to end.

    Returns:
        The run; None in a process of several that is not the first.

    Raises:
        InputError: a setting or the table cannot be used; nothing was written.
        TimeUpError: the station asked for the end before the first epoch was done.
        TrainingError: a number in training is not finite.
    """
    chosen, beside = plans(recipe)
    station = station or Station()
    with workers(device) as group:
        if group.world > 1:
            refuse_trained([one.name for one in beside if one.training is not None])
        first = group.rank == 0
        say = say if first else silent
        plain = recipe.data.model_dump(mode="json")
        interactions = station.once(["table", plain], lambda: tables.load(recipe.data))
        _describe(interactions, say)
        coin = recipe.seed if recipe.coin_flip else None
        rows = station.once(
            ["divided", plain, recipe.seeded_split().model_dump(mode="json"), coin],
            lambda: prepare(recipe, interactions),
        )
        data = {
            "name": interactions.name,
            "data_hash": interactions.data_hash,
            "split_hash": rows.roles.role_hash,
            "split": rows.roles.kind,
        }
        with at_work(
            recipe,
            chosen.plain(),
            rows.key,
            settings=partial(resolved, recipe, chosen),
            data=data,
            runs=runs,
            first=first,
            say=say,
        ) as place:
            fitted = fit_plan(
                chosen,
                rows.parts[Role.TRAIN],
                rows.parts[Role.VALID],
                rows.vocabulary,
                checkpoint=replace(place.checkpoint, ends=station.ends),
                callbacks=place.callbacks(_said(say, chosen)) if first else (),
                device=str(group.device),
            )
            if not first:
                return None
            station.note_trained()
            place.device = fitted.device
            place.unfinished = is_early(fitted.plan.training, len(fitted.epochs), fitted.best_epoch)
            if place.tracker is not None:
                place.tracker.curves(fitted.epochs)
            done = _finish(recipe, fitted, beside, rows, place, station, say)
            if place.tracker is not None:
                track(place.tracker, done)
        return done


def prepare(recipe: Recipe, interactions: Interactions, stored: Path | None = None) -> Rows:
    """Return the sequences of every role.

    Args:
        recipe: names the split.
        interactions: the table.
        stored: the split's file, where the split is one that was stored.

    Raises:
        InputError: the table cannot be split so, or is not the one that the stored split is of.
    """
    if stored is not None:
        roles = load_split(stored, interactions)
    else:
        roles = split(interactions, recipe.seeded_split())
    return lay_out(recipe, interactions, roles)


def lay_out(
    recipe: Recipe,
    interactions: Interactions,
    roles: Split,
    wanted: tuple[Role, ...] = (Role.TRAIN, Role.VALID, Role.TEST),
) -> Rows:
    """Return the sequences of some roles, by the names that training rows hold.

    Args:
        recipe: names the answer-side columns that are read, and whether labels are coins.
        interactions: the table.
        roles: of its rows.
        wanted: roles that have rows.
    """
    vocabulary = fit_vocabulary(interactions, roles, extras=recipe.data.extras)
    parts = {role: build_role(interactions, vocabulary, roles, role) for role in wanted}
    labels = "as observed"
    if recipe.coin_flip:
        labels = f"coin {recipe.seed}"
        parts = {role: coin_flip(part, 3 * recipe.seed + role) for role, part in parts.items()}
    key = hashed([interactions.data_hash, roles.role_hash, labels, list(recipe.data.extras)])
    return Rows(interactions, roles, vocabulary, parts, key)


def score(
    recipe: Recipe,
    fitted: Fitted,
    beside: Mapping[str, Fitted],
    rows: Rows,
    protocols: tuple[str, ...],
    station: Station | None = None,
) -> tuple[list[Protocol], dict[str, Scores]]:
    """Read the test rows and return what every protocol found, and the first one's scores."""
    found: list[Protocol] = []
    first: dict[str, Scores] = {}
    station = station or Station()
    settings = {"resamples": recipe.evaluation.bootstraps, "seed": recipe.seed}
    for protocol in protocols:
        mine = evaluate(fitted, rows.parts[Role.TEST], protocol, **settings)
        others = {
            name: score_beside(recipe, one, rows, protocol, station) for name, one in beside.items()
        }
        found.append(facts.protocol(mine, others, **settings))
        first = first or {fitted.plan.name: mine, **others}
    return found, first


def score_beside(
    recipe: Recipe, one: Fitted, rows: Rows, protocol: str, station: Station
) -> Scores:
    """Return the scores of a baseline, which are the same for all runs on the same rows."""
    settings = {"resamples": recipe.evaluation.bootstraps, "seed": recipe.seed}
    return station.once(
        ["scores", rows.key, protocol, settings, one.plan.plain()],
        lambda: evaluate(one, rows.parts[Role.TEST], protocol, **settings),
    )


def fit_all_beside(
    recipe: Recipe, beside: list[Plan], rows: Rows, runs: Path, device: str, say: Say
) -> dict[str, Fitted]:
    """Return the baselines, fitted or from the cache."""
    return {
        one.name: fit_beside(
            one,
            rows.parts[Role.TRAIN],
            rows.parts[Role.VALID],
            rows.vocabulary,
            rows=rows.key,
            cache=runs / CACHE if recipe.baselines.cache else None,
            device=device,
            say=say,
        )
        for one in beside
    }


def resolved(recipe: Recipe, chosen: Plan) -> dict[str, Any]:
    """Return every setting, the defaults of the system, the task and the loop among them."""
    own = chosen.plain()
    plain = recipe.changed({"model": {"settings": own["settings"]}}, "recipe").plain()
    return plain | {"tracing": own["tracing"], "training": own["training"]}


def check_protocols(protocols: tuple[str, ...]) -> None:
    """Refuse a protocol that is not there.

    Raises:
        InputError: the nearest is named.
    """
    for protocol in protocols:
        if protocol not in PROTOCOLS:
            raise InputError(unknown(protocol, list(PROTOCOLS), "protocol"))
    if not protocols:
        raise InputError(f"evaluation.protocols is empty; known: {', '.join(PROTOCOLS)}")


def plans(recipe: Recipe) -> tuple[Plan, list[Plan]]:
    """Return what will be trained, and what stands beside it.

    Raises:
        InputError: a name, key or value is refused.
    """
    check_protocols(recipe.evaluation.protocols)
    chosen = plan(
        recipe.model.system,
        recipe.model.settings,
        recipe.tracing,
        recipe.training,
        history=recipe.history,
        seed=recipe.seed,
    )
    names = [name for name in recipe.baselines.names() if name != chosen.name]
    return chosen, [plan(name, history=recipe.history, seed=recipe.seed) for name in names]


def audited(recipe: Recipe, fitted: Fitted, rows: Rows) -> Report:
    """Audit a trained model with its recipe: data, split, features, model and scoring."""
    from kt_forecast.experiment.auditing_parts import QUICK
    from kt_forecast.experiment.auditing_recipe import together
    from kt_forecast.experiment.auditing_students import path_on

    path = path_on(recipe, rows, QUICK, fitted)
    model = partial(audit_fitted, fitted, rows.parts[Role.TRAIN])
    return together(replace(path, model=model), QUICK)


def _finish(
    recipe: Recipe,
    fitted: Fitted,
    beside: list[Plan],
    rows: Rows,
    place: Place,
    station: Station,
    say: Say,
) -> Run:
    """Audit, read the test rows once, and write the run's folder, whole or not at all.

    Raises:
        OSError: the folder cannot be written.
    """
    report = audited(recipe, fitted, rows)
    say(f"audit: {report.summary()}")
    fit = partial(fit_all_beside, recipe, rows=rows, runs=place.runs, device=place.device, say=say)
    others = station.fitted_beside(beside, rows.key, fit)
    say("reading the test rows, once")
    protocols, first = score(recipe, fitted, others, rows, recipe.evaluation.protocols, station)
    fitted.facts |= {
        "data_hash": rows.interactions.data_hash,
        "split_hash": rows.roles.role_hash,
        "verdict": report.verdict,
        "coin_flip": recipe.coin_flip,
    }
    record = RunRecord(
        title=place.name,
        created=now(),
        data=facts.data(rows.interactions, recipe.data.source),
        split=facts.split(rows.roles, rows.interactions),
        system=facts.system(fitted),
        protocols=tuple(protocols),
        verdict=facts.verdict(report),
        coin_flip=recipe.coin_flip,
        settings=resolved(recipe, fitted.plan),
        curve=facts.curve(fitted),
        objective=facts.objective(fitted),
        best_epoch=fitted.best_epoch,
        calibration={name: facts.calibration(one) for name, one in first.items()},
        answers_seen={name: facts.answers_seen(one) for name, one in first.items()},
        mastery=facts.mastery(fitted, rows.interactions, rows.roles.visible(Role.TEST)),
        environment=facts.environment(fitted.device),
        code_version=facts.code(),
        command=command(place.runs / RUNS / place.name),
        citations=facts.works(fitted, others),
    )
    folder, record = keep(
        recipe,
        record,
        split=rows.roles,
        fitted=fitted,
        audit=report,
        place=place,
        page=station.pages,
    )
    station.left = Left(folder, fitted, rows, first)
    return Run(folder, record)


def _describe(interactions: Interactions, say: Say) -> None:
    say(
        f"{interactions.name}: {len(interactions):,} interactions of"
        f" {len(interactions.students):,} students"
    )
    for note in interactions.notes:
        say(f"note: {note}")


def _said(say: Say, chosen: Plan) -> Callable[[Epoch], None]:
    metric = chosen.training.metric if chosen.training else ""
    more = chosen.tracing is not None and chosen.tracing.next_question > 0.0
    return told(say, "objective" if more else "loss", metric)
