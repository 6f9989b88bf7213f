"""Every horizon and seed in turn, and their means: how results on long horizons are quoted."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

from kt_forecast.data.series.table import SeriesTable
from kt_forecast.experiment import facts
from kt_forecast.experiment.forecasting import plans, prepare, run_one
from kt_forecast.experiment.recipe_forecast import ForecastRecipe
from kt_forecast.experiment.running import Say, whole, write_record
from kt_forecast.experiment.series import load
from kt_forecast.experiment.station import Station
from kt_forecast.experiment.stored import RECIPE, RECORD, RUNS, ForecastRun, find, home
from kt_forecast.report import ByStep, ForecastProtocol, IntervalScore, IntervalSteps, Score

PARTS = "runs.json"
"""The runs that a summary is of."""


def run(
    recipe: ForecastRecipe,
    *,
    runs: Path,
    device: str = "auto",
    say: Say = print,
    station: Station | None = None,
) -> ForecastRun | None:
    """Do what a recipe describes, for each of its horizons and seeds.

    Args:
        recipe: what to do.
        runs: folder of the runs, of MLflow's database and of the cache.
        device: a torch device, or ``auto``.
        say: told what happens, one sentence at a time.
        station: what other runs of this process have made, and when to end.

    Returns:
        The run, or the summary of several; None in a process of several that is not the first.

    Raises:
        InputError: a setting or the table cannot be used; nothing was written.
    """
    if not (recipe.horizons or recipe.seeds):
        return run_one(recipe, runs=runs, device=device, say=say, station=station)
    folder = home(runs, recipe.title())
    each = recipe.each(folder.name)
    table = load(recipe.data)
    for one in each:
        # Every setting and the split are checked before the first model is trained.
        prepare(one, table, plans(one)[0].horizon)
    done = []
    for one in each:
        say(f"{one.title()}:")
        made = _finished(one, table, runs)
        if made is not None:
            say("finished before the interruption: taken as it is")
        else:
            made = run_one(one, runs=runs, device=device, say=say, station=station)
        if made is not None:
            done.append(made)
    return _summary(folder, recipe, done) if done else None


def _finished(recipe: ForecastRecipe, table: SeriesTable, runs: Path) -> ForecastRun | None:
    """Return the run of this part that an interrupted call left, made as it would be made now."""
    folder = runs / RUNS / recipe.title()
    if not (folder / RECORD).is_file() or not (folder / RECIPE).is_file():
        return None
    one = find(folder.name, runs)
    if not isinstance(one, ForecastRun):
        return None
    split = prepare(recipe, table, plans(recipe)[0].horizon).split
    asked = recipe.changed({"split": split.settings.model_dump(mode="json")}, "split")
    same = (
        ForecastRecipe.read(folder / RECIPE).to_toml() == asked.to_toml()
        and one.record.data.data_hash == table.data_hash
        and one.record.code_version == facts.code()
    )
    return one if same else None


def _summary(folder: Path, recipe: ForecastRecipe, done: Sequence[ForecastRun]) -> ForecastRun:
    """Write the means of several runs as a record and a report of their own."""
    first = done[0].record
    seeds = max(len(recipe.seeds), 1)
    horizons = [done[at : at + seeds] for at in range(0, len(done), seeds)]
    found: list[ForecastProtocol] = []
    for place in range(len(first.protocols)):
        table = [[one.record.protocols[place] for one in of_horizon] for of_horizon in horizons]
        if len(table) > 1:
            found.append(_over_horizons(table))
        found += [_over_seeds(of_horizon) for of_horizon in table]
    worst = next((one.record.verdict for one in done if one.leaks), first.verdict)
    lone = done[0] if len(done) == 1 else None
    record = replace(
        first,
        title=folder.name,
        protocols=tuple(found),
        fans=lone.record.fans if lone else (),
        verdict=worst,
        curve=(),
        best_epoch=None,
        command=f"{first.command}  # and so on for {', '.join(one.name for one in done[1:])}",
    )
    with whole(folder) as part:
        (part / PARTS).write_text(json.dumps([one.name for one in done]), encoding="utf-8")
        write_record(part, record)
    return ForecastRun(folder, record)


def _over_seeds(runs: Sequence[ForecastProtocol]) -> ForecastProtocol:
    """Return the mean over seeds, one standard deviation to each side."""
    if len(runs) == 1:
        return runs[0]
    return replace(
        _joined(runs, [[one] for one in runs]),
        by_step=_steps([one.by_step for one in runs if one.by_step is not None]),
        interval=f"mean and one standard deviation over {len(runs)} seeds",
    )


def _over_horizons(table: Sequence[Sequence[ForecastProtocol]]) -> ForecastProtocol:
    """Return the mean over horizons, of each seed; and over seeds, where there are several.

    Args:
        table: for each horizon, the protocol of each seed.
    """
    by_seed = [list(of_seed) for of_seed in zip(*table, strict=True)]
    firsts = [of_horizon[0] for of_horizon in table]
    steps = tuple(one.horizon for one in firsts)
    said = ", ".join(map(str, steps))
    over = f"mean and one standard deviation over {len(by_seed)} seeds" if len(by_seed) > 1 else ""
    kind = firsts[0].name.partition(",")[0]
    return replace(
        _joined(firsts, by_seed),
        name=f"{kind}, mean of horizons {said}",
        what=f"The mean of the scores at {said} steps ahead, one model for each.",
        horizon=max(steps),
        horizons=steps,
        context=None,
        n_windows=sum(one.n_windows for one in firsts),
        n_values=sum(one.n_values for one in firsts),
        interval=over or "none around a mean over horizons",
    )


def _joined(
    runs: Sequence[ForecastProtocol], by_seed: Sequence[Sequence[ForecastProtocol]]
) -> ForecastProtocol:
    """Return the means of scores: of each seed over its protocols, then over seeds.

    Args:
        runs: protocols that say what is the same in all.
        by_seed: the protocols of each seed.
    """

    def scores(read: Callable[[ForecastProtocol], Mapping[str, Score]]) -> dict[str, Score]:
        every = [[read(one) for one in of_seed] for of_seed in by_seed]
        shared = [m for m in every[0][0] if all(m in one for of in every for one in of)]
        return {m: _mean([[one[m] for one in of_seed] for of_seed in every]) for m in shared}

    def held(who: str) -> tuple[IntervalScore, ...]:
        found = []
        for one in runs[0].intervals[who]:
            every = [[_level(p.intervals[who], one.level) for p in ps] for ps in by_seed]
            found.append(
                IntervalScore(
                    level=one.level,
                    coverage=_mean([[i.coverage for i in of_seed] for of_seed in every]),
                    width=_mean([[i.width for i in of_seed] for of_seed in every]),
                )
            )
        return tuple(found)

    first = runs[0]
    return replace(
        first,
        model=scores(lambda one: one.model),
        baselines={who: scores(_beside(who)) for who in first.baselines},
        differences={who: scores(_apart(who)) for who in first.differences},
        intervals={who: held(who) for who in first.intervals},
        by_step=None,
    )


def _beside(who: str) -> Callable[[ForecastProtocol], Mapping[str, Score]]:
    return lambda one: one.baselines[who]


def _apart(who: str) -> Callable[[ForecastProtocol], Mapping[str, Score]]:
    return lambda one: one.differences[who]


def _steps(found: Sequence[ByStep]) -> ByStep | None:
    """Return errors and intervals at each step ahead, as means over runs of the same steps."""
    if not found:
        return None

    def errors(rows: Sequence[Mapping[str, tuple[float, ...]]]) -> dict[str, tuple[float, ...]]:
        return {who: _means([row[who] for row in rows]) for who in rows[0]}

    levels = [one.intervals for one in found]
    return ByStep(
        steps=found[0].steps,
        mse=errors([one.mse for one in found]),
        mae=errors([one.mae for one in found]),
        intervals=tuple(
            IntervalSteps(
                level=same[0].level,
                coverage=_means([one.coverage for one in same]),
                width=_means([one.width for one in same]),
            )
            for same in zip(*levels, strict=True)
        ),
    )


def _means(rows: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(fmean(values) for values in zip(*rows, strict=True))


def _level(found: Iterable[IntervalScore], level: float) -> IntervalScore:
    return next(one for one in found if one.level == level)


def _mean(by_seed: Sequence[Sequence[Score]]) -> Score:
    """Return the mean over seeds of each one's mean, with one standard deviation if several."""
    values = [fmean(score.value for score in of_seed) for of_seed in by_seed]
    mean = fmean(values)
    if len(values) < 2:
        return Score(value=mean)
    return Score(value=mean, low=mean - stdev(values), high=mean + stdev(values))
