"""Registered models: a name, an alias, the version that it means now, and where its files are."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kt_forecast.errors import InputError
from kt_forecast.tracking.store import ROOT, Store, is_unused
from kt_forecast.tracking.tracker import OVERRIDE, VERDICT, Tracker

_WANTED = re.compile(r"(?:models:/)?(?P<name>[^/@:]+)@(?P<alias>[^/@:]+)")
_VERSION = re.compile(r"models:/(?P<name>[^/@:]+)/(?P<version>\d+)")
_ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")

CACHE = "registry"
"""Folder under the store's root for what a server sent."""


@dataclass(frozen=True)
class Registered:
    """A version of a registered model.

    Attributes:
        name: of the model.
        version: its number.
        run: id of the run that made it.
        verdict: of the run's audit.
        override: why it is registered although the audit does not allow it; empty where it does.
        source: MLflow's address of its files.
    """

    name: str
    version: str
    run: str
    verdict: str
    override: str
    source: str


def is_registered(wanted: str | Path) -> bool:
    """Return whether a text names a registered model: ``name@alias``, ``models:/name@alias``.

    What is there as a path is a path.
    """
    text = str(wanted)
    found = _WANTED.fullmatch(text) or _VERSION.fullmatch(text)
    return found is not None and not Path(text).exists()


def registered(wanted: str, root: Path = ROOT) -> Registered:
    """Return the version that a name and an alias mean now.

    Args:
        wanted: ``name@alias``, ``models:/name@alias`` or ``models:/name/version``.
        root: folder of the store, see `Store`.

    Raises:
        InputError: nothing is registered so.
    """
    quoted = _VERSION.fullmatch(wanted) or _WANTED.fullmatch(wanted)
    if quoted is None:
        raise InputError(f"{wanted!r}: accepted is NAME@ALIAS or models:/NAME@ALIAS")
    if is_unused(root):
        raise InputError(_nothing(wanted, []))
    client = Store(root).client
    from mlflow.exceptions import MlflowException

    part = quoted.groupdict()
    try:
        if "version" in part:
            found = client.get_model_version(part["name"], part["version"])
        else:
            found = client.get_model_version_by_alias(part["name"], part["alias"])
    except MlflowException:
        known = [
            f"{model.name}@{alias}"
            for model in client.search_registered_models(max_results=100)
            for alias in model.aliases
        ]
        raise InputError(_nothing(wanted, known)) from None
    return _of(found)


def _nothing(wanted: str, known: list[str]) -> str:
    named = ", ".join(known) or "names that kt-forecast promote has given, none yet"
    return f"nothing is registered as {wanted!r}; accepted are {named}"


def _of(version: Any) -> Registered:  # noqa: ANN401 - MLflow's
    return Registered(
        name=version.name,
        version=str(version.version),
        run=version.run_id or "",
        verdict=version.tags.get(VERDICT, "none"),
        override=version.tags.get(OVERRIDE, ""),
        source=version.source,
    )


def local(wanted: str | Path) -> Path:
    """Return a path as it is, and of a registered model the folder that holds it.

    Raises:
        InputError: nothing is registered so, or its files cannot be fetched.
    """
    return fetched(str(wanted)) if is_registered(wanted) else Path(wanted)


def fetched(wanted: str, root: Path = ROOT) -> Path:
    """Return the folder of a registered model, as `kt_forecast.load` reads it.

    Where a server keeps the files they are fetched once for each version.

    Raises:
        InputError: nothing is registered so, or its files cannot be fetched.
    """
    version = registered(wanted, root)
    from mlflow.exceptions import MlflowException

    store = Store(root)
    into = None
    if not store.is_local:
        into = root / CACHE / f"{version.name}-{version.version}"
        into.mkdir(parents=True, exist_ok=True)
    try:
        import mlflow

        place = mlflow.artifacts.download_artifacts(
            f"models:/{version.name}/{version.version}", dst_path=str(into) if into else None
        )
        return next(path for path in (Path(place) / "artifacts").iterdir() if path.is_dir())
    except (MlflowException, OSError, StopIteration) as error:
        reason = str(error).strip().partition("\n")[0] or "it holds no model"
        raise InputError(f"{wanted!r}: its files cannot be fetched ({reason})") from None


def promote(
    run: str, name: str, alias: str, *, override: str = "", root: Path = ROOT
) -> Registered:
    """Register a run's model, unless it is, and let an alias mean it.

    Args:
        run: id of the run.
        name: of the registered model.
        alias: that shall mean it, such as ``champion``; taken from the version that had it.
        override: see `Tracker.register`.
        root: folder of the store, see `Store`.

    Raises:
        InputError: the audit does not allow it and no reason was given; the run has no model; or
            a name cannot be used.
    """
    for what, text in (("name", name), ("alias", alias)):
        if not _ALIAS.fullmatch(text.replace(".", "_")) or (what == "alias" and "." in text):
            raise InputError(
                f"{what} {text!r}: accepted are letters, digits, _ and -, a letter first"
            )
    from mlflow.exceptions import MlflowException

    client = Store(root).client
    try:
        own = [v for v in client.search_model_versions(f"name = '{name}'") if v.run_id == run]
    except MlflowException:
        own = []
    kept = [v for v in own if v.tags.get(OVERRIDE, "") == override.strip()]
    if kept:
        number = str(kept[0].version)
    else:
        number = Tracker.of(run, root).register(name, override=override)
    client.set_registered_model_alias(name, alias, number)
    return _of(client.get_model_version(name, number))
