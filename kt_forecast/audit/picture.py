"""Measures which inputs move which outputs, moment by moment, for a map of the leak."""

from time import perf_counter

import torch
from torch import Tensor

from kt_forecast.audit.dependency import NEVER
from kt_forecast.audit.replacing import Clocks, change_of, kinds, replaced
from kt_forecast.audit.report import Picture
from kt_forecast.audit.running import Runner, Setting

ROWS = 64
"""Rows and columns of a map at most; many moments share one, which shows the largest of them."""

SECONDS = 1.0
"""What measuring a map of a model without a leak may cost."""


def drawn(
    runner: Runner,
    inputs: dict[str, Tensor],
    clocks: Clocks,
    labels: dict[str, Tensor],
    setting: Setting,
    generator: torch.Generator,
    *,
    full: bool,
) -> Picture | None:
    """Return a map of needed moments by known moments.

    Args:
        runner: runs the model.
        inputs: tensors by name.
        clocks: when inputs are known and outputs needed.
        labels: by output, the latest moment that tracking allows for.
        setting: in which to measure.
        generator: of replacements.
        full: measure it all, whatever it costs; otherwise stop when it takes long.
    """
    known = torch.cat([x.reshape(-1) for x in clocks.available.values()]).unique()
    needed = clocks.ticks
    columns, rows = _buckets(known), _buckets(needed)
    began = perf_counter()
    measured: list[list[float]] = []
    try:
        with runner.held(setting) as run:
            base = run(inputs)
            for low, high in columns:
                changed = dict(inputs)
                for name, moments in clocks.available.items():
                    here = (moments >= low) & (moments <= high)
                    x = inputs[name]
                    changed[name] = replaced(x, here, kinds(x)[0], generator)
                after = run(changed)
                column = []
                for start, stop in rows:
                    change = 0.0
                    for path, due in clocks.needed.items():
                        where = (due >= start) & (due <= stop)
                        if bool(where.any()):
                            moved = change_of(after[path], base[path])[where]
                            change = max(change, float(moved.max()))
                    column.append(change)
                measured.append(column)
                if not full and perf_counter() - began > SECONDS:
                    return None
    except Exception:  # noqa: BLE001 - a report without a map is still a report
        return None
    reach = [_reach(labels, clocks, start, stop) for start, stop in rows]
    return Picture(
        needed=tuple(stop for _, stop in rows),
        known=tuple(low for low, _ in columns),
        reach=tuple(reach),
        measured=tuple(zip(*measured, strict=True)),
    )


def _reach(labels: dict[str, Tensor], clocks: Clocks, start: int, stop: int) -> int | None:
    found = [
        int(labels[path][here].max())
        for path, due in clocks.needed.items()
        if path in labels and bool((here := (due >= start) & (due <= stop)).any())
    ]
    latest = max(found, default=NEVER)
    return None if latest == NEVER else latest


def _buckets(moments: Tensor) -> list[tuple[int, int]]:
    """Return first and last moment of each row or column."""
    values = moments.tolist()
    size = -(-len(values) // ROWS)
    parts = [values[i : i + size] for i in range(0, len(values), max(size, 1))]
    return [(part[0], part[-1]) for part in parts]
