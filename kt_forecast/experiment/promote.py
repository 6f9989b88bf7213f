"""A stored run becomes the model that a name and an alias mean, if its audit allows it."""

import json
from pathlib import Path

from kt_forecast.errors import InputError
from kt_forecast.experiment.stored import RECORD, TRACKED, find
from kt_forecast.tracking.registry import Registered
from kt_forecast.tracking.registry import promote as register
from kt_forecast.tracking.tracker import ALLOWED

NONE = "none"


def promote(
    name: str, alias: str, *, model: str = "", override: str = "", runs: Path
) -> Registered:
    """Register a run's model and let an alias mean it.

    The verdict is that of the run's own record and that of its tag in MLflow; the worse one counts.

    Args:
        name: of the run, or its folder.
        alias: such as ``champion``.
        model: name to register under; by default the run's.
        override: why a model that leaks, or of which nothing is proved, is registered all the same.
        runs: folder of the runs.

    Raises:
        InputError: there is no such run, MLflow did not record it, or its audit does not allow it
            and no reason was given.
    """
    found = find(name, runs)
    path = found.folder / TRACKED
    if not path.is_file():
        raise InputError(
            f"{name}: MLflow did not record this run; accepted is one that was trained with"
            " tracking.enabled = true"
        )
    verdict = found.record.verdict.verdict if found.record.verdict is not None else NONE
    if verdict not in ALLOWED and not override.strip():
        raise InputError(
            f"{name}: the audit verdict in {found.folder / RECORD} is {verdict!r}; promoted are"
            f" models with {' or '.join(ALLOWED)}, others with --override and a reason, which is"
            " recorded"
        )
    run = str(json.loads(path.read_text(encoding="utf-8"))["run"])
    return register(run, model or found.name, alias, override=override, root=runs)
