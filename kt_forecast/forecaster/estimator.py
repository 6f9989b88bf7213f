"""`Forecaster`: long-horizon forecasts by scikit-learn's conventions, on tables of series."""

from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from kt_forecast.config import Config
from kt_forecast.data.cards import card_names, read_card
from kt_forecast.data.series.cut import before
from kt_forecast.data.series.frequency import ticks
from kt_forecast.data.series.load import load as load_series
from kt_forecast.data.series.source import open_source
from kt_forecast.data.series.splits import AnySettings, ByLast, SeriesSplit, observed
from kt_forecast.data.series.splits import split as split_series
from kt_forecast.data.series.table import SeriesTable
from kt_forecast.errors import InputError
from kt_forecast.evaluation import forecasting
from kt_forecast.forecaster import frames
from kt_forecast.forecaster.fitting import Fitted, fit_plan
from kt_forecast.forecaster.searching import searched
from kt_forecast.forecaster.systems import CONTEXT, Plan, plan
from kt_forecast.tracking.registry import local

if TYPE_CHECKING:
    import pandas as pd

    from kt_forecast.data.series.check import Stamps
    from kt_forecast.data.series.grid import Gaps
    from kt_forecast.evaluation.forecasting import ForecastScores

    Frame = pl.DataFrame | pl.LazyFrame | pd.DataFrame
    Table = str | Path | Frame | SeriesTable

Ints = npt.NDArray[np.int64]

HORIZON = "horizon"
BESIDE = ("seasonal_naive", "ridge")
"""What stands beside every evaluation unasked."""


class Forecaster(BaseEstimator):  # type: ignore[misc]
    """Forecasts every series of a table, with intervals.

    Tables are paths, pandas or polars frames, or names of data sets: long, with the columns
    ``unique_id``, ``ds`` and ``y``, or wide, with a column for each series beside the stamps.

    Args:
        system: what to train: a word that ``kt-forecast zoo`` lists for series.
        horizon: steps ahead.
        context: steps that a forecast looks back on; by default the system's own.
        settings: the system's own settings.
        forecasting: settings of the forecasting task.
        training: settings of the loop.
        freq: the step between stamps; detected by default.
        stamps: ``order`` takes rows as equally spaced whatever their stamps say.
        gaps: missing values inside a series are refused, masked (``mask``), or filled forward
            (``ffill``).
        past: covariates known up to the origin.
        future: covariates known in advance.
        static: facts of a series, constant in its rows.
        columns: ``unique_id``, ``ds`` or ``y`` to the table's own name.
        season: steps of the cycle; by default the one that the step suggests.
        levels: percentages of the intervals to calibrate.
        valid: share of a series' rows, its last ones, that choose the epoch and calibrate the
            intervals, where `fit` is told no number of steps; at least the horizon.
        members: what else is trained, for the mean of all their forecasts: for each the changes
            that make it of what stands above, such as ``{"system": "ridge"}`` or
            ``{"forecasting": {"normalisation": "last"}}``; see `plan`.
        seed: of first weights and training.
        search: try other settings first and train the best, chosen by the rows that choose the
            epoch: `kt_forecast.Search` or its fields, such as ``{"trials": 20}``.
        device: a torch device, or ``auto``.

    Attributes:
        fitted_: the trained model.
        epochs_: what each epoch gave.
        search_: what the search found; absent without one.
        notes_: what was found in the last table, and what became of it, one sentence each.
        table_: the series of `fit`, checked; absent after `load`.
        split_: up to which of their rows they trained and validated; absent after `load`.

    Examples:
        >>> forecaster = Forecaster("gpt", horizon=24).fit("series_sample")  # doctest: +SKIP
        >>> forecaster.predict(futr_df=known, level=90)  # doctest: +SKIP
    """

    def __init__(  # noqa: PLR0913 - by scikit-learn's conventions every setting is a parameter
        self,
        system: str = "gpt",
        horizon: int = 96,
        *,
        context: int | None = None,
        settings: dict[str, Any] | None = None,
        forecasting: dict[str, Any] | None = None,
        training: dict[str, Any] | None = None,
        freq: str | int | None = None,
        stamps: "Stamps" = "auto",
        gaps: "Gaps" = "refuse",
        past: Sequence[str] = (),
        future: Sequence[str] = (),
        static: Sequence[str] = (),
        columns: dict[str, str] | None = None,
        season: int | None = None,
        levels: Sequence[int | float] = (80, 90),
        valid: float = 0.2,
        members: Sequence[dict[str, Any]] = (),
        seed: int = 0,
        search: Config | dict[str, Any] | None = None,
        device: str = "auto",
    ) -> None:
        self.system = system
        self.horizon = horizon
        self.context = context
        self.settings = settings
        self.forecasting = forecasting
        self.training = training
        self.freq = freq
        self.stamps = stamps
        self.gaps = gaps
        self.past = past
        self.future = future
        self.static = static
        self.columns = columns
        self.season = season
        self.levels = levels
        self.valid = valid
        self.members = members
        self.seed = seed
        self.search = search
        self.device = device

    def fit(
        self,
        df: "Table",
        static_df: "Frame | None" = None,
        val_size: int | None = None,
        test_size: int = 0,
        *,
        split: AnySettings | None = None,
    ) -> Self:
        """Train on a table.

        Args:
            df: the series.
            static_df: facts, one row a series, in place of columns of the table.
            val_size: steps of each series, the last ones before those that test, that choose the
                epoch and calibrate the intervals; a share of its rows by default.
            test_size: last steps of each series that are kept out, for `evaluate`.
            split: which rows train, validate and test, in place of both sizes.

        Raises:
            InputError: a setting or the table cannot be used.
        """
        chosen = self._plan()
        search = None
        if self.search is not None:
            from kt_forecast.tuning import Search

            search = Search.of(self.search)
        table, static = self._load(df, static_df)
        if split is None:
            borders = self._borders(table, observed(table), chosen.horizon, val_size, test_size)
        else:
            borders = split_series(table, split)
        if search is not None:
            chosen, self.search_ = searched(chosen, table, borders, search, device=self.device)
        self.fitted_ = self._fitted(chosen, table, borders)
        self.fitted_.facts["static"] = list(static)
        self.epochs_ = self.fitted_.epochs
        self.notes_ = (*table.notes, *self.fitted_.facts["notes"])
        self.table_, self.split_, self._source = table, borders, _light(df)
        return self

    def predict(
        self,
        df: "Table | None" = None,
        futr_df: "Frame | str | Path | None" = None,
        static_df: "Frame | None" = None,
        level: int | float | Sequence[int | float] | None = None,
        quantiles: Sequence[float] | None = None,
    ) -> Any:  # noqa: ANN401
        """Return forecasts of the steps after each series' last value.

        Args:
            df: any series, known or not; those of `fit` by default.
            futr_df: covariates known in advance for the steps ahead, with ``unique_id`` (without
                it they hold for every series) and ``ds``; by default the rows of the table after a
                series' last value.
            static_df: facts of new series, as for `fit`.
            level: percentages of the intervals; those that were calibrated by default.
            quantiles: levels of quantiles, such as .05.

        Returns:
            A frame of the same kind, polars for a path, with ``unique_id``, ``ds``, the system's
            name, its intervals (``gpt-lo-90``, ``gpt-hi-90``) and its quantiles (``gpt-ql0.05``).

        Raises:
            InputError: the table or a level cannot be used.
        """
        fitted = self._model
        levels = fitted.quantiles
        columns = frames.wanted(self.system, levels, self._shown(fitted), level, quantiles)
        if df is None:
            table, source = self._own("predict"), self._source
        else:
            table, source = self._again(df, static_df), df
        future = None if futr_df is None else open_source(futr_df)
        found = fitted.forecast(table, future, self.columns)
        self.notes_ = (*table.notes, *fitted.remarks(table))
        return frames.forecasts(table, found, self.system, columns, source)

    def backtest(
        self,
        df: "Table | None" = None,
        *,
        n_windows: int = 1,
        step_size: int | None = None,
        refit: bool | int = False,
        val_size: int | None = None,
        static_df: "Frame | None" = None,
        level: int | float | Sequence[int | float] | None = None,
        quantiles: Sequence[float] | None = None,
    ) -> Any:  # noqa: ANN401
        """Return forecasts from origins that move on to the end of each series.

        Models are trained for it: nothing after a cutoff, nor after the first where the model is
        not fitted again, teaches model, scale or intervals. A model of `fit` is left as it is.

        Args:
            df: the series; those of `fit` by default.
            n_windows: number of cutoffs.
            step_size: steps between two of them; the horizon by default.
            refit: train at every cutoff, at the first alone, or at each so many.
            val_size: steps before a cutoff that choose the epoch and calibrate the intervals.
            static_df: facts, as for `fit`.
            level: percentages of the intervals; those of ``levels`` by default.
            quantiles: levels of quantiles.

        Returns:
            A frame of the same kind with ``unique_id``, ``ds``, ``cutoff`` (stamp of the last value
            that the forecast could read), ``y``, the system's name and its intervals.

        Raises:
            InputError: a setting or the table cannot be used.
        """
        chosen = self._plan()
        for name, size in (("n_windows", n_windows), ("step_size", step_size or 1)):
            _refuse_below(name, size, 1)
        if df is None:
            table, source = self._own("backtest"), self._source
        else:
            (table, _), source = self._load(df, static_df), df
        cutoffs = forecasting.rolling_cutoffs(
            observed(table), horizon=chosen.horizon, n_windows=n_windows, step=step_size
        )

        def fit(cutoff: Ints) -> forecasting.Fitted:
            known = before(table, cutoff)
            borders = self._borders(known, cutoff, chosen.horizon, val_size, 0)
            fitted = self._fitted(chosen, known, borders)
            return forecasting.Fitted(fitted, fitted.build(table), fitted.conformal)

        found = forecasting.backtest(
            fit,
            cutoffs,
            horizon=chosen.horizon,
            refit=refit,
            mixing=chosen.mixing,
            rules=forecasting.ForecastRules(resamples=0, device=self._device()),
        )
        shown = self.levels if found.levels else ()
        columns = frames.wanted(self.system, found.levels, shown, level, quantiles)
        return frames.backtested(table, found, self.system, columns, source)

    def evaluate(
        self,
        df: "Table | None" = None,
        *,
        baselines: Sequence[str] = BESIDE,
        static_df: "Frame | None" = None,
        resamples: int = 500,
    ) -> "dict[str, ForecastScores]":
        """Return the scores of all windows after the rows that taught the model.

        Args:
            df: the series of `fit` with later rows; by default those of `fit`, of which it kept
                steps back (``test_size``).
            baselines: what stands beside; fitted on the rows that the model was.
            static_df: facts, as for `fit`.
            resamples: draws of blocks of time behind an interval; 0 gives none.

        Returns:
            The scores of the system and of each baseline, by name.

        Raises:
            InputError: no window is left to score, or the table holds other series.
        """
        fitted = self._model
        if df is None:
            table, borders = self._own("evaluate"), self.split_
        else:
            table = self._again(df, static_df)
            borders = _later(fitted, table)
        models = {self.system: fitted}
        for name in baselines:
            if name not in models:
                chosen = plan(name, None, {HORIZON: fitted.horizon})
                models[name] = self._fitted(chosen, table, borders)
        return {
            name: _scored(model, table, borders, resamples, self.seed)
            for name, model in models.items()
        }

    @staticmethod
    def load(folder: str | Path, *, device: str = "auto") -> "Forecaster":
        """Return what `save` wrote, or a registered model: ``name@alias``.

        Args:
            folder: where it was saved, or the name and alias.
            device: where it shall compute.

        Raises:
            InputError: there is no model, or it is not one that this version reads.
        """
        return load(folder, device=device)

    def save(self, folder: str | Path) -> None:
        """Write the model to a folder, whole or not at all; `load` brings it back.

        Args:
            folder: is made where it is missing; a model in it is replaced.
        """
        self._model.facts["estimator"] = {
            name: list(value) if isinstance(value, tuple) else value
            for name in ("freq", "stamps", "gaps", "static", "columns", "season", "levels", "valid")
            for value in (getattr(self, name),)
        }
        self._model.save(Path(folder))

    @property
    def _model(self) -> Fitted:
        """Return the trained model.

        Raises:
            NotFittedError: there is none.
        """
        if not hasattr(self, "fitted_"):
            raise NotFittedError("this Forecaster is not fitted yet; call fit first")
        return self.fitted_

    def _plan(self) -> Plan:
        """Return what will be trained; nothing of a table is needed to refuse it.

        Raises:
            InputError: a parameter is refused.
        """
        given = dict(self.forecasting or {})
        for name in {HORIZON, CONTEXT} & given.keys():
            raise InputError(f"forecasting holds {name}; accepted is the parameter {name}=")
        _refuse_below(HORIZON, self.horizon, 1)
        given[HORIZON] = int(self.horizon)
        if self.context is not None:
            _refuse_below(CONTEXT, self.context, 1)
            given[CONTEXT] = int(self.context)
        chosen = plan(
            self.system,
            self.settings,
            given,
            self.training,
            seed=self.seed,
            members=self.members,
        )
        if not (isinstance(self.valid, Real) and 0.0 < self.valid < 1.0):
            raise InputError(f"valid is {self.valid!r}; accepted is a share between 0 and 1")
        bad = [level for level in self.levels if not 0 < level < 100]
        if bad:
            raise InputError(
                f"levels holds {bad[0]!r}; accepted are percentages between 0 and 100, such as 90"
            )
        return chosen

    def _device(self) -> str:
        from kt_forecast.training import device_named

        return str(device_named(self.device))

    def _shown(self, fitted: Fitted) -> Sequence[int | float]:
        return self.levels if fitted.conformal is not None else ()

    def _own(self, asked: str) -> SeriesTable:
        """Return the table of `fit`.

        Raises:
            InputError: the model was loaded and keeps none.
        """
        if not hasattr(self, "table_"):
            raise InputError(
                f"{asked}: a model that was loaded, or not fitted, keeps no series; accepted is a"
                " table of them (df=)"
            )
        return self.table_

    def _load(self, df: "Table", static_df: "Frame | None") -> tuple[SeriesTable, tuple[str, ...]]:
        """Return checked series, and the names of the columns of facts.

        Raises:
            InputError: the table cannot be used.
        """
        static = tuple(self.static)
        if isinstance(df, SeriesTable):
            return df, static
        if isinstance(df, str) and df in card_names() and not Path(df).exists():
            static = static or read_card(df).static
        elif static_df is not None:
            df, names = frames.with_facts(df, static_df, self.columns or {})
            static = (*(name for name in static if name not in names), *names)
        table = load_series(
            df,
            columns=self.columns,
            freq=self.freq,
            stamps=self.stamps,
            gaps=self.gaps,
            past=self.past,
            future=self.future,
            static=static,
            season=self.season,
        )
        return table, static

    def _again(self, df: "Table", static_df: "Frame | None") -> SeriesTable:
        """Return series that a fitted model is asked about, by what it was fitted with.

        Raises:
            InputError: the table cannot be used.
        """
        fitted = self._model
        if isinstance(df, SeriesTable):
            return frames.same_facts(df, fitted.scale.static_names)
        static = tuple(fitted.facts.get("static", ()))
        if static_df is not None:
            df, _ = frames.with_facts(df, static_df, self.columns or {})
        table = load_series(
            df,
            columns=self.columns,
            freq=fitted.frequency.text,
            stamps=self.stamps,
            gaps=self.gaps,
            past=fitted.scale.past_names,
            future=fitted.scale.future_names,
            static=static,
            season=fitted.frequency.season,
            asking=True,
        )
        return frames.same_facts(table, fitted.scale.static_names)

    def _fitted(self, chosen: Plan, table: SeriesTable, borders: SeriesSplit) -> Fitted:
        levels = tuple(level / 100 for level in self.levels)
        return fit_plan(chosen, table, borders, levels=levels, device=self.device)

    def _borders(
        self,
        table: SeriesTable,
        length: Ints,
        horizon: int,
        val_size: int | None,
        test_size: int,
    ) -> SeriesSplit:
        """Return which rows train and validate: the last ones of each series validate.

        A series that is too short to do both trains.

        Raises:
            InputError: no series is long enough.
        """
        _refuse_below("test_size", test_size, 0)
        rows = np.maximum(length - test_size, 0)
        if val_size is None:
            val_size = max(horizon, int(self.valid * float(np.median(rows))))
        _refuse_below("val_size", val_size, horizon)
        short = rows < val_size + horizon + 1
        if short.all():
            raise InputError(
                f"{table.name}: its longest series has {int(rows.max())} rows to fit on, too few"
                f" for {val_size} that validate and one window of {horizon} steps ahead before"
                f" them; accepted are {val_size + horizon + 1} or more, a shorter horizon, or a"
                " smaller val_size"
            )
        found = split_series(table, ByLast(test=int(test_size), valid=int(val_size)))
        train = np.where(short, found.valid_end, found.train_end)
        notes = found.notes
        if short.any():
            notes = (
                f"{int(short.sum())} of {table.n_series} series are too short to validate too",
            )
        return replace(found, train_end=train, notes=notes)


def load(folder: str | Path, *, device: str = "auto") -> Forecaster:
    """Return the forecaster that `Forecaster.save` wrote; nothing in the folder is executed.

    Args:
        folder: where it was saved, or a registered model: ``name@alias``.
        device: where it shall compute.

    Raises:
        InputError: there is no model, or it is not one that this version reads.
    """
    fitted = Fitted.load(local(folder), device=device)
    chosen = fitted.plan.plain()
    task = chosen.pop("forecasting")
    sizes = {name: task.pop(name) for name in (HORIZON, CONTEXT)}
    kept: dict[str, Any] = dict(fitted.facts.get("estimator", {}))
    covariates = {"past": fitted.scale.past_names, "future": fitted.scale.future_names}
    kept |= covariates
    forecaster = Forecaster(**chosen, **sizes, **kept, forecasting=task, device=device)
    forecaster.fitted_ = fitted
    forecaster.epochs_ = fitted.epochs
    return forecaster


def _light(df: "Table") -> object:
    """Return what tells the kind of a table and of its ids, without its rows."""
    head = getattr(df, "head", None)
    return head(0) if callable(head) else None


def _refuse_below(name: str, value: object, least: int) -> None:
    """Refuse what is no whole number, or too small.

    Raises:
        InputError: it is.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise InputError(f"{name} is {value!r}; accepted are whole numbers from {least}")


def _later(fitted: Fitted, table: SeriesTable) -> SeriesSplit:
    """Return which rows of a table taught a model, and which came later.

    Raises:
        InputError: the table holds other series than those that trained.
    """
    place = [fitted.number.get(name, -1) for name in table.ids]
    if min(place) < 0:
        stranger = table.ids[place.index(-1)]
        raise InputError(
            f"{table.name}: series {stranger!r} was not trained on, so that no scale of it is known"
            " that its scored rows did not make; accepted are series of the training table"
        )
    at = np.array(place)
    gone = np.zeros(len(at), dtype=np.int64)
    if table.frequency.kind != "order":
        gone = ticks(table.frequency, fitted.seen.first[at], table.first)
    train, valid = fitted.seen.train_end[at] - gone, fitted.seen.valid_end[at] - gone
    return SeriesSplit(
        train_end=np.maximum(train, 0),
        valid_end=np.maximum(valid, 0),
        test_end=observed(table),
        settings=ByLast(test=0),
        data_hash=table.data_hash,
    )


def _scored(
    fitted: Fitted, table: SeriesTable, borders: SeriesSplit, resamples: int, seed: int
) -> "ForecastScores":
    """Return the scores of all windows after the rows that taught a model.

    Raises:
        InputError: there is no such window.
    """
    series = fitted.build(table)
    mixing = fitted.plan.mixing
    chosen = forecasting.every_window(
        series, borders.valid_end, borders.test_end, horizon=fitted.horizon, mixing=mixing
    )
    return forecasting.evaluate(
        fitted,
        series,
        chosen,
        horizon=fitted.horizon,
        rules=forecasting.ForecastRules(resamples=resamples, seed=seed, device=fitted.device),
        conformal=fitted.calibration(table.ids),
        scale=forecasting.scale_of(series, borders.train_end, table.frequency.season),
        ids=table.ids,
    )
