"""A recipe: the whole flow of one experiment as a typed TOML file that a user copies and edits."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from kt_forecast.config import Config
from kt_forecast.data.merging import Repeats
from kt_forecast.data.splits import ByFolds, ByStudents, SplitSettings
from kt_forecast.experiment.recipe_base import BaseRecipe, SourceRecipe

EVERY_RUN_SHOWS = ("item_mean", "logistic")


class DataRecipe(SourceRecipe):
    """Where the table comes from.

    Attributes:
        separator: joins several concepts in one text value; else the format's own.
        repeats: what to do with rows that repeat the student's previous question.
        min_interactions: students with fewer steps are left out.
        extras: answer-side columns that the model reads, once the answer is given.
    """

    separator: str | None = None
    repeats: Repeats = "auto"
    min_interactions: int = Field(1, ge=1)
    extras: tuple[str, ...] = ()


class EvaluationRecipe(Config):
    """How the test rows are scored, once, at the end.

    Attributes:
        protocols: ways of evaluating; the first one makes the headline.
        bootstraps: resamples of students behind an interval; 0 gives none.
    """

    protocols: tuple[str, ...] = ("full",)
    bootstraps: int = Field(1000, ge=0)


class BaselineRecipe(Config):
    """What stands beside the model.

    Attributes:
        systems: names of fitted systems; item mean and logistic regression always join them.
        cache: whether a baseline fitted before, on the same rows, is taken from the cache.
    """

    systems: tuple[str, ...] = EVERY_RUN_SHOWS
    cache: bool = True

    def names(self) -> tuple[str, ...]:
        """Return the baselines to show, without repetition."""
        return tuple(dict.fromkeys((*EVERY_RUN_SHOWS, *self.systems)))


class TrackingRecipe(Config):
    """Where the run is recorded.

    Attributes:
        experiment: MLflow's group of runs.
        enabled: whether MLflow records the run; the run's own folder is written in any case.
    """

    experiment: str = "knowledge_tracing"
    enabled: bool = True


class Recipe(BaseRecipe):
    """One experiment of knowledge tracing.

    Attributes:
        task: what is predicted.
        coin_flip: replace every response by a fair coin; an honest pipeline then scores a half.
        folds: the split's own fold, or all folds one after the other.
        history: steps before a step that a model may read; none means all.
        data: where the table comes from.
        split: which rows train, validate and test.
        tracing: settings of the knowledge-tracing task, beside those the system was published with.
        evaluation: how the test rows are scored.
        baselines: what stands beside the model.
        tracking: where the run is recorded.
    """

    OF_SYSTEM: ClassVar[tuple[str, ...]] = ("model", "tracing")

    task: Literal["knowledge_tracing"] = "knowledge_tracing"
    coin_flip: bool = False
    folds: Literal["one", "all"] = "one"
    history: int | None = Field(None, ge=1)
    data: DataRecipe
    split: SplitSettings = ByStudents()
    tracing: dict[str, Any] = Field(default_factory=dict)
    evaluation: EvaluationRecipe = EvaluationRecipe()
    baselines: BaselineRecipe = BaselineRecipe()
    tracking: TrackingRecipe = TrackingRecipe()

    def to_toml(self) -> str:
        """Return the recipe with every default, and the seed of the split, written out."""
        seeded = self.model_copy(update={"split": self.seeded_split()})
        return BaseRecipe.to_toml(seeded)

    def title(self) -> str:
        """Return the run's short name."""
        name = super().title()
        return f"{name}-coin-flip" if self.coin_flip else name

    def seeded_split(self) -> SplitSettings:
        """Return the split's settings, drawn by the recipe's seed unless they name their own."""
        split = self.split
        if isinstance(split, ByStudents | ByFolds) and "seed" not in split.model_fields_set:
            return split.model_copy(update={"seed": self.seed})
        return split
