"""`KnowledgeTracer`: knowledge tracing by scikit-learn's conventions, on tables."""

from collections.abc import Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_args

import numpy as np
import polars as pl
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from kt_forecast.config import Config
from kt_forecast.data import tables
from kt_forecast.data.cards import card_names
from kt_forecast.data.interactions import Interactions
from kt_forecast.data.merging import Repeats
from kt_forecast.data.splits import ByStudents, Role, split
from kt_forecast.errors import InputError
from kt_forecast.schema import LINE, P_CORRECT, QUESTION, RESPONSE, STUDENT
from kt_forecast.sequences.build import build, fit_vocabulary
from kt_forecast.tracer import frames
from kt_forecast.tracer.fitting import Fitted, fit_plan, predict_rows
from kt_forecast.tracer.searching import searched
from kt_forecast.tracer.streaming import Stream, mastery_over_time
from kt_forecast.tracer.systems import plan
from kt_forecast.tracking.registry import local

if TYPE_CHECKING:
    import pandas as pd

    from kt_forecast.evaluation import Scores

    Table = str | Path | pl.DataFrame | pl.LazyFrame | pd.DataFrame | Interactions

STEP = "step"
CONCEPT = "concept"


class KnowledgeTracer(BaseEstimator):  # type: ignore[misc]
    """Predicts whether a student answers the next question correctly.

    Tables are paths, pandas or polars frames with the columns ``student``, ``response``, and
    ``question`` or ``concepts``; ``time`` or ``order`` says which answer came first, else the order
    of the rows does.

    Args:
        system: what to train: a word that ``kt-forecast zoo`` lists.
        settings: the system's own settings.
        tracing: settings of the knowledge-tracing task.
        training: settings of the loop.
        history: the most a prediction may look back on, its own step included; None for all.
        extras: answer-side columns that the model reads, once the answer is given.
        columns: our name of a column to the table's own.
        separator: joins several concepts in one text value; else the format's own.
        repeats: what to do with rows that repeat the student's previous question.
        valid: share of the students that choose the epoch, where `fit` is given none.
        seed: of first weights, training, and the choice of those students.
        search: try other settings first and train the best, chosen by the students that choose
            the epoch: `kt_forecast.Search` or its fields, such as ``{"trials": 20}``.
        device: a torch device, or ``auto``.

    Attributes:
        fitted_: the trained model.
        vocabulary_: the names it knows.
        epochs_: what each epoch gave.
        search_: what the search found; absent without one.
        interactions_: the table of `fit`, checked; absent after `load`.

    Examples:
        >>> tracer = KnowledgeTracer("logistic").fit("sample")  # doctest: +SKIP
        >>> tracer.predict_proba(frame)  # doctest: +SKIP
    """

    def __init__(  # noqa: PLR0913 - by scikit-learn's conventions every setting is a parameter
        self,
        system: str = "gpt",
        *,
        settings: dict[str, Any] | None = None,
        tracing: dict[str, Any] | None = None,
        training: dict[str, Any] | None = None,
        history: int | None = None,
        extras: Sequence[str] = (),
        columns: dict[str, str] | None = None,
        separator: str | None = None,
        repeats: Repeats = "auto",
        valid: float = 0.1,
        seed: int = 0,
        search: Config | dict[str, Any] | None = None,
        device: str = "auto",
    ) -> None:
        self.system = system
        self.settings = settings
        self.tracing = tracing
        self.training = training
        self.history = history
        self.extras = extras
        self.columns = columns
        self.separator = separator
        self.repeats = repeats
        self.valid = valid
        self.seed = seed
        self.search = search
        self.device = device

    def fit(self, table: "Table", valid: "Table | None" = None) -> Self:
        """Train on a table.

        Args:
            table: the students that train.
            valid: the students that choose the epoch; without it some of the table's, by seed.

        Raises:
            InputError: a setting or a table cannot be used, or the tables share a student.
        """
        chosen = plan(
            self.system,
            self.settings,
            self.tracing,
            self.training,
            history=self.history,
            seed=self.seed,
        )
        self._check()
        search = None
        if self.search is not None:
            from kt_forecast.tuning import Search

            search = Search.of(self.search)
        interactions = self._load(table)
        if valid is None:
            if len(interactions.students) < 2:
                raise InputError(
                    f"{interactions.name}: holds one student; accepted are two or more, or a table"
                    " of other students as valid"
                )
            least = 1 / len(interactions.students)
            by = ByStudents(seed=self.seed, valid=max(self.valid, least), test=0.0)
            roles = split(interactions, by)
            judges, counts = interactions, roles.scored(Role.VALID)
            rows = roles.scored(Role.TRAIN)
        else:
            judges = self._load(valid)
            counts = np.ones(len(judges), dtype=np.bool_)
            rows = np.ones(len(interactions), dtype=np.bool_)
            _refuse_shared(interactions, judges)
        vocabulary = fit_vocabulary(interactions, rows, extras=self.extras)
        train = build(interactions, vocabulary, rows=rows)
        judged = build(judges, vocabulary, rows=counts)
        if search is not None:
            chosen, self.search_ = searched(
                chosen, train, judged, vocabulary, search, device=self.device
            )
        self.fitted_ = fit_plan(chosen, train, judged, vocabulary, device=self.device)
        self.fitted_.facts["data_hash"] = interactions.data_hash
        self._known(self.fitted_)
        self.interactions_ = interactions
        return self

    def predict_proba(self, table: "Table") -> Any:  # noqa: ANN401
        """Return the table with a column ``p_correct``, each row predicted from those before it.

        Args:
            table: any students, known or not. A row's own response is not read for its
                prediction, and may be missing at the end of a student's rows.

        Returns:
            The same kind of table with the same rows in the same order; a polars frame for a path.
            Rows that were merged into one step have one value.

        Raises:
            InputError: the table cannot be used.
        """
        fitted = self._model
        interactions = self._load(table, asking=True)
        rows = self._rows(table, interactions) if isinstance(table, str | Path) else table
        return frames.with_p_correct(rows, interactions, predict_rows(fitted, interactions))

    def evaluate(self, table: "Table", protocol: str = "full", *, resamples: int = 500) -> "Scores":
        """Return the scores of the model on the students of a table, with intervals.

        Args:
            table: students that the model was not trained on.
            protocol: ``full``, ``pykt``, ``stream`` or ``cold_start``.
            resamples: draws of students behind an interval; 0 gives none.

        Raises:
            InputError: the protocol is unknown, the table cannot be used, or it holds students
                that the model was trained on.
        """
        from kt_forecast.evaluation import evaluate

        interactions = self._load(table)
        trained = getattr(self, "interactions_", None)
        if trained is not None:
            _refuse_shared(trained, interactions)
        sequences = build(interactions, self._model.vocabulary)
        return evaluate(self._model, sequences, protocol, resamples=resamples, seed=self.seed)

    def mastery(self, student: object, table: "Table | None" = None) -> pl.DataFrame:
        """Return what the model believed about one student after every answer.

        Args:
            student: name of the student.
            table: holds the student's answers; by default the table that `fit` was given.

        Returns:
            One row a step and concept: the step (from 0), the question answered, the response, the
            concept, and the probability of answering a question on the concept correctly
            afterwards. The concepts are those that the student has practised at all.

        Raises:
            InputError: the student is not in the table, or there is no table.
        """
        fitted = self._model
        if table is not None:
            interactions = self._load(table)
        elif hasattr(self, "interactions_"):
            interactions = self.interactions_
        else:
            raise InputError(
                "mastery: a loaded model keeps no students; accepted is a table that holds"
                f" {student!r}"
            )
        rows = frames.rows_of_student(interactions, student)
        sequences = build(interactions, fitted.vocabulary, rows=rows)
        concepts = sorted({int(c) for c in sequences.concept} - {0})
        p_correct = mastery_over_time(fitted, sequences, concepts)
        frame = interactions.frame.filter(pl.Series(rows))
        names = [fitted.vocabulary.concepts[c - 1] for c in concepts]
        times = len(concepts)
        question = interactions.questions.gather(frame[QUESTION])
        return pl.DataFrame(
            {
                STUDENT: pl.repeat(str(student), frame.height * times, eager=True),
                STEP: np.repeat(np.arange(frame.height), times),
                QUESTION: question.gather(np.repeat(np.arange(frame.height), times)),
                RESPONSE: np.repeat(frame[RESPONSE].to_numpy(), times),
                CONCEPT: pl.Series(names * frame.height, dtype=pl.String),
                P_CORRECT: p_correct.ravel(),
            }
        )

    def stream(self, *, bundled: bool = True) -> Stream:
        """Return the running state of a new student: one answer in, next probabilities out.

        Args:
            bundled: equal times form one event, whose questions see none of each other's responses.
        """
        return Stream(self._model, bundled=bundled)

    @staticmethod
    def load(folder: str | Path, *, device: str = "auto") -> "KnowledgeTracer":
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
            "columns": self.columns,
            "separator": self.separator,
            "repeats": self.repeats,
            "valid": self.valid,
        }
        self._model.save(Path(folder))

    @property
    def _model(self) -> Fitted:
        """Return the trained model.

        Raises:
            NotFittedError: there is none.
        """
        if not hasattr(self, "fitted_"):
            raise NotFittedError("this KnowledgeTracer is not fitted yet; call fit first")
        return self.fitted_

    def _check(self) -> None:
        """Refuse what no table could be read or divided by.

        Raises:
            InputError: a parameter is refused.
        """
        if not (isinstance(self.valid, Real) and 0.0 <= self.valid < 1.0):
            raise InputError(f"valid is {self.valid!r}; accepted is a share from 0 to below 1")
        if self.repeats not in get_args(Repeats):
            raise InputError(
                f"repeats is {self.repeats!r}; accepted are {', '.join(get_args(Repeats))}"
            )

    def _known(self, fitted: Fitted) -> None:
        self.vocabulary_ = fitted.vocabulary
        self.epochs_ = fitted.epochs

    def _load(self, table: "Table", *, asking: bool = False) -> Interactions:
        if isinstance(table, Interactions):
            return table
        return tables.load(
            table,
            columns=self.columns,
            separator=self.separator,
            repeats=self.repeats,
            asking=asking,
        )

    def _rows(self, path: str | Path, interactions: Interactions) -> pl.DataFrame | Interactions:
        """Return the rows of a file as they stand there; those of a data set as they became."""
        if isinstance(path, str) and path in card_names():
            return replace(interactions, source=None)
        raw = tables.read(Path(path), columns=self.columns or {}, format="auto")
        return raw.collect().drop(LINE, strict=False)


def load(folder: str | Path, *, device: str = "auto") -> KnowledgeTracer:
    """Return the tracer that `KnowledgeTracer.save` wrote; nothing in the folder is executed.

    Args:
        folder: where it was saved, or a registered model: ``name@alias``.
        device: where it shall compute.

    Raises:
        InputError: there is no model, or it is not one that this version reads.
    """
    fitted = Fitted.load(local(folder), device=device)
    chosen = fitted.plan.plain()
    kept = fitted.facts.get("estimator", {})
    tracer = KnowledgeTracer(**chosen, **kept, extras=fitted.vocabulary.extras, device=device)
    tracer.fitted_ = fitted
    tracer._known(fitted)  # noqa: SLF001 - the other way to come by a fitted tracer
    return tracer


def _refuse_shared(one: Interactions, other: Interactions) -> None:
    """Refuse two tables that share students.

    Raises:
        InputError: they do.
    """
    if one.data_hash == other.data_hash:
        raise InputError(
            f"{other.name}: is the table that trained; accepted are tables without students of it"
        )
    shared = one.students.filter(one.students.is_in(other.students.to_list()))
    if len(shared):
        raise InputError(
            f"{other.name}: {len(shared)} of its students, such as {shared[0]!r}, are in"
            f" {one.name} too; accepted are tables that share no student"
        )
