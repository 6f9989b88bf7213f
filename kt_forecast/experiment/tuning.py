"""A study from a recipe to a winner's recipe, on one process or several."""

import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kt_forecast.errors import InputError
from kt_forecast.experiment import facts, tuning_record
from kt_forecast.experiment.running import Say, now, put
from kt_forecast.experiment.systems import systems_of
from kt_forecast.experiment.tuning_parts import (
    SETTINGS,
    Part,
    Table,
    Watch,
    close,
    parts_of,
    placed,
    single,
    title_of,
    unseen,
)
from kt_forecast.experiment.tuning_workers import Work, alone, deadlines_of, together
from kt_forecast.experiment.which import AnyRecipe
from kt_forecast.report.tuning import TuningRecord, render_tuning
from kt_forecast.tracking import Tracker
from kt_forecast.tuning import Found, Search, storage_said, threads

STUDIES = "optuna"
"""Folder of the studies, among the runs."""

STUDY, WINNER, RECORD, REPORT = "study.toml", "recipe.toml", "record.json", "report.html"


@dataclass(frozen=True)
class Tuned:
    """A finished study.

    Attributes:
        folder: holds the recipe that was searched, the winner's, the record and the report.
        record: everything that the report shows.
        recipe: the winner's.
        written: where the winner's recipe lies.
    """

    folder: Path
    record: TuningRecord
    recipe: AnyRecipe
    written: Path

    def tables(self) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
        """Return title, header and rows of the systems, and of what the winner changes."""
        return tuning_record.tables(self.record)

    def closing(self) -> list[str]:
        """Return the sentences that end a study."""
        return [
            self.record.answer(),
            f"winner: {self.written}; {self.record.train}",
            f"report: {(self.folder / REPORT).resolve().as_uri()}",
        ]


@dataclass(frozen=True)
class _Job:
    """What was asked for.

    Attributes:
        base: the recipe that is searched.
        how: how to search.
        folder: of the study.
        table: what is said of the rows.
        out: where the winner's recipe goes too.
        device: a torch device, or ``auto``.
        say: told what happens.
    """

    base: AnyRecipe
    how: Search
    folder: Path
    table: Table
    out: Path | None
    device: str
    say: Say


def tune(  # noqa: PLR0913 - each is an option of the command
    recipe: AnyRecipe,
    how: Search,
    *,
    systems: Sequence[str] = (),
    workers: int = 1,
    runs: Path,
    device: str = "auto",
    out: Path | None = None,
    say: Say = print,
    watch: Watch | None = None,
) -> Tuned:
    """Search settings of a recipe's system, or of several, and write the winner as a recipe.

    Args:
        recipe: what trial 0 trains; its ``[search]`` narrows what is searched.
        how: how to search, and for how long: trials of each system, hours of all together.
        systems: what to search in the recipe's place, each with the same budget; ``all`` for every
            trained system that serves the task.
        workers: processes of this machine that search.
        runs: folder of the runs, of MLflow's database and of the studies.
        device: a torch device, or ``auto``.
        out: where to write the winner's recipe too.
        say: told what happens, one sentence at a time.
        watch: told how far a study is, now and then.

    Raises:
        InputError: a setting or the table cannot be used, or no trial was completed.
    """
    base = single(recipe)
    names = systems_of(base, systems)
    if out is not None and out.is_dir():
        raise InputError(f"{out}: is a folder; accepted is the name of a file for the recipe")
    table, parts = parts_of(base, how, names, device, say)
    folder = runs / STUDIES / title_of(base, parts)
    folder.mkdir(parents=True, exist_ok=True)
    put(folder / STUDY, base.to_toml())
    seen = watch or unseen
    parts = placed(parts, base, folder, runs, table, seen)
    work = Work(
        task=base.task,
        recipe=base.plain(),
        search=how,
        systems=tuple(one.problem.system for one in parts),
        runs=str(runs),
        device=device,
        deadlines=deadlines_of(how, len(parts)),
        parent=os.getpid(),
    )
    with ExitStack() as held:
        held.callback(close, parts)
        if workers == 1:
            found = alone(parts, work, say)
        else:
            found = together(parts, work, workers, folder, say, seen)
        return _finished(_Job(base, how, folder, table, out, device, say), parts, found)


def _finished(job: _Job, parts: Sequence[Part], found: Sequence[Found]) -> Tuned:
    """Choose the winner, write its recipe and the report, and end MLflow's runs.

    Raises:
        InputError: no trial was completed.
    """
    from kt_forecast.training import device_named

    base, how, folder = job.base, job.how, job.folder
    place = _best(found)
    winner, one = found[place], parts[place]
    assert winner.winner is not None  # noqa: S101 - `_best` looked
    assert winner.sections is not None  # noqa: S101
    recipe = winner_recipe(one.recipe, base.title(), winner.sections)
    score = _again(winner, job.say)
    written = job.out or folder / WINNER
    for path in {folder / WINNER, written}:
        path.parent.mkdir(parents=True, exist_ok=True)
        put(path, recipe.to_toml())
    record = TuningRecord(
        title=folder.name,
        created=now(),
        data=job.table.name,
        split=job.table.split,
        metric=winner.problem.metric,
        direction=winner.problem.direction,
        sampler=how.sampler,
        pruner=tuning_record.pruner(how),
        cost=how.cost,
        seed=base.seed,
        studies=tuple(map(tuning_record.study, found)),
        best=place,
        score=score,
        settings=recipe.plain(),
        storage=storage_said(one.place.storage or ""),
        command=_command(folder, how, [o.problem.system for o in parts], base),
        train=f"kt-forecast train {shlex.quote(str(written))}",
        environment=facts.environment(str(device_named(job.device))),
        code_version=facts.code(),
    )
    put(folder / RECORD, record.to_json())
    put(folder / REPORT, render_tuning(record))
    for study, result in zip(parts, found, strict=True):
        _track(study, result, folder)
    return Tuned(folder, record, recipe, written)


def winner_recipe(base: AnyRecipe, title: str, sections: Mapping[str, Mapping[str, Any]]) -> Any:  # noqa: ANN401
    """Return the recipe of a winner: trained by it, the system reaches the winner's score again.

    Args:
        base: the recipe that was searched, of the winner's system.
        title: of the study.
        sections: every setting of the winner.
    """
    changes: dict[str, Any] = {name: dict(sections[name]) for name in sections if name != SETTINGS}
    changes |= {"model": {"settings": dict(sections[SETTINGS])}, "search": {}}
    changes["name"] = f"{title}-tuned"
    if "training" not in sections and "forecasting" in sections:
        # A fitted baseline keeps its context among its own settings.
        own = sections[SETTINGS]
        changes["forecasting"] = {k: v for k, v in changes["forecasting"].items() if k not in own}
    emptied = base.model_copy(update={"search": {}})
    return emptied.changed(changes, "winner")


def _best(found: Sequence[Found]) -> int:
    """Return the place of the best study.

    Raises:
        InputError: in none a trial was completed.
    """
    places = [i for i, one in enumerate(found) if one.winner is not None]
    if not places:
        reasons = [t.reason for one in found for t in one.trials if t.reason]
        why = f" ({reasons[0]})" if reasons else ""
        raise InputError(
            f"no trial was completed{why}; accepted are more trials or hours; the same command goes"
            " on with the study"
        )
    sign = -1 if found[places[0]].problem.direction == "max" else 1
    return min(places, key=lambda i: sign * found[i].mean(found[i].winner or 0))


def _again(winner: Found, say: Say) -> float:
    """Return the winner's score as this process's threads give it.

    The last digits of a sum depend on how many threads share it: a score of a process with other
    threads is measured again, so that what is written down is what ``train`` will find.
    """
    number = winner.winner or 0
    trial = winner.trial(number)
    if trial.facts.get("threads") == threads() or winner.sections is None:
        return trial.value
    say(f"training the winner again on {threads()} threads, as train will")
    return winner.problem.run(winner.sections, winner.problem.seed, unseen).value


def _track(study: Part, found: Found, folder: Path) -> None:
    """End MLflow's run of a study with what it found."""
    recorder = study.place.recorder
    if recorder is None or found.run is None:
        return
    scores: dict[str, float] = {"study/trials": float(len(found.trials))}
    if found.winner is not None:
        scores[f"study/{found.problem.metric}"] = found.mean(found.winner)
    if found.defaults is not None:
        scores[f"study/default_{found.problem.metric}"] = found.mean(found.defaults.number)

    def write(tracker: Tracker) -> None:
        tracker.tags({"study.winner": str(found.winner), "folder": str(folder.resolve())})
        for name in (STUDY, WINNER, RECORD):
            tracker.file(folder / name)
        tracker.report(folder / REPORT)

    recorder.finish(found.run, scores, write)


def _command(folder: Path, how: Search, names: Sequence[str], base: AnyRecipe) -> str:
    """Return what goes on with a study."""
    parts = ["kt-forecast", "tune", str(folder / STUDY)]
    plain = how.model_dump(mode="json", exclude_defaults=True, exclude={"space", "storage"})
    for name, value in plain.items():
        parts += [f"--{name}", str(value)]
    for name in names if list(names) != [base.model.system] else ():
        parts += ["--system", name]
    if how.storage is not None:
        parts += ["--storage", storage_said(how.storage)]
    return shlex.join(parts)
