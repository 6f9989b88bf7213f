"""A study in MLflow: one run for it, and one below it for each trial."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from kt_forecast.errors import InputError
from kt_forecast.tracking import Tracker

STATE = "study.state"


class TrialRecord:
    """What is recorded of one trial; of a study that is not tracked nothing is.

    Args:
        tracker: of the trial's run, if there is one.
    """

    def __init__(self, tracker: Tracker | None = None) -> None:
        self._tracker = tracker

    def epoch(self, epoch: Any) -> None:  # noqa: ANN401
        """Add an epoch to the curves."""
        if self._tracker is not None:
            self._tracker.epoch(epoch)

    def end(self, state: str, reason: str = "", scores: Mapping[str, float] | None = None) -> None:
        """Record how the trial ended."""
        if self._tracker is not None:
            self._tracker.tags({STATE: state} | ({"study.reason": reason} if reason else {}))
            self._tracker.scores(dict(scores or {}))


class Recorder:
    """Records a study in MLflow, whichever of its processes comes first.

    Args:
        experiment: MLflow's group of runs.
        root: folder of the store, see `kt_forecast.tracking.Store`.
        tags: of the study's run: data, split, how it searches.
    """

    def __init__(self, experiment: str, root: Path, tags: Mapping[str, str]) -> None:
        self._experiment = experiment
        self._root = root
        self._tags = tags
        self._open: dict[str, tuple[ExitStack, Tracker]] = {}

    def begin(self, name: str, settings: Mapping[str, Any]) -> str:
        """Make the study's run and return its id."""
        tracker = Tracker(self._experiment, name, root=self._root)
        tracker.settings(settings)
        tracker.tags({**self._tags, "study": name})
        self._hold(tracker)
        return tracker.id

    def knows(self, run: str) -> bool:
        """Return whether the store still holds a study's run."""
        try:
            Tracker.of(run, self._root)
        except InputError:
            return False
        return True

    @contextmanager
    def trial(
        self, run: str, name: str, settings: Mapping[str, Any], tags: Mapping[str, str]
    ) -> Iterator[TrialRecord]:
        """Record a trial below the study's run.

        Args:
            run: id of the study's run.
            name: of the trial.
            settings: every setting.
            tags: its number, its seed, what it retries.
        """
        tracker = Tracker(self._experiment, name, root=self._root, parent=run)
        with tracker:
            tracker.settings(settings)
            tracker.tags({**self._tags, **tags})
            yield TrialRecord(tracker)

    def finish(
        self, run: str, scores: Mapping[str, float], write: Callable[[Tracker], None]
    ) -> None:
        """Record what a study found, and that it has ended.

        Args:
            run: id of the study's run.
            scores: of the winner.
            write: adds files and tags.
        """
        if run not in self._open:
            self._hold(Tracker(self._experiment, root=self._root, resume=run))
        held, tracker = self._open.pop(run)
        with held:
            tracker.scores(scores)
            write(tracker)

    def close(self) -> None:
        """End the runs that this process began and that nobody finished."""
        for held, _ in self._open.values():
            held.close()
        self._open.clear()

    def _hold(self, tracker: Tracker) -> None:
        held = ExitStack()
        self._open[tracker.id] = (held, held.enter_context(tracker))
