"""States of many students as one batch, and back: what makes one pass answer all who wait.

A tracer's state counts every question and concept of the vocabulary. A student met few of them, so
that only those are kept, and in a pass only those that the pass reads stand in the table of counts,
under numbers of their own.

Caches that grow with the answers are as long as the longest of the batch and zero beyond each
student's own; a system that streams treats such slots as absent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from kt_forecast.sequences.interactions import Batch
from kt_forecast.tasks.history import OUTCOMES, RECENT, History, Ledger, Tally
from kt_forecast.tasks.knowledge_tracing import Tracer, TracerState
from kt_forecast.tracer.streaming import Step

QUESTION, CONCEPT, OVERALL = "question", "concept", "overall"
KEPT = {QUESTION: 0, CONCEPT: RECENT, OVERALL: RECENT}
"""Newest outcomes that are remembered one by one, of each kind of key."""

Counts = dict[int, tuple[float, ...]]
"""By key: right, wrong, above expectation, and the newest outcomes."""


def _none_counted() -> dict[str, Counts]:
    return {kind: {} for kind in KEPT}


@dataclass(kw_only=True)
class Place:
    """Where one student stands.

    Attributes:
        event: rank of the open event; -1 before the first.
        time: of the last answer that told one, in milliseconds.
        gap: seconds between the open event and the one before it.
        seq: how many answers are known.
    """

    event: int = -1
    time: int | None = None
    gap: float = 0.0
    seq: int = 0

    @property
    def size(self) -> int:
        """Return roughly how many bytes are held."""
        return 0


@dataclass(kw_only=True)
class Kept(Place):
    """What is known of one student after some answers.

    Attributes:
        tensors: the tracer's state without its counts, without the axis of the batch; the axis
            that grows, where there is one, stands first.
        counts: of each kind of key, what happened to those that occurred.
        before: the same before the open event, of the keys that occur in it.
    """

    tensors: tuple[Tensor, ...] = ()
    counts: dict[str, Counts] = field(default_factory=_none_counted)
    before: dict[str, Counts] = field(default_factory=_none_counted)

    @property
    def size(self) -> int:
        """Return the bytes of the tensors and, roughly, of the counts."""
        held = sum(tensor.nbytes for tensor in self.tensors)
        keys = sum(len(part) for both in (self.counts, self.before) for part in both.values())
        return held + keys * _BYTES_A_KEY

    @property
    def slots(self) -> int:
        """Return the length of the longest cache."""
        return max((tensor.shape[0] for tensor in self.tensors if tensor.ndim), default=0)


_BYTES_A_KEY = 300


@dataclass(frozen=True)
class Row:
    """One row of a pass.

    Attributes:
        kept: what is known of the student; a row without a query uses it up.
        steps: answers that follow.
        query: a question put after them, whose probability is wanted; None where the state after
            them is.
        time: of the last step that told one.
    """

    kept: Any
    steps: tuple[Step, ...] = ()
    query: Step | None = None
    time: int | None = None

    @property
    def length(self) -> int:
        """Return the steps of the row, the query too."""
        return len(self.steps) + (self.query is not None)


class LocalHistory(nn.Module):
    """A `History` that reads counts under the numbers that a pass gives its keys.

    Args:
        history: with the trained weights.
    """

    def __init__(self, history: History) -> None:
        super().__init__()
        self.history = history
        self.numbers: tuple[Tensor, Tensor] | None = None

    def init_state(self, batch: int) -> Tally:
        """Return a tally in which nothing happened yet."""
        return self.history.init_state(batch)

    def forward(self, batch: Batch, *rest: Any) -> Any:  # noqa: ANN401 - what `History` takes
        """Return what the history returns of the batch under its own numbers, where it has some."""
        if self.numbers is not None:
            question, concepts = self.numbers
            batch = replace(batch, question=question, concepts=concepts)
        return self.history(batch, *rest)


@dataclass
class Packer:
    """Turns rows into a batch with its state, and the state after it into what is kept.

    Args:
        tracer: on the device where it computes, in evaluation mode; its history is wrapped.
        n_extras: answer-side columns that it reads.
    """

    tracer: Tracer
    n_extras: int
    _fresh: Kept = field(init=False)
    _template: TracerState = field(init=False)
    _axes: tuple[int | None, ...] = field(init=False)

    def __post_init__(self) -> None:
        tracer = self.tracer
        if isinstance(tracer.history, History):
            tracer.history = LocalHistory(tracer.history)  # type: ignore[assignment]
        self._template = _bare(tracer.init_state(1))
        self._axes = self._growing()
        leaves = tuple(self._template.tensors().values())
        self._fresh = Kept(
            tensors=tuple(_first(t[0], a) for t, a in zip(leaves, self._axes, strict=True))
        )

    def fresh(self) -> Kept:
        """Return what is known of a student who has answered nothing."""
        return Kept(tensors=self._fresh.tensors)

    @torch.inference_mode()
    def run(self, rows: Sequence[Row]) -> tuple[list[float], list[Kept]]:
        """Return the probabilities of the queries, and what is known after the rows without one.

        Both are in the order of the rows.
        """
        device = self.tracer.start.device
        batch, last = _batch(rows, self.n_extras)
        rest = self._joined([row.kept for row in rows])
        local: LocalHistory | None = None
        keys: list[dict[str, dict[int, int]]] = []
        if isinstance(self.tracer.history, LocalHistory):
            local = self.tracer.history
            keys = [_keys(row) for row in rows]
            local.numbers = _numbered(batch, keys, device)
            closed, everything = _tallies(rows, keys, device)
            rest = replace(rest, closed=closed, all=everything)
        try:
            logits, after = self.tracer(batch.to(device), rest)
        finally:
            if local is not None:
                local.numbers = None
        chances = logits.double().sigmoid().gather(1, last.to(device)[:, None])[:, 0].tolist()
        found = [chance for row, chance in zip(rows, chances, strict=True) if row.query is not None]
        return found, self._split(rows, after, keys)

    def write(self, kept: Kept) -> bytes:
        """Return what is kept as bytes that hold numbers only."""
        tensors = {f"state.{i}": t.contiguous() for i, t in enumerate(kept.tensors)}
        for word, both in (("counts", kept.counts), ("before", kept.before)):
            for kind, part in both.items():
                if part:
                    tensors[f"{word}.{kind}.key"] = torch.tensor(list(part))
                    tensors[f"{word}.{kind}.value"] = torch.tensor(list(part.values()))
        told = kept.time is not None
        tensors["place"] = torch.tensor([kept.event, kept.seq, told, kept.time or 0])
        tensors["gap"] = torch.tensor([kept.gap], dtype=torch.float64)
        return write_tensors(tensors)

    def read(self, data: bytes) -> Kept:
        """Return what `write` wrote; nothing in it is executed."""
        tensors = read_tensors(data)
        event, seq, told, time = tensors["place"].tolist()
        kept = self.fresh()
        for word, both in (("counts", kept.counts), ("before", kept.before)):
            for kind, part in both.items():
                key = tensors.get(f"{word}.{kind}.key")
                if key is not None:
                    values = map(tuple, tensors[f"{word}.{kind}.value"].tolist())
                    part.update(zip(key.tolist(), values, strict=True))
        return replace(
            kept,
            tensors=tuple(tensors[f"state.{i}"] for i in range(len(self._axes))),
            event=event,
            time=time if told else None,
            gap=float(tensors["gap"][0]),
            seq=seq,
        )

    def _growing(self) -> tuple[int | None, ...]:
        """Return which axis of each tensor of the state grows with the steps, the batch aside."""
        step = Row(Kept(), (Step(0, (), 0, 0.0),) * _PROBE)
        batch, _ = _batch([step], self.n_extras)
        with torch.inference_mode():
            _, after = self.tracer(batch.to(self.tracer.start.device), self.tracer.init_state(1))
        pairs = zip(self._template.tensors().values(), _bare(after).tensors().values(), strict=True)
        axes = []
        for empty, full in pairs:
            changed = [i for i in range(1, empty.ndim) if empty.shape[i] != full.shape[i]]
            axes.append(changed[0] - 1 if changed else None)
        return tuple(axes)

    def _joined(self, kept: Sequence[Kept]) -> TracerState:
        """Return the state of all, without counts."""
        device = self.tracer.start.device
        joined = []
        for axis, parts in zip(
            self._axes, zip(*(k.tensors for k in kept), strict=True), strict=True
        ):
            if axis is None:
                joined.append(torch.stack(parts).to(device))
            else:
                padded = pad_sequence(list(parts), batch_first=True)
                joined.append(padded.movedim(1, axis + 1).to(device))
        rest = iter(joined)
        return self._template.map(lambda _: next(rest))

    def _split(
        self, rows: Sequence[Row], after: TracerState, keys: list[dict[str, dict[int, int]]]
    ) -> list[Kept]:
        """Return what is known after each row without a query; no two share memory."""
        chosen = [i for i, row in enumerate(rows) if row.query is None]
        if not chosen:
            return []
        leaves: list[list[Tensor]] = []
        for axis, tensor in zip(self._axes, _bare(after).tensors().values(), strict=True):
            here = tensor[chosen].cpu()
            if axis is None:
                leaves.append([part.clone() for part in here.unbind(0)])
                continue
            here = here.movedim(axis + 1, 1)
            sizes = _used(here)
            leaves.append([part[:size].clone() for part, size in zip(here, sizes, strict=True)])
        found = [
            Kept(
                tensors=tensors,
                counts=rows[i].kept.counts,
                before=rows[i].kept.before,
                **after_steps(rows[i]),
            )
            for i, tensors in zip(chosen, zip(*leaves, strict=True), strict=True)
        ]
        if keys and after.all is not None and after.closed is not None:
            tables = {
                kind: [_lines(getattr(tally, kind), chosen) for tally in (after.closed, after.all)]
                for kind in KEPT
            }
            for line, (i, kept) in enumerate(zip(chosen, found, strict=True)):
                _count(
                    rows[i], kept, keys[i], {k: (w[line], n[line]) for k, (w, n) in tables.items()}
                )
        return found


_PROBE = 32
"""Steps that show which tensors of a state grow."""


def after_steps(row: Row) -> dict[str, Any]:
    """Return event, time, gap and number of answers after a row."""
    kept = row.kept
    if not row.steps:
        return {"event": kept.event, "time": kept.time, "gap": kept.gap, "seq": kept.seq}
    last = row.steps[-1]
    time = kept.time if row.time is None else row.time
    seq = kept.seq + len(row.steps)
    return {"event": last.event, "time": time, "gap": last.seconds, "seq": seq}


def _used(cache: Tensor) -> list[int]:
    """Return how many of the slots, the second axis, each student uses."""
    if not cache.shape[1]:
        return [0] * len(cache)
    place = torch.arange(1, cache.shape[1] + 1)
    return ((cache.flatten(2) != 0).any(2) * place).amax(1).tolist()


def _bare(state: TracerState) -> TracerState:
    return replace(state, closed=None, all=None)


def _first(tensor: Tensor, axis: int | None) -> Tensor:
    moved = tensor if axis is None else tensor.movedim(axis, 0)
    return moved.clone().cpu()


def _batch(rows: Sequence[Row], n_extras: int) -> tuple[Batch, Tensor]:
    """Return the steps of the rows, padded on the right, and the place of each row's last."""
    told = [(*row.steps, row.query) if row.query is not None else row.steps for row in rows]
    length = max(map(len, told))
    widest = max([1, *(len(step.concepts) for steps in told for step in steps)])
    nothing = Step(0, (), 0, 0.0)
    full = [(*steps, *(nothing,) * (length - len(steps))) for steps in told]
    real = torch.arange(length) < torch.tensor([[len(steps)] for steps in told])
    none, empty = (0,) * widest, (0.0,) * n_extras
    batch = Batch(
        question=torch.tensor([[s.question for s in steps] for steps in full]),
        concepts=torch.tensor(
            [[(s.concepts + none)[:widest] for s in steps] for steps in full]
        ).reshape(len(rows), length, widest),
        response=torch.tensor([[s.response for s in steps] for steps in full]),
        event=torch.tensor([[s.event for s in steps] for steps in full]),
        seconds=torch.tensor([[s.seconds for s in steps] for steps in full], dtype=torch.float32),
        extras=torch.tensor(
            [[s.extras or empty for s in steps] for steps in full], dtype=torch.float32
        ).reshape(len(rows), length, n_extras),
        real=real,
        scored=real,
        place=torch.arange(length).expand(len(rows), -1),
    )
    return batch, real.sum(1) - 1


def _keys(row: Row) -> dict[str, dict[int, int]]:
    """Return the numbers, from 1, under which a row's keys stand in its counts; 0 is nothing."""
    steps = (*row.steps, row.query) if row.query is not None else row.steps
    questions = dict.fromkeys(step.question for step in steps if step.question)
    concepts = dict.fromkeys(c for step in steps for c in step.concepts if c)
    return {
        QUESTION: {key: i for i, key in enumerate(questions, start=1)},
        CONCEPT: {key: i for i, key in enumerate(concepts, start=1)},
        OVERALL: {1: 1},
    }


def _numbered(
    batch: Batch, keys: list[dict[str, dict[int, int]]], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return questions and concepts of the batch under the rows' own numbers."""
    questions = [
        [of[QUESTION].get(key, 0) for key in row]
        for of, row in zip(keys, batch.question.tolist(), strict=True)
    ]
    concepts = [
        [[of[CONCEPT].get(key, 0) for key in step] for step in row]
        for of, row in zip(keys, batch.concepts.tolist(), strict=True)
    ]
    return torch.tensor(questions, device=device), torch.tensor(concepts, device=device).reshape(
        batch.concepts.shape
    )


def _tallies(
    rows: Sequence[Row], keys: list[dict[str, dict[int, int]]], device: torch.device
) -> tuple[Tally, Tally]:
    """Return the rows' counts before the open event, and with it."""
    closed: dict[str, Ledger] = {}
    everything: dict[str, Ledger] = {}
    for kind, newest in KEPT.items():
        room = 1 + max(len(of[kind]) for of in keys)
        nothing = (0.0,) * (OUTCOMES + newest)
        lines: tuple[list[Any], list[Any]] = ([], [])
        for row, of in zip(rows, keys, strict=True):
            counts, before = row.kept.counts[kind], row.kept.before[kind]
            now = [counts.get(key, nothing) for key in of[kind]]
            was = [before.get(key, value) for key, value in zip(of[kind], now, strict=True)]
            padding = [nothing] * (room - 1 - len(now))
            for line, values in zip(lines, (was, now), strict=True):
                line.append([nothing, *values, *padding])
        for part, line in zip((closed, everything), lines, strict=True):
            table = torch.tensor(line, dtype=torch.float32, device=device)
            part[kind] = Ledger(sums=table[..., :OUTCOMES], recent=table[..., OUTCOMES:])
    return Tally(**closed), Tally(**everything)


def _count(
    row: Row,
    kept: Kept,
    keys: dict[str, dict[int, int]],
    tables: dict[str, tuple[list[list[float]], list[list[float]]]],
) -> None:
    """Put the counts after a pass into what is kept of a row, in place: a copy would grow."""
    opened = kept.event != row.kept.event
    if opened:
        kept.before = _none_counted()
    for kind, (was, now) in tables.items():
        for key, place in keys[kind].items():
            before, after = tuple(was[place]), tuple(now[place])
            kept.counts[kind][key] = after
            if before != after:
                kept.before[kind][key] = before


def _lines(ledger: Ledger, rows: list[int]) -> list[list[list[float]]]:
    return torch.cat([ledger.sums, ledger.recent], 2)[rows].tolist()
