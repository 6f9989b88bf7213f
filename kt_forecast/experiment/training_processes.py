"""Recipes trained several at once, each in a process of its own that takes no other with it."""

import json
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from kt_forecast.config import Config
from kt_forecast.errors import InputError
from kt_forecast.experiment.running import Say, put
from kt_forecast.experiment.which import AnyRecipe, parse_recipe, run

LOGS = "compare"
"""Folder of what the processes say, among the runs."""

WORKER = "kt_forecast.experiment.training_worker"
POLL_SECONDS = 0.1


class Job(Config):
    """What a process is told.

    Attributes:
        task: of the recipe.
        recipe: plain values.
        runs: folder of the runs.
        device: where it computes.
    """

    task: str
    recipe: dict[str, Any]
    runs: str
    device: str


@dataclass(frozen=True)
class Ended:
    """A process that came to its end.

    Attributes:
        number: of the recipe.
        folder: of the run; None where there is none.
        why: what it said last, where there is no run.
        seconds: it took.
    """

    number: int
    folder: Path | None
    why: str
    seconds: float


@dataclass
class _Working:
    number: int
    process: "subprocess.Popen[bytes]"
    spec: Path
    began: float

    def ended(self) -> Ended:
        """Return how it ended.

        Raises:
            OSError: what it left cannot be read.
        """
        seconds = time.monotonic() - self.began
        left = self.spec.with_suffix(".run")
        if self.process.returncode == 0 and left.is_file():
            return Ended(self.number, Path(left.read_text(encoding="utf-8")), "", seconds)
        return Ended(self.number, None, self._last_words(), seconds)

    def _last_words(self) -> str:
        log = self.spec.with_suffix(".log")
        if self.process.returncode < 0:
            return f"ended by signal {-self.process.returncode}; see {log}"
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else f"ended with code {self.process.returncode}, without a word"


def train_each(
    recipes: Sequence[AnyRecipe], *, workers: int, runs: Path, device: str, say: Say
) -> Iterator[Ended]:
    """Train recipes, ``workers`` of them at once, and yield each as it ends.

    Args:
        recipes: each of one run.
        workers: processes at once; they share the threads, and the GPUs one after the other.
        runs: folder of the runs.
        device: a torch device, or ``auto``.
        say: told where the processes write.

    Yields:
        The end of each process, the first one first.
    """
    folder = runs / LOGS
    folder.mkdir(parents=True, exist_ok=True)
    say(f"{min(workers, len(recipes))} at once; what they say goes to {folder}")
    seats = [_seat(number, workers, device) for number in range(workers)]
    waiting = list(enumerate(recipes))[::-1]
    at_work: dict[int, _Working] = {}
    try:
        while waiting or at_work:
            for seat in range(workers):
                if waiting and seat not in at_work:
                    number, recipe = waiting.pop()
                    at_work[seat] = _started(number, recipe, folder, runs, device, seats[seat])
            over = [seat for seat, one in at_work.items() if one.process.poll() is not None]
            for seat in over:
                yield at_work.pop(seat).ended()
            if not over:
                time.sleep(POLL_SECONDS)
    finally:
        for one in at_work.values():
            one.process.terminate()
        for one in at_work.values():
            one.process.wait()


def work_on(spec: Path) -> None:
    """Train what a specification asks for, and write where the run is beside it.

    Raises:
        InputError: a setting or the table cannot be used.
    """
    job = Job.parse(json.loads(spec.read_text(encoding="utf-8")), str(spec))
    recipe = parse_recipe(job.recipe, job.task, str(spec))
    found = run(recipe, runs=Path(job.runs), device=job.device)
    if found is None:
        raise InputError(f"{spec}: this process is one of several; accepted is one of its own")
    put(spec.with_suffix(".run"), str(found.folder))


def _started(
    number: int,
    recipe: AnyRecipe,
    folder: Path,
    runs: Path,
    device: str,
    seat: dict[str, str],
) -> _Working:
    spec = folder / f"{os.getpid()}-{number}-{recipe.title()}.json"
    plain = tomllib.loads(recipe.to_toml())
    job = Job(task=recipe.task, recipe=plain, runs=str(runs), device=device)
    put(spec, job.model_dump_json())
    command = [sys.executable, "-m", WORKER, str(spec), str(os.getpid())]
    log: IO[bytes]
    with spec.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603
            command, stdout=log, stderr=log, env={**os.environ, **seat}
        )
    return _Working(number, process, spec, time.monotonic())


def _seat(number: int, workers: int, device: str) -> dict[str, str]:
    """Return what a process finds in its environment: a share of the threads, one of the GPUs."""
    import torch

    share = str(max(1, torch.get_num_threads() // workers))
    seat = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", share)}
    gpus = torch.cuda.device_count() if device in {"auto", "cuda"} else 0
    if gpus > 1:
        named = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus))))
        seat["CUDA_VISIBLE_DEVICES"] = named.split(",")[number % gpus]
    return seat
