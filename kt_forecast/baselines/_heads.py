"""Settings that the attention networks share."""

from typing import Self

from pydantic import model_validator

from kt_forecast.nn.system import SystemConfig


class Headed(SystemConfig):
    """Settings of a network with attention heads.

    Attributes:
        width: numbers in a token.
        heads: attention heads; must divide ``width``.
    """

    heads: int = 8

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads = {self.heads} must divide width = {self.width}")
        return self
