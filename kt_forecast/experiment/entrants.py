"""What a comparison asks for: runs that are here, and recipes to train."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kt_forecast.catalogue import find as word
from kt_forecast.errors import InputError
from kt_forecast.experiment import flow, forecasting
from kt_forecast.experiment.board_rows import Failure
from kt_forecast.experiment.recipe import Recipe
from kt_forecast.experiment.recipe_base import read_toml, shipped
from kt_forecast.experiment.recipe_forecast import ForecastRecipe
from kt_forecast.experiment.running import Say, is_early
from kt_forecast.experiment.stored import RECIPE, RUNS, ForecastRun, Run, find
from kt_forecast.experiment.systems import ALL, systems_of
from kt_forecast.experiment.training_processes import put_back, set_aside
from kt_forecast.experiment.which import (
    RECIPES,
    TASK,
    AnyRecipe,
    parse_recipe,
    read_recipe,
)
from kt_forecast.nn.system import System
from kt_forecast.training import TrainingConfig

AnyRun = Run | ForecastRun


@dataclass(frozen=True)
class Asked:
    """What is to be compared.

    Attributes:
        names: runs, or recipes.
        systems: words of the catalogue, each trained under every recipe; none leaves the recipes'
            own.
        sets: keys of the recipes to replace, each as ``a.b=c``.
        workers: processes at once.
        hours: that all may take.
    """

    names: Sequence[str]
    systems: Sequence[str] = ()
    sets: Sequence[str] = ()
    workers: int = 1
    hours: float | None = None

    @property
    def goes_on(self) -> bool:
        """Whether the others are compared where one cannot be trained."""
        return bool(self.systems) or self.workers > 1 or self.hours is not None


@dataclass(frozen=True)
class Entrant:
    """One run to compare.

    Attributes:
        kin: which of the names it is of; equal for what shares table and baselines.
        run: that is here; None where it is to be made.
        recipe: to train; None where the run is complete.
    """

    kin: int
    run: AnyRun | None = None
    recipe: AnyRecipe | None = None

    @property
    def title(self) -> str:
        """Return the name of the run."""
        if self.recipe is not None:
            return self.recipe.title()
        return self.run.name if self.run is not None else ""

    @property
    def system(self) -> str:
        """Return the name of the system."""
        if self.recipe is not None:
            return self.recipe.model.system
        return self.run.record.system.name if self.run is not None else ""


@dataclass
class Gathered:
    """What there is to compare.

    Attributes:
        entrants: in the order in which they were asked for.
        failed: what cannot be trained.
        notes: what a reader must know, one sentence each.
    """

    entrants: list[Entrant] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def gather(asked: Asked, *, runs: Path) -> Gathered:
    """Return what is asked for, checked: runs that are here, and recipes of those that are not.

    Args:
        asked: what is to be compared.
        runs: folder of the runs.

    Raises:
        InputError: there is no such run, recipe or system; or a recipe cannot be trained and
            nothing else is to go on.
    """
    for away in set_aside(runs).glob("*"):
        put_back(away, runs)
    told, known = Gathered(), _settings_of(runs)
    for kin, name in enumerate(asked.names):
        for one in _of_name(name, asked, runs, told):
            if isinstance(one, AnyRun):
                told.entrants.append(Entrant(kin, run=one))
                continue
            here = _of_same_settings(one, known, runs)
            early = here is not None and _is_early(here)
            told.entrants.append(
                Entrant(kin, run=here, recipe=one if here is None or early else None)
            )
    return told


def _is_early(found: AnyRun) -> bool:
    """Return whether a run's training was ended by time."""
    record = found.record
    loop = record.settings.get("training") or {}
    if not record.curve or "epochs" not in loop:
        return False
    return is_early(TrainingConfig.parse(loop, found.name), len(record.curve), record.best_epoch)


def _of_name(name: str, asked: Asked, runs: Path, told: Gathered) -> Iterator[AnyRun | AnyRecipe]:
    """Yield the run of that name, or the recipes of it.

    Raises:
        InputError: there is neither a run nor a recipe of that name.
    """
    said = ""
    if not asked.systems and not asked.sets:
        try:
            found = find(name, runs)
        except InputError as error:
            said = str(error)
        else:
            yield found
            return
    recipe = _recipe(name, said)
    systems = _systems(recipe, asked, told.failed)
    own = recipe.model.system
    if len(systems) > 1 and own in systems and _says_more(recipe):
        told.notes.append(
            f"{recipe.title()}: {own} has the recipe's settings, the others those they come with"
        )
    for system in systems:
        try:
            parts = _parts(_for_system(recipe, system, asked.sets, told.notes.append))
            for one in parts:
                _planned(one)
        except InputError as error:
            if not asked.goes_on:
                raise
            told.failed.append(Failure(system or own, recipe.title(), str(error)))
            continue
        yield from parts


def _recipe(name: str, said: str) -> AnyRecipe:
    """Return the recipe of that name.

    Args:
        name: of the recipe.
        said: why there is no run of that name; empty where none was looked for.

    Raises:
        InputError: there is none.
    """
    try:
        return read_recipe(shipped(name))
    except InputError as error:
        more = "nor is there a recipe of that name" if said else "--system and --set need a recipe"
        raise InputError(f"{said or error}; {more}") from None


def _systems(recipe: AnyRecipe, asked: Asked, failed: list[Failure]) -> list[str]:
    """Return the systems for a recipe; an empty word is its own.

    Raises:
        InputError: one is unknown.
    """
    if not asked.systems:
        return [""]
    if ALL in asked.systems:
        return systems_of(recipe, asked.systems)
    found = []
    for system in dict.fromkeys(asked.systems):
        word(system)
        try:
            found += systems_of(recipe, [system])
        except InputError as error:
            failed.append(Failure(system, recipe.title(), str(error).partition("; accepted")[0]))
    return found


def _for_system(recipe: AnyRecipe, system: str, sets: Sequence[str], say: Say) -> AnyRecipe:
    """Return the recipe for a system, with the keys replaced that it shall have.

    Raises:
        InputError: a key or value is refused.
    """
    if not system:
        return recipe.with_sets(list(sets))
    own = [text for text in sets if text.split(".")[0].split("=")[0].strip() in recipe.OF_SYSTEM]
    changed = recipe.with_sets([text for text in sets if text not in own])
    trained = isinstance(word(system), System)
    found = changed.with_system(system, trained=trained, say=say).with_sets(own)
    if found.model.system != system:
        raise InputError(
            f"--set model.system={found.model.system}: --system names {system}; accepted is one of"
            " the two"
        )
    return found


def _says_more(recipe: AnyRecipe) -> bool:
    """Return whether a recipe holds settings for its own system."""
    more = recipe.tracing if isinstance(recipe, Recipe) else recipe.members
    return bool(recipe.model.settings or more)


def _parts(recipe: AnyRecipe) -> tuple[AnyRecipe, ...]:
    """Return the recipes of one run each.

    Raises:
        InputError: the recipe is of all folds.
    """
    if isinstance(recipe, ForecastRecipe):
        return recipe.each(recipe.title()) if recipe.horizons or recipe.seeds else (recipe,)
    if recipe.folds == "all":
        raise InputError(
            f"{recipe.title()}: folds is 'all', and a comparison is on the test rows of one;"
            " accepted is --set folds=one"
        )
    return (recipe,)


def _planned(recipe: AnyRecipe) -> None:
    """Refuse, before anything is trained, what no table would mend.

    Raises:
        InputError: a name, key or value is refused.
    """
    if isinstance(recipe, Recipe):
        flow.plans(recipe)
    else:
        forecasting.plans(recipe)


def _settings_of(runs: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return the folder of every finished run, and all that its recipe says."""
    found = []
    for path in sorted((runs / RUNS).glob(f"*/{RECIPE}")):
        plain = read_toml(path)
        if plain.get(TASK) in RECIPES:
            found.append((path.parent, parse_recipe(plain, plain[TASK], str(path)).plain()))
    return found


def _of_same_settings(
    recipe: AnyRecipe, known: Sequence[tuple[Path, dict[str, Any]]], runs: Path
) -> AnyRun | None:
    """Return a finished run of a recipe; what the run has written out counts as the same."""
    wanted = type(recipe).parse(_plain(recipe), "compare").plain()
    free = {"name"} if "split" in wanted else {"name", "split"}
    asked = {key: value for key, value in wanted.items() if key not in free}
    for folder, plain in known:
        if {key: value for key, value in plain.items() if key not in free} == asked:
            return find(str(folder), runs)
    return None


def _plain(recipe: AnyRecipe) -> dict[str, Any]:
    import tomllib

    return tomllib.loads(recipe.to_toml())
