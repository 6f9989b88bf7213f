"""A tracer that answers for many students at once, one answer at a time.

What a student's state is, is decided by the log: a state is loaded from the store where one is
kept, goes on with the answers that came after it, and is made anew from all of them otherwise.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kt_forecast.errors import InputError
from kt_forecast.serving.packing import Packer, Place, Row
from kt_forecast.serving.store import Appended, Event, Store
from kt_forecast.serving.telling import Teller
from kt_forecast.serving.threads import Ticket, log, settle
from kt_forecast.tracer.fitting import Fitted
from kt_forecast.tracer.streaming import MS_A_SECOND, Step

SEGMENT = 512
"""Answers of one student that a pass takes in, at most."""

SLOTS = 1 << 16
"""Slots of a pass, padding counted."""

WASTE = 64
"""Slots of padding that are not worth a pass of their own."""

STATES_AT_ONCE = 500

LOOKED_AT = 50_000
"""Predictions of one look, at most."""


Keeper = Callable[[list[tuple[int, str, int, bytes]]], object]
"""Takes states to be written: stream, model, events known, bytes."""


@dataclass(frozen=True)
class Asked:
    """A question that is put to a student.

    Attributes:
        question: its name, or None.
        concepts: names of its concepts.
        time: when, in milliseconds; None for right after the last answer.
    """

    question: str | None = None
    concepts: tuple[str, ...] = ()
    time: int | None = None


@dataclass(frozen=True)
class Answer(Asked):
    """A question that a student has answered.

    Attributes:
        response: 1 correct, 0 wrong.
        extras: answer-side columns.
    """

    response: int = 0
    extras: dict[str, float] = field(default_factory=dict)

    def event(self) -> Event:
        """Return what the log keeps."""
        body: dict[str, Any] = {"response": self.response}
        if self.question is not None:
            body["question"] = self.question
        if self.concepts:
            body["concepts"] = self.concepts
        if self.extras:
            body["extras"] = self.extras
        return Event(self.time, json.dumps(body, ensure_ascii=False, separators=(",", ":")))

    @classmethod
    def of(cls, event: Event) -> "Answer":
        """Return what the log kept."""
        body = json.loads(event.body)
        return cls(
            question=body.get("question"),
            concepts=tuple(body.get("concepts", ())),
            time=event.time,
            response=body["response"],
            extras=body.get("extras", {}),
        )


@dataclass(frozen=True)
class Take:
    """Answers that stand in the log, and questions put after them."""

    ticket: Ticket
    name: str
    appended: Appended
    answers: tuple[Answer, ...]
    asked: tuple[Asked, ...]


@dataclass(frozen=True)
class Ask:
    """Questions put to a student now."""

    ticket: Ticket
    name: str
    asked: tuple[Asked, ...]


@dataclass(frozen=True)
class Look:
    """What a student masters: now, and after each of the last answers.

    Attributes:
        names: of concepts, or of questions where the model knows no concepts; none stands for
            those of the answers looked at.
        every: look at all that the model knows.
        last: answers to look back on.
    """

    ticket: Ticket
    name: str
    names: tuple[str, ...]
    every: bool
    last: int


@dataclass(frozen=True)
class Seen:
    """What came of a look.

    Attributes:
        asked: what was asked of each name.
        answers: the last of them.
        chances: before the first of the answers and after each: one for each name.
        seq: how many answers are known.
    """

    asked: tuple[Asked, ...]
    answers: list[Answer]
    chances: list[list[float]]
    seq: int


@dataclass(frozen=True)
class Said:
    """What came of a job.

    Attributes:
        chances: probability of each question.
        seq: how many answers are known.
        appended: where the answers of the job stand; None for one that brought none.
    """

    chances: list[float]
    seq: int
    appended: Appended | None = None


@dataclass
class Live:
    """A state in memory.

    Attributes:
        stream: number of the student's stream; None for one that has none.
        kept: the state.
        stored: answers that the store's state knows; -1 where it keeps none.
    """

    stream: int | None
    kept: Any
    stored: int = -1


@dataclass(frozen=True)
class Voice:
    """A loaded tracer that can be asked.

    Attributes:
        fitted: the tracer.
        version: of its states: no other model reads them.
        memory: keeps states, or tells histories anew.
        bundled: answers of equal time are one event.
        questions: index of each known question.
        concepts: index of each known concept.
    """

    fitted: Fitted
    version: str
    memory: Packer | Teller
    bundled: bool
    questions: dict[str, int]
    concepts: dict[str, int]

    @classmethod
    def of(cls, fitted: Fitted, version: str, *, bundled: bool) -> "Voice":
        """Return a tracer with what it needs in order to be asked."""
        vocabulary = fitted.vocabulary
        tracer = fitted.tracer
        memory: Packer | Teller = Teller(fitted)
        if tracer is not None and fitted.plan.history is None:
            memory = Packer(tracer.eval(), len(vocabulary.extras))
        return cls(
            fitted=fitted,
            version=version if bundled else f"{version}-unbundled",
            memory=memory,
            bundled=bundled,
            questions={name: i for i, name in enumerate(vocabulary.questions, start=1)},
            concepts={name: i for i, name in enumerate(vocabulary.concepts, start=1)},
        )

    def unknown(self, asked: Asked) -> list[str]:
        """Return the names that the model has not met in training."""
        found = [name for name in asked.concepts if name not in self.concepts]
        if asked.question is not None and asked.question not in self.questions:
            found.insert(0, asked.question)
        return found

    def step(self, place: Place, asked: Asked) -> Step:
        """Return the question at its moment, as `kt_forecast.tracer.Stream` reckons it.

        Raises:
            InputError: the time lies before the last answer's.
        """
        question = 0 if asked.question is None else self.questions.get(asked.question, 0)
        concepts = tuple(sorted(self.concepts.get(name, 0) for name in set(asked.concepts)))
        time = asked.time
        if time is None or place.time is None:
            return Step(question, concepts, place.event + 1, 0.0)
        if time < place.time:
            raise InputError(too_early(time, place.time))
        if time == place.time and self.bundled:
            return Step(question, concepts, place.event, place.gap)
        return Step(question, concepts, place.event + 1, (time - place.time) / MS_A_SECOND)

    def taken(self, place: Place, answer: Answer) -> Step:
        """Return the step of an answer, and move the place behind it.

        Raises:
            InputError: the time lies before the last answer's.
        """
        extras = tuple(float(answer.extras.get(n, 0.0)) for n in self.fitted.vocabulary.extras)
        step = replace(self.step(place, answer), response=answer.response, extras=extras)
        place.event, place.gap = step.event, step.seconds
        if answer.time is not None:
            place.time = answer.time
        return step

    def later(self, place: Place, asked: Asked) -> Step:
        """Return a question put in an event of its own after a place."""
        return replace(self.step(Place(event=place.event), asked), event=place.event + 1)

    def about(self, job: Look, answers: Sequence[Answer]) -> tuple[Asked, ...]:
        """Return what to ask in a look: an unknown question on each concept, or each question."""
        concepts = self.fitted.vocabulary.concepts
        names: Sequence[str] = job.names
        if job.every:
            names = concepts or self.fitted.vocabulary.questions
        elif not names and concepts:
            names = list(dict.fromkeys(c for answer in answers for c in answer.concepts))
        elif not names:
            asked = (answer.question for answer in answers if answer.question is not None)
            names = list(dict.fromkeys(asked))
        return tuple(Asked(None, (name,)) if concepts else Asked(name) for name in names)

    @property
    def short(self) -> str:
        """Return the beginning of the version, for replies."""
        return self.version[:12]

    def missing(self, answers: Sequence[Answer]) -> str | None:
        """Return an answer-side column that the model reads and an answer lacks."""
        for name in self.fitted.vocabulary.extras:
            if any(name not in answer.extras for answer in answers):
                return name
        return None


def too_early(time: int, last: int) -> str:
    """Return the sentence that refuses an answer out of order."""
    return (
        f"time {time} lies before the last answer's, {last}; accepted are answers in the order of"
        " time"
    )


class Students:
    """The states of students in memory, and the passes that use them; for one thread.

    Args:
        voice: the model.
        store: the log, and states that are not in memory.
        live: students in memory, at most.
        keep: takes the states of those who leave memory.
    """

    def __init__(self, voice: Voice, store: Store, live: int, keep: Keeper) -> None:
        self.voice, self._store, self._most, self._keep = voice, store, live, keep
        self._live: OrderedDict[str, Live] = OrderedDict()
        self.loaded = self.rebuilt = self.evicted = 0

    def __len__(self) -> int:
        """Return how many students are in memory."""
        return len(self._live)

    def facts(self) -> dict[str, Any]:
        """Return what a caller may know of the model."""
        return {"concepts": list(self.voice.fitted.vocabulary.concepts)}

    def replace(self, voice: Voice) -> None:
        """Go on with another model; states are made anew as students return."""
        self.voice = voice
        self._live.clear()

    def handle(self, group: list[Any]) -> list[Iterator[Any]]:
        """Answer all jobs of a group; return those that take several passes."""
        looks = [job for job in group if isinstance(job, Look)]
        quick = [job for job in group if not isinstance(job, Look)]
        if quick:
            try:
                found = self._answered(quick)
            except Exception:  # noqa: BLE001 - said to each who asked
                # One job must not take the others with it; what it left half done is read again.
                for job in quick:
                    self._live.pop(job.name, None)
                found = [pair for job in quick for pair in self._alone(job)]
            settle(found)
            self._evict()
        return [self._looked(job) for job in looks]

    def _alone(self, job: Take | Ask) -> list[tuple[Ticket, Any]]:
        try:
            return self._answered([job])
        except Exception as error:  # noqa: BLE001
            log.exception("%s of %r failed", type(job).__name__, job.name)
            self._live.pop(job.name, None)
            return [(job.ticket, RuntimeError(f"the model failed: {type(error).__name__}"))]

    def _answered(self, jobs: Sequence[Take | Ask]) -> list[tuple[Ticket, Any]]:
        voice = self.voice
        first: dict[str, int | None] = {}
        for job in jobs:
            first.setdefault(job.name, job.appended.first - 1 if isinstance(job, Take) else None)
        self._load(first, {j.name: j.appended.stream for j in jobs if isinstance(j, Take)})
        places: dict[str, Place] = {}
        steps: dict[str, list[Step]] = {name: [] for name in first}
        rows: list[Row] = []
        shares: list[tuple[Ticket, int, int, Appended | None]] = []
        found: list[tuple[Ticket, Any]] = []
        again: list[Take] = []
        for job in jobs:
            live = self._live[job.name]
            place = places.setdefault(job.name, _place(live.kept))
            if isinstance(job, Take):
                if job.appended.replayed and job.appended.last < place.seq:
                    again.append(job)
                    continue
                known = max(0, place.seq - job.appended.first + 1)
                for answer in job.answers[known:]:
                    steps[job.name].append(voice.taken(place, answer))
                    place.seq += 1
            try:
                queries = [voice.step(place, asked) for asked in job.asked]
            except InputError as error:
                found.append((job.ticket, error))
                continue
            told = tuple(steps[job.name])
            rows += [Row(live.kept, told, query) for query in queries]
            appended = job.appended if isinstance(job, Take) else None
            shares.append((job.ticket, len(queries), place.seq, appended))
        changed = [name for name, some in steps.items() if some]
        for name in changed:
            row = Row(self._live[name].kept, tuple(steps[name]), time=places[name].time)
            rows.append(row)
        chances, kept = self._run(rows)
        for name, state in zip(changed, kept, strict=True):
            self._live[name].kept = state
        at = 0
        for ticket, count, seq, appended in shares:
            found.append((ticket, Said(chances[at : at + count], seq, appended)))
            at += count
        return [*found, *((job.ticket, self._told_again(job)) for job in again)]

    def _told_again(self, job: Take) -> Said:
        """Return what was said to a request that comes a second time, after others."""
        voice = self.voice
        kept = self._rebuilt([(job.appended.stream, voice.memory.fresh(), job.appended.last)])[0]
        queries = [voice.step(kept, asked) for asked in job.asked]
        chances, _ = self._run([Row(kept, (), query) for query in queries])
        return Said(chances, kept.seq, job.appended)

    def _run(self, rows: Sequence[Row]) -> tuple[list[float], list[Any]]:
        """Run rows in as few passes as their sizes allow; see `Packer.run`."""
        if not rows:
            return [], []
        sizes = [row.kept.slots + row.length for row in rows]
        order = sorted(range(len(rows)), key=sizes.__getitem__, reverse=True)
        chances: dict[int, float] = {}
        kept: dict[int, Any] = {}
        while order:
            longest = sizes[order[0]]
            count = 1
            while (
                count < len(order)
                and (count + 1) * longest <= SLOTS
                and 2 * sizes[order[count]] + WASTE >= longest
            ):
                count += 1
            some, order = order[:count], order[count:]
            part, states = self.voice.memory.run([rows[i] for i in some])
            asked, after = iter(part), iter(states)
            for i in some:
                if rows[i].query is None:
                    kept[i] = next(after)
                else:
                    chances[i] = next(asked)
        return [chances[i] for i in sorted(chances)], [kept[i] for i in sorted(kept)]

    def _load(self, wanted: dict[str, int | None], streams: dict[str, int]) -> None:
        """Have the states of students in memory, up to a place in the log or to its end."""
        missing = []
        for name in wanted:
            if name in self._live:
                self._live.move_to_end(name)
                # One who was asked before the first answer has a stream from then on.
                self._live[name].stream = streams.get(name, self._live[name].stream)
            else:
                missing.append(name)
        behind: list[tuple[Live, int | None]] = [
            (self._live[name], until)
            for name, until in wanted.items()
            if name in self._live and until is not None and self._live[name].kept.seq < until
        ]
        memory = self.voice.memory
        found: dict[str, Live] = {}
        for name in missing:
            stream = streams.get(name)
            if stream is None:
                head = self._store.find(name)
                stream = None if head is None else head.stream
            found[name] = Live(stream, memory.fresh())
        known = [
            live.stream
            for name, live in found.items()
            if live.stream is not None and wanted[name] != 0
        ]
        tails = self._store.tails(known, self.voice.version) if known else {}
        for name, live in found.items():
            if live.stream in tails:
                seq, data = tails[live.stream or 0]
                live.kept, live.stored = memory.read(data), seq
                self.loaded += 1
            behind.append((live, wanted[name]))
        late = [one for one in behind if one[0].stream is not None]
        states = self._rebuilt([(live.stream or 0, live.kept, until) for live, until in late])
        for one, state in zip(late, states, strict=True):
            one[0].kept = state
        self._live.update(found)

    def _rebuilt(self, wanted: Sequence[tuple[int, Any, int | None]]) -> list[Any]:
        """Return states after the answers in the log up to a place, told in long passes."""
        kept = [state for _, state, _ in wanted]
        rest = [
            []
            if until is not None and until <= state.seq
            else self._answers(stream, state.seq, until)
            for stream, state, until in wanted
        ]
        self.rebuilt += sum(map(bool, rest))
        while any(rest):
            open_ = [i for i, answers in enumerate(rest) if answers]
            rows = []
            for i in open_:
                place = _place(kept[i])
                steps = tuple(self.voice.taken(place, answer) for answer in rest[i][:SEGMENT])
                rows.append(Row(kept[i], steps, time=place.time))
                rest[i] = rest[i][SEGMENT:]
            _, states = self._run(rows)
            for i, state in zip(open_, states, strict=True):
                kept[i] = state
        return kept

    def _answers(self, stream: int, after: int, until: int | None) -> list[Answer]:
        return [Answer.of(event) for event in self._store.events(stream, after, until)]

    def _looked(self, job: Look) -> Iterator[None]:
        """Answer a look, a pass at a time."""
        try:
            yield from self._look(job)
        except Exception as error:  # noqa: BLE001 - said to the one who asked
            log.exception("a look at %r failed", job.name)
            settle([(job.ticket, RuntimeError(f"the model failed: {type(error).__name__}"))])

    def _look(self, job: Look) -> Iterator[None]:
        voice = self.voice
        self._load({job.name: None}, {})
        live = self._live[job.name]
        end, stream = live.kept, live.stream
        begin = max(0, end.seq - job.last)
        answers = [] if stream is None else self._answers(stream, begin, end.seq)
        asked = voice.about(job, answers)
        if len(asked) * (len(answers) + 1) > LOOKED_AT:
            sentence = (
                f"{len(asked)} names after each of {len(answers)} answers are too many to look at;"
                f" accepted are {LOOKED_AT} predictions, so fewer names or fewer answers"
            )
            settle([(job.ticket, InputError(sentence))])
            return
        if not answers:
            chances, _ = self._run([Row(end, (), voice.later(end, one)) for one in asked])
            settle([(job.ticket, Seen(asked, [], [chances], end.seq))])
            return
        kept = self._rebuilt([(stream or 0, voice.memory.fresh(), begin)])[0]
        found = [self._run([Row(kept, (), voice.later(kept, one)) for one in asked])[0]]
        together = max(1, _ROWS // max(1, len(asked)))
        for low in range(0, len(answers), together):
            place, steps = _place(kept), []
            rows = []
            for answer in answers[low : low + together]:
                steps.append(voice.taken(place, answer))
                told = tuple(steps)
                rows += [Row(kept, told, voice.later(place, one)) for one in asked]
            chances, states = self._run([*rows, Row(kept, tuple(steps), time=place.time)])
            kept = states[0]
            size = len(asked)
            found += [chances[i * size : (i + 1) * size] for i in range(len(steps))]
            yield
            if self.voice is not voice:
                # Another model answers by now, which reads no state of this one.
                yield from self._look(job)
                return
        settle([(job.ticket, Seen(asked, answers, found, end.seq))])
        self._evict()

    def _evict(self) -> None:
        """Send the students that were away the longest to the store."""
        gone = []
        while len(self._live) > self._most:
            gone.append(self._live.popitem(last=False)[1])
        self.evicted += len(gone)
        self._save(gone, self._keep)

    def _save(self, some: Sequence[Live], keep: Keeper) -> None:
        written = []
        for live in some:
            if live.stream is None or live.kept.seq <= live.stored:
                continue
            data = self.voice.memory.write(live.kept)
            if data is not None:
                written.append((live.stream, self.voice.version, live.kept.seq, data))
                live.stored = live.kept.seq
        if written:
            keep(written)

    def rule(self, _name: str, last: int | None, events: Sequence[Event]) -> str | None:
        """Say why answers may not follow a student's last time; None where they may."""
        for event in events:
            if event.time is None:
                continue
            if last is not None and event.time < last:
                return too_early(event.time, last)
            last = event.time
        return None

    def save(self, keep: Keeper) -> None:
        """Hand over all states to be written."""
        everyone = list(self._live.values())
        for low in range(0, len(everyone), STATES_AT_ONCE):
            self._save(everyone[low : low + STATES_AT_ONCE], keep)

    @property
    def size(self) -> int:
        """Return roughly how many bytes the states take."""
        return sum(live.kept.size for live in list(self._live.values()))


_ROWS = 256
"""Rows of a pass that looks back, at most, where one answer's questions fit."""


def _place(kept: Place) -> Place:
    return Place(event=kept.event, time=kept.time, gap=kept.gap, seq=kept.seq)
