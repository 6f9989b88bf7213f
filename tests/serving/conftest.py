"""Small trained models and services on them."""

from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from kt_forecast import Forecaster, KnowledgeTracer
from kt_forecast.data.simulate import Simulation, simulate
from kt_forecast.serving.app import build
from kt_forecast.serving.models import Origin
from kt_forecast.serving.service import Service
from kt_forecast.serving.settings import Settings

OVERRIDE = "a test"
SMALL = {"epochs": 1, "patience": 1}
SAMPLE = simulate(Simulation(students=60, mean_steps=30.0))


@pytest.fixture(scope="session")
def tracers(tmp_path_factory):
    """Return a function that gives the folder of a tracer, trained once."""
    home, made = tmp_path_factory.mktemp("tracers"), {}

    def folder(system: str = "gpt", history: int | None = None, seed: int = 0) -> Path:
        name = f"{system}-{history}-{seed}"
        if name not in made:
            settings = {"width": 16} if system in {"gpt", "dkt", "informer", "hourglass"} else None
            if system == "hourglass":
                settings |= {"hierarchy": [2]}
            training = SMALL if settings else None
            tracing = {"identity": 8, "neighbours": 0} if settings else None
            made[name] = KnowledgeTracer(
                system,
                settings=settings,
                tracing=tracing,
                training=training,
                history=history,
                seed=seed,
            ).fit(SAMPLE)
            made[name].save(home / name)
        return home / name

    folder.fitted = lambda *args, **kwargs: (folder(*args, **kwargs), made[_name(*args, **kwargs)])[
        1
    ]
    return folder


def _name(system: str = "gpt", history: int | None = None, seed: int = 0) -> str:
    return f"{system}-{history}-{seed}"


@pytest.fixture(scope="session")
def forecaster(tmp_path_factory):
    """Return a forecaster on the sample of series, and its folder."""
    place = tmp_path_factory.mktemp("forecaster")
    found = Forecaster("nlinear", horizon=6, context=24, training=SMALL, seed=0)
    found.fit("series_sample", test_size=48)
    found.save(place)
    return found, place


@pytest.fixture
def serving(tmp_path):
    """Return a context that gives service and client of a model."""

    @asynccontextmanager
    async def serve(folder, store: str = "log.db", **settings):
        url = store if "://" in store else f"sqlite:///{tmp_path / store}"
        origin = Origin(str(folder), tmp_path, override=OVERRIDE)
        service = Service(origin, url, Settings(**settings))
        transport = httpx.ASGITransport(build(service), raise_app_exceptions=False)
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                yield service, client
        finally:
            service.stop()

    return serve
