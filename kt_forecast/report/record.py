"""What a run of either task leaves behind for its reader: plain data, stored as JSON."""

import json
import math
from dataclasses import asdict, dataclass, field
from numbers import Integral, Real
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from kt_forecast.errors import InputError

FORMAT = 1
"""Changes whenever an older record can no longer be read."""

TASK = "task"
FIRST_TASK = "knowledge_tracing"
"""Of the records that were written before a record said its task."""


def _number(value: Any) -> Any:  # noqa: ANN401
    return math.nan if value is None else value


Number = Annotated[float, BeforeValidator(_number)]
"""A float; JSON has no word for one that is not finite, so null stands for nan."""


class Plain:
    """Base of every part of a record: unknown keys are refused when it is read back."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True)
class Score(Plain):
    """One figure and its interval; nan where it is not defined."""

    value: Number
    low: Number = math.nan
    high: Number = math.nan


@dataclass(frozen=True, kw_only=True)
class Scored(Plain):
    """The scores of one way of evaluating.

    Attributes:
        name: of the protocol.
        what: one sentence for the reader: what was scored, and how much of the past was read.
        model: metric name to score.
        baselines: baseline name to its scores.
        differences: baseline name to metric name to model minus baseline on the same rows.
        interval: what ``low`` and ``high`` are.
        notes: which metrics are not defined, and why; one sentence each.
    """

    name: str
    what: str = ""
    model: dict[str, Score]
    baselines: dict[str, dict[str, Score]] = field(default_factory=dict)
    differences: dict[str, dict[str, Score]] = field(default_factory=dict)
    interval: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CurveRow(Plain):
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
class Check(Plain):
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
class Verdict(Plain):
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
class Citation(Plain):
    """A work to name when the run is published."""

    title: str
    authors: str = ""
    year: int | None = None
    url: str = ""
    what: str = ""


@dataclass(frozen=True, kw_only=True)
class SystemFacts(Plain):
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
class Record(Plain):
    """What the report shows of a run of either task.

    Attributes:
        title: heading of the page.
        created: when the run ended, as text.
        system: the model.
        verdict: the audit; None where none ran.
        settings: resolved settings, nested plain values.
        curve: one row an epoch; empty for a model without epochs.
        objective: what training lowers, where that is no loss that validation has too.
        best_epoch: the epoch validation chose.
        environment: versions and machine.
        code_version: of the program.
        command: re-runs this run.
        citations: further works to name.
        format: version of this record.
    """

    TASK: ClassVar[str]
    """Of the runs that a record is of."""

    title: str
    created: str = ""
    system: SystemFacts
    verdict: Verdict | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    curve: tuple[CurveRow, ...] = ()
    objective: str = ""
    best_epoch: int | None = None
    environment: dict[str, str] = field(default_factory=dict)
    code_version: str = ""
    command: str = ""
    citations: tuple[Citation, ...] = ()
    format: int = FORMAT

    def to_json(self) -> str:
        """Return strict JSON; a number that is not finite becomes null."""
        plain = {TASK: self.TASK, **asdict(self)}
        return json.dumps(_finite(plain), indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, where: str = "the run record") -> Self:
        """Return the record that `to_json` wrote; null in place of a number becomes nan.

        Args:
            text: the JSON.
            where: the file, for the message.

        Raises:
            InputError: it is not JSON, is of another task, was written by another version, or
                lacks a part.
        """
        return cls.from_plain(plain_of(text, where), where)

    @classmethod
    def from_plain(cls, plain: dict[str, Any], where: str) -> Self:
        """Return the record that `plain_of` found.

        Raises:
            InputError: it is of another task, or lacks a part.
        """
        task = plain.get(TASK, FIRST_TASK)
        if task != cls.TASK:
            raise InputError(f"{where}: a record of {task!r}; accepted is one of {cls.TASK!r}")
        try:
            rest = {key: value for key, value in plain.items() if key != TASK}
            return TypeAdapter(cls).validate_python(rest)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise InputError(f"{where}: {place}: {first['msg']}") from None


def plain_of(text: str, where: str) -> dict[str, Any]:
    """Return a record's JSON as plain values.

    Raises:
        InputError: it is not JSON, or was written by another version.
    """
    try:
        plain = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}, line {error.lineno}: not JSON ({error.msg})") from None
    found = plain.get("format") if isinstance(plain, dict) else None
    if found != FORMAT:
        raise InputError(f"{where}: record format {found!r}, this version reads {FORMAT}")
    return plain


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
