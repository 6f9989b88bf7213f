"""Look up runs, and fetch what they left."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from kt_forecast.errors import InputError
from kt_forecast.tracking.store import ROOT, Store, is_unused
from kt_forecast.tracking.tracker import MODEL, VERDICT

_HIDDEN = "mlflow."
_INSIDE = "artifacts"
"""Where MLflow puts the files of a model among its own."""

_SCHEMA: dict[str, Any] = {
    "run": pl.String,
    "name": pl.String,
    "experiment": pl.String,
    "status": pl.String,
    "started": pl.Datetime("ms", "UTC"),
    "seconds": pl.Float64,
    VERDICT: pl.String,
}


def runs(root: Path = ROOT, experiment: str | None = None) -> pl.DataFrame:
    """Return a row for each run, newest first.

    Beside `run` (its id), name, experiment, status, start, seconds and verdict there is a column
    ``metric.<name>`` for each metric, ``setting.<name>`` for each setting, ``tag.<name>`` for
    each tag; null where a run lacks it.

    Args:
        root: folder of the store, see `Store`.
        experiment: only its runs; None for all.
    """
    if is_unused(root):
        return pl.DataFrame(schema=_SCHEMA)
    store = Store(root)
    store.close_dead()
    groups = store.experiments(experiment)
    found: list[dict[str, Any]] = []
    page = None
    while groups:
        page = store.client.search_runs(
            list(groups), order_by=["attributes.start_time DESC"], page_token=page
        )
        found += [_row(run, groups) for run in page]
        page = page.token
        if not page:
            break
    columns = {name: None for row in found for name in row}
    kinds = {c: pl.Float64 if c.startswith("metric.") else pl.String for c in columns}
    return pl.DataFrame(
        found, schema=_SCHEMA | {c: k for c, k in kinds.items() if c not in _SCHEMA}
    )


def _row(run: Any, groups: dict[str, str]) -> dict[str, Any]:  # noqa: ANN401
    info, data = run.info, run.data
    started = datetime.fromtimestamp(info.start_time / 1000, UTC)
    row = {
        "run": info.run_id,
        "name": info.run_name,
        "experiment": groups[info.experiment_id],
        "status": info.status,
        "started": started,
        "seconds": (info.end_time - info.start_time) / 1000 if info.end_time else None,
        VERDICT: data.tags.get(VERDICT),
    }
    row |= {f"metric.{k}": v for k, v in data.metrics.items()}
    row |= {f"setting.{k}": v for k, v in data.params.items()}
    return row | {f"tag.{k}": v for k, v in data.tags.items() if not k.startswith(_HIDDEN)}


def find(wanted: str, root: Path = ROOT, experiment: str | None = None) -> dict[str, Any]:
    """Return the one run that ``wanted`` names, as a row of `runs`.

    Args:
        wanted: the beginning of a run's id or name; a whole name goes before a beginning.
        root: folder of the store, see `Store`.
        experiment: look only there; None for everywhere.

    Raises:
        InputError: no run, or more than one, is called so.
    """
    table = runs(root, experiment)
    run, name = pl.col("run"), pl.col("name")
    for rule in (name == wanted, run.str.starts_with(wanted) | name.str.starts_with(wanted)):
        matches = table.filter(rule)
        if len(matches) == 1:
            return matches.row(0, named=True)
        if len(matches):
            named = ", ".join(f"{r[:8]} ({n})" for r, n in matches.select(run, name).rows()[:5])
            raise InputError(f"{wanted!r} names {len(matches)} runs: {named}; give a run's id")
    known = ", ".join(f"{r[:8]} ({n})" for r, n in table.select(run, name).rows()[:5])
    raise InputError(f"no run is called {wanted!r}; the newest are: {known or 'none yet'}")


def download(wanted: str, name: str, into: Path, root: Path = ROOT) -> Path:
    """Fetch an artifact of a run and return where it lies now.

    Args:
        wanted: see `find`.
        name: of a file or folder among the run's artifacts; ``model`` is the folder that
            `kt_forecast.load` reads.
        into: folder to put it in, made where it is missing.
        root: folder of the store, see `Store`.

    Raises:
        InputError: the run has no such artifact.
    """
    import mlflow

    run = find(wanted, root)["run"]
    into.mkdir(parents=True, exist_ok=True)
    fetch = mlflow.artifacts.download_artifacts
    try:
        if name != MODEL:
            return Path(fetch(run_id=run, artifact_path=name, dst_path=str(into)))
        stored = Path(fetch(f"runs:/{run}/{MODEL}/{_INSIDE}", dst_path=str(into)))
    except (mlflow.exceptions.MlflowException, OSError):
        raise InputError(f"run {run[:8]} holds no {name!r}; it holds: {_held(run, root)}") from None
    return next(stored.iterdir())


def _held(run: str, root: Path) -> str:
    client = Store(root).client
    names = [a.path for a in client.list_artifacts(run)]
    models = client.get_run(run).outputs
    if models and models.model_outputs:
        names.append(MODEL)
    return ", ".join(names) or "nothing"
