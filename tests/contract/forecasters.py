"""Every system that can forecast gets every test of test_forecasters, unasked."""

from importlib import import_module

import torch
from contract.systems import generic

from kt_forecast.nn.system import System, modules_in
from kt_forecast.sequences.series import WindowBatch, WindowShape
from kt_forecast.tasks.forecasting import ForecastingConfig, SeriesForecaster

WIDTH, CONTEXT, HORIZON, PATCH, CHANNELS = 16, 48, 12, 6, 3
SMALLER = {
    "heads": 2,
    "inner": 16,
    "layers": 2,
    "window": 5,
    "segment": 4,
    "memory": 4,
    "compressed": 3,
    "average": 5,
}


def systems() -> dict[str, System]:
    found = {}
    for package in ("kt_forecast.zoo", "kt_forecast.baselines"):
        for name in modules_in(package):
            system = getattr(import_module(f"{package}.{name}"), "SYSTEM", None)
            if system is not None:
                found[name] = system
    return found


SYSTEMS = systems()
NETWORKS = [
    (name, {"published": True} if system.build is not None else {})
    for name, system in SYSTEMS.items()
    if system.network is not None
]
MIXERS = [(name, {}) for name, system in SYSTEMS.items() if system.build is not None]
STEP_CAUSAL = [(name, own) for name, own in MIXERS if SYSTEMS[name].promises.causality != "window"]
ALL = MIXERS + NETWORKS


def shape(*, past: int = 0, known: int = 0, static: int = 0, gaps: bool = False) -> WindowShape:
    return WindowShape(
        context=1,
        horizon=1,
        channels=CHANNELS,
        past=past,
        known=known,
        static=static,
        season=6,
        gaps=gaps,
    )


def forecaster(name: str, own: dict[str, object], window: WindowShape, **task: object):
    system = SYSTEMS[name]
    fields = system.config.model_fields
    small = {k: v for k, v in SMALLER.items() if k in fields and isinstance(fields[k].default, int)}
    settings = system.config(**{"width": WIDTH, **small, **own})
    config = ForecastingConfig.model_validate(
        (system.forecasting or {})
        | {"context": CONTEXT, "horizon": HORIZON, "patch": PATCH, "dense": False}
        | task
    )
    torch.manual_seed(0)
    model = SeriesForecaster(system, settings, config, window)
    return generic(model.double()).eval()


def windows(
    count: int, *, past: int = 0, known: int = 0, static: int = 0, channels: int = 1, seed: int = 0
) -> WindowBatch:
    draw = torch.Generator().manual_seed(seed)

    def normal(*sizes: int) -> torch.Tensor:
        return torch.randn(*sizes, generator=draw, dtype=torch.float64)

    both = CONTEXT + HORIZON
    return WindowBatch(
        values=normal(count, channels, both).cumsum(-1) / 3,
        real=None,
        past=normal(count, channels, both, past),
        known=normal(count, channels, both, known),
        static=normal(count, channels, static),
        series=torch.arange(channels).expand(count, channels).clone(),
        place=torch.arange(count),
        n_context=CONTEXT,
    )
