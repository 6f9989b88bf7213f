"""How a student did before each step: on its question, on its concepts, and overall.

Of each kind of key: how often right and how often wrong, how far above expectation on average, and
the newest outcomes one by one. Nothing of a step's own event is ever counted.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from kt_forecast.nn.counts import counts_before, last_after, last_before
from kt_forecast.nn.system import State
from kt_forecast.sequences.interactions import Batch

RECENT = 5
"""Newest outcomes that are remembered one by one."""

OUTCOMES = 3
"""Right, wrong, and above expectation."""

OUTCOME_UNIT = 2.0**-10
"""Outcomes are whole multiples of it, so that their sums are exact in any order."""

OFTEN_CENTRE = 1.25
"""Brings the logarithm of a count of a student's answers near mean 0 and spread 1."""

SURPLUS_SCALE = 4.0
"""Brings a student's mean above expectation near spread 1."""

SHRINKAGE = 2.0
"""Answers' worth of meeting the expectation that is mixed into a mean above expectation."""


@dataclass(frozen=True)
class Ledger(State):
    """What happened so far to each key of one kind; key 0 is nothing.

    Attributes:
        sums: right, wrong and above expectation.
        recent: the newest outcomes, newest first: 1 right, -1 wrong, 0 before the first.
    """

    sums: Float[Tensor, "batch key outcome"]
    recent: Float[Tensor, "batch key kept"]


@dataclass(frozen=True)
class Tally(State):
    """What happened so far, by question, by concept, and overall (key 1)."""

    question: Ledger
    concept: Ledger
    overall: Ledger


@dataclass(frozen=True)
class Entries:
    """Occurrences of keys of one kind, in the order of their events.

    Attributes:
        key: 0 where there is nothing.
        event: rank of the event.
        outcome: right, wrong and above expectation; 0 where there is nothing.
    """

    key: Int[Tensor, "batch entry"]
    event: Int[Tensor, "batch entry"]
    outcome: Float[Tensor, "batch entry outcome"]

    def before(self, carried: Ledger) -> Ledger:
        """Return what happened to each entry's key in earlier events; see `Ledger`."""
        sums = carried.sums + counts_before(self.key, self.event, self.outcome)
        recent = carried.recent
        if recent.shape[2]:
            recent = last_before(self.key, self.event, self.value, recent)
        return Ledger(sums=sums, recent=recent)

    def added_to(self, ledger: Ledger, counts: Bool[Tensor, "batch entry"]) -> Ledger:
        """Return the ledger after those entries that count."""
        counts = counts & (self.key > 0)
        index = self.key[..., None].expand(-1, -1, OUTCOMES)
        part = (self.outcome * counts[..., None]).to(ledger.sums.dtype)
        recent = ledger.recent
        if recent.shape[2]:
            recent = last_after(recent, self.key, self.value, counts)
        return Ledger(sums=ledger.sums.scatter_add(1, index, part), recent=recent)

    @property
    def value(self) -> Float[Tensor, "batch entry"]:
        """Return 1 for right and -1 for wrong."""
        return (self.outcome[..., 0] - self.outcome[..., 1]).float()


class History(nn.Module):
    """Turns what happened before each step into a vector, and keeps the tally of a stream.

    Args:
        width: numbers in a step's vector.
        rates: numbers that training students tell of a question.
        questions: question indices, the unknown included.
        concepts: concept indices, the unknown included.
    """

    def __init__(self, width: int, rates: int, questions: int, concepts: int) -> None:
        super().__init__()
        self.keys = (questions, concepts, 2)
        self.widen = nn.Linear(3 * OUTCOMES + 2 * RECENT + rates, width)
        self.read = nn.Linear(width, width)

    def init_state(self, batch: int) -> Tally:
        """Return a tally in which nothing happened yet."""
        device = self.widen.weight.device

        def empty(keys: int, kept: int) -> Ledger:
            return Ledger(
                sums=torch.zeros(batch, keys, OUTCOMES, device=device),
                recent=torch.zeros(batch, keys, kept, device=device),
            )

        question, concept, overall = self.keys
        return Tally(empty(question, 0), empty(concept, RECENT), empty(overall, RECENT))

    def forward(
        self,
        batch: Batch,
        event: Int[Tensor, "batch time"],
        expected: Float[Tensor, "batch time"],
        rates: Float[Tensor, "batch time rate"],
        state: tuple[Tally, Tally, Int[Tensor, " batch"]] | None,
    ) -> tuple[Float[Tensor, "batch time width"], tuple[Tally, Tally] | None]:
        """Return what the outcomes before each step's event say, and the tallies afterwards.

        Args:
            batch: the steps.
            event: rank of each step's event; padding repeats the event before it.
            expected: rate of right answers that training students let expect.
            rates: what else training students tell of each question.
            state: the tally before the open event, the tally with it, and the open event's rank;
                None at the start of every student.

        Returns:
            One vector a step, and both tallies after the last step (None without a state).
        """
        entries = _entries(batch, event, expected)
        known = {
            kind: entry.before(self._carried(kind, entry, state)) for kind, entry in entries.items()
        }
        per = batch.concepts.shape[2]
        present = ((batch.concepts > 0) & batch.real[..., None])[..., None]
        on_concept = _told(known["concept"]).unflatten(1, (-1, per)) * present
        asked = _told(known["question"]) * (batch.question > 0)[..., None]
        features = torch.cat(
            [
                on_concept.sum(2) / present.sum(2).clamp_min(1),
                asked,
                _told(known["overall"]),
                rates.double(),
            ],
            -1,
        )
        vector = self.read(F.gelu(self.widen(features.to(self.widen.weight.dtype))))
        return vector, None if state is None else _advanced(entries, event, state)

    def _carried(
        self,
        kind: str,
        entry: Entries,
        state: tuple[Tally, Tally, Int[Tensor, " batch"]] | None,
    ) -> Ledger:
        """Return what earlier segments left to each entry's key."""
        if state is None:
            kept = 0 if kind == "question" else RECENT
            shape = entry.key.shape
            return Ledger(
                sums=torch.zeros(*shape, OUTCOMES, device=entry.key.device),
                recent=torch.zeros(*shape, kept, device=entry.key.device),
            )
        closed, everything, opened = state
        still_open = (entry.event == opened[:, None])[..., None]

        def look(part: str) -> Tensor:
            first, second = (getattr(getattr(t, kind), part) for t in (closed, everything))
            index = entry.key[..., None].expand(-1, -1, first.shape[2])
            return torch.where(still_open, first.gather(1, index), second.gather(1, index))

        return Ledger(sums=look("sums"), recent=look("recent"))


def _entries(
    batch: Batch, event: Int[Tensor, "batch time"], expected: Float[Tensor, "batch time"]
) -> dict[str, Entries]:
    """Return the entries of each kind; a step has one question and a set of concepts."""
    response = batch.response.double()
    surplus = ((response - expected) / OUTCOME_UNIT).round() * OUTCOME_UNIT
    outcome = torch.stack([response, 1.0 - response, surplus], -1)
    per = batch.concepts.shape[2]
    keys = {
        "question": batch.question * batch.real,
        "concept": (batch.concepts * batch.real[..., None]).flatten(1),
        "overall": batch.real.long(),
    }
    found = {}
    for kind, key in keys.items():
        times = per if kind == "concept" else 1
        happened = outcome.repeat_interleave(times, 1) * (key > 0)[..., None]
        found[kind] = Entries(key, event.repeat_interleave(times, 1), happened)
    return found


def _advanced(
    entries: dict[str, Entries],
    event: Int[Tensor, "batch time"],
    state: tuple[Tally, Tally, Int[Tensor, " batch"]],
) -> tuple[Tally, Tally]:
    """Return the tallies after the last step: before the open event, and with it."""
    closed, everything, opened = state
    last = event[:, -1]
    stays_open = (last == opened)[:, None, None]
    before, after = {}, {}
    for kind, entry in entries.items():
        ledger: Ledger = getattr(everything, kind)
        finished = entry.added_to(ledger, entry.event < last[:, None])
        untouched: Ledger = getattr(closed, kind)
        before[kind] = Ledger(
            sums=torch.where(stays_open, untouched.sums, finished.sums),
            recent=torch.where(stays_open, untouched.recent, finished.recent),
        )
        after[kind] = entry.added_to(ledger, torch.ones_like(entry.key, dtype=torch.bool))
    return Tally(**before), Tally(**after)


def _told(ledger: Ledger) -> Float[Tensor, "batch entry fact"]:
    """Return logarithms of how often right and wrong, the mean above expectation, the newest."""
    right, wrong, surplus = ledger.sums.double().unbind(-1)
    mean = SURPLUS_SCALE * surplus / (right + wrong + SHRINKAGE)
    often = (torch.stack([right, wrong], -1).log1p() - OFTEN_CENTRE) / OFTEN_CENTRE
    return torch.cat([often, mean[..., None], ledger.recent.double()], -1)
