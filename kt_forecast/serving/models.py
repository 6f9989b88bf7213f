"""From a run, a folder or a registered name to a model that may be served."""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kt_forecast.errors import InputError
from kt_forecast.forecaster import is_saved
from kt_forecast.forecaster.fitting import MODEL_FILE as FORECASTER_FILE
from kt_forecast.forecaster.fitting import Fitted as FittedForecaster
from kt_forecast.tracer.fitting import MODEL_FILE as TRACER_FILE
from kt_forecast.tracer.fitting import Fitted as FittedTracer
from kt_forecast.tracking.registry import fetched, is_registered, registered
from kt_forecast.tracking.tracker import ALLOWED

TRACING, FORECASTING = "knowledge_tracing", "forecasting"
BY_RUN = "verdict"
NONE = "none"


@dataclass(frozen=True)
class Loaded:
    """A model with what its users should know of it.

    Attributes:
        fitted: the model.
        task: what it does.
        name: the word by which it was asked for.
        version: hash of its file.
        number: of the registered version; empty for others.
        verdict: what its stored audit says; ``none`` where it holds no audit.
        override: why it is served although the audit does not allow it; empty where it does.
    """

    fitted: Any
    task: str
    name: str
    version: str
    number: str
    verdict: str
    override: str

    def facts(self) -> dict[str, str]:
        """Return what to show and to record."""
        names = ("task", "name", "version", "number", "verdict", "override")
        facts = {name: str(getattr(self, name)) for name in names}
        return facts | {"system": self.fitted.plan.name}


@dataclass
class Origin:
    """Where a model comes from, and comes from again when there is a newer one.

    Attributes:
        wanted: a run, a folder, or ``name@alias`` of the registry.
        runs: folder of the runs.
        override: why a model is served that its audit does not allow.
        device: where it shall compute.
    """

    wanted: str
    runs: Path
    override: str = ""
    device: str = "cpu"
    _number: str = field(default="", init=False)

    @property
    def is_registered(self) -> bool:
        """Return whether the registry says which version it is."""
        return is_registered(self.wanted)

    def load(self) -> Loaded:
        """Return the model; nothing in its file is executed.

        Raises:
            InputError: there is no such model, or its audit does not allow it and no reason was
                given.
        """
        if not self.is_registered:
            folder = Path(self.wanted)
            if not (is_saved(folder) or (folder / TRACER_FILE).is_file()):
                from kt_forecast.experiment.running import inside
                from kt_forecast.experiment.stored import MODEL, find

                folder = Path(inside(find(self.wanted, self.runs), MODEL))
            return self._allowed(self._read(folder))
        version = registered(self.wanted, self.runs)
        # By its number, as the alias may mean another one by now.
        place = fetched(f"models:/{version.name}/{version.version}", self.runs)
        found = replace(self._read(place), number=version.version)
        self._number = version.version
        if found.verdict in ALLOWED:
            # Of what the file and the registry say of the audit the worse counts.
            found = replace(found, verdict=version.verdict)
        return self._allowed(found)

    def is_newer(self) -> bool:
        """Return whether the registry's alias names another version than the one loaded last."""
        return self.is_registered and registered(self.wanted, self.runs).version != self._number

    def _read(self, folder: Path) -> Loaded:
        forecasts = is_saved(folder)
        path = folder / (FORECASTER_FILE if forecasts else TRACER_FILE)
        fitted: Any = (FittedForecaster if forecasts else FittedTracer).load(
            folder, device=self.device
        )
        return Loaded(
            fitted=fitted,
            task=FORECASTING if forecasts else TRACING,
            name=self.wanted,
            version=hashlib.sha256(path.read_bytes()).hexdigest(),
            number="",
            verdict=str(fitted.facts.get(BY_RUN, NONE)),
            override="",
        )

    def _allowed(self, found: Loaded) -> Loaded:
        """Return the model if it may be served.

        Raises:
            InputError: it may not, and no reason was given.
        """
        if found.verdict in ALLOWED:
            return found
        if self.override.strip():
            return replace(found, override=self.override.strip())
        held = (
            "no audit is stored with it"
            if found.verdict == NONE
            else (f"its stored audit verdict is {found.verdict!r}")
        )
        raise InputError(
            f"{self.wanted}: {held}; served are models with {' or '.join(ALLOWED)}, others with"
            " --override and a reason, which is recorded"
        )
