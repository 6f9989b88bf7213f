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
from typing import Any, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from kt_forecast.config import Config, Range, tunable
from kt_forecast.errors import InputError
from kt_forecast.nn.system import State, System, SystemConfig, auxiliary_loss
from kt_forecast.sequences.interactions import Batch, StudentSequences, Vocabulary
from kt_forecast.tasks.history import History, Tally
from kt_forecast.tasks.statistics import QuestionNeighbours, QuestionRates


@runtime_checkable
class DecayConfig(Protocol):
    """What the task asks of the training settings."""

    @property
    def weight_decay(self) -> float:
        """Return the decoupled decay of matrices."""
        ...


Scheme = Literal["shifted", "alternating", "two_stream", "late"]


class TracingConfig(Config):
    """How interactions become tokens and states become predictions.

    Attributes:
        scheme: how the question joins the revealed contents; see the module's page.
        difficulty: what a question adds to its concepts: nothing, or a learned number or vector
            times a learned variation of each concept (Rasch form of AKT and simpleKT).
        identity: numbers in a question's own learned vector; 0 for none.
        identity_dropout: probability of dropping a number of that vector.
        rates: tell the model how often training students were right on the question and its
            concepts (the answers of the student's own group taken out).
        neighbours: numbers in the fixed vector of where a question stands among others; 0 for none.
        counts: tell the model how often the student was right and wrong before, and how far above
            expectation, on the concepts, on the question and overall.
        next_question: weight of learning, in training, to tell which question comes next, as in the
            language-model objective of GPT-1's fine-tuning; needs ``identity``.
        dropout: probability of dropping a number of an embedded step or of the head.
        forget_question: probability, in training, of not telling which question it is.
        question_decay: decoupled weight decay of what is learned for single questions.
    """

    scheme: Scheme = tunable("two_stream", ("shifted", "alternating", "two_stream", "late"))
    difficulty: Literal["none", "scalar", "vector"] = tunable("none", ("none", "scalar", "vector"))
    identity: int = tunable(64, (0, 16, 64, 128), ge=0)
    identity_dropout: float = tunable(0.5, Range(low=0.0, high=0.7), ge=0.0, lt=1.0)
    rates: bool = tunable(default=True, space=(True, False))
    neighbours: int = tunable(64, (0, 64), ge=0)
    counts: bool = tunable(default=True, space=(True, False))
    next_question: float = tunable(1.0, Range(low=0.0, high=2.0), ge=0.0)
    dropout: float = tunable(0.25, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)
    forget_question: float = tunable(0.0, Range(low=0.0, high=0.5), ge=0.0, lt=1.0)
    question_decay: float = tunable(0.1, Range(low=1e-3, high=3.0, log=True), ge=0.0)


@dataclass(frozen=True)
class TracerState(State):
    """What a `Tracer` knows of each student of a batch.

    Attributes:
        mixer: the system's own state.
        pending: contents of the open event, not revealed yet.
        event: rank of the open event; -1 before the first.
        closed: what happened in the events before the open one; None if the tracer does not count.
        all: what happened in the open event too.
    """

    mixer: Any
    pending: Float[Tensor, "batch width"]
    event: Int[Tensor, " batch"]
    closed: Tally | None
    all: Tally | None


class Tracer(nn.Module):
    """Embeds interactions, lets a system mix them, predicts each response.

    Args:
        system: the mixer and its promises.
        settings: the system's own settings.
        tracing: the task's settings.
        vocabulary: the names known from training rows; fixes the sizes.
        unlawful: build a system whose settings leak, to show that they do; never to predict.

    Raises:
        InputError: the system is not step-causal, or cannot take the scheme.
    """

    def __init__(
        self,
        system: System,
        settings: SystemConfig,
        tracing: TracingConfig,
        vocabulary: Vocabulary,
        *,
        unlawful: bool = False,
    ) -> None:
        super().__init__()
        if not unlawful:
            refuse_illegal(system, settings, tracing)
        assert system.build is not None  # noqa: S101 - a whole network is refused above
        width = settings.width
        self.scheme = tracing.scheme
        self.tracing = tracing
        self.rates = QuestionRates(vocabulary) if tracing.rates else None
        self.neighbours = (
            QuestionNeighbours(tracing.neighbours, vocabulary) if tracing.neighbours else None
        )
        self.questions = QuestionEmbedding(width, tracing, vocabulary)
        self.contents = ContentEmbedding(width, vocabulary)
        self.since = Since(width)
        questions, concepts = len(vocabulary.questions) + 1, len(vocabulary.concepts) + 1
        rates = n_rates(tracing)
        self.history = History(width, rates, questions, concepts) if tracing.counts else None
        self.start = nn.Parameter(torch.randn(width) * 0.02)
        self.join = nn.Linear(2 * width, width) if tracing.scheme == "shifted" else None
        self.mixer: Any = system.build(settings)
        self.head = Head(width, tracing)
        self.dropout = nn.Dropout(tracing.dropout)

    def init_state(self, batch: int) -> TracerState:
        """Return the state of ``batch`` students before their first step."""
        tally = None if self.history is None else self.history.init_state(batch)
        return TracerState(
            mixer=self.mixer.init_state(batch),
            pending=self.start.new_zeros(batch, len(self.start)),
            event=torch.full((batch,), -1, dtype=torch.int64, device=self.start.device),
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
        logits, _, after = self._run(batch, state)
        return logits, after

    def loss(self, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return the summed binary cross-entropy of the scored steps, and their number.

        In training the sum holds the weighted next-question objective as well, and what the system
        itself adds.
        """
        total, count, _ = self.carried_loss(batch, None)
        return total, count

    def carried_loss(
        self, batch: Batch, state: TracerState | None
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""], TracerState | None]:
        """Return the loss of steps that follow those that ``state`` has seen; see `loss`.

        Returns:
            The sum, the number of scored steps, and the state after the last one (None without
            one), through which gradients flow. The next question is told within ``batch`` alone.
        """
        logits, mixed, after = self._run(batch, state)
        wanted = (batch.real & batch.scored).to(logits.dtype)
        each = F.binary_cross_entropy_with_logits(
            logits, batch.response.to(logits.dtype), reduction="none"
        )
        total, count = (each * wanted).sum(), wanted.sum()
        tells = self.questions.identity is not None and self.tracing.next_question > 0.0
        if self.training and tells and batch.shape[1] > 1:
            total = total + self.tracing.next_question * count * self._next_question(mixed, batch)
        added = auxiliary_loss(self.mixer, batch.real)
        return total if added is None else total + count * added, count, after

    def fit_statistics(self, train: StudentSequences) -> StudentSequences:
        """Fit what is counted rather than learned, on the training students alone.

        Returns:
            The sequences to train on: with each group's own share, which is taken out again.
        """
        if self.neighbours is not None:
            self.neighbours.fit(train)
        return train if self.rates is None else self.rates.fit(train)

    def parameter_groups(self, config: DecayConfig) -> list[dict[str, Any]]:
        """Return AdamW's groups: what is learned for single questions decays on its own."""
        tables = [self.questions.difficulty, self.questions.identity]
        single = [table.weight for table in tables if table is not None]
        apart = {id(p) for p in single}
        rest = [p for p in self.parameters() if id(p) not in apart]
        groups = [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
            {"params": single, "weight_decay": self.tracing.question_decay},
        ]
        return [group for group in groups if group["params"]]

    def _run(
        self, batch: Batch, state: TracerState | None
    ) -> tuple[Tensor, Tensor, TracerState | None]:
        """Return logits, what the mixer made of each step, and the state after the last."""
        rates, expected, facts = self._known(batch)
        asked = self.dropout(self.questions(batch, facts))
        content = self.contents(batch, asked) * batch.real[..., None]
        event = _event_of_real(batch, state)
        revealed, pending = _reveal(content, event, state, may_bundle=batch.bundles)
        revealed = self._with_start(revealed, batch.real, state)
        query, tallies = asked + self.since(batch), None
        if self.history is not None:
            known, tallies = self.history(batch, event, expected, rates, _tallies(state))
            query = query + self.dropout(known)
        mixed, mixer = self._mix(revealed, query, batch.real, state)
        logits = self.head(mixed, query if self.scheme == "late" else asked)
        if state is None:
            return logits, mixed, None
        closed, everything = tallies or (None, None)
        after = TracerState(
            mixer=mixer, pending=pending, event=event[:, -1], closed=closed, all=everything
        )
        return logits, mixed, after

    def _known(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return rates, the expected rate, and all that training students tell of each question."""
        rates, expected = batch.seconds.new_zeros(*batch.shape, 0), batch.seconds.new_full((), 0.5)
        if self.rates is not None:
            rates, expected = self.rates(batch)
        facts = [rates] if self.neighbours is None else [rates, self.neighbours(batch)]
        return rates, expected.expand(batch.shape), torch.cat(facts, -1)

    def _next_question(self, mixed: Tensor, batch: Batch) -> Float[Tensor, ""]:
        """Return the cross-entropy of telling the next question from the others of the batch.

        Sampling the steps bounds the cost; the others of the batch stand for the vocabulary.
        """
        asked = batch.question[:, 1:]
        wanted = (batch.real[:, 1:] & batch.scored[:, 1:] & (asked > 0)).flatten().float()
        sampled = torch.multinomial(wanted + LEAST_CHANCE, min(NEXT_QUESTIONS, len(wanted)))
        target = asked.flatten()[sampled]
        vector = mixed[:, :-1].flatten(0, 1)[sampled]
        logits = self.questions.compare(vector, target).float()
        # A question drawn more than once is one candidate: its first draw.
        place = (target[:, None] == target).int().argmax(1)
        first = place == torch.arange(len(target), device=target.device)
        each = F.cross_entropy(logits.masked_fill(~first, float("-inf")), place, reduction="none")
        weight = wanted[sampled]
        return (each * weight).sum() / weight.sum().clamp_min(1.0)

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


def _tallies(state: TracerState | None) -> tuple[Tally, Tally, Tensor] | None:
    """Return what `History` asks of a state."""
    if state is None or state.closed is None or state.all is None:
        return None
    return state.closed, state.all, state.event


def refuse_illegal(system: System, settings: SystemConfig, tracing: TracingConfig) -> None:
    """Refuse a system that may not be used for knowledge tracing, or not in this scheme.

    Raises:
        InputError: it is not step-causal, leaks with these settings, or takes no query stream.
    """
    causality = system.promises.causality
    if causality not in {"step", "step by change"} or system.build is None:
        raise InputError(
            f"knowledge tracing needs a step-causal system, this one promises {causality!r}"
        )
    if settings.leak:
        raise InputError(f"{settings.leak}; knowledge tracing accepts the system without that")
    if tracing.scheme == "two_stream" and not system.promises.two_streams:
        raise InputError(
            "the system takes no query stream; scheme may be 'shifted', 'alternating' or 'late'"
        )


class QuestionEmbedding(nn.Module):
    """What is asked: concepts pooled as a set, what the question adds, what is known of it."""

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
        self.identity = (
            _table(questions, tracing.identity, std=IDENTITY_STD) if tracing.identity else None
        )
        self.dropout = nn.Dropout(tracing.identity_dropout)
        self.widen = nn.Linear(tracing.identity, width, bias=False) if tracing.identity else None
        facts = n_rates(tracing) + tracing.neighbours
        self.facts = nn.Linear(facts, width) if facts else None

    def forward(
        self, batch: Batch, facts: Float[Tensor, "batch time fact"]
    ) -> Float[Tensor, "batch time width"]:
        """Return what is asked, its moment aside."""
        asked = batch.question
        if self.training and self.forget > 0.0:
            kept = torch.rand(asked.shape, device=asked.device) >= self.forget
            asked = asked * kept
        x = _pool(self.concept, batch.concepts)
        if self.difficulty is not None and self.variation is not None:
            x = x + self.difficulty(asked) * _pool(self.variation, batch.concepts)
        if self.identity is not None and self.widen is not None:
            x = x + self.widen(self.dropout(self.identity(asked)))
        if self.facts is not None:
            x = x + self.facts(facts.to(self.facts.weight.dtype))
        return x

    def compare(
        self, vector: Float[Tensor, "entry width"], question: Int[Tensor, " candidate"]
    ) -> Float[Tensor, "entry candidate"]:
        """Return how well each vector fits each question's own."""
        assert self.identity is not None  # noqa: S101
        assert self.widen is not None  # noqa: S101
        return (vector @ self.widen.weight.to(vector.dtype)) @ self.identity(question).mT.to(
            vector.dtype
        )


def n_rates(tracing: TracingConfig) -> int:
    """Return how many numbers `QuestionRates` tells of a question."""
    return QuestionRates.FEATURES if tracing.rates else 0


SECONDS_A_DAY = 86_400.0
GAP_SCALE = 0.1
"""Brings the logarithms of seconds and days to the size of the other inputs."""


class Since(nn.Module):
    """How long ago the student's previous event was."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.read = nn.Linear(2, width)

    def forward(self, batch: Batch) -> Float[Tensor, "batch time width"]:
        """Return what the gap before each step says; data without times leave it silent."""
        gap = batch.seconds.to(self.read.weight.dtype).clamp_min(0.0)
        return self.read(torch.stack([gap.log1p(), (gap / SECONDS_A_DAY).log1p()], -1) * GAP_SCALE)


class ContentEmbedding(nn.Module):
    """What a finished step says: what was asked, the response, and what came with it."""

    def __init__(self, width: int, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.response = nn.Embedding(2, width)
        nn.init.normal_(self.response.weight, std=EMBEDDING_STD)
        columns = len(vocabulary.extras)
        self.extras = nn.Linear(columns, width) if columns else None

    def forward(
        self, batch: Batch, asked: Float[Tensor, "batch time width"]
    ) -> Float[Tensor, "batch time width"]:
        """Return one vector a step, which later events may read."""
        response = batch.response.long()
        x = asked + self.response(response)
        if self.extras is not None:
            x = x + self.extras(batch.extras.clamp_min(0.0).log1p().to(x.dtype))
        return x


class Head(nn.Module):
    """From what was mixed and what is asked to the logit of a correct response."""

    def __init__(self, width: int, tracing: TracingConfig) -> None:
        super().__init__()
        self.read = nn.Sequential(
            nn.Linear(2 * width, width),
            nn.GELU(),
            nn.Dropout(tracing.dropout),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Dropout(tracing.dropout),
            nn.Linear(width, 1),
        )

    def forward(
        self,
        mixed: Float[Tensor, "batch time width"],
        asked: Float[Tensor, "batch time width"],
    ) -> Float[Tensor, "batch time"]:
        """Return one logit a step."""
        logit = self.read(torch.cat([mixed, asked], -1))[..., 0]
        return logit if logit.dtype == torch.float64 else logit.float()


EMBEDDING_STD = 0.05
IDENTITY_STD = 0.02

NEXT_QUESTIONS = 1024
"""Steps of a batch, at most, that the next-question objective samples."""

LEAST_CHANCE = 1e-9
"""Lets a batch without any next question be sampled from; what is drawn then counts nothing."""


def _table(rows: int, width: int, *, std: float = EMBEDDING_STD) -> nn.Embedding:
    """Return an embedding whose row 0, the unknown, is and stays zero."""
    table = nn.Embedding(rows, width, padding_idx=0)
    nn.init.normal_(table.weight, std=std)
    with torch.no_grad():
        table.weight[0].zero_()
    return table


def _pool(table: nn.Embedding, index: Int[Tensor, "batch time entry"]) -> Tensor:
    """Return the mean of the vectors of each set; zero for the empty set."""
    if torch.compiler.is_exporting():  # a bag ties the sizes of batch and time together
        there = (index != 0)[..., None]
        return (table(index) * there).sum(2) / there.sum(2).clamp_min(1)
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
