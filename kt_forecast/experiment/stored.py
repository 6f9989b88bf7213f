"""A run as it lies in its folder."""

import math
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from kt_forecast.errors import InputError
from kt_forecast.report import RunRecord, Score

RUNS = "runs"
RECIPE = "recipe.toml"
SPLIT = "split.json"
MODEL = "model"
RECORD = "record.json"
REPORT = "report.html"
TEST_READS = "test_reads.json"
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
        lines.append(f"report: {(self.folder / REPORT).resolve().as_uri()}")
        return lines


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


def find(name: str, runs: Path) -> Run:
    """Return a run by name or folder.

    Raises:
        InputError: there is no such run; the nearest is suggested.
    """
    folder = Path(name) if (Path(name) / RECORD).is_file() else runs / RUNS / name
    path = folder / RECORD
    if not path.is_file():
        known = sorted(p.parent.name for p in (runs / RUNS).glob(f"*/{RECORD}"))
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it holds {', '.join(known) or 'none'}"
        raise InputError(f"no run is called {name!r} in {runs / RUNS}; {hint}")
    return Run(folder, RunRecord.from_json(path.read_text(encoding="utf-8"), str(path)))
