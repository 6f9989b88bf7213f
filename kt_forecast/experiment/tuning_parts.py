"""What a study of a recipe is made of: rows that train or validate, and a problem for each system.

Test rows are left out of the table before anything of the study sees it: what is handed on are
students, or rows of series, that train or validate, and no argument brings others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kt_forecast.catalogue import find
from kt_forecast.data.interactions import Interactions
from kt_forecast.data.splits import Role, Split
from kt_forecast.errors import InputError
from kt_forecast.experiment import facts, series, tables
from kt_forecast.experiment.recipe import Recipe
from kt_forecast.experiment.recipe_forecast import HORIZON, ForecastRecipe
from kt_forecast.experiment.running import Say, hashed
from kt_forecast.experiment.which import AnyRecipe
from kt_forecast.nn.system import System
from kt_forecast.tuning import JOURNAL, Place, Problem, Recorder, Search, View, name_of

SETTINGS = "settings"

Watch = Callable[[View], object]
Make = Callable[[Any], Problem]


@dataclass(frozen=True)
class Table:
    """What is said of the rows of a study.

    Attributes:
        name: of the table.
        split: how its rows were divided, in a sentence.
    """

    name: str
    split: str


@dataclass(frozen=True)
class Part:
    """One system of a study.

    Attributes:
        recipe: of the system.
        problem: what its study is about.
        search: how it searches.
        place: where it lives.
    """

    recipe: AnyRecipe
    problem: Problem
    search: Search
    place: Place


def without_test(interactions: Interactions, roles: Split) -> tuple[Interactions, Split]:
    """Return the table without the rows that test, and without those that nothing uses."""
    kept = roles.role <= int(Role.VALID)
    left = replace(
        interactions,
        frame=interactions.frame.filter(kept),
        data_hash="",
        source=None,
        asked=None,
    )
    return left, Split(roles.role.filter(kept), roles.settings, "")


def single(recipe: AnyRecipe) -> AnyRecipe:
    """Return the experiment that a study repeats: one fold, one seed, and every horizon.

    Raises:
        InputError: the recipe is of several.
    """
    if isinstance(recipe, Recipe):
        return recipe.changed({"folds": "one"}, "tune") if recipe.folds == "all" else recipe
    if getattr(recipe, "members", ()):
        raise InputError(
            "a study searches the settings of one model, and the recipe has members; accepted is"
            " --set members=[]"
        )
    changes: dict[str, Any] = {"seeds": ()}
    if len(recipe.horizons) == 1:
        changes |= {"horizons": (), "forecasting": {HORIZON: recipe.horizons[0]}}
    if recipe.seeds:
        changes["seed"] = recipe.seeds[0]
    return recipe.changed(changes, "tune")


def parts_of(
    base: AnyRecipe, how: Search, names: Sequence[str], device: str, say: Say
) -> tuple[Table, list[Part]]:
    """Return name and split of the table, and the study of each system on it.

    Raises:
        InputError: the table cannot be used, or the only system cannot be searched.
    """
    if isinstance(base, Recipe):
        about, make = _of_students(base, how, device, say)
    else:
        about, make = _of_series(base, how, device, say)
    found: list[Part] = []
    for name in names:
        trained = isinstance(find(name), System)
        own = name == base.model.system
        recipe = base.with_system(name, trained=trained, say=say)
        space = {**base.search, **how.space}
        if not own:
            space.pop(SETTINGS, None)
        if not trained:
            space = {key: value for key, value in space.items() if key == SETTINGS}
        one = how.model_copy(update={"space": space})
        try:
            problem = make(recipe)
            name_of(problem, one)
        except InputError as error:
            if len(names) == 1:
                raise
            say(f"{name}: left out, {error}")
            continue
        found.append(Part(recipe, problem, one, Place("")))
    if not found:
        raise InputError(f"{base.title()}: no system can be searched on this table")
    return about, found


def _of_students(base: Recipe, how: Search, device: str, say: Say) -> tuple[Table, Make]:
    """Return what the table is, and what makes a system's problem of it."""
    from kt_forecast.data.splits import split
    from kt_forecast.evaluation import coin_flip
    from kt_forecast.sequences.build import build_role, fit_vocabulary
    from kt_forecast.tracer import plan
    from kt_forecast.tracer.searching import problem

    whole = tables.load(base.data)
    interactions, roles = without_test(whole, split(whole, base.seeded_split()))
    say(
        f"{interactions.name}: {len(interactions):,} of {len(whole):,} interactions train or"
        " validate; the others are left out"
    )
    del whole
    vocabulary = fit_vocabulary(interactions, roles, extras=base.data.extras)
    parts = {
        role: build_role(interactions, vocabulary, roles, role) for role in (Role.TRAIN, Role.VALID)
    }
    if base.coin_flip:
        parts = {role: coin_flip(part, 3 * base.seed + role) for role, part in parts.items()}

    def make(recipe: Any) -> Problem:  # noqa: ANN401
        chosen = plan(
            recipe.model.system,
            recipe.model.settings,
            recipe.tracing,
            recipe.training,
            history=recipe.history,
            seed=recipe.seed,
        )
        return problem(
            chosen,
            parts[Role.TRAIN],
            parts[Role.VALID],
            vocabulary,
            device=device,
            count_flops=how.counts_flops,
        )

    return Table(interactions.name, facts.SCHEMES[roles.kind]), make


def _of_series(base: ForecastRecipe, how: Search, device: str, say: Say) -> tuple[Table, Make]:
    """Return what the table is, and what makes a system's problem of it."""
    from kt_forecast.forecaster import plan
    from kt_forecast.forecaster.searching import mean_of, problem, without_test

    def planned(recipe: Any) -> Any:  # noqa: ANN401
        return plan(
            recipe.model.system,
            recipe.model.settings,
            recipe.forecasting,
            recipe.training,
            seed=recipe.seed,
        )

    whole = series.load(base.data)
    horizons = base.horizons or (planned(base).horizon,)
    left = {
        horizon: without_test(whole, series.divided(whole, base.split, base.data.source, horizon))
        for horizon in horizons
    }
    table, roles = left[horizons[0]]
    say(
        f"{table.name}: {table.n_rows:,} of {whole.n_rows:,} rows train or validate; the others"
        " are left out"
    )
    del whole

    def make(recipe: Any) -> Problem:  # noqa: ANN401
        return mean_of(
            [
                problem(
                    planned(recipe.changed({"forecasting": {HORIZON: horizon}}, "tune")),
                    *left[horizon],
                    device=device,
                    count_flops=how.counts_flops,
                )
                for horizon in horizons
            ]
        )

    division = series.SCHEMES[roles.kind]
    if len(horizons) > 1:
        steps = ", ".join(map(str, horizons))
        division += f" A score is the mean over {steps} steps ahead; the first one prunes."
    return Table(table.name, division), make


def title_of(base: AnyRecipe, studies: Sequence[Part]) -> str:
    """Return the name of the study's folder: another one for what cannot be compared."""
    names = [name_of(one.problem, one.search) for one in studies]
    return f"{base.title()}-{hashed(names)[:8]}"


def placed(
    parts: Sequence[Part], base: AnyRecipe, folder: Path, runs: Path, table: Table, watch: Watch
) -> list[Part]:
    """Return the systems of a study with where each one lives.

    Args:
        parts: the systems.
        base: the recipe that is searched.
        folder: of the study.
        runs: folder of the runs and of MLflow's database.
        table: what is said of the rows.
        watch: told how far a study is, now and then.
    """
    found = []
    for one in parts:
        problem = one.problem
        tags = {"data.name": table.name, "data.rows": problem.rows, "system": problem.system}
        recorder = None
        if base.tracking.enabled:
            recorder = Recorder(base.tracking.experiment, runs, tags)
        name = name_of(problem, one.search, f"{base.title()}-{problem.system}")
        storage = one.search.storage or str(folder / JOURNAL)
        found.append(replace(one, place=Place(name, storage, recorder, watch)))
    return found


def close(placed: Sequence[Part]) -> None:
    """End the MLflow runs that this process began and nobody finished."""
    for one in placed:
        if one.place.recorder is not None:
            one.place.recorder.close()


def unseen(view: object) -> None:
    """Show nothing."""
    del view


def unsaid(sentence: str) -> None:
    """Say nothing."""
    del sentence
