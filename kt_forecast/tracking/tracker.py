"""One run, recorded from its settings to its model."""

import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, time
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

from kt_forecast.errors import InputError
from kt_forecast.schema import CONCEPTS, P_CORRECT, QUESTION, RESPONSE, STUDENT, TIME
from kt_forecast.tracking.machine import machine, usage
from kt_forecast.tracking.store import PROCESS, ROOT, Store, quietly, this_process
from kt_forecast.tracking.versions import code_version, requirements, versions

MODEL = "model"
REPORT = "report"
VERDICT = "verdict"
OVERRIDE = "verdict.override"
ALLOWED = ("proved", "conditional")
"""Verdicts with which a model may be registered."""

LEVEL, SHOWN_LEVEL = "level", 90.0
"""Percent that an interval of a stored forecaster shall hold, and what it is where nobody says."""

TRACING = "knowledge_tracing"
_SCRIPTS = {TRACING: "pyfunc.py", "forecasting": "pyfunc_series.py"}
"""What MLflow runs to predict with a stored model, by task."""

SHARE = 0.02
"""Share of the time of training that writing its curves may take."""

_LONGEST = 500
"""Characters of a parameter or an error that are kept."""

_DIGEST = 36
"""Characters of a hash that MLflow keeps of a data set."""


@runtime_checkable
class Epoch(Protocol):
    """What `Tracker.epoch` reads of an epoch of training."""

    @property
    def number(self) -> int:
        """Counted from 1."""
        ...

    @property
    def loss(self) -> float:
        """Mean training loss."""
        ...

    @property
    def metrics(self) -> dict[str, float]:
        """What validation gave."""
        ...

    @property
    def seconds(self) -> float:
        """Wall-clock time."""
        ...

    @property
    def steps_per_second(self) -> float:
        """Scored steps trained on per second."""
        ...

    @property
    def learning_rate(self) -> float:
        """Of the last update."""
        ...


@runtime_checkable
class Figure(Protocol):
    """A matplotlib figure, or what can be saved like one."""

    def savefig(self, fname: Any, **options: Any) -> Any:  # noqa: ANN401
        """Write the figure to a file."""
        ...


@dataclass
class Waiting:
    """Points of curves that are still to be written.

    Attributes:
        metrics: MLflow's points.
        written: when the last ones were.
        cost: seconds that writing them took.
    """

    metrics: list[Any] = field(default_factory=list)
    written: float = 0.0
    cost: float = 0.0

    def may_write(self) -> bool:
        """Say whether training has gone on for long enough to pay for another write."""
        return perf_counter() - self.written >= self.cost / SHARE


class Tracker:
    """A run in MLflow, from entering to leaving the ``with`` block.

    A block that raises leaves a failed run; so does a process that is killed, which the next
    `Tracker` or `runs` notices.

    Args:
        experiment: MLflow's group of runs.
        name: of the run.
        root: folder of the store, see `Store`.
        parent: id of the run that this one is a part of, such as one fold of several.
        resume: id of a run to go on with; curves that it has are not written twice.

    Attributes:
        id: of the run.

    Raises:
        InputError: the store cannot be opened.
    """

    def __init__(
        self,
        experiment: str = "knowledge_tracing",
        name: str = "",
        *,
        root: Path = ROOT,
        parent: str | None = None,
        resume: str | None = None,
    ) -> None:
        self._store = Store(root)
        self._store.close_dead()
        self._client = self._store.client
        self._epochs_written = 0
        self._waiting = Waiting()
        tags = {PROCESS: this_process()}
        if parent:
            tags["mlflow.parentRunId"] = parent
        if resume:
            self.id = resume
            self._client.update_run(resume, status="RUNNING")
            past = self._client.get_metric_history(resume, "train_loss")
            self._epochs_written = max((m.step for m in past), default=0)
            self.tags(tags)
        else:
            group = self._store.experiment(experiment)
            run = self._client.create_run(group, tags=tags, run_name=name or None)
            self.id = run.info.run_id
        self.tags({f"code.{k}": v for k, v in code_version().items()})
        self.tags({f"library.{k}": v for k, v in versions().items()})
        self.tags({f"machine.{k}": v for k, v in machine().items()})

    @classmethod
    def of(cls, run: str, root: Path = ROOT) -> Self:
        """Return the tracker of a run that has ended, to add to it; nothing of it changes.

        Args:
            run: its id.
            root: folder of the store, see `Store`.

        Raises:
            InputError: the store cannot be opened, or does not hold the run.
        """
        from mlflow.exceptions import MlflowException

        found = cls.__new__(cls)
        found._store = Store(root)  # noqa: SLF001 - its own
        found._client = found._store.client  # noqa: SLF001
        found._epochs_written = 0  # noqa: SLF001
        found._waiting = Waiting()  # noqa: SLF001
        found.id = run
        try:
            found._client.get_run(run)  # noqa: SLF001
        except MlflowException:
            raise InputError(
                f"{found._store.uri} holds no run {run!r}; accepted is the store that recorded it"  # noqa: SLF001
            ) from None
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.flush()
        if kind is not None:
            text = str(error).strip()
            self.tags({"error": f"{kind.__name__}: {text}"[:_LONGEST]})
        self._client.set_terminated(self.id, "FAILED" if kind else "FINISHED")

    def name(self, name: str) -> None:
        """Give the run a name."""
        self._client.update_run(self.id, name=name)

    def settings(self, settings: Mapping[str, Any]) -> None:
        """Record nested settings: flat as parameters, whole as ``settings.json``."""
        from mlflow.entities import Param

        flat = flattened(settings)
        values = [Param(k, v[:_LONGEST]) for k, v in flat.items()]
        for start in range(0, len(values), 100):
            self._client.log_batch(self.id, params=values[start : start + 100])
        self.text(json.dumps(settings, indent=2, default=str), "settings.json")

    def tags(self, tags: Mapping[str, str]) -> None:
        """Record facts in words: hashes of data and split, the system's name, a verdict."""
        from mlflow.entities import RunTag

        self._client.log_batch(self.id, tags=[RunTag(k, str(v)) for k, v in tags.items()])

    def data(
        self,
        *,
        data_hash: str,
        split_hash: str,
        name: str = "",
        source: str = "",
        split: str = "",
        card: Mapping[str, str] | None = None,
    ) -> None:
        """Record which data and which split the run used, as tags and as MLflow's own input.

        Args:
            data_hash: SHA-256 of the table's content.
            split_hash: SHA-256 of the roles.
            name: of the data set.
            source: the path or the name that the recipe gives.
            split: kind of the split.
            card: what the data set's card says: licence, citation, homepage.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        facts = {"name": name, "hash": data_hash, "split": split_hash, "source": source}
        facts |= {"split_kind": split} | {f"card.{k}": v for k, v in (card or {}).items()}
        self.tags({f"data.{k}": v[:_LONGEST] for k, v in facts.items() if v})
        own = Dataset(name or "table", data_hash[:_DIGEST], "local", json.dumps({"uri": source}))
        role = InputTag("mlflow.data.context", "training")
        self._client.log_inputs(self.id, [DatasetInput(own, [role])])

    def cite(self, works: Mapping[str, str]) -> None:
        """Record what is to be cited by whoever publishes the run: a text by what it stands for."""
        self.tags({f"cite.{k}": v[:_LONGEST] for k, v in works.items() if v})

    def curves(self, epochs: Iterable[Epoch]) -> None:
        """Add those epochs to the curves that a killed process did not write."""
        self.flush()
        known = {m.step for m in self._client.get_metric_history(self.id, "train_loss")}
        missing = [one for one in epochs if one.number not in known]
        self._epochs_written = 0
        for one in missing:
            values = {"train_loss": one.loss, "seconds": one.seconds}
            values |= {f"valid_{name}": value for name, value in one.metrics.items()}
            self._write(_metrics(values, step=one.number))

    def verdict(self, verdict: str) -> None:
        """Record what the audit found, beside which every score is to be read.

        A model that is stored afterwards carries it too, registered or not.
        """
        self.tags({VERDICT: verdict})

    def register(self, name: str, *, override: str = "") -> str:
        """Put the run's stored model into MLflow's registry, if its audit allows it.

        Args:
            name: of the registered model.
            override: why a model that leaks, or of which nothing is proved, is registered all the
                same; the reason is recorded with the run and with the registered version.

        Returns:
            The version.

        Raises:
            InputError: the audit does not allow it and no reason was given; or the run has no
                model.
            MlflowException: the registry failed.
        """
        from mlflow.exceptions import MlflowException

        run = self._client.get_run(self.id)
        verdict = run.data.tags.get(VERDICT, "none")
        if verdict not in ALLOWED and not override.strip():
            raise InputError(
                f"the audit verdict of this run is {verdict!r}; registered are models with"
                f" {' or '.join(ALLOWED)}, others with override=... and a reason"
            )
        if not run.outputs or not run.outputs.model_outputs:
            raise InputError("this run has no stored model; accepted is a run that has finished")
        model = run.outputs.model_outputs[-1].model_id
        tags = {VERDICT: verdict} | ({OVERRIDE: override.strip()} if override.strip() else {})
        if override.strip():
            self.tags({OVERRIDE: override.strip()})
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = self._client.create_model_version(
            name, f"models:/{model}", run_id=self.id, tags=tags, model_id=model
        )
        return str(found.version)

    def epoch(self, record: Epoch) -> None:
        """Add an epoch to the curves; a callback of training.

        It is written with those after it where writing at once would slow training: a process that
        is killed may leave its last epochs to the checkpoint alone.
        """
        if record.number <= self._epochs_written:
            return
        values = {
            "train_loss": record.loss,
            "learning_rate": record.learning_rate,
            "seconds": record.seconds,
            "steps_per_second": record.steps_per_second,
        }
        values |= {f"valid_{name}": value for name, value in record.metrics.items()}
        self._waiting.metrics += _metrics(values | usage(), step=record.number)
        self._epochs_written = record.number
        if self._waiting.may_write():
            self.flush()

    def flush(self) -> None:
        """Write the epochs that wait."""
        waiting, self._waiting = self._waiting, Waiting()
        if not waiting.metrics:
            return
        before = perf_counter()
        self._write(waiting.metrics)
        self._waiting = Waiting(written=perf_counter(), cost=perf_counter() - before)

    def scores(self, scores: Mapping[str, float | tuple[float, float, float]]) -> None:
        """Record final scores; of a triple, value and both ends of its interval."""
        values: dict[str, float] = {}
        for name, score in scores.items():
            if isinstance(score, tuple):
                value, low, high = score
                values |= {name: value, f"{name}_low": low, f"{name}_high": high}
            else:
                values[name] = score
        self._log(values)

    def _log(self, values: Mapping[str, float], step: int = 0) -> None:
        self.flush()
        self._write(_metrics(values, step))

    def _write(self, metrics: list[Any]) -> None:
        for start in range(0, len(metrics), 1000):
            self._client.log_batch(self.id, metrics=metrics[start : start + 1000])

    def text(self, text: str, name: str) -> None:
        """Store a text under a file name, which may have folders."""
        self._client.log_text(self.id, text, name)

    def file(self, path: Path, folder: str = "") -> None:
        """Store a file, or a folder with all that is in it.

        Args:
            path: what to store.
            folder: where to put it among the run's artifacts.
        """
        if path.is_dir():
            self._client.log_artifacts(self.id, str(path), folder or path.name)
        else:
            self._client.log_artifact(self.id, str(path), folder or None)

    def figure(self, figure: Figure, name: str) -> None:
        """Store a figure as a PNG file under ``figures/``."""
        from tempfile import TemporaryDirectory

        with TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.png"
            figure.savefig(path)
            self.file(path, "figures")

    def report(self, path: Path) -> None:
        """Store the HTML report of the run."""
        self.file(path, REPORT)

    def model(self, folder: Path, task: str = TRACING) -> str:
        """Store a saved model so that ``mlflow.pyfunc.load_model`` predicts with it.

        The code travels as text and the weights as safetensors; nothing is pickled. A tracer takes
        a pandas table of interactions and returns ``p_correct`` for each row; a forecaster takes a
        pandas table of series and returns a row for each step ahead.

        Args:
            folder: what `kt_forecast.load` reads.
            task: of the model.

        Returns:
            The URI to load it by.
        """
        mlflow = quietly("mlflow.pyfunc", "mlflow")
        # Without it the model would lie in MLflow's default experiment, not in the run's.
        mlflow.set_experiment(experiment_id=self._client.get_run(self.id).info.experiment_id)
        with warnings.catch_warnings():
            # An example would have MLflow load and run the model whenever one is stored.
            warnings.filterwarnings("ignore", ".*input example was not provided", UserWarning)
            info = mlflow.models.Model.log(
                artifact_path=None,
                flavor=mlflow.pyfunc,
                name=MODEL,
                run_id=self.id,
                python_model=str(Path(__file__).with_name(_SCRIPTS[task])),
                artifacts={MODEL: str(folder)},
                pip_requirements=requirements(),
                signature=_signature() if task == TRACING else _series_signature(),
            )
        verdict = self._client.get_run(self.id).data.tags.get(VERDICT)
        if verdict is not None:
            self._client.set_logged_model_tags(info.model_id, {VERDICT: verdict})
        return str(info.model_uri)


def _signature() -> Any:  # noqa: ANN401
    """Return the columns a stored model reads; their values are checked at its own door."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, ColSpec, DataType, Schema

    columns = (STUDENT, QUESTION, CONCEPTS, RESPONSE, TIME)
    return ModelSignature(
        inputs=Schema([ColSpec(AnyType(), name, required=False) for name in columns]),
        outputs=Schema([ColSpec(DataType.double, P_CORRECT)]),
    )


def _series_signature() -> Any:  # noqa: ANN401
    """Return what a stored forecaster can be asked for; its columns differ from table to table."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import DataType, ParamSchema, ParamSpec

    return ModelSignature(params=ParamSchema([ParamSpec(LEVEL, DataType.double, SHOWN_LEVEL)]))


def flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings under dotted names, as text."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = (
                value if isinstance(value, str) else json.dumps(value, default=str)
            )
    return flat


def _metrics(values: Mapping[str, float], step: int) -> list[Any]:
    """Return values as MLflow's points of one step."""
    from mlflow.entities import Metric

    now = int(time() * 1000)
    return [Metric(_name(k), float(v), now, step) for k, v in values.items()]


def _name(metric: str) -> str:
    """Return a metric's name in the characters that MLflow allows."""
    return "".join(c if c.isalnum() or c in "_-. :/" else "_" for c in metric)
