"""The audit that every trained forecaster gets, without being asked."""

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from kt_forecast.audit import Contract, Report, audit, clock
from kt_forecast.nn.plain import plainly
from kt_forecast.sequences.series import WindowBatch
from kt_forecast.tasks.forecasting import SeriesForecaster

READ = ("values", "past")
"""Fields of a batch that are known step by step; the others are known in advance."""

BOTH = ("evaluation", "training")

PLAIN = ("compiled",)
"""Stages left out: nothing is trained or served compiled."""


def audit_forecaster(model: Any, batch: WindowBatch, *, moments: int = 16) -> Report:  # noqa: ANN401
    """Audit a forecaster on real windows under the forecasting contract.

    A system that forecasts from every patch of a window is audited at every patch's end and in
    both modes, and so are the forecasts that its own loss weighs. One that reads whole windows is
    audited in evaluation: batch normalisation, where it has one, couples the windows of a training
    batch.

    Args:
        model: a `SeriesForecaster`, or anything with ``predict(batch)``.
        batch: a few windows are enough; used on the model's device.
        moments: how many moments to sample.

    Returns:
        The report; every forecast may use the steps before its origin, facts of the series and
        covariates known in advance.
    """
    if not isinstance(model, SeriesForecaster):
        return _audit_predictor(model, batch, moments)
    here = batch.to(next(model.parameters()).device)
    task = model.task
    inputs = _inputs(here)
    count = task.origins
    first = here.n_context - task.patch * torch.arange(count).flip(0)

    def call(changed: dict[str, Tensor]) -> Tensor:
        return model(replace(here, **changed).window, origins=count)  # type: ignore[arg-type]

    def followed(changed: dict[str, Tensor]) -> Tensor:
        with plainly(model):
            return call(changed)

    modes = BOTH if task.dense else BOTH[:1]

    def weighed(changed: dict[str, Tensor]) -> Tensor:
        seen: list[Tensor] = []

        def note(out: Tensor, *_: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
            seen.append(out)
            return out.sum(), out.new_tensor(out.numel())

        with plainly(model), patch.object(model, "_losses", note):
            model.loss(replace(here, **changed))  # type: ignore[arg-type]
        return seen[0]

    contract = _from_origins(inputs, first)
    return audit(
        model, inputs, contract,
        call=call, plain=followed, training=weighed, modes=modes, moments=moments, skip=PLAIN,
    )  # fmt: skip


def _audit_predictor(model: Any, batch: WindowBatch, moments: int) -> Report:  # noqa: ANN401
    """Audit what has no gradient: a rule, or a baseline that is solved."""

    def call(changed: dict[str, Tensor]) -> Tensor:
        found = model.predict(replace(batch, **changed))  # type: ignore[arg-type]
        parts = [found.point[..., None]]
        if found.quantiles is not None:
            parts.append(found.quantiles)
        return torch.cat(parts, -1)[:, :, None]

    inputs = _inputs(batch)
    contract = _from_origins(inputs, torch.tensor([batch.n_context]))
    return audit(
        nn.Identity(), inputs, contract, call=call, modes=BOTH[:1], moments=moments, skip=PLAIN
    )


def _inputs(batch: WindowBatch) -> dict[str, Tensor]:
    found = {name: getattr(batch, name) for name in READ}
    return {name: x for name, x in found.items() if x.numel()}


def _from_origins(inputs: dict[str, Tensor], origins: Tensor) -> Contract:
    """Return the contract of forecasts from several origins.

    Args:
        inputs: batch x channels x time.
        origins: the first step ahead of each, the third axis of the output.
    """
    available = {name: torch.arange(x.shape[2])[None, None] for name, x in inputs.items()}
    return replace(clock(available, origins[None, None].cpu() - 1), name="forecast")
