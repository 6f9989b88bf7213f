"""From a plan and series to something that forecasts, can be saved, and comes back the same."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import nn

from kt_forecast.baselines import Baseline
from kt_forecast.baselines.ridge import Ridge, RidgeConfig
from kt_forecast.data.series.ahead import ahead
from kt_forecast.data.series.source import Source
from kt_forecast.data.series.splits import SeriesSplit
from kt_forecast.data.series.table import Frequency, SeriesTable
from kt_forecast.errors import InputError
from kt_forecast.evaluation.conformal import LEVELS, Conformal
from kt_forecast.evaluation.forecasting import validation_scores
from kt_forecast.evaluation.predicting import predicted
from kt_forecast.evaluation.streaming import Streamed
from kt_forecast.forecaster.ensemble import Ensemble, Steady, models_of, networks_of
from kt_forecast.forecaster.systems import Plan, plan
from kt_forecast.metrics.forecasting import ends as quantiles_of
from kt_forecast.nn.system import System
from kt_forecast.sequences.build_series import SeriesScale, build, fit_scale, shape_of
from kt_forecast.sequences.series import Forecast, SeriesSet, WindowBatch, WindowShape
from kt_forecast.sequences.stretches import SeriesStretches, along
from kt_forecast.sequences.windows import Origins, WindowBatches, gather, origins
from kt_forecast.tasks.forecasting import SeriesForecaster
from kt_forecast.training import (
    Checkpoint,
    Epoch,
    device_named,
    fit,
    read_model,
    workers,
    write_tensors,
)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MODEL_FILE = "forecaster.safetensors"
FORMAT = 1
"""Changes whenever an older file can no longer be read."""

MODEL, SCALE, SEEN, CONFORMAL = "model", "scale", "seen", "conformal"
MEMBERS = "members"

READS_KNOWN = "reads_known"
"""Fact of a model: whether its forecasts depend on what is known in advance."""

VALIDATION_WINDOWS = 250_000
"""Validation windows that an epoch is judged by, evenly thinned where there are more."""

MEMORY_SHARE = 0.5
"""Share of a GPU's free memory that the series may take."""


@dataclass(frozen=True)
class Seen:
    """Which rows of each series taught a model; those after them did not.

    Attributes:
        first: stamp of each series' first row.
        train_end: rows that trained, counted from it.
        valid_end: rows that trained, or chose the epoch and calibrated the intervals.
    """

    first: Ints
    train_end: Ints
    valid_end: Ints


@dataclass(frozen=True)
class Ahead:
    """Forecasts after the ends of series, in the values' own unit.

    Attributes:
        point: what is predicted for each series and step ahead.
        quantiles: for each level; None where intervals were not calibrated.
        levels: of the quantiles.
    """

    point: Float[np.ndarray, "series horizon"]
    quantiles: Float[np.ndarray, "series horizon levels"] | None
    levels: tuple[float, ...]


@dataclass
class Fitted:
    """A trained network or fitted baseline that forecasts.

    Attributes:
        plan: what was trained.
        scale: what series and covariates are measured by.
        shape: what the windows hold.
        frequency: step of the grid.
        seen: rows that taught it.
        model: the network, the fitted baseline, or the ensemble of both kinds.
        conformal: calibrates intervals; None where no validation window was left for them.
        epochs: what each epoch gave, of an ensemble's first member; empty for a fitted baseline.
        best_epoch: the one that validation chose; None for a fitted baseline.
        facts: what else is kept with it: hashes of data and split, the audit's verdict.
        device: where it computes.
    """

    plan: Plan
    scale: SeriesScale
    shape: WindowShape
    frequency: Frequency
    seen: Seen
    model: Any
    conformal: Conformal | None = None
    epochs: tuple[Epoch, ...] = ()
    best_epoch: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"

    @property
    def network(self) -> SeriesForecaster | None:
        """Return the torch model; None for a fitted baseline and for an ensemble."""
        return self.model if isinstance(self.model, SeriesForecaster) else None

    @property
    def n_parameters(self) -> int | None:
        """Return how many numbers were trained; None for a fitted baseline."""
        networks = list(networks_of(self.model))
        return sum(p.numel() for one in networks for p in one.parameters()) if networks else None

    @property
    def context(self) -> int:
        """Steps that a forecast looks back on."""
        return int(self.model.context)

    @property
    def horizon(self) -> int:
        """Steps ahead."""
        return self.plan.horizon

    @property
    def quantiles(self) -> tuple[float, ...]:
        """Levels of the quantiles of a calibrated forecast; none where it is not calibrated."""
        if self.conformal is None:
            return ()
        levels = self.conformal.levels
        lower, upper = zip(*map(quantiles_of, levels), strict=True)
        return (*reversed(lower), 0.5, *upper)

    @cached_property
    def number(self) -> dict[str, int]:
        """Number of each series of the training table, by name."""
        return {name: i for i, name in enumerate(self.scale.ids)}

    def predict(self, batch: WindowBatch) -> Forecast:
        """Return what the model predicts for windows, before calibration, on their device."""
        return Steady(self.model).predict(batch)

    @property
    def carries(self) -> bool:
        """Whether it was trained along whole series, and so is judged and asked along them."""
        loop = self.plan.training
        return self.network is not None and loop is not None and loop.segment is not None

    def along(self) -> Streamed | None:
        """Return the model along whole series; None for one that only forecasts windows."""
        network = self.network
        if network is None or not isinstance(self.plan.part, System):
            return None
        streams = self.plan.part.promises.streaming and self.plan.forecasting.dense
        return Streamed(network) if streams else None

    def build(self, table: SeriesTable, *, asking: bool = False) -> SeriesSet:
        """Return series as tensors, measured as those that trained; others by their own rows.

        Raises:
            InputError: the covariates are not those that trained.
        """
        calendar = self.plan.forecasting.calendar
        return build(table, self.scale, calendar=calendar, asking=asking)

    def calibration(self, ids: Sequence[str]) -> Conformal | None:
        """Return the corrections of intervals for the series of a table.

        Series that were not calibrated on get the scale of all together.
        """
        found = self.conformal
        if found is None or tuple(ids) == self.scale.ids:
            return found
        place = torch.tensor([self.number.get(name, -1) for name in ids], dtype=torch.long)
        scale = torch.where(place >= 0, found.scale.cpu()[place.clamp_min(0)], found.pooled.cpu())
        return replace(found, scale=scale.to(found.scale))

    def forecast(
        self,
        table: SeriesTable,
        future: Source | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> Ahead:
        """Return the steps after each series' last value.

        Args:
            table: series, new ones too, which are measured by all their values.
            future: the covariates known in advance, see `ahead`; by default the table's own rows
                after a series' last value.
            columns: that table's own names.

        Raises:
            InputError: a covariate is not one that trained or is missing for a step ahead, or
                series are to be mixed that are not those of the training table.
        """
        mixing = self.plan.mixing
        if mixing and table.ids != self.scale.ids:
            raise InputError(
                f"{table.name}: the model reads all series of a window together, and these are not"
                f" the {len(self.scale.ids)} that it was trained on; accepted are those, in the"
                " same order"
            )
        asked = self._asked(table, future, columns)
        calendar = self.plan.forecasting.calendar
        series = build(asked, self._measuring(table), calendar=calendar, asking=True)
        series = series.to(self.device)
        low = asked.length - self.horizon
        chosen = origins(series, low, asked.length, horizon=self.horizon, mixing=mixing)
        conformal = self.calibration(table.ids)
        parts: list[Ahead] = []
        judge = judged(self.plan, self.model) if self.carries else self
        for seen in predicted(judge, series, chosen, horizon=self.horizon):
            forecast = seen.forecast
            if conformal is not None:
                forecast = conformal.apply(forecast, seen.series)
            shift, spread = (x[seen.series][..., None] for x in (series.shift, series.spread))
            point = (forecast.point.double() * spread + shift).flatten(0, 1).cpu().numpy()
            quantiles = None
            if conformal is not None and forecast.quantiles is not None:
                own = forecast.quantiles.double() * spread[..., None] + shift[..., None]
                quantiles = own.flatten(0, 1).cpu().numpy()
            parts.append(Ahead(point, quantiles, forecast.levels))
        return _joined(parts)

    def _asked(
        self, table: SeriesTable, future: Source | None, columns: Mapping[str, str] | None
    ) -> SeriesTable:
        """Return the last rows of each series and the steps ahead.

        Raises:
            InputError: a covariate known in advance is missing for a step ahead, and read.
        """
        keep = int(table.length.max()) if self.carries else self.context
        if self.facts[READS_KNOWN] or future is not None or not table.future_names:
            return ahead(table, self.horizon, future, columns=columns, keep=keep)
        bare = replace(table, future=table.future[:, :0], future_names=())
        found = ahead(bare, self.horizon, keep=keep)
        unread = np.zeros((found.n_rows, len(table.future_names)), dtype=np.float32)
        return replace(found, future=unread, future_names=table.future_names)

    def _measuring(self, table: SeriesTable) -> SeriesScale:
        """Return the scale with series that it does not know, measured by all their values."""
        if all(name in self.number for name in table.ids):
            return self.scale
        none = np.zeros((table.n_rows, 0), dtype=np.float32)
        values = replace(table, past=none, future=none, static=none[: table.n_series])
        own = fit_scale(values, table.length)
        place = np.array([self.number.get(name, -1) for name in table.ids])
        known = place >= 0
        shift = np.where(known, self.scale.shift[place], own.shift)
        spread = np.where(known, self.scale.spread[place], own.spread)
        return replace(self.scale, ids=table.ids, shift=shift, spread=spread)

    def remarks(self, table: SeriesTable) -> tuple[str, ...]:
        """Return what a reader of forecasts of some series should know, one sentence each."""
        found = []
        new = sum(name not in self.number for name in table.ids)
        if new:
            found.append(
                f"{new} of {table.n_series} series were not trained on: they are measured by their"
                " own values, and their intervals are those of all series together"
            )
        short = int((table.length < self.context).sum())
        if short:
            found.append(
                f"{short} of {table.n_series} series are shorter than the context of"
                f" {self.context} steps: what is missing before their first value is padding"
            )
        return tuple(found)

    def save(self, folder: Path) -> None:
        """Write the model as one safetensors file with its settings as JSON, whole or not at all.

        Args:
            folder: is made where it is missing; a model in it is replaced.
        """
        tensors = {f"{SCALE}.{k}": _tensor(a) for k, a in self.scale.arrays().items()}
        tensors |= {f"{SEEN}.{k}": _tensor(a) for k, a in vars(self.seen).items()}
        if self.conformal is not None:
            tensors |= {f"{CONFORMAL}.{k}": _tensor(a) for k, a in self.conformal.arrays().items()}
        for name, model in zip(_places(self.plan), models_of(self.model), strict=True):
            tensors |= {f"{name}.{k}": t for k, t in _stored(model).items()}
        facts = {
            "format": FORMAT,
            "plan": self.plan.plain(),
            "names": self.scale.names(),
            "shape": asdict(self.shape),
            "frequency": asdict(self.frequency),
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "best_epoch": self.best_epoch,
            "facts": self.facts,
        }
        write_tensors(folder / MODEL_FILE, tensors, json.loads(json.dumps(facts)))

    @classmethod
    def load(cls, folder: Path, *, device: str = "auto") -> Self:
        """Return the model that `save` wrote; nothing in the file is executed.

        Args:
            folder: where it was saved.
            device: where it shall compute.

        Raises:
            InputError: there is no model, or it is not one that this version reads.
        """
        path = folder / MODEL_FILE
        tensors, facts = read_model(folder, MODEL_FILE, version=FORMAT, what="forecaster")
        parts = {name: _part(tensors, name) for name in (SCALE, SEEN, CONFORMAL)}
        arrays = {name: {k: t.numpy() for k, t in part.items()} for name, part in parts.items()}
        chosen, shape = plan(**facts["plan"]), WindowShape(**facts["shape"])
        where = device_named(device)
        models = tuple(
            _restored(member, _member_shape(member, shape), _part(tensors, name), path)
            for name, member in zip(_places(chosen), (chosen, *chosen.members), strict=True)
        )
        found = cls(
            plan=chosen,
            scale=SeriesScale.restore(facts["names"], arrays[SCALE]),
            shape=shape,
            frequency=Frequency(**facts["frequency"]),
            seen=Seen(**arrays[SEEN]),
            model=Ensemble(models) if chosen.members else models[0],
            conformal=Conformal.restore(arrays[CONFORMAL]).to(where) if arrays[CONFORMAL] else None,
            epochs=tuple(Epoch(**epoch) for epoch in facts["epochs"]),
            best_epoch=facts["best_epoch"],
            facts=facts["facts"],
            device=str(where),
        )
        for network in networks_of(found.model):
            network.to(where).eval()
        return found


def is_saved(folder: str | Path) -> bool:
    """Tell whether a folder holds a saved forecaster."""
    return (Path(folder) / MODEL_FILE).is_file()


def fit_plan(
    chosen: Plan,
    table: SeriesTable,
    split: SeriesSplit,
    *,
    levels: Sequence[float] = LEVELS,
    checkpoint: Checkpoint | None = None,
    callbacks: Sequence[Callable[[Epoch], object]] = (),
    device: str = "auto",
) -> Fitted:
    """Train what is planned; validation chooses and calibrates, and test rows have no way in.

    Args:
        chosen: what to train.
        table: the series.
        split: up to which row each series trains, and validates.
        levels: of the intervals, as shares; none leaves them out.
        checkpoint: where to keep the run's place; None keeps none.
        callbacks: called with every epoch, of an ensemble's first member.
        device: a torch device, or ``auto``; series that fit on a GPU stay there.

    Raises:
        InputError: there is no such device, or no window to train on or to choose the epoch by.
        TrainingError: a number is not finite.
    """
    scale = measured(table, split)
    task = chosen.forecasting
    with workers(device) as group:
        series = _placed(build(table, scale, calendar=task.calendar), group.device)
        train = train_origins(chosen, series, split.train_end)
        valid = valid_origins(chosen, series, split)
        shape = _shape(chosen, table, series)
        found = Fitted(
            plan=chosen,
            scale=scale,
            shape=shape,
            frequency=table.frequency,
            seen=Seen(table.first, split.train_end, split.valid_end),
            model=_fresh(chosen, shape),
            device=str(group.device),
        )
        _taught(found, series, split, checkpoint, callbacks)
        if chosen.members:
            _join(found, series, split, checkpoint)
        if levels and len(valid):
            judge = judged(chosen, found.model) if found.carries else found
            found.conformal = Conformal.fit(
                judge, series, valid, horizon=task.horizon, levels=tuple(levels)
            ).to(group.device)
        found.facts[READS_KNOWN] = _reads_known(found, series, train)
    found.facts |= {
        "data_hash": table.data_hash,
        "split_hash": split.split_hash,
        "notes": _notes(chosen, series, valid, split),
    }
    return found


def measured(table: SeriesTable, split: SeriesSplit) -> SeriesScale:
    """Return what series and covariates are measured by: their training rows alone."""
    return fit_scale(table, split.train_end)


def _taught(
    fitted: Fitted,
    series: SeriesSet,
    split: SeriesSplit,
    checkpoint: Checkpoint | None,
    callbacks: Sequence[Callable[[Epoch], object]],
) -> None:
    """Train or fit one member in place."""
    chosen = fitted.plan
    valid = valid_origins(chosen, series, split)
    if isinstance(chosen.part, Baseline):
        train = train_origins(chosen, series, split.train_end)
        fitted.model.fit(series, train, valid if len(valid) else None, fitted.shape)
        return
    if chosen.forecasting.start == "ridge":
        _start_from_ridge(fitted, series, split, valid)
    _train(fitted, series, split, checkpoint, callbacks)


def judged(chosen: Plan, model: Any) -> Steady | Streamed:  # noqa: ANN401
    """Return what validation and intervals see of a model: windows, or streams if it learns so."""
    carries = chosen.training is not None and chosen.training.segment is not None
    return Streamed(model) if carries else Steady(model)


def _join(
    fitted: Fitted, series: SeriesSet, split: SeriesSplit, checkpoint: Checkpoint | None
) -> None:
    """Train the other members, each by itself, and put the mean of all in the model's place."""
    models, described = [fitted.model], [_described(fitted)]
    for number, member in enumerate(fitted.plan.members, 1):
        shape = _member_shape(member, fitted.shape)
        other = replace(fitted, plan=member, shape=shape, model=_fresh(member, shape), epochs=())
        place = checkpoint and replace(checkpoint, folder=checkpoint.folder / f"member{number}")
        _taught(other, series, split, place, ())
        models.append(other.model)
        described.append(_described(other))
    for network in networks_of(Ensemble(tuple(models))):
        network.eval()
    fitted.model = Ensemble(tuple(models))
    fitted.facts[MEMBERS] = described


def _described(fitted: Fitted) -> dict[str, Any]:
    """Return what one member became: its validation error, and the epoch of it."""
    best = fitted.epochs[fitted.best_epoch - 1] if fitted.epochs and fitted.best_epoch else None
    return {
        "system": fitted.plan.name,
        "best_epoch": best.number if best else None,
        "validation": best.metrics if best else {},
    }


def _member_shape(member: Plan, shape: WindowShape) -> WindowShape:
    """Return the shape of a member's windows, where that of the first member's is given."""
    task = member.forecasting
    return replace(shape, context=task.context, outputs=task.outputs)


def _places(chosen: Plan) -> list[str]:
    """Return where each member's numbers stand in the file."""
    return [MODEL, *(f"{MEMBERS}.{number}" for number, _ in enumerate(chosen.members, 1))]


def _stored(model: Any) -> dict[str, torch.Tensor]:  # noqa: ANN401
    """Return the numbers of a network or of a fitted baseline."""
    if isinstance(model, nn.Module):
        return model.state_dict()
    return {name: _tensor(array) for name, array in model.arrays().items()}


def _start_from_ridge(
    fitted: Fitted, series: SeriesSet, split: SeriesSplit, valid: Origins
) -> None:
    """Let the linear map of a network start from the closed-form ridge.

    Raises:
        InputError: the training rows hold no window for it.
    """
    task = fitted.plan.forecasting
    is_window = task.normalisation == "window"
    # A window's spread multiplies what a map adds: a constant of its own would not be constant.
    settings = RidgeConfig(
        context=task.linear,
        normalisation="mean" if is_window else task.normalisation,
        intercept=not is_window,
        covariates=False,
    )
    teaching = origins(
        series,
        np.minimum(task.linear, split.train_end),
        split.train_end,
        horizon=task.horizon,
        stride=task.stride,
    )
    ridge = Ridge(settings).fit(series, teaching, valid if len(valid) else None, fitted.shape)
    network = fitted.network
    assert network is not None  # noqa: S101 - baselines are fitted otherwise
    network.start_from(ridge.solution.weight.cpu(), ridge.solution.intercept.cpu())


def train_origins(chosen: Plan, series: SeriesSet, end: Ints) -> Origins:
    """Return the windows that train: whole ones, and of a series without any those it has.

    Args:
        chosen: what is trained.
        series: the series.
        end: rows of each series that train.
    """
    task = chosen.forecasting
    whole = end - task.horizon >= task.context
    return origins(
        series,
        np.where(whole, task.context, min(task.least, task.context)),
        end,
        horizon=task.horizon,
        stride=task.stride,
        mixing=task.mixing,
    )


def valid_origins(chosen: Plan, series: SeriesSet, split: SeriesSplit) -> Origins:
    """Return the windows that choose and calibrate: all, or some that are evenly spread."""
    task = chosen.forecasting

    def found(stride: int) -> Origins:
        return origins(
            series,
            split.train_end,
            split.valid_end,
            horizon=task.horizon,
            stride=stride,
            mixing=task.mixing,
        )

    stride = -(-len(found(1)) // VALIDATION_WINDOWS)
    return found(max(1, stride))


def _train(
    fitted: Fitted,
    series: SeriesSet,
    split: SeriesSplit,
    checkpoint: Checkpoint | None,
    callbacks: Sequence[Callable[[Epoch], object]],
) -> None:
    """Train the network of a fitted plan in place.

    Raises:
        InputError: there is no window to train on, or none to choose the epoch by.
        TrainingError: a number is not finite.
    """
    chosen, task = fitted.plan, fitted.plan.forecasting
    train_end, valid = split.train_end, valid_origins(chosen, series, split)
    train = train_origins(chosen, series, train_end)
    loop = chosen.training
    assert loop is not None  # noqa: S101 - only baselines lack it
    batches: WindowBatches | SeriesStretches
    if loop.segment is None:
        batches = WindowBatches(
            series,
            train,
            context=task.context,
            horizon=task.horizon,
            windows_per_batch=task.windows_per_batch,
            windows_per_epoch=task.windows_per_epoch,
            seed=chosen.seed,
        )
    else:
        whole = along(series, train_end, patch=task.patch, horizon=task.horizon, mixing=task.mixing)
        batches = SeriesStretches(
            whole,
            patch=task.patch,
            segment=loop.segment,
            carried=loop.carried,
            steps=task.windows_per_batch * task.context,
            seed=chosen.seed,
        )
    if not len(valid):
        raise InputError(
            f"no validation row has the {task.horizon} steps ahead that a window needs, so no epoch"
            " can be chosen; accepted are more validation rows or a shorter horizon"
        )
    judge = judged(chosen, fitted.model)

    def validate() -> dict[str, float]:
        return validation_scores(judge, series, valid, horizon=task.horizon)

    result = fit(
        fitted.model,
        batches,
        validate,
        loop,
        checkpoint=checkpoint,
        callbacks=callbacks,
        device=fitted.device,
    )
    fitted.epochs, fitted.best_epoch = result.history, result.best.number


def _reads_known(fitted: Fitted, series: SeriesSet, train: Origins) -> bool:
    """Tell whether a forecast depends on what is known in advance: nan in it shows itself."""
    if not series.n_known or not len(train):
        return False
    number = np.zeros(1, dtype=np.int64)
    batch = gather(series, train, number, context=fitted.context, horizon=fitted.horizon)
    found = fitted.predict(replace(batch, known=torch.full_like(batch.known, torch.nan)))
    return not bool(found.point.isfinite().all())


def _notes(chosen: Plan, series: SeriesSet, valid: Origins, split: SeriesSplit) -> list[str]:
    """Return what a reader should know of the windows, one sentence each."""
    found = list(split.notes)
    task = chosen.forecasting
    short = split.train_end < task.context + task.horizon
    if chosen.training is not None and short.any():
        found.append(
            f"{int(short.sum())} of {series.n_series} series have no whole training window of"
            f" {task.context} steps and {task.horizon} ahead: what is missing before their first"
            " value is padding"
        )
    if not len(valid):
        found.append("no validation window was left to calibrate intervals on")
    elif valid.stride > 1:
        found.append(f"every {valid.stride}th validation window was judged by")
    return found


def _shape(chosen: Plan, table: SeriesTable, series: SeriesSet) -> WindowShape:
    task = chosen.forecasting
    return replace(
        shape_of(table, series),
        context=task.context,
        horizon=task.horizon,
        outputs=task.outputs,
        channels=table.n_series if task.mixing else 1,
    )


def _placed(series: SeriesSet, device: torch.device) -> SeriesSet:
    """Return the series on the device if they fit there, else where they are."""
    if device.type != "cuda":
        return series
    free, _ = torch.cuda.mem_get_info(device)
    tensors = [x for x in vars(series).values() if isinstance(x, torch.Tensor)]
    size = sum(x.numel() * x.element_size() for x in tensors)
    return series.to(device) if size < MEMORY_SHARE * free else series


def _fresh(chosen: Plan, shape: WindowShape) -> Any:  # noqa: ANN401
    """Return a baseline, or a network whose first weights depend on the plan's seed alone."""
    if isinstance(chosen.part, Baseline):
        return chosen.part.build(chosen.settings)
    assert isinstance(chosen.part, System)  # noqa: S101
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(chosen.seed)
        return SeriesForecaster(chosen.part, chosen.settings, chosen.forecasting, shape)  # type: ignore[arg-type]


def _restored(
    chosen: Plan, shape: WindowShape, tensors: dict[str, torch.Tensor], path: Path
) -> Any:  # noqa: ANN401
    """Return the model with its stored numbers.

    Raises:
        InputError: the numbers do not fit the settings.
    """
    model = _fresh(chosen, shape)
    try:
        if isinstance(model, nn.Module):
            model.load_state_dict(tensors)
        else:
            model.restore({name: tensor.numpy() for name, tensor in tensors.items()})
    except (RuntimeError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: its weights do not fit its settings ({reason})") from None
    return model


def _joined(parts: list[Ahead]) -> Ahead:
    quantiles = [part.quantiles for part in parts if part.quantiles is not None]
    return Ahead(
        np.concatenate([part.point for part in parts]),
        np.concatenate(quantiles) if quantiles else None,
        parts[0].levels,
    )


def _tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.array(array))


def _part(tensors: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    before = f"{name}."
    return {k.removeprefix(before): t for k, t in tensors.items() if k.startswith(before)}
