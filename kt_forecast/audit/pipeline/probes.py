"""The probes: which changes are made, which rows must not move, and what did."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from kt_forecast.audit.pipeline.changes import KINDS, Change, Rows, apply, gappable
from kt_forecast.audit.pipeline.compare import (
    COLUMNS,
    PRESENCE,
    Comparison,
    Moved,
    compare,
    compare_fitted,
    differing,
)
from kt_forecast.audit.pipeline.frames import plain
from kt_forecast.audit.pipeline.output import Output, Pipeline
from kt_forecast.audit.pipeline.world import MAIN, Mask, World

PROBES = {
    "truncate": "rows after a moment are left out; features up to it must stay",
    "gaps": "the same where the last rows known have missing values",
    "mutate": "values after a moment are replaced; features up to it must stay",
    "times": "rows after a moment move further away in time; features up to it must stay",
    "own": "answers of a moment are changed; features up to it must stay",
    "entity": "rows of all other entities are replaced; features of the one must stay",
    "order": "rows are put in another order that means the same; features must stay",
    "fit": "rows that are not for training are replaced; training features must stay",
    "split": "the splits are compared: entities, times, duplicates",
    "answer": "columns are held against the target: does one alone tell it?",
}
ENTITIES = 3
"""How many entities stay while all others change."""
LATER = ("truncate", "gaps", "mutate", "times")
"""Probes of later rows."""


@dataclass(frozen=True)
class Hit:
    """A column that moved and should not have.

    Attributes:
        name: the column, fitted path, or what of the result.
        moved: how.
        change: what was done.
        first: what was done to both runs before.
        open: why this may be right; empty for a leak.
    """

    name: str
    moved: Moved
    change: Change
    first: Change | None = None
    open: str = ""

    @property
    def probe(self) -> str:
        """The probe that found it."""
        return self.change.probe if self.first is None else self.first.probe


@dataclass
class Record:
    """What a probe ran on."""

    probe: str
    ran: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    rows_compared: int = 0
    features: int = 0
    found: list[str] = field(default_factory=list)
    skipped: str = ""


@dataclass(frozen=True)
class Trial:
    """A change, the rows that must not move, and why it may be right if they do."""

    change: Change
    first: Change | None = None
    open: str = ""


class Search:
    """All probes of one pipeline.

    Attributes:
        base: the run on the tables as given.
        judged: columns that must not move.
        random: columns that follow the seed of the global generators.
        carried: columns of the table that the result holds unchanged among all the others.
        unstable: columns that differ between two equal runs.
    """

    def __init__(self, pipeline: Pipeline, *, moments: int, seed: int) -> None:
        self.pipeline = pipeline
        self.seed = seed
        self.hits: list[Hit] = []
        self.records: list[Record] = []
        self.base = pipeline(pipeline.world)
        again, other = pipeline(pipeline.world), pipeline(pipeline.world, seed=1)
        every = np.ones(len(self.base), dtype=bool)
        self.unstable = frozenset(compare(self.base, again, every).moved)
        self.random = frozenset(compare(self.base, other, every).moved) - self.unstable
        if pipeline.form == "split":
            self._learn_split()
        self.moments = self._spread(moments)
        self.judged = frozenset(self._judged())

    @property
    def world(self) -> World:
        """The tables as given."""
        return self.pipeline.world

    @property
    def splits(self) -> bool:
        """Whether some rows are for training and others not."""
        return bool(self.world[MAIN].training.any())

    def _learn_split(self) -> None:
        """Take the rows that the function returned for testing as those not to train on."""
        main = self.world[MAIN]
        known = self.base.row >= 0
        sides = [
            np.isin(main.row, self.base.row[known & (self.base.training == t)])
            for t in (True, False)
        ]
        self.pipeline.world[MAIN] = replace(main, training=sides[0], testing=sides[1])

    def _spread(self, count: int) -> list[int]:
        """Return moments over the whole table, or over the rows that are not for training."""
        main = self.world[MAIN]
        needed = main.needed[main.testing]
        ranks = np.unique(needed)
        if len(ranks) < 2:
            return []
        # Drawn from even parts, for evenly spaced moments can all miss what repeats.
        part = np.arange(count) + np.random.default_rng(self.seed).random(count)
        at = (0.1 + 0.8 * part / count) * (len(ranks) - 1)
        return sorted({int(ranks[min(int(i), len(ranks) - 2)]) for i in at})

    def _judged(self) -> Iterator[str]:
        main = self.world[MAIN]
        contract = main.contract
        apart = {*contract.labels, contract.target, *contract.fixed, contract.time, contract.entity}
        self.carried = frozenset(self._carried())
        for name in self.base.columns:
            if name not in apart | self.unstable | self.carried:
                yield name

    def _carried(self) -> Iterator[str]:
        """Yield columns of the table that a result with all of them holds unchanged."""
        frame, base = self.world[MAIN].frame, self.base
        if (base.row < 0).any() or not set(frame.names) <= set(base.columns):
            return
        for name in frame.names:
            own = plain(frame.values(name))[base.row]
            if not differing(own, base.columns[name], 0.0)[0].any():
                yield name

    def run(self, probes: tuple[str, ...]) -> None:
        """Run probes in turn."""
        trials: dict[str, Callable[[], Iterator[Trial]]] = {
            "truncate": self._truncate,
            "gaps": self._gaps,
            "mutate": self._mutate,
            "times": self._times,
            "own": self._own,
            "entity": self._entity,
            "order": self._order,
            "fit": self._fit,
        }
        for probe, make in trials.items():
            if probe not in probes:
                continue
            record = Record(probe, skipped=self._skipped(probe))
            self.records.append(record)
            for trial in make() if not record.skipped else ():
                self._try(trial, record)

    def _skipped(self, probe: str) -> str:  # noqa: PLR0911
        main = self.world[MAIN]
        contract = main.contract
        if probe in {"truncate", "gaps", "order"} and self.pipeline.form == "split":
            return "the function splits by itself: with other rows it would split elsewhere"
        if probe in LATER and not self.moments:
            return "the table has no two moments to cut between"
        if probe == "gaps" and not gappable(main):
            return "no column may have missing values"
        if probe == "times" and contract.time in contract.known:
            return "times are declared as known in advance"
        if probe == "own" and not contract.answers:
            return "no target and no answers are declared"
        if probe == "entity" and (not contract.entity or contract.pooled):
            return (
                "reading others is declared legal" if contract.pooled else "no entity is declared"
            )
        if probe == "order" and not contract.bundles:
            return "rows are declared to happen as they stand"
        if probe == "fit" and not self.splits:
            return "no split is declared"
        return ""

    def _rows(self) -> tuple[tuple[Rows, str], ...]:
        """Return which rows to change in turn, and what makes it right."""
        if not self.splits:
            return (("all", ""),)
        if self.pipeline.form != "features":
            return (("others", ""),)
        fitted = "training rows read later training rows: right if that is something fitted"
        return (("others", ""), ("training", fitted))

    def _truncate(self) -> Iterator[Trial]:
        for rows, why in self._rows():
            for moment in sorted({*self.moments, *(m + 1 for m in self.moments)}):
                yield Trial(Change("truncate", moment=moment, rows=rows), open=why)

    def _gaps(self) -> Iterator[Trial]:
        rows: Rows = "others" if self.splits else "all"
        for moment in self.moments:
            planted = Change("gaps", "gap", moment, seed=self.seed)
            yield Trial(Change("truncate", moment=moment, rows=rows), first=planted)

    def _mutate(self) -> Iterator[Trial]:
        for rows, why in self._rows():
            for moment in self.moments:
                for number, kind in enumerate(KINDS):
                    change = Change("mutate", kind, moment + number % 2, self.seed, rows=rows)
                    yield Trial(change, open=why)

    def _times(self) -> Iterator[Trial]:
        rows: Rows = "others" if self.splits else "all"
        for moment in self.moments:
            yield Trial(Change("times", "", moment, self.seed, rows=rows))

    def _own(self) -> Iterator[Trial]:
        rows: Rows = "others" if self.splits else "all"
        for moment in sorted({*self.moments, *(m + 1 for m in self.moments)}):
            yield Trial(Change("own", "redraw", moment, self.seed, rows=rows))
        if self.splits:
            why = "training rows read their own answers: right only if they are no features"
            main = self.world[MAIN]
            ranks, count = np.unique(main.needed[main.training], return_counts=True)
            alone = ranks[count == count.min()]
            for moment in alone[np.linspace(0, len(alone) - 1, 3).astype(int)].tolist():
                yield Trial(Change("own", "redraw", moment, self.seed, rows="training"), open=why)

    def _entity(self) -> Iterator[Trial]:
        main = self.world[MAIN]
        found = np.unique(main.entity[main.testing])
        chosen = found[np.unique(np.linspace(0, len(found) - 1, ENTITIES).astype(int))]
        rows: Rows = "others" if self.splits else "all"
        why = "" if main.contract.pooled is False else "reads other entities: declare pooled"
        for entity in chosen.tolist():
            for kind in ("redraw", "extreme"):
                change = Change("entity", kind, entity=entity, seed=self.seed, rows=rows)
                yield Trial(change, open=why)

    def _order(self) -> Iterator[Trial]:
        main = self.world[MAIN]
        starts = np.flatnonzero(np.diff(main.entity, prepend=-1))
        blocks = len(np.unique(main.entity)) == len(starts) > 1
        sorted_by_time = bool((np.diff(main.needed) >= 0).all())
        if blocks:
            why = "holds for entities in the order given only: group inside the function"
            yield Trial(Change("order", "blocks", seed=self.seed), open=why)
        if sorted_by_time and len(np.unique(main.needed)) < len(main):
            why = "depends on the order of rows that share a moment"
            yield Trial(Change("order", "ties", seed=self.seed), open=why)
        why = "holds for rows in the order given only: sort inside the function"
        yield Trial(Change("order", "all", seed=self.seed), open=why)

    def _fit(self) -> Iterator[Trial]:
        kinds = KINDS if self.pipeline.form == "split" else (*KINDS, "drop")
        for kind in kinds:
            for seed in range(2 if kind in {"redraw", "permute"} else 1):
                yield Trial(Change("fit", kind, seed=self.seed + seed, rows="others"))

    def _try(self, trial: Trial, record: Record) -> None:
        try:
            comparison = self.outcome(trial.change, trial.first)
        except Exception as error:  # noqa: BLE001  (any failure of the user's function is an outcome)
            reason = f"{type(error).__name__}: {str(error)[:120]}"
            record.failed[reason] = record.failed.get(reason, 0) + 1
            return
        record.ran += 1
        record.rows_compared += comparison.compared
        names = self._names(trial.change)
        record.features = max(record.features, len(names & self.base.columns.keys()))
        for name, moved in comparison.moved.items():
            aside = name not in self.base.columns and trial.change.rows != "training"
            if name in names or aside:
                self._keep(Hit(name, moved, trial.change, trial.first, trial.open), record)

    def _keep(self, hit: Hit, record: Record) -> None:
        why = hit.open
        if hit.name == PRESENCE:
            if self.world[MAIN].contract.labels or hit.change.kind in {"null", "drop"}:
                return
            why = "which rows are returned depends on later ones: right for building windows only"
        if hit.name == COLUMNS and hit.change.kind != "permute" and not self._apart(hit):
            why = why or "which columns are returned depends on values found in other rows"
        self.hits.append(replace(hit, open=why))
        if hit.name not in record.found and not why:
            record.found.append(hit.name)

    def _apart(self, hit: Hit) -> bool:
        """Say whether columns were compared on the training side alone."""
        return hit.probe == "fit" and self.pipeline.form != "features"

    def _names(self, change: Change) -> frozenset[str]:
        """Return the columns that a change can judge."""
        names = self.judged
        if change.probe == "fit":
            names = frozenset(self.base.columns) - self.unstable
        same_draws = change.probe in {"mutate", "own", "entity", "fit", "answer"}
        if not same_draws or change.kind in {"null", "drop"}:
            names = names - self.random
        return names

    def moved_by_nothing(self) -> set[str]:
        """Return the features that stay even when every value of every row is replaced."""
        still = set(self.judged) - {hit.name for hit in self.hits}
        for kind in ("redraw", "permute"):
            try:
                still -= self.outcome(Change("power", kind, seed=self.seed)).moved.keys()
            except Exception:  # noqa: BLE001, S112  (what cannot run shows nothing)
                continue
        return still

    def outcome(self, change: Change, first: Change | None = None) -> Comparison:
        """Make a change, run, and compare what must not have moved."""
        base, world = self.base, self.world
        if first is not None:
            world = apply(world, first)
            base = self.pipeline(world)
        other = self.pipeline(apply(world, change))
        comparison = compare(base, other, self.victims(change, base))
        if change.probe == "order" and self.pipeline.joined_by == "position":
            as_it_stands = compare(
                base, replace(other, identity=base.identity), self.victims(change, base)
            )
            comparison = min(comparison, as_it_stands, key=lambda c: len(c.moved))
        if change.probe == "fit":
            apart = self.pipeline.form != "features"
            kept = {k: v for k, v in comparison.moved.items() if not (apart and k == COLUMNS)}
            return replace(comparison, moved=kept | compare_fitted(base, other))
        return comparison

    def victims(self, change: Change, base: Output) -> Mask:
        """Say which rows must not move."""
        if change.probe in {"own", "answer"}:
            here = base.needed == change.moment
            return here & base.training if change.rows == "training" else here
        if change.probe in {*LATER, "known"}:
            early = base.needed <= change.moment
            return early & base.training if change.rows == "training" else early
        if change.probe == "entity":
            return base.entity == change.entity
        if change.probe == "fit":
            return base.training
        return np.ones(len(base), dtype=bool)
