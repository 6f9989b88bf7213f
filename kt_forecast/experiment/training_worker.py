"""A process that makes and scores runs; ``python -m kt_forecast.experiment.training_worker PID``.

It reads the path of one specification a line, and writes what came of it beside it, as ``.done``.
"""

import gc
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from threading import Event, Thread
from typing import Any

from kt_forecast.errors import InputError, TimeUpError
from kt_forecast.experiment.running import put
from kt_forecast.experiment.scoring import Bench
from kt_forecast.experiment.station import Station
from kt_forecast.experiment.stored import ForecastRun, Run, find
from kt_forecast.experiment.training_processes import NO_EPOCH, Job, put_back, set_aside
from kt_forecast.experiment.which import parse_recipe, run

WATCH_SECONDS = 1.0
CLEAR_PEAK = "5"
"""What Linux takes as: forget the most memory that this process has held."""


def main() -> None:
    """Work until there is no more to do, or the process that asked for it has ended."""
    asked = Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    Thread(target=_watch, args=(int(sys.argv[1]),), daemon=True).start()
    station = Station(ends=asked.is_set, pages=False)
    for line in iter(sys.stdin.readline, ""):
        spec = Path(line.strip())
        _say_to(spec.with_suffix(".log"))
        done = work_on(spec, station)
        put(spec.with_suffix(".done"), json.dumps(done))
        if done["broken"]:
            sys.exit(1)


def work_on(spec: Path, station: Station) -> dict[str, Any]:
    """Make and score the run that a specification asks for, and return what came of it.

    Args:
        spec: the file.
        station: what runs of this process share.

    Returns:
        ``folder`` of the run and what was ``scored``, or ``why`` there is nothing; seconds of
        ``closing``, from the end of the training on; ``broken``, whether this process shall go.
    """
    done: dict[str, Any] = {"folder": None, "scored": None, "why": "", "closing": None}
    done["broken"] = False
    station.trained = None
    _forget()
    try:
        job = Job.parse(json.loads(spec.read_text(encoding="utf-8")), str(spec))
        found = _made(job, str(spec), station)
        done["folder"] = str(found.folder)
        done["scored"] = asdict(Bench(Path(job.runs), job.device, _say, station).score(found))
    except TimeUpError:
        done["why"] = NO_EPOCH
    except InputError as error:
        done["why"] = _sentence(error)
    except Exception as error:  # noqa: BLE001 - whatever fails takes no other run with it
        traceback.print_exc()
        done |= {"why": _sentence(error), "broken": True}
    if station.trained is not None:
        done["closing"] = time.monotonic() - station.trained
    return done


def _made(job: Job, where: str, station: Station) -> Run | ForecastRun:
    """Return the run, trained where it is not here.

    Raises:
        InputError: a setting or the table cannot be used.
    """
    runs, folder = Path(job.runs), None if job.run is None else Path(job.run)
    if job.recipe is None:
        return find(str(folder), runs)
    recipe = parse_recipe(job.recipe, job.task, where)
    with aside(folder, runs):
        found = run(recipe, runs=runs, device=job.device, say=_say, station=station)
    if found is None:
        raise InputError(f"{where}: this process is one of several; accepted is one of its own")
    return found


@contextmanager
def aside(folder: Path | None, runs: Path) -> Iterator[None]:
    """Free the name of a run that was ended early for the one that goes on; else put it back."""
    if folder is None:
        yield
        return
    away = set_aside(runs) / folder.name
    away.parent.mkdir(parents=True, exist_ok=True)
    folder.replace(away)
    try:
        yield
    finally:
        put_back(away, runs)


def _sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    said = lines[0] if lines else ""
    return said if isinstance(error, InputError) else f"{type(error).__name__}: {said}"


def _say(sentence: str) -> None:
    sys.stdout.write(f"{sentence}\n")
    sys.stdout.flush()


def _say_to(log: Path) -> None:
    """Let everything that this process says go to a file from now on."""
    sys.stdout.flush()
    sys.stderr.flush()
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _forget() -> None:
    """Let the run before leave neither memory nor peaks of it to the next one's figures."""
    gc.collect()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text(CLEAR_PEAK, encoding="ascii")
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    # Compiled kernels count against a limit of variants that is meant for one model.
    dynamo: Any = sys.modules.get("torch._dynamo")
    if dynamo is not None:
        dynamo.reset()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main()
