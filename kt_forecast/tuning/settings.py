"""How a study searches."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from kt_forecast.config import Config
from kt_forecast.errors import InputError

Sampler = Literal["tpe", "gp", "cmaes", "nsga2"]
Pruner = Literal["auto", "hyperband", "halving", "none"]
Cost = Literal["parameters", "flops"]


class Search(Config):
    """How a study searches, and for how long.

    Attributes:
        trials: settings to try in all, those of earlier and of other processes among them.
        hours: time that this call may take; with ``trials``, whatever ends first.
        sampler: ``tpe``, multivariate; ``gp``, a Gaussian process; ``cmaes``; ``nsga2``, which
            weighs the score against ``cost``.
        pruner: what ends trials whose validation falls behind: successive halving in several
            brackets or in one. By default one with ``tpe``, and none with the others, which learn
            from whole trials only.
        cost: what ``nsga2`` lowers: trained numbers, or counted operations for a step.
        finalists: best settings that are trained with further seeds.
        seeds: seeds of each finalist, the study's own among them; 1 repeats nothing.
        storage: where trials are kept: a file of that name, a database's URL, or
            ``grpc://host:port``; by default a file of the study's own.
        space: fields by section (``settings``, ``tracing`` or ``forecasting``, ``training``), each
            with ``{low, high, log}``, a list of choices, or one value that fixes it.
    """

    trials: int | None = Field(None, ge=1)
    hours: float | None = Field(None, gt=0)
    sampler: Sampler = "tpe"
    pruner: Pruner = "auto"
    cost: Cost = "parameters"
    finalists: int = Field(3, ge=1)
    seeds: int = Field(3, ge=1)
    storage: str | None = None
    space: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.trials is None and self.hours is None:
            raise ValueError("neither trials nor hours is given; accepted is one of them, or both")
        if self.sampler == "nsga2" and self.pruner not in {"auto", "none"}:
            raise ValueError("nsga2 compares whole trials; accepted for it is pruner none")
        return self

    @classmethod
    def of(cls, given: object) -> Self:
        """Return a search from what an estimator was given.

        Args:
            given: a search, or its fields in a dictionary.

        Raises:
            InputError: it is neither, or a field is refused.
        """
        if isinstance(given, cls):
            return given
        if not isinstance(given, dict):
            raise InputError(
                f"search is {given!r}; accepted is a dictionary such as {{'trials': 20}}, or a"
                " Search"
            )
        return cls.parse(given, "search")

    @property
    def counts_flops(self) -> bool:
        """Whether the operations of a prediction are counted in every trial."""
        return self.cost == "flops"

    @property
    def weighs_cost(self) -> bool:
        """Whether a second objective is lowered."""
        return self.sampler == "nsga2"
