"""What requests and replies look like; the page of the API is made of this."""

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

PLAIN = r"^[^\x00-\x1f\x7f]+$"
LONGEST = 200

Name = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST, pattern=PLAIN)]
"""A name that a log can hold and a page can show."""

Moment = Annotated[int, Field(ge=-(2**53), le=2**53)]
"""Milliseconds since any fixed moment."""

Number = Annotated[float, Field(allow_inf_nan=False)]

MANY = 10_000
"""Things of a request, at most, whatever the operator allows."""


def is_name(text: str) -> bool:
    """Tell whether a text may be a name."""
    return 0 < len(text) <= LONGEST and re.fullmatch(PLAIN, text) is not None


class Wire(BaseModel):
    """What goes over the wire; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Question(Wire):
    """A question, told by its name, its concepts, or both."""

    question: Name | None = Field(None, description="Its name.")
    concepts: list[Name] = Field([], max_length=100, description="The concepts it exercises.")


class QuestionAsked(Question):
    """A question and its moment."""

    time: Moment | None = Field(
        None, description="When it is put, in milliseconds; by default right after the last answer."
    )


class AnswerGiven(QuestionAsked):
    """An answer."""

    response: Annotated[int, Field(ge=0, le=1, description="1 correct, 0 wrong.")]
    extras: dict[Name, Number] = Field(
        {}, max_length=10, description="Answer-side columns that the model was trained with."
    )


class Interactions(Wire):
    """Answers of one student, in their order: all are appended, or none."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "student": "7",
                    "answers": [{"question": "12", "concepts": ["3"], "response": 1}],
                    "next": [{"question": "13", "concepts": ["3"]}],
                }
            ]
        },
    )

    student: Name
    answers: list[AnswerGiven] = Field(min_length=1, max_length=MANY)
    next: list[Question] | None = Field(
        None,
        max_length=MANY,
        description="Questions to predict after the answers; by default an unknown question on"
        " each concept of the last answer, or its own question where it has no concepts.",
    )


class Predict(Wire):
    """Questions put to a student; nothing is remembered of them."""

    student: Name
    questions: list[QuestionAsked] = Field(min_length=1, max_length=MANY)


class Prediction(Wire):
    """The probability of a correct answer."""

    question: str | None
    concepts: list[str]
    p_correct: float
    unknown: list[str] = Field(
        description="Names that the model has not met in training: for these the answer is that of"
        " a question it knows nothing of."
    )


class Predictions(Wire):
    """What is expected of a student."""

    student: str
    n_answers: int = Field(description="Answers of the student that the predictions know.")
    model: str = Field(description="The first digits of the hash of the model that answered.")
    predictions: list[Prediction]


class Taken(Predictions):
    """The same, after answers were appended."""

    first: int = Field(description="Place of the first of the answers among the student's, from 1.")
    replayed: bool = Field(description="An earlier request with this key had appended them.")


class Mastered(Wire):
    """What is expected on a concept, or on a question where the model knows no concepts."""

    name: str
    p_correct: float
    unknown: bool


class Effect(Wire):
    """An answer and what it changed."""

    place: int = Field(description="Among the student's answers, from 1.")
    question: str | None
    concepts: list[str]
    response: int
    time: int | None
    p_correct: list[float] = Field(description="Of each concept, after the answer.")
    change: list[float] = Field(description="Of each concept, by the answer.")


class Mastery(Wire):
    """What a student masters, now and after each of the last answers."""

    student: str
    n_answers: int
    model: str
    now: list[Mastered]
    over_time: list[Effect]


Magnitude = Annotated[float, Field(allow_inf_nan=False, ge=-1e15, le=1e15)]
"""A value that single precision can hold with room to spare."""


class Value(Wire):
    """A value of a series."""

    ds: Annotated[int, Field(ge=-(2**53), le=2**53)] | Name | None = Field(
        None, description="An ISO date or moment, or a whole number, as the model's series have."
    )
    y: Magnitude | None = Field(description="The value; null where it is missing.")
    covariates: dict[Name, Magnitude] = Field({}, max_length=200)


class Observations(Wire):
    """Values of one series, in their order: all are appended, or none."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [{"series": "7", "observations": [{"ds": "2024-03-01T12:00:00", "y": 3.5}]}]
        },
    )

    series: Name
    observations: list[Value] = Field(min_length=1, max_length=MANY)
    static: dict[Name, Magnitude | Name] = Field(
        {}, max_length=200, description="Facts of the series, told with its first value."
    )


class Noted(Wire):
    """Values that were appended."""

    series: str
    n_observations: int
    first: int = Field(description="Place of the first of the values in the series, from 1.")
    replayed: bool = Field(description="An earlier request with this key had appended them.")
    known: bool = Field(description="The model was trained on this series.")


class ForecastAsked(Wire):
    """A series to forecast."""

    series: Name
    levels: list[Number] | None = Field(
        None, max_length=100, description="Percent that an interval shall hold; all by default."
    )
    future: list[dict[Name, Magnitude]] = Field(
        [],
        max_length=MANY,
        description="Covariates known in advance, of each step ahead; of every series where the"
        " model reads all together.",
    )


class Interval(Wire):
    """Two ends between which the value lies as often as the level says."""

    level: float
    low: float
    high: float


class StepAhead(Wire):
    """One step of a forecast."""

    step: int
    ds: int | str | None
    y: float
    intervals: list[Interval]


class Forecasts(Wire):
    """What comes after a series' last value."""

    series: str
    n_observations: int
    model: str
    known: bool = Field(
        description="The model was trained on this series; others are measured by their own values,"
        " and their intervals are those of all series together."
    )
    notes: list[str]
    steps: list[StepAhead]


class Values(Wire):
    """The last values of a series."""

    series: str
    ds: list[int | str | None]
    y: list[float | None]


class StreamOf(Wire):
    """A student or a series that the service knows."""

    name: str
    events: int


class Streams(Wire):
    """Students or series, in the order of their names."""

    names: list[StreamOf]


class Health(Wire):
    """How the service is."""

    status: str
    reason: str = ""


class Model(Wire):
    """What answers."""

    task: str
    name: str
    version: str
    number: str
    system: str
    verdict: str
    override: str
    concepts: list[str] = []
    horizon: int | None = None
    series: list[str] = []
    levels: list[float] = []


class Reloaded(Wire):
    """Whether another model answers now."""

    changed: bool
    model: Model


class Refusal(BaseModel):
    """Why a request was not answered, in one sentence."""

    detail: str


BODIES = (Interactions, Predict, Observations, ForecastAsked)
"""Bodies that are read without FastAPI's help."""
