"""Systems by data set: the same test rows, paired differences, cost, and what the audits say."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from kt_forecast.errors import InputError
from kt_forecast.experiment.board import Board
from kt_forecast.experiment.board_rows import Failure
from kt_forecast.experiment.entrants import Asked, Gathered, gather
from kt_forecast.experiment.ranking import grouped, joined
from kt_forecast.experiment.running import Say
from kt_forecast.experiment.scoring import Bench, Scored, kept
from kt_forecast.experiment.training_processes import (
    Clock,
    Task,
    heard,
    in_turn,
    make_each,
    put_back,
    set_aside,
)
from kt_forecast.experiment.which import run

Watch = Callable[[Board], None]


def compare(  # noqa: PLR0913 - each is an option of the command
    names: Sequence[str],
    *,
    runs: Path,
    systems: Sequence[str] = (),
    sets: Sequence[str] = (),
    workers: int = 1,
    hours: float | None = None,
    device: str = "auto",
    say: Say = print,
    watch: Watch | None = None,
) -> Board:
    """Score runs, each system of a data set on the same test rows.

    With systems, several workers or hours, runs are made and scored in processes of their own, and
    what fails is said on the board; else the first failure ends it all. There, SIGINT and SIGTERM
    end it as the hours do: what trains ends with its best epoch so far, and is scored.

    Args:
        names: runs, or recipes; a recipe is trained where no run of the same settings is here. Or
            boards that ``--json`` has written, which are put on one, of several data sets or of
            other systems on the same rows.
        runs: folder of the runs.
        systems: words of the catalogue, or ``all``: each is trained under every recipe.
        sets: keys of the recipes to replace, each as ``a.b=c``.
        workers: processes at once.
        hours: that all may take, scoring too; None for as many as it takes.
        device: a torch device, or ``auto``.
        say: told what happens.
        watch: shown the board whenever it has grown.

    Raises:
        InputError: there is no such run, recipe or system; a table is not the one that a run was
            made of; the hours are none; or nothing is left to compare.
        RuntimeError: a model cannot be scored, and nothing else is to go on.
    """
    clock = Clock.of(hours)
    stored = [name for name in names if name.endswith(".json")]
    if stored:
        if len(stored) < len(names) or systems or sets:
            raise InputError(
                f"{stored[0]} is a finished board; accepted beside it are other boards only"
            )
        return joined([Board.read(Path(name)) for name in stored])
    asked = Asked(names, systems, sets, workers, hours)
    told = gather(asked, runs=runs)
    found: dict[int, Scored] = {}
    if asked.goes_on:
        with heard(clock, say):
            for _ in _in_processes(told, found, asked, runs, device, clock, say):
                if watch is not None and found:
                    watch(_board(told, found, unfinished=True))
    else:
        bench = Bench(runs, device, say)
        for number, one in enumerate(told.entrants):
            made = one.run
            if one.recipe is not None:
                made = run(one.recipe, runs=runs, device=device, say=say, station=bench.station)
            if made is not None:
                found[number] = bench.score(made)
    if not found:
        why = "; ".join(f"{one.system}: {one.why}" for one in told.failed)
        raise InputError(f"nothing is left to compare ({why})")
    return _board(told, found)


def _in_processes(
    told: Gathered,
    found: dict[int, Scored],
    asked: Asked,
    runs: Path,
    device: str,
    clock: Clock,
    say: Say,
) -> Iterator[None]:
    """Fill in what is scored and what failed, and yield whenever either has grown."""
    tasks = _tasks(told, found, runs)
    at_once = min(asked.workers, sum(one.recipe is not None for one in tasks))
    if at_once > 1:
        told.notes.append(
            f"{at_once} trainings ran at once: seconds and milliseconds are those of a busy machine"
        )
    if not tasks:
        return
    ended = make_each(
        in_turn(tasks), workers=asked.workers, runs=runs, device=device, clock=clock, say=say
    )
    for done, end in enumerate(ended, start=1):
        number, title = end.task.number, end.task.title
        if end.scored is not None:
            found[number] = end.scored
        elif end.task.run is not None:
            put_back(set_aside(runs) / end.task.run.name, runs)
        if end.scored is None and number not in found:
            told.failed.append(Failure(told.entrants[number].system, title, end.why))
        did = "scored" if end.task.recipe is None else "trained and scored"
        how = end.why or f"{did} in {end.seconds:.0f} s"
        say(f"{title}: {how} ({done} of {len(tasks)})")
        yield


def _tasks(told: Gathered, found: dict[int, Scored], runs: Path) -> list[Task]:
    """Return what is to be done, and fill in what was found before."""
    tasks = []
    for number, one in enumerate(told.entrants):
        folder = None if one.run is None else one.run.folder
        if one.run is not None:
            if (before := kept(one.run, runs)) is not None:
                found[number] = before
            else:
                tasks.append(Task(number, one.title, one.kin, run=folder))
        if one.recipe is not None:
            tasks.append(Task(number, one.title, one.kin, one.recipe, folder))
    return tasks


def _board(told: Gathered, found: dict[int, Scored], *, unfinished: bool = False) -> Board:
    """Return what was scored so far, in the order in which it was asked for."""
    made = grouped((found[number].place, found[number].rows) for number in sorted(found))
    notes = list(told.notes)
    if unfinished:
        notes.insert(0, f"unfinished: {len(found)} of {len(told.entrants)} runs are here")
    return Board(made, tuple(told.failed), tuple(notes))
