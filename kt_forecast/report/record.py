"""What a run leaves behind for its reader: plain data, stored with the run as JSON."""

import json
import math
from dataclasses import asdict, dataclass, field
from numbers import Integral, Real
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from kt_forecast.errors import InputError

FORMAT = 1
"""Changes whenever an older record can no longer be read."""


def _number(value: Any) -> Any:  # noqa: ANN401
    return math.nan if value is None else value


Number = Annotated[float, BeforeValidator(_number)]
"""A float; JSON has no word for one that is not finite, so null stands for nan."""


class _Plain:
    """Base of every part of a record: unknown keys are refused when it is read back."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True)
class Score(_Plain):
    """One figure and its interval; nan where it is not defined."""

    value: Number
    low: Number = math.nan
    high: Number = math.nan


@dataclass(frozen=True, kw_only=True)
class Protocol(_Plain):
    """The scores of one way of evaluating.

    Attributes:
        name: of the protocol.
        what: one sentence for the reader: which students, how much history.
        n_interactions: scored interactions.
        n_students: students they come from.
        model: metric name to score.
        baselines: baseline name to its scores.
        differences: baseline name to metric name to model minus baseline on the same students.
        interval: what ``low`` and ``high`` are.
        notes: which metrics are not defined, and why; one sentence each.
    """

    name: str
    what: str = ""
    n_interactions: int = 0
    n_students: int = 0
    model: dict[str, Score]
    baselines: dict[str, dict[str, Score]] = field(default_factory=dict)
    differences: dict[str, dict[str, Score]] = field(default_factory=dict)
    interval: str = "95% bootstrap over students"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CalibrationBin(_Plain):
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
class SeenBin(_Plain):
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
class CurveRow(_Plain):
    """One epoch of training.

    Attributes:
        epoch: counted from 1.
        loss: mean training loss.
        metrics: what validation returned.
        seconds: wall-clock time.
        learning_rate: of the last update.
    """

    epoch: int
    loss: Number
    metrics: dict[str, Number] = field(default_factory=dict)
    seconds: Number = math.nan
    learning_rate: Number = math.nan


@dataclass(frozen=True, kw_only=True)
class Mastery(_Plain):
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
class Check(_Plain):
    """One thing the audit tried.

    Attributes:
        name: what was tried.
        outcome: one word or two, such as ``passed`` or ``failed``.
        detail: what was covered.
    """

    name: str
    outcome: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Verdict(_Plain):
    """What the leakage audit found and how far it looked.

    Attributes:
        verdict: the auditor's word: ``leak``, ``unproven``, ``conditional`` or ``proved``, in any
            case.
        scope: what the verdict holds for: contract, methods, modes, shapes; plain values by name.
        tried: every check that ran.
        findings: what was found; one sentence each.
        not_covered: what the audit cannot see; one sentence each.
        control: AUC after training on coin-flip labels; an honest pipeline gives a half.
    """

    verdict: str
    scope: dict[str, Any] = field(default_factory=dict)
    tried: tuple[Check, ...] = ()
    findings: tuple[str, ...] = ()
    not_covered: tuple[str, ...] = ()
    control: Score | None = None

    @property
    def leaks(self) -> bool:
        """Whether the verdict is that information leaks."""
        return self.verdict.strip().casefold().startswith("leak")


@dataclass(frozen=True, kw_only=True)
class Citation(_Plain):
    """A work to name when the run is published."""

    title: str
    authors: str = ""
    year: int | None = None
    url: str = ""
    what: str = ""


@dataclass(frozen=True, kw_only=True)
class SystemFacts(_Plain):
    """The model that was trained.

    Attributes:
        name: the word it is reached by.
        paper: where it comes from.
        promises: what the contract tests hold it to, in words.
        departures: how it differs from the paper; one sentence each.
        n_parameters: trained numbers.
    """

    name: str
    paper: Citation | None = None
    promises: dict[str, str] = field(default_factory=dict)
    departures: tuple[str, ...] = ()
    n_parameters: int | None = None


@dataclass(frozen=True, kw_only=True)
class DataFacts(_Plain):
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
class SplitPart(_Plain):
    """One part of a split."""

    name: str
    n_students: int
    n_interactions: int


@dataclass(frozen=True, kw_only=True)
class SplitFacts(_Plain):
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
class RunRecord(_Plain):
    """Everything the report shows, without the model.

    Attributes:
        title: heading of the page.
        created: when the run ended, as text.
        data: the table.
        split: how it was divided.
        system: the model.
        protocols: scores; the first is the one the headline quotes.
        verdict: the audit; None where none ran.
        coin_flip: every response was replaced by a fair coin, as a control.
        settings: resolved settings, nested plain values.
        curve: one row an epoch; empty for a model without epochs.
        objective: what training lowers, where it is more than the log loss of the responses.
        best_epoch: the epoch validation chose.
        calibration: by name of the model or baseline.
        answers_seen: by name of the model or baseline.
        mastery: one student.
        environment: versions and machine.
        code_version: of the program.
        command: re-runs this run.
        citations: further works to name.
        format: version of this record.
    """

    title: str
    created: str = ""
    data: DataFacts
    split: SplitFacts
    system: SystemFacts
    protocols: tuple[Protocol, ...]
    verdict: Verdict | None = None
    coin_flip: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    curve: tuple[CurveRow, ...] = ()
    objective: str = ""
    best_epoch: int | None = None
    calibration: dict[str, tuple[CalibrationBin, ...]] = field(default_factory=dict)
    answers_seen: dict[str, tuple[SeenBin, ...]] = field(default_factory=dict)
    mastery: Mastery | None = None
    environment: dict[str, str] = field(default_factory=dict)
    code_version: str = ""
    command: str = ""
    citations: tuple[Citation, ...] = ()
    format: int = FORMAT

    def to_json(self) -> str:
        """Return strict JSON; a number that is not finite becomes null."""
        return json.dumps(_finite(asdict(self)), indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, where: str = "the run record") -> Self:
        """Return the record that `to_json` wrote; null in place of a number becomes nan.

        Args:
            text: the JSON.
            where: the file, for the message.

        Raises:
            InputError: it is not JSON, was written by another version, or lacks a part.
        """
        try:
            plain = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"{where}, line {error.lineno}: not JSON ({error.msg})") from None
        found = plain.get("format") if isinstance(plain, dict) else None
        if found != FORMAT:
            raise InputError(f"{where}: record format {found!r}, this version reads {FORMAT}")
        try:
            return TypeAdapter(cls).validate_python(plain)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise InputError(f"{where}: {place}: {first['msg']}") from None


def _finite(value: Any) -> Any:  # noqa: ANN401
    """Return the plain value with every number that is not finite replaced by None."""
    if isinstance(value, dict):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    return str(value)
