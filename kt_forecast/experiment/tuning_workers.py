"""The processes of a study, each of which any other can replace."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from kt_forecast.config import Config
from kt_forecast.errors import InputError
from kt_forecast.experiment.running import Say, put
from kt_forecast.experiment.tuning_parts import (
    Part,
    Watch,
    close,
    parts_of,
    placed,
    unsaid,
    unseen,
)
from kt_forecast.experiment.which import parse_recipe
from kt_forecast.tuning import (
    Budget,
    Found,
    Search,
    View,
    Viewer,
    collect,
    parent_is_gone,
    search,
    threads,
)

SPEC = "workers.json"
POLL_SECONDS = 0.5


class Work(Config):
    """What a further process is told.

    Attributes:
        task: of the recipe.
        recipe: plain values.
        search: how the studies search.
        systems: what is searched, one after the other.
        runs: folder of the runs.
        device: where it computes.
        deadlines: when the work on each system ends.
        parent: process that started it.
    """

    task: str
    recipe: dict[str, Any]
    search: Search
    systems: tuple[str, ...]
    runs: str
    device: str
    deadlines: tuple[float | None, ...]
    parent: int


def deadlines_of(how: Search, count: int) -> tuple[float | None, ...]:
    """Return when the work on each system ends: the hours are shared equally."""
    last = Budget.of(how).deadline
    if last is None:
        return (None,) * count
    begun = time.time()
    return tuple(begun + (last - begun) * (i + 1) / count for i in range(count))


def alone(parts: Sequence[Part], work: Work, say: Say) -> list[Found]:
    """Search in this process.

    Raises:
        InputError: the only system cannot be searched.
    """
    found = []
    for one, deadline in zip(parts, work.deadlines, strict=True):
        try:
            found.append(search(one.problem, one.search, one.place, Budget(deadline)))
        except InputError as error:
            if len(parts) == 1:
                raise
            say(f"{one.problem.system}: {error}")
            found.append(collect(one.problem, one.search, one.place))
    return found


def together(
    parts: Sequence[Part], work: Work, workers: int, folder: Path, say: Say, watch: Watch
) -> list[Found]:
    """Search in processes of their own, and show how far they are.

    Raises:
        InputError: none of them came to the end.
    """
    spec = folder / SPEC
    put(spec, work.model_dump_json())
    # The first process makes what all share; the others wait for it there.
    viewers = [
        Viewer(one.problem, one.search, one.place, deadline)
        for one, deadline in zip(parts, work.deadlines, strict=True)
    ]
    with ExitStack() as held:
        for viewer in viewers:
            held.callback(viewer.close)
        started = [held.enter_context(_started(spec, number, workers)) for number in range(workers)]
        say(f"{workers} processes search; what they say goes to worker-*.log in {folder}")
        while any(process.poll() is None for process in started):
            for viewer in viewers:
                if (found := viewer.now()) is not None and not _is_over(found):
                    watch(found)
                    break
            time.sleep(POLL_SECONDS)
        codes = [process.returncode for process in started]
    for number, code in enumerate(codes):
        if code:
            say(f"process {number} ended early, with code {code}")
    if all(codes):
        raise InputError(
            f"no process came to the end ({_last_words(folder, 0)}); the same command goes on with"
            " the study"
        )
    return [collect(one.problem, one.search, one.place) for one in parts]


def work_on(spec: Path) -> None:
    """Work on the studies that another process began; it shows them and ends them.

    Args:
        spec: what that process wrote.

    Raises:
        InputError: the only system cannot be searched.
    """
    work = Work.parse(json.loads(spec.read_text(encoding="utf-8")), str(spec))
    base = parse_recipe(work.recipe, work.task, str(spec))
    table, parts = parts_of(base, work.search, list(work.systems), work.device, unsaid)
    parts = placed(parts, base, spec.parent, Path(work.runs), table, unseen)
    orphaned = parent_is_gone(work.parent)
    with ExitStack() as held:
        held.callback(close, parts)
        for one, deadline in zip(parts, work.deadlines, strict=True):
            try:
                search(one.problem, one.search, one.place, Budget(deadline, orphaned))
            except InputError:
                if len(parts) == 1:
                    raise


@contextmanager
def _started(spec: Path, number: int, workers: int) -> Iterator["subprocess.Popen[bytes]"]:
    """Give a process at work, which ends with the block."""
    threads_each = str(max(1, threads() // workers))
    env = {"OMP_NUM_THREADS": threads_each, "OMP_WAIT_POLICY": "PASSIVE"} | dict(os.environ)
    command = [sys.executable, "-m", "kt_forecast.experiment.tuning_worker", str(spec), str(number)]
    with _log(spec.parent, number).open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env)  # noqa: S603
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait()


def _log(folder: Path, number: int) -> Path:
    return folder / f"worker-{number}.log"


def _last_words(folder: Path, number: int) -> str:
    lines = _log(folder, number).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _is_over(one: View) -> bool:
    ended = all(slot.last.ended for slot in one.slots)
    return ended and one.phase == "finalists"
