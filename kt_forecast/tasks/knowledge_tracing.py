"""Knowledge tracing: the only place that knows what may be read when a student is asked.

For step t everything of earlier events is legal, and of step t itself its question, its concepts
and its time. Never the response of t, nor anything recorded with it. Steps of one event (a bundle
put at the same moment) see none of each other's responses.

Every mixer is fed *revealed contents*: what the student answered, shifted so that at step t the
contents of all events before t's have arrived, and no other. A bundle's contents arrive together,
summed. The question of step t joins in one of four token schemes:

- ``shifted``: one token a step, the revealed content beside the question;
- ``alternating``: two tokens a step, revealed content and then question;
- ``two_stream``: questions are queries that read the revealed contents and are read by nothing;
- ``late``: the mixer sees revealed contents only, the question meets its state in the head.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from kt_forecast.config import Config, Range, tunable
from kt_forecast.errors import InputError
from kt_forecast.nn.counts import counts_before
from kt_forecast.nn.system import State, System, SystemConfig
from kt_forecast.sequences.interactions import Batch, Vocabulary

Scheme = Literal["shifted", "alternating", "two_stream", "late"]


class TracingConfig(Config):
    """How interactions become tokens and states become predictions.

    Attributes:
        scheme: how the question joins the revealed contents; see the module's page.
        difficulty: what a question adds to its concepts: nothing, or a learned number or vector
            times a learned variation of each concept (Rasch form of AKT and simpleKT).
        identity: give each question a vector of its own as well.
        counts: tell the model how often the student was right and wrong before, on the concepts,
            on the question and overall.
        dropout: probability of dropping a number of an embedded step or of the head.
        forget_question: probability, in training, of not telling which question it is.
    """

    scheme: Scheme = tunable("two_stream", ("shifted", "alternating", "two_stream", "late"))
    difficulty: Literal["none", "scalar", "vector"] = tunable(
        "scalar", ("none", "scalar", "vector")
    )
    identity: bool = tunable(default=True, space=(True, False))
    counts: bool = tunable(default=True, space=(True, False))
    dropout: float = tunable(0.2, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)
    forget_question: float = tunable(0.1, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)


@dataclass(frozen=True)
class Tally(State):
    """Right and wrong answers so far, by question, by concept and overall."""

    question: Float[Tensor, "batch question outcome"]
    concept: Float[Tensor, "batch concept outcome"]
    overall: Float[Tensor, "batch outcome"]


@dataclass(frozen=True)
class TracerState(State):
    """What a `Tracer` knows of each student of a batch.

    Attributes:
        mixer: the system's own state.
        pending: contents of the open event, not revealed yet.
        event: rank of the open event; -1 before the first.
        closed: answers of the events before the open one.
        all: answers of the open event too.
    """

    mixer: Any
    pending: Float[Tensor, "batch width"]
    event: Int[Tensor, " batch"]
    closed: Tally
    all: Tally


class Tracer(nn.Module):
    """Embeds interactions, lets a system mix them, predicts each response.

    Args:
        system: the mixer and its promises.
        settings: the system's own settings.
        tracing: the task's settings.
        vocabulary: the names known from training rows; fixes the sizes.

    Raises:
        InputError: the system is not step-causal, or cannot take the scheme.
    """

    def __init__(
        self,
        system: System,
        settings: SystemConfig,
        tracing: TracingConfig,
        vocabulary: Vocabulary,
    ) -> None:
        super().__init__()
        refuse_illegal(system, tracing)
        width = settings.width
        self.scheme = tracing.scheme
        self.questions = QuestionEmbedding(width, tracing, vocabulary)
        self.contents = ContentEmbedding(width, vocabulary)
        self.history = History(width, vocabulary) if tracing.counts else None
        self.start = nn.Parameter(torch.randn(width) * 0.02)
        self.join = nn.Linear(2 * width, width) if tracing.scheme == "shifted" else None
        self.mixer: Any = system.build(settings)
        self.head = Head(width, tracing, vocabulary)
        self.dropout = nn.Dropout(tracing.dropout)
        self.sizes = (len(vocabulary.questions) + 1, len(vocabulary.concepts) + 1)

    def init_state(self, batch: int) -> TracerState:
        """Return the state of ``batch`` students before their first step."""
        questions, concepts = self.sizes if self.history is not None else (0, 0)
        device = self.start.device
        tally = Tally(
            question=torch.zeros(batch, questions, 2, device=device),
            concept=torch.zeros(batch, concepts, 2, device=device),
            overall=torch.zeros(batch, 2, device=device),
        )
        return TracerState(
            mixer=self.mixer.init_state(batch),
            pending=self.start.new_zeros(batch, len(self.start)),
            event=torch.full((batch,), -1, dtype=torch.int64, device=device),
            closed=tally,
            all=tally,
        )

    def forward(
        self, batch: Batch, state: TracerState | None = None
    ) -> tuple[Float[Tensor, "batch time"], TracerState | None]:
        """Predict the response of every step from what is legal to know.

        Args:
            batch: steps that follow those ``state`` has seen. Without a state padding stands on
                the right.
            state: what earlier steps left behind; None at the start of every student.

        Returns:
            Logits of a correct response, and the state after the last step (None without one).
        """
        asked, question = self.questions(batch)
        content = self.contents(batch, asked) * batch.real[..., None]
        event = _event_of_real(batch, state)
        revealed, pending = _reveal(content, event, state, may_bundle=batch.bundles)
        revealed = self._with_start(revealed, batch.real, state)
        tally = None
        if self.history is not None:
            known, tally = self.history(batch, event, state)
            question = question + known
        question = self.dropout(question)
        mixed, mixer = self._mix(self.dropout(revealed), question, batch.real, state)
        logits = self.head(mixed, question, batch.question)
        if state is None:
            return logits, None
        closed, everything = tally if tally is not None else (state.closed, state.all)
        return logits, TracerState(
            mixer=mixer, pending=pending, event=event[:, -1], closed=closed, all=everything
        )

    def loss(self, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return the summed binary cross-entropy of the scored steps, and their number."""
        logits, _ = self(batch)
        wanted = (batch.real & batch.scored).to(logits.dtype)
        each = F.binary_cross_entropy_with_logits(
            logits, batch.response.to(logits.dtype), reduction="none"
        )
        return (each * wanted).sum(), wanted.sum()

    def _with_start(self, revealed: Tensor, real: Tensor, state: TracerState | None) -> Tensor:
        """Mark the first step of a student, where nothing has been revealed yet."""
        first = real & (real.long().cumsum(1) == 1)
        if state is not None:
            first &= (state.event < 0)[:, None]
        return torch.where(first[..., None], self.start.to(revealed.dtype), revealed)

    def _mix(
        self, revealed: Tensor, question: Tensor, real: Tensor, state: TracerState | None
    ) -> tuple[Tensor, Any]:
        before = None if state is None else state.mixer
        valid = None if state is None else real
        if self.scheme == "two_stream":
            return self.mixer(revealed, before, query=question, valid=valid)
        if self.scheme == "late":
            return self.mixer(revealed, before, valid=valid)
        if self.join is not None:
            joined = self.join(torch.cat([revealed, question], -1))
            return self.mixer(joined, before, valid=valid)
        tokens = torch.stack([revealed, question], 2).flatten(1, 2)
        twice = None if valid is None else valid.repeat_interleave(2, dim=1)
        mixed, after = self.mixer(tokens, before, valid=twice)
        return mixed[:, 1::2], after


def refuse_illegal(system: System, tracing: TracingConfig) -> None:
    """Refuse a system that may not be used for knowledge tracing, or not in this scheme.

    Raises:
        InputError: it is not step-causal, or takes no query stream.
    """
    causality = system.promises.causality
    if causality not in {"step", "step by change"}:
        raise InputError(
            f"knowledge tracing needs a step-causal system, this one promises {causality!r}"
        )
    if tracing.scheme == "two_stream" and not system.promises.two_streams:
        raise InputError(
            "the system takes no query stream; scheme may be 'shifted', 'alternating' or 'late'"
        )


class QuestionEmbedding(nn.Module):
    """What is asked: concepts pooled as a set, and what the question adds to them."""

    def __init__(self, width: int, tracing: TracingConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        questions, concepts = len(vocabulary.questions) + 1, len(vocabulary.concepts) + 1
        sizes = {"none": 0, "scalar": 1, "vector": width}
        self.forget = tracing.forget_question
        self.concept = _table(concepts, width)
        self.variation = _table(concepts, width) if tracing.difficulty != "none" else None
        self.difficulty = (
            _table(questions, sizes[tracing.difficulty], std=0.0)
            if tracing.difficulty != "none"
            else None
        )
        self.identity = _table(questions, width, std=0.0) if tracing.identity else None
        self.since = nn.Linear(2, width)

    def forward(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "batch time width"], Float[Tensor, "batch time width"]]:
        """Return what is asked, without and with its moment."""
        asked = self.asked(batch)
        gap = batch.seconds.to(self.since.weight.dtype).clamp_min(0.0)
        when = torch.stack([gap.log1p(), (gap / SECONDS_A_DAY).log1p()], -1)
        return asked, asked + self.since(when * GAP_SCALE)

    def asked(self, batch: Batch) -> Float[Tensor, "batch time width"]:
        """Return what is asked: the concepts as a set, and the question's own part."""
        asked = batch.question
        if self.training and self.forget > 0.0:
            kept = torch.rand(asked.shape, device=asked.device) >= self.forget
            asked = asked * kept
        x = _pool(self.concept, batch.concepts)
        if self.difficulty is not None and self.variation is not None:
            x = x + self.difficulty(asked) * _pool(self.variation, batch.concepts)
        if self.identity is not None:
            x = x + self.identity(asked)
        return x


SECONDS_A_DAY = 86_400.0
GAP_SCALE = 0.1
"""Brings the logarithms of seconds and days to the size of the other inputs."""


class ContentEmbedding(nn.Module):
    """What a finished step says: what was asked, the response, and what came with it."""

    def __init__(self, width: int, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.answered = _table(2 * (len(vocabulary.concepts) + 1), width)
        self.response = nn.Embedding(2, width)
        nn.init.normal_(self.response.weight, std=EMBEDDING_STD)
        columns = len(vocabulary.extras)
        self.extras = nn.Linear(columns, width) if columns else None

    def forward(
        self, batch: Batch, asked: Float[Tensor, "batch time width"]
    ) -> Float[Tensor, "batch time width"]:
        """Return one vector a step, which later events may read."""
        response = batch.response.long()
        both = 2 * batch.concepts + response[..., None] * (batch.concepts > 0)
        x = asked + self.response(response) + _pool(self.answered, both)
        if self.extras is not None:
            x = x + self.extras(batch.extras.clamp_min(0.0).log1p().to(x.dtype))
        return x


class History(nn.Module):
    """How often a student was right and wrong before: overall, on the question, on the concepts."""

    def __init__(self, width: int, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.sizes = (len(vocabulary.questions) + 1, len(vocabulary.concepts) + 1)
        self.read = nn.Linear(6, width)

    def forward(
        self, batch: Batch, event: Int[Tensor, "batch time"], state: TracerState | None
    ) -> tuple[Float[Tensor, "batch time width"], tuple[Tally, Tally] | None]:
        """Return what the counts before each step's event say, and the tallies afterwards."""
        response = batch.response.to(torch.float32)
        outcome = torch.stack([response, 1.0 - response], -1) * batch.real[..., None]
        concepts = batch.concepts
        per = concepts.shape[2]
        wide = (concepts > 0)[..., None] * outcome[:, :, None]
        entry = (concepts.flatten(1), event.repeat_interleave(per, 1), wide.flatten(1, 2))
        on_concept = counts_before(*entry).unflatten(1, (-1, per))
        known = (batch.question > 0)[..., None] * outcome
        on_question = counts_before(batch.question, event, known)
        overall = counts_before(torch.zeros_like(event), event, outcome)
        after = None
        if state is not None:
            asked_before, concept_before, before = _carried(batch, event, state)
            on_concept = on_concept + concept_before.unflatten(1, (-1, per))
            on_question = on_question + asked_before
            overall = overall + before
            after = _tallied(batch, event, state, (known, wide, outcome))
        present = (concepts > 0)[..., None]
        pooled = (on_concept.log1p() * present).sum(2) / present.sum(2).clamp_min(1)
        asked = on_question * (batch.question > 0)[..., None]
        features = torch.cat([pooled, asked.log1p(), overall.log1p()], -1)
        return self.read(features.to(self.read.weight.dtype)), after


def _carried(
    batch: Batch, event: Int[Tensor, "batch time"], state: TracerState
) -> tuple[Tensor, Tensor, Tensor]:
    """Look up what earlier segments counted: by question, by concept entry, and overall."""
    still_open = (event == state.event[:, None])[..., None]

    def look(closed: Tensor, everything: Tensor, key: Tensor, opened: Tensor) -> Tensor:
        index = key[..., None].expand(-1, -1, 2)
        return torch.where(opened, closed.gather(1, index), everything.gather(1, index))

    closed, everything = state.closed, state.all
    opened = still_open.repeat_interleave(batch.concepts.shape[2], 1)
    concepts = batch.concepts.flatten(1)
    return (
        look(closed.question, everything.question, batch.question, still_open),
        look(closed.concept, everything.concept, concepts, opened),
        torch.where(still_open, closed.overall[:, None], everything.overall[:, None]),
    )


def _tallied(
    batch: Batch, event: Tensor, state: TracerState, amounts: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tally, Tally]:
    """Return the tallies before the open event, and with it."""
    known, wide, outcome = amounts
    last = event[:, -1:]
    finished = (event < last)[..., None]
    stays_open = (last[:, 0] == state.event)[:, None]

    def add(base: Tally, share: Tensor) -> Tally:
        index = batch.question[..., None].expand(-1, -1, 2)
        concepts = batch.concepts.flatten(1)[..., None].expand(-1, -1, 2)
        part = (wide * share[:, :, None]).flatten(1, 2)
        return Tally(
            question=base.question.scatter_add(1, index, known * share),
            concept=base.concept.scatter_add(1, concepts, part),
            overall=base.overall + (outcome * share).sum(1),
        )

    advanced = add(state.all, finished.to(outcome.dtype))
    closed = Tally(
        question=torch.where(stays_open[..., None], state.closed.question, advanced.question),
        concept=torch.where(stays_open[..., None], state.closed.concept, advanced.concept),
        overall=torch.where(stays_open, state.closed.overall, advanced.overall),
    )
    return closed, add(state.all, torch.ones_like(finished, dtype=outcome.dtype))


class Head(nn.Module):
    """From what was mixed and what is asked to the logit of a correct response."""

    def __init__(self, width: int, tracing: TracingConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.hidden = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(tracing.dropout)
        self.out = nn.Linear(width, 1)
        asks = tracing.identity or tracing.difficulty != "none"
        self.easiness = _table(len(vocabulary.questions) + 1, 1, std=0.0) if asks else None

    def forward(
        self,
        mixed: Float[Tensor, "batch time width"],
        asked: Float[Tensor, "batch time width"],
        question: Int[Tensor, "batch time"],
    ) -> Float[Tensor, "batch time"]:
        """Return one logit a step."""
        hidden = F.gelu(self.hidden(torch.cat([mixed, asked], -1)))
        logit = self.out(self.dropout(hidden))
        if self.easiness is not None:
            logit = logit + self.easiness(question)
        return logit[..., 0].float() if logit.dtype != torch.float64 else logit[..., 0]


EMBEDDING_STD = 0.1


def _table(rows: int, width: int, *, std: float = EMBEDDING_STD) -> nn.Embedding:
    """Return an embedding whose row 0, the unknown, is and stays zero."""
    table = nn.Embedding(rows, width, padding_idx=0)
    nn.init.normal_(table.weight, std=std)
    with torch.no_grad():
        table.weight[0].zero_()
    return table


def _pool(table: nn.Embedding, index: Int[Tensor, "batch time entry"]) -> Tensor:
    """Return the mean of the vectors of each set; zero for the empty set."""
    flat = F.embedding_bag(
        index.flatten(0, 1), table.weight, mode="mean", padding_idx=table.padding_idx
    )
    return flat.unflatten(0, index.shape[:2])


def _event_of_real(batch: Batch, state: TracerState | None) -> Int[Tensor, "batch time"]:
    """Return event ranks in which padding opens no event: it repeats the event before it."""
    event = batch.event.long()
    if state is None:
        return event
    event = event.masked_fill(~batch.real, -1)
    return torch.cat([state.event[:, None], event], 1).cummax(1).values[:, 1:]


def _reveal(
    content: Float[Tensor, "batch time width"],
    event: Int[Tensor, "batch time"],
    state: TracerState | None,
    *,
    may_bundle: bool,
) -> tuple[Float[Tensor, "batch time width"], Float[Tensor, "batch width"]]:
    """Shift contents to the first step of the event after theirs.

    Returns:
        What arrives at each step, and what has not arrived after the last.
    """
    batch, steps, width = content.shape
    carried = content.new_zeros(batch, width) if state is None else state.pending
    if state is None and not may_bundle:
        return torch.cat([carried[:, None], content[:, :-1]], 1), content[:, -1]
    start = torch.full_like(event[:, :1], -1) if state is None else state.event[:, None]
    opens = event != torch.cat([start, event[:, :-1]], 1)
    place = torch.arange(steps, device=event.device).expand_as(event)
    at = torch.where(opens, place, steps).flip(1).cummin(1).values.flip(1)
    # What was carried arrives where the first event opens; a step's content where the next does.
    goes = torch.cat([at, torch.full_like(at[:, :1], steps)], 1)
    source = torch.cat([carried[:, None], content], 1)
    arrived = content.new_zeros(batch, steps + 1, width)
    arrived = arrived.scatter_add(1, goes[..., None].expand_as(source), source)
    return arrived[:, :-1], arrived[:, -1]
