"""The form of a forecaster: windows to the steps ahead, in standardised units."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from kt_forecast.exporting.forms import BATCH, Form, Program, Shape, Size, largest
from kt_forecast.forecaster.ensemble import networks_of, predicted_by
from kt_forecast.forecaster.fitting import Fitted
from kt_forecast.sequences.series import WindowBatch, WindowShape

CONTEXT, REAL, PAST, KNOWN, STATIC = "context", "real", "past", "known", "static"
POINT, QUANTILES = "point", "quantiles"
BATCHES = (3, 1, 5)
MISSING = -1.0
"""Numbers below it stand for missing values in simulated windows."""


def forms(fitted: Fitted) -> list[Form]:
    """Return the one form in which a forecaster can be asked."""
    model = deepcopy(fitted.model)
    for network in networks_of(model):
        network.cpu().eval().requires_grad_(requires_grad=False)
    return [_window(model, fitted.shape, fitted.context, fitted.horizon)]


class ForecasterWindow(nn.Module):
    """Forecasts of windows that hold what is known at the origin.

    Args:
        model: network, fitted baseline or ensemble of both.
        shape: what the windows hold.
        horizon: steps ahead.
        names: of the inputs, in their order.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401
        shape: WindowShape,
        horizon: int,
        names: tuple[str, ...],
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            self.networks = nn.ModuleList(networks_of(model))
        self.model = model
        self.shape = shape
        self.horizon = horizon
        self.names = names

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """Return the forecast, and its quantiles where the system gives some."""
        forecast = predicted_by(self.model, self.batch(given))
        if forecast.quantiles is None:
            return (forecast.point,)
        return forecast.point, forecast.quantiles

    def batch(self, given: tuple[Tensor, ...]) -> WindowBatch:
        """Return the windows; nothing stands for the steps ahead but what is known of them."""
        named = dict(zip(self.names, given, strict=True))
        context = named[CONTEXT]
        rows, channels, length = context.shape
        ahead = context.new_zeros(rows, channels, self.horizon)
        both = length + self.horizon
        real = named.get(REAL)
        past = named.get(PAST, context.new_zeros(rows, channels, length, 0))
        later = past.new_zeros(rows, channels, self.horizon, past.shape[-1])
        numbers = torch.zeros_like(context[:, :, 0], dtype=torch.int64)
        return WindowBatch(
            values=torch.cat([context, ahead], -1),
            real=None if real is None else torch.cat([real, torch.zeros_like(ahead) > 0], -1),
            past=torch.cat([past, later], 2),
            known=named.get(KNOWN, context.new_zeros(rows, channels, both, 0)),
            static=named.get(STATIC, context.new_zeros(rows, channels, 0)),
            series=numbers,
            place=numbers[:, 0],
            n_context=length,
        )


def _window(model: Any, shape: WindowShape, context: int, horizon: int) -> Form:  # noqa: ANN401
    channels = shape.channels
    inputs: dict[str, Shape] = {CONTEXT: (BATCH, channels, context)}
    if shape.gaps:
        inputs[REAL] = (BATCH, channels, context)
    if shape.past:
        inputs[PAST] = (BATCH, channels, context, shape.past)
    if shape.known:
        inputs[KNOWN] = (BATCH, channels, context + horizon, shape.known)
    if shape.static:
        inputs[STATIC] = (BATCH, channels, shape.static)
    module = ForecasterWindow(model, shape, horizon, tuple(inputs)).eval()

    def draw(size: Size) -> tuple[Tensor, ...]:
        random = torch.Generator().manual_seed(size.batch)
        found = []
        for name, sizes in inputs.items():
            fixed = [size.batch, *(int(one) for one in sizes[1:])]
            numbers = torch.randn(fixed, generator=random)
            found.append(numbers > MISSING if name == REAL else numbers)
        return tuple(found)

    @torch.inference_mode()
    def farthest(program: Program, size: Size) -> float:
        given = draw(size)
        expected = module(*given)
        found = program(given)
        return max(largest(a, b) for a, b in zip(found, expected, strict=True))

    sizes = tuple(Size(batch, context) for batch in BATCHES)
    with torch.inference_mode():
        outputs = (POINT, QUANTILES)[: len(module(*draw(sizes[0])))]
    gaps = (
        "real is False where a value is missing or lies before the series' first"
        if shape.gaps
        else f"windows are complete: {context} values, none of them missing"
    )
    return Form(
        name="window",
        module=module,
        inputs=inputs,
        outputs=outputs,
        example=draw(sizes[0]),
        sizes=sizes,
        farthest=farthest,
        draw=draw,
        start={},
        notes=(
            "values are measured as training measured them: subtract a series' shift, divide by its"
            " spread, and do the reverse with the forecast",
            gaps,
            "intervals that were calibrated are not part of the file",
        ),
    )
