"""A run as it lies in its folder."""

import json
import math
import os
import shutil
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from kt_forecast.errors import InputError
from kt_forecast.report import (
    ForecastProtocol,
    ForecastRecord,
    IntervalScore,
    RunRecord,
    Score,
    load_record,
)
from kt_forecast.tracking.registry import is_registered

RUNS = "runs"
RECIPE = "recipe.toml"
SPLIT = "split.json"
MODEL = "model"
RECORD = "record.json"
REPORT = "report.html"
TEST_READS = "test_reads.json"
AUDIT, AUDIT_PAGE = "audit.json", "audit.html"
"""The audit of the run, with its recipe and its own weights."""

TRACKED = "mlflow.json"
"""Where MLflow recorded the run; absent where it did not."""

SHOWN = {
    "auc": "AUC",
    "auc_within_student": "within student",
    "auc_within_concept": "within concept",
    "accuracy": "accuracy",
    "nll": "NLL",
    "ece": "ECE",
}
"""Metrics of the final table; the report and the record hold all."""

SHOWN_OF_FORECASTS = {
    "mse": "MSE",
    "mae": "MAE",
    "mase": "MASE",
    "wql": "WQL",
}
SHOWN_LEVEL = 90.0
"""Level, in percent, of the intervals whose coverage the final table shows, where the run has them;
else the nearest."""


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: holds recipe, split, model, record and report.
        record: everything that the report shows.
    """

    folder: Path
    record: RunRecord

    @property
    def name(self) -> str:
        """Return the name by which the command line finds the run."""
        return self.folder.name

    @property
    def leaks(self) -> bool:
        """Whether the audit found that the model reads what it could not have known."""
        return self.record.verdict is not None and self.record.verdict.leaks

    def tables(self) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
        """Return title, header and rows of the scores of each protocol."""
        found = []
        for protocol in self.record.protocols:
            metrics = [name for name in SHOWN if name in protocol.model]
            word = " LEAKS" if self.leaks else ""
            scores = {f"{self.record.system.name}{word}": protocol.model, **protocol.baselines}
            rows = [
                (name, *(_worded(one.get(metric), interval=metric == "auc") for metric in metrics))
                for name, one in scores.items()
            ]
            coin = ", responses replaced by fair coins" if self.record.coin_flip else ""
            title = (
                f"{protocol.name}: {protocol.n_interactions:,} interactions of"
                f" {protocol.n_students:,} test students{coin}"
            )
            found.append((title, ("system", *(SHOWN[name] for name in metrics)), rows))
        return found

    def closing(self) -> list[str]:
        """Return the sentences that end a run."""
        verdict = self.record.verdict
        lines = [f"AUC with {self.record.protocols[0].interval}"]
        if verdict is not None:
            found = f": {verdict.findings[0]}" if verdict.findings else ""
            lines.append(f"audit verdict: {'LEAKS' if verdict.leaks else verdict.verdict}{found}")
        lines.append(f"run: {self.name}, in {self.folder}")
        lines.append(_page(self.folder))
        return lines


@dataclass(frozen=True)
class ForecastRun:
    """A finished run of forecasting.

    Attributes:
        folder: holds recipe, split, model, record and report.
        record: everything that the report shows.
    """

    folder: Path
    record: ForecastRecord

    @property
    def name(self) -> str:
        """Return the name by which the command line finds the run."""
        return self.folder.name

    @property
    def leaks(self) -> bool:
        """Whether the audit found that the model reads what it could not have known."""
        return self.record.verdict is not None and self.record.verdict.leaks

    def tables(self) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
        """Return title, header and rows of the scores of each protocol."""
        found = []
        for protocol in self.record.protocols:
            metrics = [name for name in SHOWN_OF_FORECASTS if name in protocol.model]
            mine = self.record.system.name
            everyone = {mine: protocol.model, **protocol.baselines}
            held = {who: _quoted(protocol, who) for who in everyone}
            levels = sorted({one.level for one in held.values() if one is not None})
            rows = [
                (
                    who + (" LEAKS" if self.leaks and who == mine else ""),
                    *(_worded(one.get(m), interval=m == metrics[0]) for m in metrics),
                    *(_share(held[who]) for _ in levels[:1]),
                )
                for who, one in everyone.items()
            ]
            header = ("system", *(SHOWN_OF_FORECASTS[m] for m in metrics))
            header += tuple(f"held by {level:g} %" for level in levels[:1])
            title = (
                f"{protocol.name}: {protocol.n_windows:,} windows of {protocol.n_series:,} series"
            )
            found.append((title, header, rows))
        return found

    def closing(self) -> list[str]:
        """Return the sentences that end a run."""
        first, verdict = self.record.protocols[0], self.record.verdict
        lines = [
            f"MSE and MAE are of standardised values; intervals of MSE: {first.interval}",
            *(f"note: {note}" for note in first.notes),
            _against(self.record.system.name, first),
        ]
        if verdict is not None:
            found = f": {verdict.findings[0]}" if verdict.findings else ""
            lines.append(f"audit verdict: {'LEAKS' if verdict.leaks else verdict.verdict}{found}")
        lines.append(f"run: {self.name}, in {self.folder}")
        lines.append(_page(self.folder))
        return lines


def _page(folder: Path) -> str:
    """Say where a run's report is, or what makes it."""
    page = folder / REPORT
    made = page.is_file()
    return f"report: {page.resolve().as_uri() if made else f'kt-forecast report {folder.name}'}"


def _quoted(protocol: ForecastProtocol, who: str) -> IntervalScore | None:
    """Return how the intervals of a system did at the level that is shown."""
    found = protocol.intervals.get(who, ())
    return min(found, key=lambda one: abs(one.level - SHOWN_LEVEL), default=None)


def _share(one: IntervalScore | None) -> str:
    return "-" if one is None or math.isnan(one.coverage.value) else f"{one.coverage.value:.1%}"


def _against(name: str, protocol: ForecastProtocol) -> str:
    """Say whether the model beats what stands beside it, by the interval of the difference."""
    metric = protocol.headline
    scores = {who: one[metric].value for who, one in protocol.baselines.items() if metric in one}
    known = {who: value for who, value in scores.items() if not math.isnan(value)}
    if not known or metric not in protocol.model:
        return f"{name}: nothing stands beside it"
    best = min(known, key=lambda who: known[who])
    gap = protocol.differences.get(best, {}).get(metric)
    if gap is None or math.isnan(gap.low):
        word = "below" if protocol.model[metric].value < known[best] else "not below"
        return f"{name}: {SHOWN_OF_FORECASTS[metric]} {word} that of the best beside it, {best}"
    word = "beats" if gap.high < 0 else "is beaten by" if gap.low > 0 else "is level with"
    return (
        f"{name} {word} the best beside it, {best}: {SHOWN_OF_FORECASTS[metric]} differs by"
        f" {gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]"
    )


def _worded(score: Score | None, *, interval: bool) -> str:
    if score is None or math.isnan(score.value):
        return "-"
    word = f"{score.value:.4f}"
    if interval and not math.isnan(score.low):
        word += f" [{score.low:.4f}, {score.high:.4f}]"
    return word


def home(runs: Path, title: str) -> Path:
    """Return a folder for a new run: the title, numbered where it is taken."""
    folder, number = runs / RUNS / title, 1
    while folder.exists():
        number += 1
        folder = runs / RUNS / f"{title}-{number}"
    return folder


def find(name: str, runs: Path) -> Run | ForecastRun:
    """Return a run by name, by folder, or by the name and alias of its registered model.

    Raises:
        InputError: there is no such run; the nearest is suggested.
    """
    if is_registered(name):
        folder = _of_registered(name, runs)
    else:
        folder = Path(name) if (Path(name) / RECORD).is_file() else runs / RUNS / name
    path = folder / RECORD
    if not path.is_file():
        known = sorted(p.parent.name for p in (runs / RUNS).glob(f"*/{RECORD}"))
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it holds {', '.join(known) or 'none'}"
        raise InputError(f"no run is called {name!r} in {runs / RUNS}; {hint}")
    record = load_record(path.read_text(encoding="utf-8"), str(path))
    return Run(folder, record) if isinstance(record, RunRecord) else ForecastRun(folder, record)


def _of_registered(name: str, runs: Path) -> Path:
    """Return the folder of the run that made a registered model, fetched where it is not here.

    Raises:
        InputError: nothing is registered so, or the run is not to be had.
    """
    from kt_forecast.tracking import download
    from kt_forecast.tracking.registry import CACHE, fetched, registered

    found = registered(name, runs)
    for tracked in (runs / RUNS).glob(f"*/{TRACKED}"):
        if json.loads(tracked.read_text(encoding="utf-8"))["run"] == found.run:
            return tracked.parent
    folder = runs / CACHE / f"{found.name}-{found.version}-run"
    if not (folder / RECORD).is_file():
        part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
        for file in (RECIPE, SPLIT, TEST_READS, RECORD):
            download(found.run, file, part, runs)
        shutil.copytree(fetched(name, runs), part / MODEL)
        (part / TRACKED).write_text(json.dumps({"run": found.run}), encoding="utf-8")
        part.rename(folder)
    return folder
