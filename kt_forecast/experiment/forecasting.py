"""One experiment of forecasting: series, split, training, audit, one reading of the test rows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from kt_forecast.audit import Report
from kt_forecast.baselines import Baseline
from kt_forecast.data.series.splits import SeriesSplit, load_split
from kt_forecast.data.series.table import SeriesTable
from kt_forecast.errors import InputError
from kt_forecast.evaluation.forecasting import (
    ForecastRules,
    ForecastScores,
    Protocol,
    evaluate,
    every_window,
    scale_of,
)
from kt_forecast.experiment import facts, forecast_facts
from kt_forecast.experiment.beside import CACHE, from_cache
from kt_forecast.experiment.recipe_forecast import HORIZON, ForecastRecipe
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
from kt_forecast.experiment.series import divided, load, settled
from kt_forecast.experiment.station import Left, Station
from kt_forecast.experiment.stored import RUNS, ForecastRun
from kt_forecast.forecaster import Fitted, Plan, fit_plan, plan
from kt_forecast.report import ForecastProtocol, ForecastRecord
from kt_forecast.sequences.series import SeriesSet
from kt_forecast.sequences.windows import gather, origins
from kt_forecast.tasks.forecasting import refuse_unstreamed
from kt_forecast.training import Epoch, workers

AUDITED_WINDOWS = 4
STREAM = "stream"


@dataclass(frozen=True)
class SeriesRows:
    """The series of a run, and up to where each role goes.

    Attributes:
        table: the series.
        split: the roles.
        key: hash of series and split.
        sets: the series as tensors, by what they are made with; filled as they are asked for.
    """

    table: SeriesTable
    split: SeriesSplit
    key: str
    sets: dict[bool, SeriesSet] = field(default_factory=dict)

    def read_by(self, fitted: Fitted) -> SeriesSet:
        """Return the series as a model reads them."""
        calendar = fitted.plan.forecasting.calendar
        if calendar not in self.sets:
            self.sets[calendar] = fitted.build(self.table)
        return self.sets[calendar]


def run_one(
    recipe: ForecastRecipe,
    *,
    runs: Path,
    device: str = "auto",
    say: Say = print,
    station: Station | None = None,
) -> ForecastRun | None:
    """Do what a recipe describes, for one horizon and one seed.

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
        table = station.once(["table", plain], lambda: load(recipe.data))
        _describe(table, say)
        asked = recipe.split.model_dump(mode="json") if recipe.split is not None else None
        rows = station.once(
            ["divided", plain, asked, list(recipe.evaluation.levels), chosen.horizon],
            lambda: prepare(recipe, table, chosen.horizon),
        )
        data = {
            "name": table.name,
            "data_hash": table.data_hash,
            "split_hash": rows.split.split_hash,
            "split": rows.split.kind,
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
                table,
                rows.split,
                levels=recipe.evaluation.levels,
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


def plans(recipe: ForecastRecipe) -> tuple[Plan, list[Plan]]:
    """Return what will be trained, and what stands beside it.

    Raises:
        InputError: a name, key or value is refused.
    """
    chosen = plan(
        recipe.model.system,
        recipe.model.settings,
        recipe.forecasting,
        recipe.training,
        seed=recipe.seed,
        members=recipe.members,
    )
    refuse_unstreamed_plan(chosen, recipe.evaluation.protocols)
    names = [name for name in recipe.baselines.names() if name != chosen.name]
    own = recipe.baselines.settings
    if unknown := sorted(set(own) - {*names, chosen.name}):
        raise InputError(
            f"baselines.settings: {unknown[0]!r} does not stand beside this model; accepted are"
            f" {', '.join(names)}"
        )
    beside = [
        plan(name, own.get(name), {HORIZON: chosen.horizon}, seed=recipe.seed) for name in names
    ]
    return chosen, beside


def prepare(
    recipe: ForecastRecipe, table: SeriesTable, horizon: int, stored: Path | None = None
) -> SeriesRows:
    """Return the series and their roles.

    Args:
        recipe: names the split.
        table: the series.
        horizon: steps ahead.
        stored: the split's file, where the split is one that was stored.

    Raises:
        InputError: the table cannot be split so, or is not the one that the stored split is of.
    """
    if stored is not None:
        roles = load_split(stored, table)
    else:
        roles = divided(table, recipe.split, recipe.data.source, horizon)
    levels = list(recipe.evaluation.levels)
    return SeriesRows(table, roles, hashed([table.data_hash, roles.split_hash, levels]))


def score(
    recipe: ForecastRecipe,
    fitted: Fitted,
    beside: Mapping[str, Fitted],
    rows: SeriesRows,
    protocols: tuple[str, ...],
    station: Station | None = None,
) -> tuple[list[ForecastProtocol], ForecastScores]:
    """Read the test rows; return what every protocol found, and the first one's scores."""
    found: list[ForecastProtocol] = []
    first: ForecastScores | None = None
    station = station or Station()
    refuse_unstreamed_plan(fitted.plan, protocols)
    for protocol in protocols:
        mine = scored(fitted, rows, rules_of(recipe, protocol, fitted.device))
        others = {
            name: score_beside(recipe, one, rows, protocol, station) for name, one in beside.items()
        }
        found.append(
            forecast_facts.protocol(
                fitted.plan.name,
                mine,
                others,
                resamples=recipe.evaluation.bootstraps,
                seed=recipe.seed,
            )
        )
        first = first or mine
    assert first is not None  # noqa: S101 - a recipe has a protocol
    return found, first


def rules_of(recipe: ForecastRecipe, protocol: str, device: str) -> ForecastRules:
    """Return how windows are scored."""
    return ForecastRules(
        protocol=cast("Protocol", protocol),
        resamples=recipe.evaluation.bootstraps,
        seed=recipe.seed,
        device=device,
    )


def score_beside(
    recipe: ForecastRecipe, one: Fitted, rows: SeriesRows, protocol: str, station: Station
) -> ForecastScores:
    """Return the scores of a baseline, which are the same for all runs on the same rows."""
    settings = [recipe.evaluation.bootstraps, recipe.seed]
    return station.once(
        ["scores", rows.key, protocol, settings, one.plan.plain()],
        lambda: scored(one, rows, rules_of(recipe, protocol, one.device)),
    )


def fit_all_beside(
    recipe: ForecastRecipe, beside: list[Plan], rows: SeriesRows, runs: Path, device: str, say: Say
) -> dict[str, Fitted]:
    """Return the baselines, fitted or from the cache."""
    return {
        one.name: from_cache(
            one,
            partial(
                fit_plan,
                one,
                rows.table,
                rows.split,
                levels=recipe.evaluation.levels,
                device=device,
            ),
            partial(Fitted.load, device=device),
            rows=rows.key,
            cache=runs / CACHE if recipe.baselines.cache else None,
            say=say,
        )
        for one in beside
    }


def refuse_unstreamed_plan(chosen: Plan, protocols: tuple[str, ...]) -> None:
    """Refuse the protocol of streams for a model that cannot go along series.

    Raises:
        InputError: it cannot, and is no fitted baseline.
    """
    if STREAM not in protocols or isinstance(chosen.part, Baseline):
        return
    if chosen.members:
        raise InputError(
            "members forecast windows, and their mean keeps no state; protocol 'stream' accepts a"
            " model without members"
        )
    refuse_unstreamed(chosen.name, chosen.part, chosen.forecasting)


def resolved(recipe: ForecastRecipe, chosen: Plan) -> dict[str, Any]:
    """Return every setting, the defaults of the system, the task and the loop among them."""
    own = chosen.plain()
    plain = recipe.changed({"model": {"settings": own["settings"]}}, "recipe").plain()
    return plain | {"forecasting": own["forecasting"], "training": own["training"]}


def scored(fitted: Fitted, rows: SeriesRows, rules: ForecastRules) -> ForecastScores:
    """Return the scores of one model on the test rows.

    Under ``stream`` a model that keeps no state forecasts the same windows from what they hold.
    """
    streamed = fitted.along() if rules.protocol == STREAM else None
    series, roles, horizon = rows.read_by(fitted), rows.split, fitted.plan.horizon
    mixing = fitted.plan.mixing
    low, high = roles.valid_end, roles.test_end
    if rules.protocol == "rolling":
        chosen = origins(series, low, high, horizon=horizon, stride=horizon, mixing=mixing)
    else:
        chosen = every_window(series, low, high, horizon=horizon, mixing=mixing)
    return evaluate(
        streamed or fitted.model,
        series,
        chosen,
        horizon=horizon,
        rules=rules,
        conformal=fitted.conformal,
        scale=scale_of(series, roles.train_end, rows.table.frequency.season),
        ids=rows.table.ids,
    )


def estimated(recipe: ForecastRecipe) -> dict[str, Any]:
    """Return what `kt_forecast.load` needs to read other tables as this run read its own."""
    data = settled(recipe.data).model_dump(mode="json")
    names = ("freq", "stamps", "gaps", "static", "columns", "season")
    own = {name: data[name] for name in names}
    levels = [round(100 * level, 6) for level in recipe.evaluation.levels]
    return {"static": data["static"], "estimator": own | {"levels": levels}}


def audited_model(fitted: Fitted, rows: SeriesRows) -> Report:
    """Return whether forecasts move when what could not be known changes, on training windows."""
    from kt_forecast.forecaster.auditing import audit_forecaster

    series, horizon, mixing = rows.read_by(fitted), fitted.plan.horizon, fitted.plan.mixing
    low = rows.split.train_end * 0
    chosen = origins(series, low, rows.split.train_end, horizon=horizon, mixing=mixing)
    count = len(chosen)
    places = sorted({(count - 1) * i // AUDITED_WINDOWS for i in range(1, AUDITED_WINDOWS + 1)})
    batch = gather(
        series, chosen, np.array(places, dtype=np.int64), context=fitted.context, horizon=horizon
    )
    return audit_forecaster(fitted.model, batch)


def audited(recipe: ForecastRecipe, fitted: Fitted, rows: SeriesRows) -> Report:
    """Audit a trained model with its recipe: data, split, features, model and scoring."""
    from kt_forecast.experiment.auditing_parts import QUICK
    from kt_forecast.experiment.auditing_recipe import together
    from kt_forecast.experiment.auditing_series import path_on

    path = path_on(recipe, rows, QUICK, fitted)
    return together(replace(path, model=partial(audited_model, fitted, rows)), QUICK)


def _finish(
    recipe: ForecastRecipe,
    fitted: Fitted,
    beside: list[Plan],
    rows: SeriesRows,
    place: Place,
    station: Station,
    say: Say,
) -> ForecastRun:
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
        "data_hash": rows.table.data_hash,
        "split_hash": rows.split.split_hash,
        "verdict": report.verdict,
        **estimated(recipe),
    }
    read = {who: (one, rows.read_by(one)) for who, one in others.items()}
    record = ForecastRecord(
        title=place.name,
        created=now(),
        data=forecast_facts.data(rows.table, recipe.data.source),
        split=forecast_facts.split(rows.table, rows.split, fitted.plan.horizon),
        system=forecast_facts.system(fitted),
        protocols=tuple(protocols),
        fans=forecast_facts.fans(rows.table, first, read),
        verdict=facts.verdict(report),
        settings=resolved(recipe, fitted.plan),
        curve=forecast_facts.curve(fitted),
        objective=forecast_facts.objective(fitted),
        best_epoch=fitted.best_epoch,
        environment=facts.environment(fitted.device),
        code_version=facts.code(),
        command=command(place.runs / RUNS / place.name),
        citations=forecast_facts.works(fitted, others),
    )
    kept = recipe.changed({"split": rows.split.settings.model_dump(mode="json")}, "split")
    folder, record = keep(
        kept,
        record,
        split=rows.split,
        fitted=fitted,
        audit=report,
        place=place,
        page=station.pages,
    )
    station.left = Left(folder, fitted, rows, {fitted.plan.name: first})
    return ForecastRun(folder, record)


def _said(say: Say, chosen: Plan) -> Callable[[Epoch], object] | None:
    """Return what says how an epoch went; None for what has none."""
    return None if chosen.training is None else told(say, "loss", chosen.training.metric)


def _describe(table: SeriesTable, say: Say) -> None:
    series = "1 series" if table.n_series == 1 else f"{table.n_series:,} series"
    in_order = table.frequency.kind == "order"
    step = "taken in their order" if in_order else f"every {table.frequency.text}"
    say(f"{table.name}: {table.n_rows:,} rows of {series}, {step}")
    for note in table.notes:
        say(f"note: {note}")
