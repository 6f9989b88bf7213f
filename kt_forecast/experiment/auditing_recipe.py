"""`kt-forecast audit RECIPE`: data, split, features, model and scoring of a recipe in one go."""

from dataclasses import replace
from pathlib import Path as Folder
from time import perf_counter
from typing import Any

from kt_forecast.audit import Finding, Report, Stage, audit_pipeline
from kt_forecast.audit.pipeline import PROBES
from kt_forecast.experiment.auditing_parts import QUICK, THOROUGH, Path, Sizes
from kt_forecast.experiment.recipe import Recipe
from kt_forecast.experiment.running import Say, inside
from kt_forecast.experiment.stored import MODEL, RECIPE, SPLIT, ForecastRun, find
from kt_forecast.experiment.which import AnyRecipe, read_recipe

NEEDED = ("truncate", "mutate", "own")
"""Probes of the data path without which nothing is said of it."""

MEANT = {
    "split: students": ("a student is in two splits", "split by students"),
    "split: borders": ("a window crosses the border of its role", "keep every step ahead inside"),
    "scoring: each once": ("something is scored twice or never", "score each row once"),
    "scoring: coin flips": ("fair coins are predicted", "find what tells the answer"),
    "scoring: noise": ("noise is predicted", "find what tells the values ahead"),
}
"""What a check that failed means, and what to do."""

COMMON = "near duplicates"
"""What answers with few columns always have, and what says nothing of them."""

SEARCHED = "the data path keeps to its clock beyond what {} changed tables of {} could show"


def audit_recipe(recipe: AnyRecipe) -> Report:
    """Audit a recipe with a model that is trained for one epoch on a sample of its table.

    Args:
        recipe: of either task; of several horizons or seeds the first is taken.

    Raises:
        InputError: a setting or the table cannot be used.
    """
    if isinstance(recipe, Recipe):
        from kt_forecast.experiment import auditing_students

        return together(auditing_students.path_of(recipe, THOROUGH), THOROUGH)
    from kt_forecast.experiment import auditing_series

    return together(auditing_series.path_of(recipe.each("audit")[0], THOROUGH), THOROUGH)


def audit_run(name: str, runs: Folder, *, device: str = "auto") -> Report:
    """Audit a stored run: its own weights, its own recipe, its own split.

    Args:
        name: of the run, or its folder.
        runs: folder of the runs.
        device: a torch device, or ``auto``.

    Raises:
        InputError: there is no such run, or its table is not the one it was made of.
    """
    found = find(name, runs)
    recipe: Any = read_recipe(inside(found, RECIPE))
    folder, split = inside(found, MODEL), inside(found, SPLIT)
    if isinstance(found, ForecastRun):
        from kt_forecast.experiment import auditing_series, forecasting, series
        from kt_forecast.forecaster import Fitted as Forecasting

        forecaster = Forecasting.load(folder, device=device)
        rows = forecasting.prepare(recipe, series.load(recipe.data), forecaster.horizon, split)
        return together(auditing_series.path_on(recipe, rows, THOROUGH, forecaster), THOROUGH)
    from kt_forecast.experiment import auditing_students
    from kt_forecast.tracer import Fitted

    fitted = Fitted.load(folder, device=device)
    return together(auditing_students.path_of(recipe, THOROUGH, fitted, split), THOROUGH)


def together(path: Path, sizes: Sizes = QUICK) -> Report:
    """Return one report of data path, split, model and scoring.

    The verdict is the model's, which a search of the data path makes conditional; a leak anywhere
    is a leak, and a data path that could not be run leaves all unproven.
    """
    before = perf_counter()
    data = audit_pipeline(
        path.function,
        path.frame,
        path.contract,
        form="fit_transform",
        probes=sizes.probes or tuple(PROBES),
        moments=sizes.moments,
    )
    stages = _of_probes(data, perf_counter() - before)
    checks = list(path.stages())
    model = path.model()
    findings = (*data.findings, *_of_checks(checks), *model.findings)
    stopped = [
        f"the data path could not be judged by {stage.name}: {stage.detail}"
        for stage in stages
        if stage.outcome == "failed" and stage.name.partition(": ")[2] in NEEDED
    ]
    reasons = (*stopped, *model.reasons)
    doubts = tuple(c for c in data.scope["conditions"] if not c.startswith(COMMON))
    searched = SEARCHED.format(data.scope["trials"], path.what)
    conditions = (*model.conditions, *doubts, searched)
    verdict = model.verdict
    if findings:
        verdict = "leak"
    elif stopped:
        verdict = "unproven"
    elif verdict == "proved":
        verdict = "conditional"
    return replace(
        model,
        verdict=verdict,
        scope=model.scope | {"data": data.scope | {"sample": path.what}},
        findings=findings,
        conditions=conditions if verdict == "conditional" else (),
        reasons=reasons if verdict == "unproven" else (),
        stages=(*stages, *checks, *(replace(s, name=f"model: {s.name}") for s in model.stages)),
    )


def _of_probes(data: Report, seconds: float) -> list[Stage]:
    found = []
    records = data.scope["probes"]
    for record in records:
        name, ran, failed = record["probe"], record["ran"], sum(record["failed"].values())
        detail = f"{PROBES[name]}; {ran} runs, {record['rows_compared']} rows compared"
        outcome = "passed"
        if record["found"]:
            outcome, detail = "found", f"{', '.join(record['found'])}; {detail}"
        elif record["skipped"]:
            outcome, detail = "skipped", record["skipped"]
        elif not ran or not record["rows_compared"]:
            why = next(iter(record["failed"]), "no row could be compared")
            outcome, detail = "failed", why
        elif failed:
            detail += f"; {failed} changed tables were refused"
        found.append(Stage(f"data: {name}", outcome, detail, seconds / max(len(records), 1)))
    return found


def _of_checks(checks: list[Stage]) -> list[Finding]:
    return [
        Finding(
            input="the table",
            output=stage.name,
            ticks=0,
            effect=1.0,
            method="check",
            counterexample={"count": stage.detail},
            pattern=MEANT[stage.name.partition(",")[0]][0],
            repair=MEANT[stage.name.partition(",")[0]][1],
        )
        for stage in checks
        if stage.outcome == "found"
    ]


def table_of(report: Report) -> list[tuple[str, ...]]:
    """Return a row for each thing that was tried: part, check, outcome, detail."""
    rows: list[tuple[str, ...]] = []
    for stage in report.stages:
        part, _, name = stage.name.partition(": ")
        rows.append((part, name, stage.outcome, stage.detail))
    return rows


def say_report(report: Report, say: Say) -> None:
    """Say the verdict and what it rests on."""
    say(f"verdict: {report.verdict}")
    for finding in report.findings:
        say(f"leak: {finding}")
    for condition in report.conditions:
        say(f"only if {condition}")
    for reason in report.reasons:
        say(f"unproven: {reason}")
