"""Every fold in turn, and their mean: how much a score owes to the luck of one split."""

import json
from dataclasses import replace
from pathlib import Path

from kt_forecast.data.interactions import Interactions
from kt_forecast.data.splits import ByFolds
from kt_forecast.errors import InputError
from kt_forecast.experiment import facts, tables
from kt_forecast.experiment.flow import plans, run_one
from kt_forecast.experiment.recipe import Recipe
from kt_forecast.experiment.running import Say, whole, write_record
from kt_forecast.experiment.station import Station
from kt_forecast.experiment.stored import RECIPE, RECORD, RUNS, Run, find, home
from kt_forecast.schema import FOLD, TEST_FOLD

FOLDS = "folds.json"


def run(
    recipe: Recipe,
    *,
    runs: Path,
    device: str = "auto",
    say: Say = print,
    station: Station | None = None,
) -> Run | None:
    """Do what a recipe describes, for its one fold or for all.

    Args:
        recipe: what to do.
        runs: folder of the runs, of MLflow's database and of the cache.
        device: a torch device, or ``auto``.
        say: told what happens, one sentence at a time.
        station: what other runs of this process have made, and when to end.

    Returns:
        The run, or the summary of the folds' runs; None in a process of several that is not the
        first.

    Raises:
        InputError: a setting or the table cannot be used; nothing was written.
    """
    if recipe.folds == "one":
        return run_one(recipe, runs=runs, device=device, say=say, station=station)
    plans(recipe)
    if not isinstance(recipe.split, ByFolds):
        raise InputError(
            f"folds is 'all' and the split is by {recipe.split.kind}; accepted is a split of kind"
            " 'folds'"
        )
    folder = home(runs, recipe.title())
    interactions = tables.load(recipe.data)
    done = []
    for fold in _folds(recipe.split, interactions):
        say(f"fold {fold}")
        changes = {"folds": "one", "name": f"{folder.name}-fold{fold}", "split": {"fold": fold}}
        of_fold = recipe.changed(changes, "folds")
        one = _finished(of_fold, interactions, runs)
        if one is not None:
            say("finished before the interruption: taken as it is")
        else:
            one = run_one(of_fold, runs=runs, device=device, say=say, station=station)
        if one is not None:
            done.append(one)
    return _summary(folder, done) if done else None


def _finished(recipe: Recipe, interactions: Interactions, runs: Path) -> Run | None:
    """Return the run of this fold that an interrupted call left, made as it would be made now."""
    folder = runs / RUNS / recipe.title()
    if not (folder / RECORD).is_file() or not (folder / RECIPE).is_file():
        return None
    one = find(folder.name, runs)
    same = isinstance(one, Run) and (
        Recipe.read(folder / RECIPE) == recipe
        and one.record.data.data_hash == interactions.data_hash
        and one.record.code_version == facts.code()
    )
    return one if isinstance(one, Run) and same else None


def _folds(by: ByFolds, interactions: Interactions) -> list[int]:
    if FOLD in interactions.frame.columns:
        return sorted({*interactions.frame[FOLD].to_list()} - {TEST_FOLD})
    return list(range(by.n_folds))


def _summary(folder: Path, done: list[Run]) -> Run:
    """Write the mean of the folds as a record and a report of its own."""
    first = done[0].record
    protocols = zip(*(one.record.protocols for one in done), strict=True)
    worst = next((one.record.verdict for one in done if one.leaks), first.verdict)
    record = replace(
        first,
        title=folder.name,
        protocols=tuple(facts.folded(list(each)) for each in protocols),
        verdict=worst,
        curve=(),
        best_epoch=None,
        mastery=None,
        calibration={},
        answers_seen={},
        command=f"{first.command}  # and so on for {', '.join(one.name for one in done)}",
    )
    with whole(folder) as part:
        (part / FOLDS).write_text(json.dumps([one.name for one in done]), encoding="utf-8")
        write_record(part, record)
    return Run(folder, record)
