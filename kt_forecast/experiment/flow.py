"""One experiment: table, split, training, audit, one reading of the test rows, report."""

import errno
import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from kt_forecast.data.interactions import Interactions
from kt_forecast.data.splits import Role, Split, load_split, split
from kt_forecast.errors import InputError
from kt_forecast.evaluation import PROTOCOLS, Scores, coin_flip, evaluate
from kt_forecast.experiment import facts, tables
from kt_forecast.experiment.auditing import audit_fitted
from kt_forecast.experiment.beside import CACHE, fit_beside
from kt_forecast.experiment.recipe import Recipe
from kt_forecast.experiment.stored import (
    MODEL,
    RECIPE,
    RECORD,
    REPORT,
    RUNS,
    SPLIT,
    TEST_READS,
    TRACKED,
    Run,
    home,
)
from kt_forecast.nn.system import unknown
from kt_forecast.report import Protocol, RunRecord, figures, render
from kt_forecast.sequences.build import build_role, fit_vocabulary
from kt_forecast.sequences.interactions import StudentSequences, Vocabulary
from kt_forecast.tracer import Fitted, Plan, fit_plan, plan
from kt_forecast.tracking import Tracker
from kt_forecast.training import Checkpoint, Epoch, workers

Say = Callable[[str], None]

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Rows:
    """The sequences of every role, and what identifies them.

    Attributes:
        interactions: the table.
        roles: the split.
        vocabulary: names of the training rows.
        parts: sequences by role.
        key: hash of data, split and labels.
    """

    interactions: Interactions
    roles: Split
    vocabulary: Vocabulary
    parts: Mapping[Role, StudentSequences]
    key: str


def run_one(recipe: Recipe, *, runs: Path, device: str = "auto", say: Say = print) -> Run | None:
    """Do what a recipe describes, for one split.

    Args:
        recipe: what to do.
        runs: folder of the runs, of MLflow's database and of the cache.
        device: a torch device, or ``auto``.
        say: told what happens, one sentence at a time.

    Returns:
        The run; None in a process of several that is not the first.

    Raises:
        InputError: a setting or the table cannot be used; nothing was written.
        TrainingError: a number in training is not finite.
    """
    chosen, beside = plans(recipe)
    with ExitStack() as alone, workers(device) as group:
        if group.world > 1:
            _refuse_trained(beside)
        first = group.rank == 0
        say = say if first else _silent
        interactions = tables.load(recipe.data)
        _describe(interactions, say)
        rows = prepare(recipe, interactions)
        checkpoint = _checkpoint(chosen, rows, runs)
        if first:
            alone.enter_context(_alone(checkpoint.folder))
        if (checkpoint.folder / "checkpoint.safetensors").exists():
            say("an interrupted run of the same recipe is here: going on where it stopped")
        tracked = recipe.tracking.enabled and first
        name = home(runs, recipe.title()).name
        with (
            Tracker(recipe.tracking.experiment, name, root=runs) if tracked else nullcontext() as (
                tracker
            )
        ):
            epochs = [_said(say, chosen)]
            if tracker is not None:
                tracker.settings(resolved(recipe, chosen))
                tracker.data(
                    data_hash=interactions.data_hash,
                    split_hash=rows.roles.role_hash,
                    name=interactions.name,
                )
                epochs.append(tracker.epoch)
            fitted = fit_plan(
                chosen,
                rows.parts[Role.TRAIN],
                rows.parts[Role.VALID],
                rows.vocabulary,
                checkpoint=checkpoint,
                callbacks=epochs if first else (),
                device=str(group.device),
            )
            if not first:
                return None
            run_id = tracker.id if tracker is not None else None
            done = _finish(recipe, fitted, beside, rows, name, run_id, runs, say)
            if tracker is not None:
                _track(tracker, done)
        shutil.rmtree(checkpoint.folder, ignore_errors=True)
        return done


def prepare(recipe: Recipe, interactions: Interactions, stored: Path | None = None) -> Rows:
    """Return the sequences of every role.

    Args:
        recipe: names the split.
        interactions: the table.
        stored: the split's file, where the split is one that was stored.

    Raises:
        InputError: the table cannot be split so, or is not the one that the stored split is of.
    """
    if stored is not None:
        roles = load_split(stored, interactions)
    else:
        roles = split(interactions, recipe.seeded_split())
    vocabulary = fit_vocabulary(interactions, roles, extras=recipe.data.extras)
    parts = {
        role: build_role(interactions, vocabulary, roles, role)
        for role in (Role.TRAIN, Role.VALID, Role.TEST)
    }
    labels = "as observed"
    if recipe.coin_flip:
        labels = f"coin {recipe.seed}"
        parts = {role: coin_flip(part, 3 * recipe.seed + role) for role, part in parts.items()}
    key = _hash([interactions.data_hash, roles.role_hash, labels, list(recipe.data.extras)])
    return Rows(interactions, roles, vocabulary, parts, key)


def score(
    recipe: Recipe,
    fitted: Fitted,
    beside: Mapping[str, Fitted],
    rows: Rows,
    protocols: tuple[str, ...],
) -> tuple[list[Protocol], dict[str, Scores]]:
    """Read the test rows and return what every protocol found, and the first one's scores."""
    found: list[Protocol] = []
    first: dict[str, Scores] = {}
    settings = {"resamples": recipe.evaluation.bootstraps, "seed": recipe.seed}
    for protocol in protocols:
        test = rows.parts[Role.TEST]
        scores = {
            name: evaluate(one, test, protocol, **settings)
            for name, one in {fitted.plan.name: fitted, **beside}.items()
        }
        others = {name: scores[name] for name in beside}
        found.append(facts.protocol(scores[fitted.plan.name], others, **settings))
        first = first or scores
    return found, first


def fit_all_beside(
    recipe: Recipe, beside: list[Plan], rows: Rows, runs: Path, device: str, say: Say
) -> dict[str, Fitted]:
    """Return the baselines, fitted or from the cache."""
    return {
        one.name: fit_beside(
            one,
            rows.parts[Role.TRAIN],
            rows.parts[Role.VALID],
            rows.vocabulary,
            rows=rows.key,
            cache=runs / CACHE if recipe.baselines.cache else None,
            device=device,
            say=say,
        )
        for one in beside
    }


def resolved(recipe: Recipe, chosen: Plan) -> dict[str, Any]:
    """Return every setting, the defaults of the system, the task and the loop among them."""
    own = chosen.plain()
    plain = recipe.changed({"model": {"settings": own["settings"]}}, "recipe").plain()
    return plain | {"tracing": own["tracing"], "training": own["training"]}


def check_protocols(protocols: tuple[str, ...]) -> None:
    """Refuse a protocol that is not there.

    Raises:
        InputError: the nearest is named.
    """
    for protocol in protocols:
        if protocol not in PROTOCOLS:
            raise InputError(unknown(protocol, list(PROTOCOLS), "protocol"))
    if not protocols:
        raise InputError(f"evaluation.protocols is empty; known: {', '.join(PROTOCOLS)}")


def plans(recipe: Recipe) -> tuple[Plan, list[Plan]]:
    """Return what will be trained, and what stands beside it.

    Raises:
        InputError: a name, key or value is refused.
    """
    check_protocols(recipe.evaluation.protocols)
    chosen = plan(
        recipe.model.system,
        recipe.model.settings,
        recipe.tracing,
        recipe.training,
        history=recipe.history,
        seed=recipe.seed,
    )
    names = [name for name in recipe.baselines.names() if name != chosen.name]
    return chosen, [plan(name, history=recipe.history, seed=recipe.seed) for name in names]


def _finish(
    recipe: Recipe,
    fitted: Fitted,
    beside: list[Plan],
    rows: Rows,
    name: str,
    run_id: str | None,
    runs: Path,
    say: Say,
) -> Run:
    """Audit, read the test rows once, and write the run's folder, whole or not at all.

    Raises:
        OSError: the folder cannot be written.
    """
    report = audit_fitted(fitted, rows.parts[Role.TRAIN])
    say(f"audit: {report.summary()}")
    others = fit_all_beside(recipe, beside, rows, runs, fitted.device, say)
    say("reading the test rows, once")
    protocols, first = score(recipe, fitted, others, rows, recipe.evaluation.protocols)
    fitted.facts |= {
        "data_hash": rows.interactions.data_hash,
        "split_hash": rows.roles.role_hash,
        "verdict": report.verdict,
        "coin_flip": recipe.coin_flip,
    }
    record = RunRecord(
        title=name,
        created=_now(),
        data=facts.data(rows.interactions, recipe.data.source),
        split=facts.split(rows.roles, rows.interactions),
        system=facts.system(fitted),
        protocols=tuple(protocols),
        verdict=facts.verdict(report),
        coin_flip=recipe.coin_flip,
        settings=resolved(recipe, fitted.plan),
        curve=facts.curve(fitted),
        objective=facts.objective(fitted),
        best_epoch=fitted.best_epoch,
        calibration={name: facts.calibration(one) for name, one in first.items()},
        answers_seen={name: facts.answers_seen(one) for name, one in first.items()},
        mastery=facts.mastery(fitted, rows.interactions, rows.roles.visible(Role.TEST)),
        environment=facts.environment(fitted.device),
        code_version=facts.code(),
        command=_command(runs / RUNS / name),
        citations=facts.works(fitted, others),
    )
    while True:
        folder = home(runs, recipe.title())
        record = replace(record, title=folder.name, command=_command(folder))
        try:
            _write(folder, recipe, fitted, rows, record, run_id)
        except OSError as error:
            # Another process took the name meanwhile.
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST} or not folder.exists():
                raise
        else:
            return Run(folder, record)


def _command(folder: Path) -> str:
    return f"kt-forecast train {shlex.quote(str(folder / RECIPE))}"


def _write(
    folder: Path,
    recipe: Recipe,
    fitted: Fitted,
    rows: Rows,
    record: RunRecord,
    run_id: str | None,
) -> None:
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        (part / RECIPE).write_text(recipe.to_toml(), encoding="utf-8")
        rows.roles.save(part / SPLIT)
        fitted.save(part / MODEL)
        reads = [{"when": record.created, "why": "train"}]
        (part / TEST_READS).write_text(json.dumps(reads, indent=1), encoding="utf-8")
        if run_id is not None:
            (part / TRACKED).write_text(json.dumps({"run": run_id}), encoding="utf-8")
        (part / RECORD).write_text(record.to_json(), encoding="utf-8")
        (part / REPORT).write_text(render(record), encoding="utf-8")
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def track_scores(tracker: Tracker, protocols: tuple[Protocol, ...]) -> None:
    """Record the scores of protocols, the model's and those of what stands beside it."""
    found: dict[str, tuple[float, float, float]] = {}
    for protocol in protocols:
        for name, one in {"": protocol.model, **protocol.baselines}.items():
            prefix = f"{protocol.name}/{name}/" if name else f"{protocol.name}/"
            found |= {f"{prefix}{metric}": (s.value, s.low, s.high) for metric, s in one.items()}
    finite = {k: v for k, v in found.items() if v[0] == v[0]}
    tracker.scores({k: v if v[1] == v[1] else v[0] for k, v in finite.items()})


def _track(tracker: Tracker, done: Run) -> None:
    """Record what the run found and left."""
    record = done.record
    tracker.name(done.name)
    track_scores(tracker, record.protocols)
    tracker.tags({"system": record.system.name, "folder": str(done.folder.resolve())})
    if record.objective:
        tracker.tags({"train_loss": record.objective})
    if record.verdict is not None:
        tracker.verdict(record.verdict.verdict)
    for name, figure in figures(record).items():
        tracker.text(figure.decode(), f"figures/{name}.svg")
    for name in (RECIPE, SPLIT, RECORD, TEST_READS):
        tracker.file(done.folder / name)
    tracker.report(done.folder / REPORT)
    tracker.model(done.folder / MODEL)


def _checkpoint(chosen: Plan, rows: Rows, runs: Path) -> Checkpoint:
    """Return where a run of the same rows and settings keeps its place."""
    fingerprint = _hash([chosen.plain(), rows.key])
    return Checkpoint(runs / CHECKPOINTS / fingerprint[:16], fingerprint, resume=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
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


def _refuse_trained(beside: list[Plan]) -> None:
    """Refuse baselines that need every process, which wait for no baseline.

    Raises:
        InputError: a baseline trains with epochs.
    """
    for one in beside:
        if one.training is not None:
            raise InputError(
                f"baselines.systems holds {one.name}, which trains with epochs; under several"
                " processes accepted are fitted baselines, and a run of its own for this one"
            )


def _describe(interactions: Interactions, say: Say) -> None:
    say(
        f"{interactions.name}: {len(interactions):,} interactions of"
        f" {len(interactions.students):,} students"
    )
    for note in interactions.notes:
        say(f"note: {note}")


def _said(say: Say, chosen: Plan) -> Callable[[Epoch], None]:
    metric = chosen.training.metric if chosen.training else ""
    more = chosen.tracing is not None and chosen.tracing.next_question > 0.0
    lowered = "objective" if more else "loss"

    def tell(epoch: Epoch) -> None:
        say(
            f"epoch {epoch.number}: {lowered} {epoch.loss:.4f}, validation {metric}"
            f" {epoch.metrics[metric]:.4f}, {epoch.seconds:.1f} s"
        )

    return tell


def _silent(sentence: str) -> None:
    """Say nothing."""
    del sentence


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _hash(facts: Any) -> str:  # noqa: ANN401
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
