"""How long is an answer remembered? A few facts, a long history of other things, and a question.

Of a student: some concepts are answered once each, rightly or wrongly by nothing but chance; then
follow answers on other concepts, as random; then the first concepts are asked again, and each is
answered as before. Of a series: the first patch of each channel stands above or below nought; then
follow seasons in any phase; a mark announces the last season, whose phase the first patch decides.
What remembers nothing is right half of the time.

Distances grow in training from stage to stage and end far below those of the test. In the first
stage a student's facts are asked again among the other things as well: whoever is asked only at the
end first learns how many answers are still to come, and not which. The test streams
one history with carried state, a piece at a time, and asks from the state at every distance.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kt_forecast.errors import InputError
from kt_forecast.nn.kernels import without_cudnn_attention
from kt_forecast.sequences.interactions import Batch, Vocabulary
from kt_forecast.studies import words
from kt_forecast.studies.measuring import computed_in, finish, slope, wilson
from kt_forecast.studies.record import Chart, Row, Table, line
from kt_forecast.studies.study import Clock, Found, Say, Study
from kt_forecast.studies.systems import StudySettings, bytes_of
from kt_forecast.tasks.knowledge_tracing import Tracer, TracingConfig

CHANCE = 0.5
SURE = 0.98
"""Share of right answers, over the latest passes, that ends a stage of training."""
LATEST = 0.9
"""Weight of the passes before in that share."""
FIRST_DISTANCE = 3
"""Logarithm to base two of the shortest distance of the test."""
NOISE = 0.3
CLIP = 1.0
WARM_UP = 50
"""Passes over which the rate of learning rises."""
LEAST_RATE = 0.05
"""Share of the rate of learning that is left at the end."""
SHARED = 0.85
"""Share of a GPU's memory that processes side by side divide; the rest is their own cost."""
LEAST_PIECE = 16
"""Tokens of a stream below which a piece is not halved for want of memory."""
LATE = "the limit of seconds"
LOOK = 8
"""Passes after which training looks at how many answers were right; each look waits for a GPU."""


class NeedleSettings(StudySettings):
    """Settings of the study of needles.

    Attributes:
        tasks: ``student``, ``series``.
        systems: what is trained and asked.
        facts: answers to remember, or channels of the series.
        concepts: of a student, those to remember among them.
        patch: steps of a series in a token.
        segment: tokens of a segment; training ends at the last of ``stages`` times as many.
        stages: of training, in segments, ascending.
        rows: sequences of a training pass.
        passes: most training passes.
        training_seconds: of a system, at most.
        learning_rate: of Adam.
        farthest: logarithm to base two of the longest distance asked, in steps.
        asked: histories of the test.
        piece: tokens that are streamed at a time; halved for a system that runs out of memory.
        within: logarithm to base two of the longest distance of what keeps all keys and values.
        processes: that train and ask side by side.
    """

    tasks: tuple[Literal["student", "series"], ...] = ("student", "series")
    systems: tuple[str, ...] = (
        "gpt",
        "transformer_xl",
        "infini_transformer",
        "rmt",
        "retnet",
        "mamba",
        "mamba2",
        "titans",
    )
    width: int = Field(32, gt=0)
    layers: int = Field(2, gt=0)
    facts: int = Field(4, gt=0)
    concepts: int = Field(16, gt=1)
    patch: int = Field(16, gt=1)
    segment: int = Field(16, gt=3)
    stages: tuple[float, ...] = (0.25, 1.0, 3.0, 7.0)
    rows: int = Field(32, gt=0)
    passes: int = Field(300, gt=0)
    training_seconds: float = Field(2.5, gt=0)
    learning_rate: float = Field(3e-3, gt=0)
    farthest: int = Field(11, gt=FIRST_DISTANCE)
    asked: int = Field(16, gt=0)
    piece: int = Field(1024, gt=0)
    within: int = Field(11, gt=0)
    processes: int = Field(1, gt=0)


Asked = tuple[Any, Tensor]
Job = tuple[NeedleSettings, str, str, Clock]


@runtime_checkable
class Task(Protocol):
    """What is remembered, by whom, and what stands between."""

    @property
    def stride(self) -> int:
        """Return the steps in a token."""
        ...

    def model(self, name: str, settings: NeedleSettings) -> nn.Module:
        """Return what reads tokens: ``model(tokens, state)`` gives predictions and a state."""
        ...

    def tell(self, rows: int, draw: torch.Generator) -> Asked:
        """Return the tokens that hold the facts, and the facts by row and number."""
        ...

    def pass_by(self, rows: int, count: int, place: int, draw: torch.Generator) -> Any:  # noqa: ANN401
        """Return ``count`` tokens that hold nothing to remember, the first at ``place``."""
        ...

    def ask(self, facts: Tensor, place: int, draw: torch.Generator) -> Asked:
        """Return the tokens that ask for the facts, and what is to be told after them."""
        ...

    def remind(self, facts: Tensor, count: int, place: int, draw: torch.Generator) -> Asked:
        """Do as `pass_by`, asking for some facts on the way; return where, too."""
        ...

    def reminded(self, predicted: Tensor, tokens: Any, where: Tensor) -> Tensor | float:  # noqa: ANN401
        """Return the loss of what `remind` asked for, in a pass over all ``tokens``."""
        ...

    def join(self, parts: list[Any]) -> Any:  # noqa: ANN401
        """Return tokens in a row."""
        ...

    def judge(self, predicted: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of a pass that ends with the question, and which facts it had right."""
        ...


@dataclass(frozen=True)
class StudentTask:
    """Concepts answered once, and asked again."""

    settings: NeedleSettings

    @property
    def stride(self) -> int:
        """Return the steps in a token."""
        return 1

    def model(self, name: str, settings: NeedleSettings) -> nn.Module:
        """Return a tracer that is told nothing but concepts and answers: no counts, no rates."""
        system, own = settings.system(name, **sizes(name, settings))
        tracing = TracingConfig(
            scheme="shifted", identity=0, rates=False, neighbours=0, counts=False, dropout=0.0
        )
        names = tuple(str(number) for number in range(settings.concepts))
        return Tracer(system, own, tracing, Vocabulary(questions=(), concepts=names))

    def tell(self, rows: int, draw: torch.Generator) -> Asked:
        """Answer every fact's concept once, in any order."""
        order = self._order(rows, draw)
        facts = balanced(rows, self.settings.facts, draw)
        return self._batch(order, facts.gather(1, order), 0), facts

    def pass_by(self, rows: int, count: int, place: int, draw: torch.Generator) -> Batch:
        """Answer other concepts, at random."""
        others = self.settings.concepts - self.settings.facts
        concept = self.settings.facts + _whole(others, (rows, count), draw)
        return self._batch(concept, _whole(2, (rows, count), draw), place)

    def ask(self, facts: Tensor, place: int, draw: torch.Generator) -> Asked:
        """Ask the facts' concepts again, in any order."""
        order = self._order(len(facts), draw)
        wanted = facts.gather(1, order)
        return self._batch(order, wanted, place), wanted

    def remind(self, facts: Tensor, count: int, place: int, draw: torch.Generator) -> Asked:
        """Put facts' concepts, answered as before, in the place of every other of the concepts."""
        passed = self.pass_by(len(facts), count, place, draw)
        asks = _whole(2, passed.shape, draw).bool()
        known = _whole(self.settings.facts, passed.shape, draw)
        concept = torch.where(asks, known, passed.concepts[..., 0] - 1)
        response = torch.where(asks, facts.gather(1, known), passed.response)
        return self._batch(concept, response, place), asks

    def reminded(self, predicted: Tensor, tokens: Batch, where: Tensor) -> Tensor | float:
        """Return the cross-entropy of the concepts asked on the way."""
        own = slice(self.settings.facts, self.settings.facts + where.shape[1])
        logits, wanted = predicted[:, own].float(), tokens.response[:, own]
        each = F.binary_cross_entropy_with_logits(logits, wanted.to(logits), reduction="none")
        return (each * where).sum() / where.sum().clamp_min(1)

    def join(self, parts: list[Batch]) -> Batch:
        """Return batches one after the other."""
        whole = {
            name: torch.cat([getattr(part, name) for part in parts], 1)
            for name, value in vars(parts[0]).items()
            if isinstance(value, Tensor)
        }
        return Batch(**whole, bundles=False)

    def judge(self, predicted: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy of the questions asked again, and which were right."""
        logits = predicted[:, -wanted.shape[1] :].float()
        loss = F.binary_cross_entropy_with_logits(logits, wanted.to(logits.dtype))
        return loss, (logits > 0) == wanted.bool()

    def _order(self, rows: int, draw: torch.Generator) -> Tensor:
        shape = (rows, self.settings.facts)
        return torch.rand(shape, generator=draw, device=draw.device).argsort(1)

    def _batch(self, concept: Tensor, response: Tensor, place: int) -> Batch:
        rows, steps = concept.shape
        event = torch.arange(place, place + steps, device=concept.device).expand(rows, -1)
        real = torch.ones_like(concept, dtype=torch.bool)
        return Batch(
            question=torch.zeros_like(concept),
            concepts=concept[..., None] + 1,
            response=response,
            event=event,
            seconds=torch.zeros(rows, steps, device=concept.device),
            extras=torch.zeros(rows, steps, 0, device=concept.device),
            real=real,
            scored=real,
            place=event,
            bundles=False,
        )


class SeriesReader(nn.Module):
    """Patches of a series into a mixer, and the next patch out of it."""

    def __init__(self, mixer: nn.Module, numbers: int, width: int) -> None:
        super().__init__()
        self.embed, self.mixer = nn.Linear(numbers, width), mixer
        self.head = nn.Linear(width, numbers)

    def init_state(self, batch: int) -> Any:  # noqa: ANN401
        """Return the state before the first patch."""
        return self.mixer.init_state(batch)  # type: ignore[operator]

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:  # noqa: ANN401
        """Return a forecast of the patch after each, and the state."""
        y, state = self.mixer(self.embed(x), state)
        return self.head(y), state


@dataclass(frozen=True)
class SeriesTask:
    """A regime told by the first patch, which decides the phase of the last season."""

    settings: NeedleSettings

    @property
    def stride(self) -> int:
        """Return the steps in a token."""
        return self.settings.patch

    def model(self, name: str, settings: NeedleSettings) -> nn.Module:
        """Return a reader of patches."""
        system, own = settings.system(name, **sizes(name, settings))
        assert system.build is not None  # noqa: S101 - the study's systems are mixers
        numbers = settings.facts * settings.patch
        return SeriesReader(system.build(own), numbers, settings.width)

    def tell(self, rows: int, draw: torch.Generator) -> Asked:
        """Stand each channel above or below nought."""
        facts = balanced(rows, self.settings.facts, draw)
        level = (2.0 * facts - 1.0)[..., None].expand(-1, -1, self.settings.patch)
        return self._patches(level[:, None], draw), facts

    def pass_by(self, rows: int, count: int, place: int, draw: torch.Generator) -> Tensor:
        """Return seasons whose phases tell nothing."""
        del place
        shape = (rows, count, self.settings.facts, 1)
        phase = 2 * torch.pi * torch.rand(shape, generator=draw, device=draw.device)
        return self._patches((self._angle(draw) + phase).sin(), draw)

    def ask(self, facts: Tensor, place: int, draw: torch.Generator) -> Asked:
        """Announce the last season by a ramp; what is wanted is that season."""
        del place
        ramp = torch.linspace(-2.0, 2.0, self.settings.patch, device=facts.device)
        mark = ramp.expand(len(facts), 1, self.settings.facts, -1)
        sign = (2.0 * facts - 1.0)[..., None]
        return self._patches(mark, draw), sign * self._angle(draw).sin()

    def remind(self, facts: Tensor, count: int, place: int, draw: torch.Generator) -> Asked:
        """Ask for nothing: which channel is meant is plain."""
        nothing = torch.zeros(len(facts), count, dtype=torch.bool, device=facts.device)
        return self.pass_by(len(facts), count, place, draw), nothing

    def reminded(self, predicted: Tensor, tokens: Tensor, where: Tensor) -> Tensor | float:
        """Return nought."""
        del predicted, tokens, where
        return 0.0

    def join(self, parts: list[Tensor]) -> Tensor:
        """Return patches one after the other."""
        return torch.cat(parts, 1)

    def judge(self, predicted: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Return the squared error of the last season, and which phases were right."""
        forecast = predicted[:, -1].float().unflatten(1, wanted.shape[1:])
        return F.mse_loss(forecast, wanted), (forecast * wanted).sum(2) > 0

    def _angle(self, draw: torch.Generator) -> Tensor:
        step = torch.arange(self.settings.patch, device=draw.device)
        return 2 * torch.pi * step / self.settings.patch

    def _patches(self, x: Tensor, draw: torch.Generator) -> Tensor:
        noise = torch.randn(x.shape, generator=draw, device=draw.device)
        return (x + NOISE * noise).flatten(2)


def balanced(rows: int, count: int, draw: torch.Generator) -> Tensor:
    """Return facts of which each is true in half of the rows: to answer alike is to be half right.

    An odd row more is drawn as it comes.
    """
    facts, half = _whole(2, (rows, count), draw), rows // 2
    facts[half : 2 * half] = 1 - facts[:half]
    return facts


def _whole(high: int, shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    return torch.randint(0, high, shape, generator=draw, device=draw.device)


TASKS: dict[str, type[StudentTask | SeriesTask]] = {"student": StudentTask, "series": SeriesTask}


def sizes(name: str, settings: NeedleSettings) -> dict[str, Any]:
    """Return the settings of a system by the length of a segment.

    Retention's slowest head hardly fades within the longest distance asked, so that what it forgets
    it does not forget by construction.
    """
    segment = settings.segment
    known: dict[str, dict[str, Any]] = {
        "transformer_xl": {"window": segment, "segment": segment},
        "infini_transformer": {"segment": segment},
        "rmt": {"segment": segment, "slots": 10},
        "titans": {"chunk": segment, "window": segment},
        "retnet": {"longest": float(2**settings.farthest)},
    }
    return known.get(name, {})


def measure(settings: NeedleSettings, say: Say, clock: Clock) -> Iterator[Found]:
    """Train and ask every system on every task; yield what is known after each.

    What fails for one system is said of it and leaves the others alone.

    Raises:
        InputError: a system or setting is unknown, or does not fit another.
    """
    if settings.facts >= settings.concepts:
        raise InputError(
            f"facts={settings.facts} and concepts={settings.concepts}; accepted are fewer facts"
            " than concepts"
        )
    for name in settings.systems:
        settings.system(name, **sizes(name, settings))
    jobs: list[Job] = [
        (settings, task, name, clock) for task in settings.tasks for name in settings.systems
    ]
    found: dict[int, list[Row]] = {}
    for number, rows in _worked(jobs, settings.processes):
        found[number] = rows
        say(_sentence(rows))
        clock.stopped |= any(row["left_out"] == LATE for row in rows)
        yield shown(settings, [row for number in sorted(found) for row in found[number]])


def _worked(jobs: list[Job], processes: int) -> Iterator[tuple[int, list[Row]]]:
    """Yield the number of each job and what it found, in the order in which they end."""
    if processes == 1:
        yield from enumerate(map(_one, jobs))
        return
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        numbers = {pool.submit(_one, job): number for number, job in enumerate(jobs)}
        for done in as_completed(numbers):
            number = numbers[done]
            try:
                rows = done.result()
            except BrokenProcessPool:
                rows = [_named(jobs[number]) | {"left_out": "the end of its process"}]
            yield number, rows


def _named(job: Job) -> Row:
    return {"task": job[1], "system": job[2], "left_out": ""}


def _one(job: Job) -> list[Row]:
    """Train and ask one system on one task; where that fails, say so after what it found."""
    settings, _, _, clock = job
    found: list[Row] = []
    try:
        if not clock.over():
            bound(settings)
            found.extend(_rows(job))
    except torch.OutOfMemoryError:
        found.append(_named(job) | {"left_out": "want of memory"})
    except Exception as error:  # noqa: BLE001 - one system does not take the others along
        said = str(error).partition("\n")[0]
        found.append(_named(job) | {"left_out": f"{type(error).__name__}: {said}"})
    if clock.stopped:
        found.append(_named(job) | {"left_out": LATE})
    # Memory that a process that waits for others still held would be wanting to them.
    released(settings.device)
    return found


def _rows(job: Job) -> Iterator[Row]:
    settings, chosen, name, clock = job
    task = TASKS[chosen](settings)
    torch.manual_seed(settings.seed)
    model = task.model(name, settings).to(settings.device)
    base = _named(job) | train(model, task, settings, clock)
    released(settings.device)
    for row in asked(model, task, name, settings, clock):
        yield base | row


def bound(settings: NeedleSettings) -> None:
    """Keep this process to its share of the device's memory."""
    device = torch.device(settings.device)
    if device.type == "cuda" and settings.processes > 1:
        torch.cuda.set_per_process_memory_fraction(SHARED / settings.processes, device.index)


def released(device: str) -> None:
    """Give back what torch's allocator keeps for later."""
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()


@without_cudnn_attention()
def train(model: nn.Module, task: Task, settings: NeedleSettings, clock: Clock) -> Row:
    """Train over growing distances; return how far it came and how well it knew that.

    What the clock leaves is halved between this and asking.
    """
    most = min(settings.training_seconds, clock.left() / 2)
    draw = torch.Generator(settings.device).manual_seed(settings.seed)
    lengths = torch.Generator().manual_seed(settings.seed)
    rate = settings.learning_rate
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.01, fused=True)
    began, stage, done = time.perf_counter(), 0, 0
    sure = torch.full((), CHANCE, device=settings.device)
    model.train()
    for done in range(1, settings.passes + 1):
        elapsed = time.perf_counter() - began
        share = max(done / settings.passes, elapsed / most)
        fall = min(1.0, 3 * max(0.0, 1 - share) + LEAST_RATE)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, done / WARM_UP) * fall
        longest = int(settings.stages[stage] * settings.segment)
        between = int(torch.randint(0, longest + 1, (), generator=lengths))
        begin, facts = task.tell(settings.rows, draw)
        place = settings.facts
        where = None
        if stage == 0:
            passed, where = task.remind(facts, between, place, draw)
        else:
            passed = task.pass_by(settings.rows, between, place, draw)
        question, wanted = task.ask(facts, place + between, draw)
        tokens = task.join([begin, passed, question])
        with computed_in(settings.device, settings.precision):
            predicted, _ = model(tokens)
        loss, right = task.judge(predicted, wanted)
        if where is not None:
            loss = loss + task.reminded(predicted, tokens, where)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        sure = LATEST * sure + (1 - LATEST) * right.float().mean()
        if done % LOOK:
            continue
        if stage + 1 < len(settings.stages) and float(sure) > SURE:
            stage, sure = stage + 1, torch.full_like(sure, CHANCE)
        if time.perf_counter() - began > most:
            break
    return {
        "passes": done,
        "trained_seconds": time.perf_counter() - began,
        "trained_steps": int(settings.stages[stage] * settings.segment) * task.stride,
        "trained_share": float(sure),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


@torch.no_grad()
def asked(
    model: Any,  # noqa: ANN401
    task: Task,
    name: str,
    settings: NeedleSettings,
    clock: Clock,
) -> Iterator[Row]:
    """Stream one history and ask at every distance; yield a row for each until the clock is over.

    Raises:
        torch.OutOfMemoryError: memory does not hold the shortest piece of the stream.
    """
    draw = torch.Generator(settings.device).manual_seed(settings.seed + 1)
    model.eval()
    cuda = torch.device(settings.device).type == "cuda"
    begin, facts = task.tell(settings.asked, draw)
    _, state = model(begin, model.init_state(settings.asked))
    last = min(settings.within, settings.farthest) if name == "gpt" else settings.farthest
    behind, longest = 0, settings.piece
    for power in range(FIRST_DISTANCE, last + 1):
        tokens = 2**power // task.stride
        if tokens == behind:
            continue
        if cuda:
            torch.cuda.reset_peak_memory_stats(settings.device)
        finish(settings.device)
        began, read = time.perf_counter(), tokens - behind
        while behind < tokens:
            if clock.over():
                return
            count = min(longest, tokens - behind)
            drawn = draw.get_state()
            piece = task.pass_by(settings.asked, count, settings.facts + behind, draw)
            after = _after(model, piece, state, last=count <= LEAST_PIECE)
            if after is None:
                released(settings.device)
                longest = count // 2
                draw.set_state(drawn)
                continue
            state, behind = after, behind + count
        finish(settings.device)
        seconds = time.perf_counter() - began
        question, wanted = task.ask(facts, settings.facts + behind, draw)
        predicted, _ = model(question, state)
        _, right = task.judge(predicted, wanted)
        known, count = int(right.sum()), right.numel()
        low, high = wilson(known, count)
        yield {
            "distance": tokens * task.stride,
            "right": known,
            "asked": count,
            "accuracy": known / count,
            "low": low,
            "high": high,
            "piece": longest,
            "seconds": seconds,
            "seconds_a_step": seconds / (read * task.stride),
            "state_bytes": bytes_of(state) // settings.asked,
            "peak_bytes": torch.cuda.max_memory_allocated(settings.device) if cuda else None,
        }


def _after(model: Any, piece: Any, state: Any, *, last: bool) -> Any:  # noqa: ANN401
    """Return the state after a piece; None where memory ran out and a shorter one may do.

    Raises:
        torch.OutOfMemoryError: memory ran out, and the piece is not to be halved.
    """
    try:
        return model(piece, state)[1]
    except torch.OutOfMemoryError:
        if last:
            raise
        return None


def _sentence(rows: list[Row]) -> str:
    first, last = rows[0], rows[-1]
    if last["left_out"]:
        return _unmeasured(last)
    return (
        f"{first['task']}, {first['system']}: trained to {first['trained_steps']:,} steps"
        f" ({first['passes']:,} passes, {first['trained_share']:.0%} right); "
        f"{first['accuracy']:.0%} right after {first['distance']:,} steps,"
        f" {last['accuracy']:.0%} after {last['distance']:,}"
    )


def _unmeasured(row: Row) -> str:
    return f"{row['task']}, {row['system']}: not all was measured, because of {row['left_out']}"


def reach(rows: list[Row]) -> int:
    """Return the longest distance up to which every interval lies above chance."""
    found = 0
    for row in sorted(rows, key=lambda row: row["distance"]):
        if row["low"] <= CHANCE:
            break
        found = row["distance"]
    return found


def shown(settings: NeedleSettings, rows: list[Row]) -> Found:
    """Return reaches, tables and charts of what was measured."""
    by: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if not row["left_out"]:
            by.setdefault((row["task"], row["system"]), []).append(row)
    tasks = [task for task in settings.tasks if any(task == of for of, _ in by)]
    answers = []
    for task in tasks:
        far = {name: reach(found) for (of, name), found in by.items() if of == task}
        told = sorted(far.items(), key=lambda pair: -pair[1])
        words_ = words.listed(f"{name} {distance:,}" for name, distance in told)
        answers.append(f"Steps of a {task} over which more than chance is remembered: {words_}.")
    answers += [f"{_unmeasured(row)}." for row in rows if row["left_out"]]
    halved = {row["system"] for row in rows if row.get("piece", settings.piece) < settings.piece}
    return Found(
        answers=tuple(answers),
        how=(
            f"{settings.layers} layer(s) of width {settings.width}; trained with AdamW for at most"
            f" {settings.passes:,} passes of {settings.rows} sequences or"
            f" {settings.training_seconds:g} seconds, the distance growing to"
            f" {int(settings.stages[-1] * settings.segment)} tokens; in the first stage a student's"
            f" facts are asked on the way too; seed {settings.seed}.",
            f"Asked in one stream of {settings.asked} histories with carried state,"
            f" {settings.piece:,} tokens at a time"
            + (f", fewer for want of memory with {words.listed(sorted(halved))}" if halved else "")
            + f"; {settings.facts} facts a history; intervals at"
            " 95 % (Wilson).",
            "A reach is the longest distance up to which no interval holds chance.",
            "Times are of streams that may have run side by side: they show growth, not speed."
            if settings.processes > 1
            else "Times are of one stream at a time.",
            f"What keeps all keys and values is asked up to {2**settings.within:,} steps.",
        ),
        tables=tuple(_table(task, settings, by) for task in tasks),
        charts=tuple(chart for task in tasks for chart in _charts(task, settings, by)),
        rows=tuple(rows),
    )


def _of(task: str, settings: NeedleSettings, by: dict[tuple[str, str], list[Row]]) -> list[str]:
    return [name for name in settings.systems if (task, name) in by]


def _table(task: str, settings: NeedleSettings, by: dict[tuple[str, str], list[Row]]) -> Table:
    found = []
    for name in _of(task, settings, by):
        rows = by[task, name]
        x = [row["distance"] for row in rows]
        total, sums = 0.0, []
        for row in rows:
            total += row["seconds"]
            sums.append(total)
        half = len(rows) // 2
        found.append(
            (
                name,
                words.steps(rows[0]["trained_steps"]),
                words.steps(reach(rows)),
                f"{rows[-1]['accuracy']:.3f} [{rows[-1]['low']:.3f}, {rows[-1]['high']:.3f}]",
                words.steps(x[-1]),
                words.number(slope(x[half:], sums[half:])),
                words.size(rows[-1]["state_bytes"]),
                words.number(rows[-1]["state_bytes"] / rows[half]["state_bytes"], 3),
            )
        )
    return Table(
        title=f"Needles in the history of a {task}",
        header=(
            "system",
            "trained to",
            "reach",
            "right at the end",
            "asked up to",
            "exponent of time",
            "state",
            "of that halfway",
        ),
        rows=tuple(found),
    )


def _charts(
    task: str, settings: NeedleSettings, by: dict[tuple[str, str], list[Row]]
) -> Iterator[Chart]:
    kinds = (
        ("accuracy", "What is still known", "share of facts right", False),
        ("seconds_a_step", "Time of a streamed step", "seconds a step", True),
        ("peak_bytes", "Peak memory of the stream", "bytes", True),
    )
    for what, title, y, log in kinds:
        if any(row[what] is None for rows in by.values() for row in rows):
            continue
        yield Chart(
            name=f"{task}_{what}",
            title=f"{title}: {task}",
            caption="The dashed line is chance."
            if what == "accuracy"
            else "What is level costs the same after any history.",
            x="steps between a fact and its question",
            y=y,
            log=log,
            level=CHANCE if what == "accuracy" else float("nan"),
            lines=tuple(
                line(
                    name=name,
                    x=tuple(row["distance"] for row in by[task, name]),
                    y=tuple(row[what] for row in by[task, name]),
                    low=tuple(row["low"] for row in by[task, name]) if what == "accuracy" else (),
                    high=tuple(row["high"] for row in by[task, name]) if what == "accuracy" else (),
                )
                for name in _of(task, settings, by)
            ),
        )


STUDY = Study(
    question="How long is an answer remembered?",
    settings=NeedleSettings,
    full={
        "width": 64,
        "segment": 64,
        "stages": (0.25, 1.0, 2.0, 3.0, 5.0, 7.0),
        "rows": 128,
        "passes": 3000,
        "training_seconds": 55.0,
        "farthest": 20,
        "asked": 64,
        "piece": 2048,
        "within": 14,
        "processes": 16,
    },
    run=measure,
)
