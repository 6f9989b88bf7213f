"""A stored run used again: scored under other protocols, asked for predictions, shown."""

import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from kt_forecast.data import tables as sources
from kt_forecast.data.cards import card_names
from kt_forecast.errors import InputError
from kt_forecast.experiment import tables
from kt_forecast.experiment.flow import (
    Say,
    check_protocols,
    fit_all_beside,
    plans,
    prepare,
    score,
    track_scores,
)
from kt_forecast.experiment.recipe import DataRecipe, Recipe
from kt_forecast.experiment.stored import (
    MODEL,
    RECIPE,
    RECORD,
    REPORT,
    SPLIT,
    TEST_READS,
    TRACKED,
    Run,
    find,
)
from kt_forecast.report import Protocol, render, write
from kt_forecast.schema import LINE
from kt_forecast.tracer import Fitted, predict_rows
from kt_forecast.tracer.frames import with_p_correct
from kt_forecast.tracking import Tracker

_WRITERS = {".csv": "write_csv", ".parquet": "write_parquet"}
_LIST_SEPARATOR = "_"


def evaluate(
    name: str,
    *,
    protocols: tuple[str, ...] = (),
    runs: Path,
    device: str = "auto",
    say: Say = print,
) -> Run:
    """Score a stored run on its own test rows, and keep what was found with the run.

    Args:
        name: of the run, or its folder.
        protocols: ways of evaluating; by default those of the recipe.
        runs: folder of the runs.
        device: a torch device, or ``auto``.
        say: told what happens.

    Raises:
        InputError: there is no such run or protocol, or its table is not the one it was made of.
    """
    check_protocols(protocols or ("full",))
    found = find(name, runs)
    recipe = Recipe.read(_inside(found, RECIPE))
    protocols = protocols or recipe.evaluation.protocols
    _, beside = plans(recipe)
    fitted = Fitted.load(_inside(found, MODEL), device=device)
    rows = prepare(recipe, tables.load(recipe.data), found.folder / SPLIT)
    others = fit_all_beside(recipe, beside, rows, runs, fitted.device, say)
    reads = _note_read(found.folder / TEST_READS)
    say(f"reading the test rows; this run has read them {reads} times by now")
    scored, _ = score(recipe, fitted, others, rows, protocols)
    fresh = {one.name: one for one in scored}
    kept = [fresh.pop(one.name, one) for one in found.record.protocols]
    record = replace(found.record, protocols=(*kept, *fresh.values()))
    _put(found.folder / RECORD, record.to_json())
    _put(found.folder / REPORT, render(record))
    if (found.folder / TRACKED).exists():
        _track(found.folder, tuple(scored), runs, say)
    return Run(found.folder, replace(record, protocols=tuple(scored)))


def predict(
    name: str,
    data: dict[str, Any],
    *,
    out: Path | None = None,
    runs: Path,
    device: str = "auto",
) -> Path:
    """Write a table with the column ``p_correct``: each row predicted from those before it.

    Args:
        name: of the run, or its folder.
        data: keys of a recipe's ``[data]``; what is absent is as the run's own table was read.
        out: the file to write, CSV or Parquet; by default beside the caller.
        runs: folder of the runs.
        device: a torch device, or ``auto``.

    Returns:
        The file written.

    Raises:
        InputError: there is no such run, the table is refused, or the file's ending is unknown.
    """
    found = find(name, runs)
    recipe = Recipe.read(_inside(found, RECIPE))
    own = recipe.data.model_dump(include={"columns", "separator", "repeats"})
    known = {key: value for key, value in own.items() if value}
    settings = DataRecipe.parse(known | data, "predict")
    source = settings.source
    out = out or Path(f"{Path(source).name.split('.')[0]}.predicted.csv")
    if out.suffix not in _WRITERS:
        raise InputError(f"{out}: accepted endings are {' and '.join(_WRITERS)}")
    fitted = Fitted.load(_inside(found, MODEL), device=device)
    interactions = tables.load(settings, asking=True)
    p_correct = predict_rows(fitted, interactions)
    if source in card_names():
        frame = with_p_correct(replace(interactions, source=None), interactions, p_correct)
    else:
        raw = sources.read(Path(source), columns=settings.columns, format=settings.format)
        frame = with_p_correct(raw.collect().drop(LINE, strict=False), interactions, p_correct)
    _write_table(frame, out)
    return out


def report(name: str, *, out: Path | None = None, runs: Path) -> Path:
    """Write the HTML report of a stored run again, and return where.

    Args:
        name: of the run, or its folder.
        out: the file to write; by default the run's own.
        runs: folder of the runs.

    Raises:
        InputError: there is no such run.
    """
    found = find(name, runs)
    path = out or found.folder / REPORT
    write(found.record, path)
    return path


def _inside(found: Run, name: str) -> Path:
    """Return a part of the run's folder.

    Raises:
        InputError: it is missing, as in the summary of several folds.
    """
    path = found.folder / name
    if not path.exists():
        parts = sorted(p.name for p in found.folder.parent.glob(f"{found.name}-fold*"))
        raise InputError(
            f"{found.folder}: holds no {name}; accepted is a run of its own"
            + (f", such as {parts[0]}" if parts else "")
        )
    return path


def _note_read(path: Path) -> int:
    """Record that the test rows are read, and return how often they were by now."""
    reads = json.loads(path.read_text(encoding="utf-8"))
    when = datetime.now(UTC).isoformat(timespec="seconds")
    reads.append({"when": when, "why": "evaluate"})
    _put(path, json.dumps(reads, indent=1))
    return len(reads)


def _track(folder: Path, protocols: tuple[Protocol, ...], runs: Path, say: Say) -> None:
    """Add what was found to MLflow's record of the run, or say that it is not there."""
    run = json.loads((folder / TRACKED).read_text(encoding="utf-8"))["run"]
    try:
        tracker = Tracker.of(run, runs)
    except InputError as error:
        say(f"not added to MLflow: {error}")
        return
    track_scores(tracker, protocols)
    for name in (RECORD, TEST_READS):
        tracker.file(folder / name)
    tracker.report(folder / REPORT)


def _put(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _write_table(frame: pl.DataFrame, out: Path) -> None:
    if out.suffix == ".csv":
        lists = [name for name, kind in frame.schema.items() if isinstance(kind, pl.List)]
        frame = frame.with_columns(
            pl.col(name).cast(pl.List(pl.String)).list.join(_LIST_SEPARATOR) for name in lists
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f"{out.name}.{os.getpid()}.part")
    try:
        getattr(frame, _WRITERS[out.suffix])(part)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
