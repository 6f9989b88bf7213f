"""Runs made and scored several at once, in processes that each take one after another."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import current_thread, main_thread
from types import FrameType
from typing import IO, Any

from kt_forecast.config import Config
from kt_forecast.errors import InputError
from kt_forecast.experiment.running import Say, put
from kt_forecast.experiment.scoring import Scored
from kt_forecast.experiment.stored import RUNS
from kt_forecast.experiment.which import AnyRecipe

LOGS = "compare"
"""Folder of what the processes say, among the runs."""

WORKER = "kt_forecast.experiment.training_worker"
POLL_SECONDS = 0.05
SECONDS_AN_HOUR = 3600

ASIDE = "early"
"""Folder, beside the logs, of runs that were ended early while they go on."""

RESERVED = 0.3
"""Share of the time that is kept for scoring until a run has shown how long that takes."""

MOST_RESERVED = 0.5
SLACK = 1.5
"""Times the longest scoring so far: all that train are scored at once when the time ends."""

NOT_BEGUN = "the time ended before it began; the same command trains it"
NOT_SCORED = "the time ended before it was scored; the same command goes on with it"
NO_EPOCH = "the time ended in its first epoch; the same command goes on with it"


class Job(Config):
    """What a process is told.

    Attributes:
        task: of the recipe.
        recipe: plain values; None where a run is only scored.
        run: folder of the run that is scored, or of the one that was ended early and goes on.
        runs: folder of the runs.
        device: where it computes.
    """

    task: str = ""
    recipe: dict[str, Any] | None = None
    run: str | None = None
    runs: str
    device: str


@dataclass(frozen=True)
class Task:
    """One run to be made and scored.

    Attributes:
        number: of what was asked for.
        title: of the run.
        kin: equal for what shares table and baselines.
        recipe: to train; None where the run is here.
        run: folder of the run that is here; with a recipe, of one that was ended early.
    """

    number: int
    title: str
    kin: int
    recipe: AnyRecipe | None = None
    run: Path | None = None


@dataclass(frozen=True)
class Ended:
    """A task that came to its end.

    Attributes:
        task: the task.
        scored: what was found; None where nothing was.
        folder: of the run; None where there is none.
        why: there is nothing, in a sentence.
        seconds: it took.
    """

    task: Task
    scored: Scored | None
    folder: Path | None
    why: str
    seconds: float


@dataclass
class Clock:
    """When trainings are asked to end, and when all is over.

    Attributes:
        seconds: that all may take; None for as many as it takes.
        began: by `time.monotonic`.
        interrupted: whether somebody asked for the end.
    """

    seconds: float | None = None
    began: float = field(default_factory=time.monotonic)
    interrupted: bool = False
    _longest: float | None = None

    @classmethod
    def of(cls, hours: float | None) -> "Clock":
        """Return the clock of work that begins now.

        Raises:
            InputError: the hours are none.
        """
        if hours is not None and not hours > 0:
            raise InputError(f"hours is {hours:g}; accepted are numbers above 0, such as 0.5")
        return cls(None if hours is None else SECONDS_AN_HOUR * hours)

    def took(self, closing: float) -> None:
        """Note the seconds from the end of a training to its scores."""
        self._longest = max(closing, self._longest or 0.0)

    @property
    def reserved(self) -> float:
        """Seconds kept for scoring what trains when the time ends."""
        whole = self.seconds or 0.0
        wanted = RESERVED * whole if self._longest is None else SLACK * self._longest
        return min(wanted, MOST_RESERVED * whole)

    @property
    def is_late(self) -> bool:
        """Whether trainings shall end."""
        return self.interrupted or self._left() <= self.reserved

    @property
    def is_over(self) -> bool:
        """Whether nothing more is waited for."""
        return self._left() <= 0

    def _left(self) -> float:
        if self.seconds is None:
            return float("inf")
        return self.began + self.seconds - time.monotonic()


@contextmanager
def heard(clock: Clock, say: Say) -> Iterator[None]:
    """Let SIGINT and SIGTERM ask for the end; the second time they end this process as ever.

    A thread that is not the first one hears no signals, and leaves them as they are.
    """

    def ask(number: int, frame: FrameType | None) -> None:
        del frame
        if clock.interrupted:
            raise KeyboardInterrupt
        clock.interrupted = True
        say(f"{signal.Signals(number).name}: scoring what is there; once more ends at once")

    is_first = current_thread() is main_thread()
    asking = (signal.SIGINT, signal.SIGTERM) if is_first else ()
    before = {number: signal.signal(number, ask) for number in asking}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@dataclass
class Worker:
    """A process that takes tasks one after the other.

    Attributes:
        process: it.
        log: what it says before its first task.
        task: what it works on; None while it waits.
        spec: what it was told.
        began: the task, by `time.monotonic`.
        kin: what it has tables and baselines of.
    """

    process: "subprocess.Popen[str]"
    log: Path
    task: Task | None = None
    spec: Path = Path()
    began: float = 0.0
    kin: set[int] = field(default_factory=set)

    @classmethod
    def started(cls, seat: dict[str, str], log: Path) -> "Worker":
        """Start a process."""
        command = [sys.executable, "-m", WORKER, str(os.getpid())]
        env = seat | {**os.environ, **{k: v for k, v in seat.items() if k == VISIBLE}}
        with log.open("wb") as said:
            process = subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.PIPE, stdout=said, stderr=said, env=env, text=True
            )
        return cls(process, log)

    def give(self, task: Task, runs: Path, device: str) -> None:
        """Tell it what to do."""
        plain = None if task.recipe is None else tomllib.loads(task.recipe.to_toml())
        job = Job(
            task=task.recipe.task if task.recipe is not None else "",
            recipe=plain,
            run=None if task.run is None else str(task.run),
            runs=str(runs),
            device=device,
        )
        self.task, self.began = task, time.monotonic()
        self.kin.add(task.kin)
        what = "score" if task.recipe is None else "train"
        self.spec = runs / LOGS / f"{os.getpid()}-{task.number}-{what}-{task.title}.json"
        put(self.spec, job.model_dump_json())
        assert self.process.stdin is not None  # noqa: S101 - it was asked for
        with suppress(BrokenPipeError):
            self.process.stdin.write(f"{self.spec}\n")
            self.process.stdin.flush()

    def ended(self, clock: Clock) -> Ended | None:
        """Return how its task ended; None while it works."""
        if self.task is None:
            return None
        done, seconds = self.spec.with_suffix(".done"), time.monotonic() - self.began
        gone = self.process.poll() is not None
        if not done.is_file():
            if not gone:
                return None
            task, self.task = self.task, None
            why = NO_EPOCH if clock.is_late else self._last_words()
            return Ended(task, None, None, why, seconds)
        task, self.task = self.task, None
        plain = json.loads(done.read_text(encoding="utf-8"))
        if plain["closing"] is not None:
            clock.took(plain["closing"])
        scored = None if plain["scored"] is None else Scored.read(plain["scored"])
        folder = None if plain["folder"] is None else Path(plain["folder"])
        if plain["broken"]:
            self.process.wait()
        return Ended(task, scored, folder, plain["why"], seconds)

    def ask_to_end(self) -> None:
        """Let its training end with the best epoch so far."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def _last_words(self) -> str:
        own = self.spec.with_suffix(".log")
        log, code = own if own.is_file() else self.log, self.process.returncode
        if code < 0:
            return f"ended by signal {-code}; see {log}"
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else f"ended with code {code}, without a word"


def make_each(
    tasks: Sequence[Task], *, workers: int, runs: Path, device: str, clock: Clock, say: Say
) -> Iterator[Ended]:
    """Make and score runs, ``workers`` of them at once, and yield each as it ends.

    Tasks are begun in their order, but for a process that prefers, among the next ones of each
    kin, one whose table and baselines it has.

    Args:
        tasks: the first ones begin first.
        workers: processes at once; they share the threads, and the GPUs one after the other.
        runs: folder of the runs.
        device: a torch device, or ``auto``.
        clock: when trainings are asked to end with the best epoch so far, and all is over.
        say: told where the processes write.

    Yields:
        The end of each task, the first one first.
    """
    folder = runs / LOGS
    folder.mkdir(parents=True, exist_ok=True)
    count = min(workers, len(tasks))
    say(f"{count} at once; what they say goes to {folder}")
    seats = [seat(number, workers, device) for number in range(count)]
    crew: list[Worker | None] = [None] * count
    waiting, asked = list(tasks), False
    try:
        while waiting or any(one is not None and one.task is not None for one in crew):
            if clock.is_late and not asked:
                asked = True
                left_out = [one for one in waiting if one.recipe is not None]
                waiting = [one for one in waiting if one.recipe is None]
                yield from (Ended(one, None, None, NOT_BEGUN, 0.0) for one in left_out)
                for one in crew:
                    if one is not None and one.task is not None and one.task.recipe is not None:
                        one.ask_to_end()
            if clock.is_over:
                unscored = [one.task for one in crew if one is not None and one.task is not None]
                _dismiss(crew)
                yield from (Ended(one, None, None, NOT_SCORED, 0.0) for one in unscored + waiting)
                break
            for number in range(count):
                if waiting and ((one := crew[number]) is None or one.task is None):
                    crew[number] = one = _ready(one, seats[number], folder / _log(number))
                    one.give(_next(waiting, one.kin), runs, device)
            found = [end for one in crew if one is not None and (end := one.ended(clock))]
            yield from found
            if not found:
                time.sleep(POLL_SECONDS)
    finally:
        _dismiss(crew)


def in_turn(tasks: Sequence[Task]) -> list[Task]:
    """Return tasks in the order in which they begin, so that every data set has rows early.

    What is only to be scored comes first; then the first system under every recipe, the second
    under every recipe, and so on.
    """
    place: dict[int, int] = {}
    turns = []
    for one in tasks:
        place[one.kin] = turn = place.get(one.kin, -1) + 1
        turns.append((one.recipe is not None, turn, one.kin))
    return [tasks[i] for i in sorted(range(len(tasks)), key=turns.__getitem__)]


def _next(waiting: list[Task], known: set[int]) -> Task:
    """Take what is next: the first task, or one of known kin before another of the first's kin."""
    chosen = 0
    for i, one in enumerate(waiting):
        if i and one.kin == waiting[0].kin:
            break
        if one.kin in known:
            chosen = i
            break
    return waiting.pop(chosen)


def _ready(one: Worker | None, seat: dict[str, str], log: Path) -> Worker:
    """Return a process that lives."""
    if one is not None and one.process.poll() is None:
        return one
    _dismiss([one])
    return Worker.started(seat, log)


def _log(number: int) -> str:
    return f"{os.getpid()}-worker-{number}.log"


def _dismiss(crew: Sequence[Worker | None]) -> None:
    """End processes, which leave nothing half-written, and close what led to them."""
    here = [one for one in crew if one is not None]
    for one in here:
        one.process.kill()
    for one in here:
        one.process.wait()
        stdin: IO[str] | None = one.process.stdin
        if stdin is not None:
            with suppress(BrokenPipeError):
                stdin.close()


def set_aside(runs: Path) -> Path:
    """Return the folder of runs that were ended early while they go on."""
    return runs / LOGS / ASIDE


def put_back(away: Path, runs: Path) -> None:
    """Put a run back that was set aside, or drop it where the one that went on has its place."""
    if not away.exists():
        return
    home = runs / RUNS / away.name
    if home.exists():
        shutil.rmtree(away)
    else:
        away.replace(home)


VISIBLE = "CUDA_VISIBLE_DEVICES"
THREADS = ("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "TORCHINDUCTOR_COMPILE_THREADS")
"""What a process would else take all cores by."""


def seat(number: int, workers: int, device: str) -> dict[str, str]:
    """Return the environment of a process: a share of the threads, and one of the GPUs.

    Args:
        number: of the process; the GPUs that this one sees are given out one after the other.
        workers: processes at once.
        device: a torch device, or ``auto``.
    """
    import torch

    share = str(max(1, torch.get_num_threads() // workers))
    found = dict.fromkeys(THREADS, share) | {"OMP_WAIT_POLICY": "PASSIVE"}
    gpus = torch.cuda.device_count() if device in {"auto", "cuda"} else 0
    if gpus > 1:
        named = os.environ.get(VISIBLE, ",".join(map(str, range(gpus))))
        found[VISIBLE] = named.split(",")[number % gpus]
    return found
