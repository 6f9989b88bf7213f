"""Measures what the page draws: which inputs move which outputs, and what a leak does in time."""

from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from kt_forecast.audit.dependency import NEVER
from kt_forecast.audit.replacing import Clocks, change_of, kinds, replaced
from kt_forecast.audit.report import Course, Picture
from kt_forecast.audit.running import Outputs, Runner, Setting
from kt_forecast.audit.search import Hit

ROWS = 64
"""Rows and columns of a map at most; many moments share one, which shows the largest of them."""

WINDOW = 24
"""Rows and columns of a map of single moments around a leak."""

SECONDS = 1.0
"""What measuring a map of a model without a leak may cost."""

Span = tuple[int, int]
"""First and last moment of a row or column."""

Place = tuple[int, ...]
"""Index of an element."""


@dataclass(frozen=True)
class Drawing:
    """Measures a model's map.

    Attributes:
        runner: runs the model.
        inputs: tensors by name.
        clocks: when inputs are known and outputs needed.
        labels: by output, the latest moment that tracking allows for.
        setting: in which to measure.
        seed: of replacements.
    """

    runner: Runner
    inputs: dict[str, Tensor]
    clocks: Clocks
    labels: dict[str, Tensor]
    setting: Setting
    seed: int

    def whole(self, *, full: bool) -> Picture | None:
        """Return a map of all moments.

        Args:
            full: measure it all, whatever it costs; otherwise stop when it takes long.
        """
        return self._map(_buckets(self._known()), _buckets(self.clocks.ticks), full=full)

    def around(self, needed: int, known: int) -> Picture | None:
        """Return a map of single moments around a leak; None where the whole shows as much.

        Args:
            needed: the moment of an output that moves.
            known: the moment of an input that moves it.
        """
        rows, columns = self.clocks.ticks, self._known()
        if max(len(rows), len(columns)) <= WINDOW:
            return None
        between = (needed + known) // 2 if known - needed < WINDOW else needed
        found = self._map(_near(columns, between), _near(rows, needed), full=True)
        if found is None or found.leaks or between != needed:
            return found
        return self._map(_near(columns, known), _near(rows, needed), full=True)

    def _known(self) -> Tensor:
        return torch.cat([x.reshape(-1) for x in self.clocks.available.values()]).unique()

    def _map(self, columns: list[Span], rows: list[Span], *, full: bool) -> Picture | None:
        began = perf_counter()
        generator = torch.Generator().manual_seed(self.seed)
        measured: list[list[float]] = []
        try:
            with self.runner.held(self.setting) as run:
                base = run(self.inputs)
                for span in columns:
                    after = run(self._replaced(span, generator))
                    measured.append([self._change(after, base, row) for row in rows])
                    if not full and perf_counter() - began > SECONDS:
                        return None
        except Exception:  # noqa: BLE001 - a report without a map is still a report
            return None
        return Picture(
            needed=tuple(stop for _, stop in rows),
            known=tuple(low for low, _ in columns),
            reach=tuple(_reach(self.labels, self.clocks, start, stop) for start, stop in rows),
            measured=tuple(zip(*measured, strict=True)),
        )

    def _replaced(self, span: Span, generator: torch.Generator) -> dict[str, Tensor]:
        changed = dict(self.inputs)
        for name, moments in self.clocks.available.items():
            x = self.inputs[name]
            here = (moments >= span[0]) & (moments <= span[1])
            changed[name] = replaced(x, here, kinds(x)[0], generator)
        return changed

    def _change(self, after: Outputs, base: Outputs, span: Span) -> float:
        change = 0.0
        for path, due in self.clocks.needed.items():
            where = (due >= span[0]) & (due <= span[1])
            if bool(where.any()):
                moved = change_of(after[path], base[path])[where]
                change = max(change, float(moved.max()))
        return change


def courses(hit: Hit, clocks: Clocks, was: Outputs, now: Outputs) -> tuple[Course, ...]:
    """Return what was replaced and the output that moved, along time, for the row that moved.

    Args:
        hit: the replacement.
        clocks: when inputs are known and outputs needed.
        was: outputs of the first run.
        now: outputs of the second.
    """
    found = []
    row = hit.place[0] if hit.place else 0
    for name, known in clocks.available.items():
        before, after = hit.before[name], hit.after.get(name)
        if after is None or after.shape != before.shape or torch.equal(after, before):
            continue
        change = change_of(after, before)
        own = change[row] if before.ndim > 1 and row < before.shape[0] else change
        if before.ndim > 1 and row < before.shape[0] and bool((own > 0).any()):
            place = (row, *_widest(own))
        else:
            place = _widest(change)
        found.append(_course(name, known, before, after, place, is_input=True))
    due = clocks.needed.get(hit.output)
    first, second = was.get(hit.output), now.get(hit.output)
    if due is None or first is None or second is None:
        return tuple(found)
    if first.shape != due.shape or second.shape != due.shape:
        return tuple(found)
    return (*found, _course(hit.output, due, first, second, hit.place, is_input=False))


def _widest(change: Tensor) -> tuple[int, ...]:
    index = torch.unravel_index(change.nan_to_num(posinf=torch.inf).argmax(), change.shape)
    return tuple(int(i) for i in index)


def _course(
    name: str, clock: Tensor, before: Tensor, after: Tensor, place: Place, *, is_input: bool
) -> Course:
    """Return values along the axis on which moments differ most, through one element."""
    axis = max(range(clock.ndim), key=lambda a: _distinct(clock, a, place), default=0)
    where = tuple(slice(None) if a == axis else i for a, i in enumerate(place))
    lines = [x.detach().cpu().double()[where].reshape(-1) for x in (before, after)]
    moments = clock[where].reshape(-1)
    return Course(
        name,
        is_input,
        tuple(int(m) for m in moments),
        *(tuple(float(v) for v in line) for line in lines),
    )


def _distinct(clock: Tensor, axis: int, place: Place) -> int:
    where = tuple(slice(None) if a == axis else i for a, i in enumerate(place))
    return len(clock[where].unique())


def _near(moments: Tensor, centre: int) -> list[Span]:
    """Return the moments nearest to one, each by itself."""
    values = moments.tolist()
    at = int(torch.searchsorted(moments, centre))
    first = max(0, min(at - WINDOW // 2, len(values) - WINDOW))
    return [(v, v) for v in values[first : first + WINDOW]]


def _reach(labels: dict[str, Tensor], clocks: Clocks, start: int, stop: int) -> int | None:
    found = [
        int(labels[path][here].max())
        for path, due in clocks.needed.items()
        if path in labels and bool((here := (due >= start) & (due <= stop)).any())
    ]
    latest = max(found, default=NEVER)
    return None if latest == NEVER else latest


def _buckets(moments: Tensor) -> list[Span]:
    """Return first and last moment of each row or column."""
    values = moments.tolist()
    size = -(-len(values) // ROWS)
    parts = [values[i : i + size] for i in range(0, len(values), max(size, 1))]
    return [(part[0], part[-1]) for part in parts]
