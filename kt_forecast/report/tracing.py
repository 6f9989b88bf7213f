"""What a run of knowledge tracing leaves behind for its reader."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

from kt_forecast.report.record import Citation, Number, Plain, Record, Score, Scored

HEADLINE = "auc"
"""The metric that the headline quotes and that orders the baselines."""


@dataclass(frozen=True, kw_only=True)
class Protocol(Scored):
    """The scores of one way of evaluating: which students, how much history.

    Attributes:
        n_interactions: scored interactions.
        n_students: students they come from.
    """

    headline: ClassVar[str] = HEADLINE

    n_interactions: int = 0
    n_students: int = 0
    interval: str = "95% bootstrap over students"


@dataclass(frozen=True, kw_only=True)
class CalibrationBin(Plain):
    """Interactions whose predictions fell into one bin.

    Attributes:
        predicted: mean predicted probability.
        observed: share answered correctly.
        count: interactions in the bin; an empty bin has nan in the other two.
    """

    predicted: Number
    observed: Number
    count: int


@dataclass(frozen=True, kw_only=True)
class SeenBin(Plain):
    """Interactions before which their student had answered a like number of questions.

    Attributes:
        first: fewest answers seen.
        last: most answers seen; None where the bin has no upper end.
        count: interactions in the bin.
        auc: of those interactions.
    """

    first: int
    last: int | None
    count: int
    auc: Score


@dataclass(frozen=True, kw_only=True)
class Mastery(Plain):
    """What the model believed about one student after every answer.

    Attributes:
        student: name.
        concepts: names.
        p_correct: for each step, after its answer, the probability that the student would answer a
            question on each concept correctly; steps by concepts.
        practised: for each step, positions in ``concepts`` of what its question exercised.
        responses: for each step, 1 where the answer was right and 0 where it was wrong.
        questions: for each step, the question's name; may be empty.

    Raises:
        ValueError: the lengths disagree.
    """

    student: str
    concepts: tuple[str, ...]
    p_correct: tuple[tuple[Number, ...], ...]
    practised: tuple[tuple[int, ...], ...]
    responses: tuple[int, ...]
    questions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n_steps = len(self.responses)
        lengths = {len(self.p_correct), len(self.practised), len(self.questions) or n_steps}
        if lengths != {n_steps}:
            raise ValueError(f"mastery: {n_steps} responses, other step axes of {sorted(lengths)}")
        if any(len(row) != len(self.concepts) for row in self.p_correct):
            raise ValueError(f"mastery: a step without {len(self.concepts)} probabilities")
        if any(not 0 <= c < len(self.concepts) for step in self.practised for c in step):
            raise ValueError("mastery: a practised concept outside the list of concepts")


@dataclass(frozen=True, kw_only=True)
class DataFacts(Plain):
    """The table the run read.

    Attributes:
        name: of the data set.
        n_students: students.
        n_questions: distinct questions.
        n_concepts: distinct concepts.
        n_interactions: rows, one a question answered.
        share_correct: share of right answers.
        data_hash: SHA-256 of the canonical content.
        licence: of the data.
        citation: what its owners ask to be cited.
        notes: what was merged, dropped or reordered at the door; one sentence each.
    """

    name: str
    n_students: int
    n_questions: int
    n_concepts: int
    n_interactions: int
    share_correct: Number = math.nan
    data_hash: str = ""
    licence: str = ""
    citation: Citation | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SplitPart(Plain):
    """One part of a split."""

    name: str
    n_students: int
    n_interactions: int


@dataclass(frozen=True, kw_only=True)
class SplitFacts(Plain):
    """How the data were divided.

    Attributes:
        scheme: one sentence: by student, by time or by share of each student.
        parts: training, validation, test.
        split_hash: of the stored split.
        notes: one sentence each.
    """

    scheme: str
    parts: tuple[SplitPart, ...] = ()
    split_hash: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RunRecord(Record):
    """Everything the report of knowledge tracing shows, without the model.

    Attributes:
        data: the table.
        split: how it was divided.
        protocols: scores; the first is the one the headline quotes.
        coin_flip: every response was replaced by a fair coin, as a control.
        calibration: by name of the model or baseline.
        answers_seen: by name of the model or baseline.
        mastery: one student.
    """

    TASK: ClassVar[str] = "knowledge_tracing"

    data: DataFacts
    split: SplitFacts
    protocols: tuple[Protocol, ...]
    coin_flip: bool = False
    calibration: dict[str, tuple[CalibrationBin, ...]] = field(default_factory=dict)
    answers_seen: dict[str, tuple[SeenBin, ...]] = field(default_factory=dict)
    mastery: Mastery | None = None
