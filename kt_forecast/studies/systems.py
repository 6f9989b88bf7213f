"""Mixers of the zoo at sizes that are alike."""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from kt_forecast import zoo
from kt_forecast.config import Config
from kt_forecast.nn.system import System, SystemConfig
from kt_forecast.training import device_named

FORMS: dict[str, tuple[str, dict[str, Any]]] = {"mamba2": ("mamba", {"form": "mamba2"})}
"""Settings, by a name of their own, that make another mixer of a system."""
SIZES: dict[str, dict[str, Any]] = {
    "transformer_xl": {"window": 128, "segment": 64},
    "gtrxl": {"window": 128, "segment": 64},
    "compressive_transformer": {"segment": 64, "memory": 64, "compressed": 32},
    "infini_transformer": {"segment": 128},
    "rmt": {"segment": 256, "slots": 10},
    "titans": {"chunk": 128, "window": 128},
}
"""Settings under which long streams run in pieces that fill a machine."""


class StudySettings(Config):
    """Settings every study has.

    Attributes:
        device: where it is measured.
        precision: of a pass: ``fp32``, or ``bf16`` beside weights of float32.
        width: numbers in a step's vector.
        layers: of every mixer.
        heads: of every mixer that has them.
        own: further settings by system, such as ``{"rmt": {"segment": 64}}``.
        repeats: readings behind a median.
        seed: of weights and data.
        seconds: that the study may take; it ends after the reading that passes them. None for as
            many as it takes.
    """

    device: str = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    width: int = Field(64, gt=0)
    layers: int = Field(2, gt=0)
    heads: int = Field(4, gt=0)
    own: dict[str, dict[str, Any]] = Field(default_factory=dict)
    repeats: int = Field(5, ge=5)
    seed: int = Field(0, ge=0)
    seconds: float | None = Field(None, gt=0)

    def system(self, name: str, **sizes: Any) -> tuple[System, SystemConfig]:  # noqa: ANN401
        """Return a system and its settings.

        Args:
            name: of the zoo, or of `FORMS`.
            sizes: the study's own settings of it; the user's stand above them.

        Raises:
            InputError: there is no such system, or it has no such setting.
        """
        base, form = FORMS.get(name, (name, {}))
        system = zoo.load(base)
        known = system.config.model_fields
        alike = {"width": self.width, "layers": self.layers, "heads": self.heads, "dropout": 0.0}
        alike = {key: value for key, value in alike.items() if key in known}
        chosen = {**alike, **form, **sizes, **self.own.get(name, {})}
        return system, system.config.parse(chosen, f"settings of {name}")

    def mixer(self, name: str, **sizes: Any) -> Any:  # noqa: ANN401
        """Return a mixer with weights of the seed, on the device; see `system`.

        Raises:
            InputError: there is no such system or device, or the system has no such setting.
        """
        system, settings = self.system(name, **{**SIZES.get(name, {}), **sizes})
        assert system.build is not None  # noqa: S101 - studies are of mixers
        torch.manual_seed(self.seed)
        mixer: nn.Module = system.build(settings)
        return mixer.to(device_named(self.device))


def bytes_of(state: Any) -> int:  # noqa: ANN401
    """Return the bytes of a state."""
    return sum(tensor.numel() * tensor.element_size() for tensor in state.tensors().values())


def numbers_of(state: Any) -> int:  # noqa: ANN401
    """Return how many numbers of a state are not counts of steps."""
    return sum(t.numel() for t in state.tensors().values() if t.is_floating_point())
