"""What a run of either task needs beside its own work: a place, a lock, a folder, a tracker."""

import errno
import hashlib
import json
import math
import os
import shlex
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from filelock import FileLock, Timeout

from kt_forecast.audit import Report
from kt_forecast.data.cards import card_names, read_card
from kt_forecast.errors import InputError
from kt_forecast.experiment.recipe import Recipe
from kt_forecast.experiment.recipe_base import BaseRecipe
from kt_forecast.experiment.recipe_forecast import ForecastRecipe
from kt_forecast.experiment.stored import (
    AUDIT,
    AUDIT_PAGE,
    MODEL,
    RECIPE,
    RECORD,
    REPORT,
    SPLIT,
    TEST_READS,
    TRACKED,
    ForecastRun,
    Run,
    home,
)
from kt_forecast.report import (
    AnyProtocol,
    ForecastProtocol,
    ForecastRecord,
    RunRecord,
    figures,
    render,
)
from kt_forecast.tracking import Tracker
from kt_forecast.training import Checkpoint, Epoch, TrainingConfig

Say = Callable[[str], None]
R = TypeVar("R", RunRecord, ForecastRecord)

CHECKPOINTS = "checkpoints"


@runtime_checkable
class Saved(Protocol):
    """A split, or a trained model: what can be written to a path."""

    def save(self, path: Path, /) -> None:
        """Write it, whole or not at all."""
        ...


def checkpoint_of(plan: dict[str, Any], rows: str, runs: Path) -> Checkpoint:
    """Return where a run of the same rows and settings keeps its place.

    Args:
        plan: every setting.
        rows: hash of data, split and labels.
        runs: folder of the runs.
    """
    fingerprint = hashed([plan, rows])
    return Checkpoint(runs / CHECKPOINTS / fingerprint[:16], fingerprint, resume=True)


def going_on(checkpoint: Checkpoint, say: Say) -> None:
    """Say so where an interrupted run left its place."""
    if (checkpoint.folder / "checkpoint.safetensors").exists():
        say("an interrupted run of the same recipe is here: going on where it stopped")


@dataclass
class Place:
    """Where a training keeps its place and writes its curve.

    Attributes:
        checkpoint: of the training.
        tracker: records the run; None where nothing does.
        name: of the run's folder.
        runs: folder of the runs.
        device: a torch device, or ``auto``.
        unfinished: the training was ended early, and keeps its checkpoint to go on from.
    """

    checkpoint: Checkpoint
    tracker: Tracker | None
    name: str
    runs: Path
    device: str = "auto"
    unfinished: bool = False

    @property
    def run_id(self) -> str | None:
        """Return the id of MLflow's record."""
        return self.tracker.id if self.tracker is not None else None

    def callbacks(
        self, tell: Callable[[Epoch], object] | None
    ) -> tuple[Callable[[Epoch], object], ...]:
        """Return what is called with every epoch."""
        record = self.tracker.epoch if self.tracker is not None else None
        return tuple(one for one in (tell, record) if one is not None)


@contextmanager
def at_work(
    recipe: Recipe | ForecastRecipe,
    plan: dict[str, Any],
    rows: str,
    *,
    settings: Callable[[], dict[str, Any]],
    data: dict[str, str],
    runs: Path,
    first: bool,
    say: Say,
) -> Iterator[Place]:
    """Give a training its place, its lock and its tracker; its place goes when all is done.

    Args:
        recipe: what is done.
        plan: every setting that decides the numbers.
        rows: hash of data, split and labels.
        settings: returns the settings to record.
        data: hashes and names of table and split, to record.
        runs: folder of the runs.
        first: whether this is the first of several processes, which alone locks and records.
        say: told where an interrupted run goes on.

    Raises:
        InputError: another process trains the same recipe there.
    """
    checkpoint = checkpoint_of(plan, rows, runs)
    with alone(checkpoint.folder) if first else nullcontext():
        going_on(checkpoint, say)
        tracked = recipe.tracking.enabled and first
        name = home(runs, recipe.title()).name
        with (
            Tracker(recipe.tracking.experiment, name, root=runs) if tracked else nullcontext() as (
                tracker
            )
        ):
            if tracker is not None:
                tracker.settings(settings())
                source = recipe.data.source
                tracker.data(**data, source=source, card=said_by_card(source))
            place = Place(checkpoint, tracker, name, runs)
            yield place
        if first and not place.unfinished:
            shutil.rmtree(checkpoint.folder, ignore_errors=True)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder in which a run keeps its place, so that no other process uses it.

    Raises:
        InputError: another process trains the same recipe there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock"
    try:
        with FileLock(path, timeout=0):
            try:
                yield
            finally:
                if [*folder.glob("*")] == [path]:
                    shutil.rmtree(folder)
    except Timeout:
        raise InputError(
            f"{folder}: another process is training the same recipe on the same rows; accepted is"
            " to wait for it, another --seed, or another folder for --runs"
        ) from None


def refuse_trained(names: Sequence[str]) -> None:
    """Refuse baselines that need every process, which wait for no baseline.

    Args:
        names: of the baselines that train with epochs.

    Raises:
        InputError: there is one.
    """
    if names:
        raise InputError(
            f"baselines.systems holds {names[0]}, which trains with epochs; under several"
            " processes accepted are fitted baselines, and a run of its own for this one"
        )


def keep(
    recipe: BaseRecipe,
    record: R,
    *,
    split: Saved,
    fitted: Saved,
    audit: Report,
    place: Place,
    page: bool = True,
) -> tuple[Path, R]:
    """Write the run's folder, whole or not at all, and return it with its final record.

    Args:
        recipe: names the run.
        record: what was found; its title and command become those of the folder.
        split: of the rows.
        fitted: the model.
        audit: of the model and its recipe.
        place: where it was trained.
        page: whether its report is drawn even where nothing tracks the run.

    Raises:
        OSError: the folder cannot be written.
    """
    while True:
        folder = home(place.runs, recipe.title())
        record = replace(record, title=folder.name, command=command(folder))
        try:
            with whole(folder) as part:
                (part / RECIPE).write_text(recipe.to_toml(), encoding="utf-8")
                split.save(part / SPLIT)
                fitted.save(part / MODEL)
                (part / AUDIT).write_text(audit.to_json(), encoding="utf-8")
                (part / AUDIT_PAGE).write_text(audit.to_html(), encoding="utf-8")
                reads = [{"when": record.created, "why": "train"}]
                (part / TEST_READS).write_text(json.dumps(reads, indent=1), encoding="utf-8")
                if place.run_id is not None:
                    tracked = json.dumps({"run": place.run_id})
                    (part / TRACKED).write_text(tracked, encoding="utf-8")
                write_record(part, record, page=page or place.tracker is not None)
        except OSError as error:
            # Another process took the name meanwhile.
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST} or not folder.exists():
                raise
        else:
            return folder, record


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """Give a folder to write to that takes its own name once all is written."""
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        yield part
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_record(folder: Path, record: RunRecord | ForecastRecord, *, page: bool = True) -> None:
    """Write what a run found and the page that shows it into its folder."""
    (folder / RECORD).write_text(record.to_json(), encoding="utf-8")
    if page:
        (folder / REPORT).write_text(render(record), encoding="utf-8")


def is_early(training: TrainingConfig | None, epochs: int, best: int | None) -> bool:
    """Return whether a training ended before its epochs and its patience did."""
    if training is None or best is None:
        return False
    return epochs < training.epochs and epochs - best < training.patience


def command(folder: Path) -> str:
    """Return what is typed to make a run again."""
    return f"kt-forecast train {shlex.quote(str(folder / RECIPE))}"


def track_scores(tracker: Tracker, protocols: Iterable[AnyProtocol]) -> None:
    """Record the scores of protocols, the model's and those of what stands beside it."""
    found: dict[str, tuple[float, float, float]] = {}
    for protocol in protocols:
        name = protocol.name.partition(",")[0]
        for who, one in {"": protocol.model, **protocol.baselines}.items():
            prefix = f"{name}/{who}/" if who else f"{name}/"
            found |= {f"{prefix}{metric}": (s.value, s.low, s.high) for metric, s in one.items()}
        if isinstance(protocol, ForecastProtocol):
            found |= _held(name, protocol)
    finite = {k: v for k, v in found.items() if not math.isnan(v[0])}
    tracker.scores({k: v if not math.isnan(v[1]) else v[0] for k, v in finite.items()})


def _held(name: str, protocol: ForecastProtocol) -> dict[str, tuple[float, float, float]]:
    found = {}
    for who, intervals in protocol.intervals.items():
        prefix = f"{name}/" if who not in protocol.baselines else f"{name}/{who}/"
        for one in intervals:
            for metric, s in (("coverage", one.coverage), ("width", one.width)):
                found[f"{prefix}{metric}_{one.level:g}"] = (s.value, s.low, s.high)
    return found


def said_by_card(source: str) -> dict[str, str]:
    """Return licence, citation and homepage of a data set; nothing for a table without a card."""
    if Path(source).exists() or source not in card_names():
        return {}
    card = read_card(source)
    return {"licence": card.licence, "citation": card.citation, "homepage": card.homepage}


def works(record: RunRecord | ForecastRecord) -> dict[str, str]:
    """Return what is to be cited by whoever publishes a run, by what it stands for."""
    cited = {"data": record.data.citation, "system": record.system.paper}
    cited |= {one.what or f"work {i}": one for i, one in enumerate(record.citations, start=1)}
    told = {}
    for what, one in cited.items():
        if one is not None and one.title:
            told[what] = ", ".join(str(x) for x in (one.authors, one.title, one.year, one.url) if x)
    return told


def track(tracker: Tracker, done: Run | ForecastRun) -> None:
    """Record what the run found and left."""
    record = done.record
    tracker.name(done.name)
    track_scores(tracker, record.protocols)
    tracker.tags({"system": record.system.name, "folder": str(done.folder.resolve())})
    if record.objective:
        tracker.tags({"train_loss": record.objective})
    tracker.cite(works(record))
    if record.verdict is not None:
        tracker.verdict(record.verdict.verdict)
    for name, figure in figures(record).items():
        tracker.text(figure.decode(), f"figures/{name}.svg")
    for name in (RECIPE, SPLIT, RECORD, TEST_READS):
        tracker.file(done.folder / name)
    for name in (AUDIT, AUDIT_PAGE):
        tracker.file(done.folder / name, "audit")
    tracker.report(done.folder / REPORT)
    tracker.model(done.folder / MODEL, task=record.TASK)


def track_again(folder: Path, protocols: Iterable[AnyProtocol], runs: Path, say: Say) -> None:
    """Add what was found to MLflow's record of the run, or say that it is not there."""
    if not (folder / TRACKED).exists():
        return
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


def inside(found: Run | ForecastRun, name: str) -> Path:
    """Return a part of the run's folder.

    Raises:
        InputError: it is missing, as in the summary of several runs.
    """
    path = found.folder / name
    if not path.exists():
        parts = sorted(p.parent.name for p in found.folder.parent.glob(f"{found.name}-*/{name}"))
        raise InputError(
            f"{found.folder}: holds no {name}; accepted is a run of its own"
            + (f", such as {parts[0]}" if parts else "")
        )
    return path


def note_read(found: Run | ForecastRun, say: Say) -> None:
    """Record that the test rows are read, and say how often they were by now."""
    path = found.folder / TEST_READS
    reads = json.loads(path.read_text(encoding="utf-8"))
    reads.append({"when": now(), "why": "evaluate"})
    put(path, json.dumps(reads, indent=1))
    say(f"reading the test rows; this run has read them {len(reads)} times by now")


def put(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def told(say: Say, lowered: str, metric: str) -> Callable[[Epoch], None]:
    """Return a callback of training that says what an epoch gave.

    Args:
        say: told.
        lowered: what training lowers.
        metric: what chooses the epoch.
    """

    def tell(epoch: Epoch) -> None:
        say(
            f"epoch {epoch.number}: {lowered} {epoch.loss:.4f}, validation {metric}"
            f" {epoch.metrics[metric]:.4f}, {epoch.seconds:.1f} s"
        )

    return tell


def silent(sentence: str) -> None:
    """Say nothing."""
    del sentence


def now() -> str:
    """Return the time, as records hold it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def hashed(facts: Any) -> str:  # noqa: ANN401
    """Return SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
