"""What a study found, as its report shows it."""

import math
from collections.abc import Mapping
from typing import Any

from kt_forecast.report.tuning import StudyFacts, TrialFacts, TuningRecord
from kt_forecast.report.words import number, signed
from kt_forecast.tuning import Dimension, Found, Search, Space, Trial

DIGITS = 4


def study(found: Found) -> StudyFacts:
    """Return the facts of one system's study."""
    space = found.space
    return StudyFacts(
        name=found.name,
        system=found.problem.system,
        trials=tuple(_trial(one, space, found) for one in found.trials),
        fields={one.name: _ends(one) for one in space.dimensions},
        winner=found.winner,
        changed=_changed(found),
        importance=dict(found.importance),
        front=found.front,
        n_lost=len(found.lost),
        notes=space.notes,
    )


def pruner(how: Search) -> str:
    """Return what ends trials early."""
    if how.pruner != "auto":
        return how.pruner
    return "halving" if how.sampler == "tpe" else "none"


def tables(record: TuningRecord) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Return title, header and rows of the systems, and of what the winner changes."""
    title = f"validation {record.metric} on {record.data}; test rows took no part"
    header = ("system", "trials", "pruned", "recipe", "best", "difference", "parameters")
    rows = [_row(one) for one in record.studies]
    found: list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]] = [(title, header, rows)]
    if record.study.changed:
        found.append(("what the winner changes", ("field", "recipe", "winner"), _changes(record)))
    return found


def _row(one: StudyFacts) -> tuple[str, ...]:
    best, default = one.best, one.default
    gap = best.mean - default.mean if best and default else math.nan
    size = best.parameters if best else None
    return (
        one.system,
        str(len(one.trials)),
        str(one.count("pruned")),
        number(default.mean if default else None),
        number(best.mean if best else None),
        signed(gap),
        "-" if size is None else f"{size:,}",
    )


def _changes(record: TuningRecord) -> list[tuple[str, ...]]:
    return [tuple(row) for row in record.study.changed]


def _trial(one: Trial, space: Space, found: Found) -> TrialFacts:
    facts = one.facts
    by_seed = found.repeats.get(one.number, {})
    return TrialFacts(
        number=one.number,
        state=one.state,
        value=one.value,
        params={name: written(value) for name, value in one.params.items()},
        places={
            d.name: place for d in space.dimensions if (place := _place(d, one.params)) is not None
        },
        seconds=one.seconds,
        epochs=int(facts.get("epochs") or len(one.reports)),
        parameters=facts.get("parameters"),
        flops=facts.get("flops"),
        reason=one.reason,
        is_default=one.is_default,
        curve=tuple(sorted(one.reports.items())),
        by_seed={str(seed): value for seed, value in sorted(by_seed.items())},
    )


def _place(one: Dimension, params: Mapping[str, Any]) -> float | None:
    """Return where on the field's axis the value of a trial lies, from 0 to 1."""
    if one.name not in params:
        return None
    value = params[one.name]
    if one.choices:
        labels = [written(choice) for choice in one.choices]
        found = labels.index(written(value)) if written(value) in labels else 0
        return found / max(len(labels) - 1, 1)
    low, high, at = float(one.low), float(one.high), float(value)
    if one.log:
        low, high, at = math.log(low), math.log(high), math.log(at)
    return (at - low) / (high - low) if high > low else 0.5


def _ends(one: Dimension) -> tuple[str, str]:
    if one.choices:
        return written(one.choices[0]), written(one.choices[-1])
    return written(one.low), written(one.high)


def _changed(found: Found) -> tuple[tuple[str, str, str], ...]:
    if found.sections is None:
        return ()
    return tuple(
        (f"{section}.{field}", written(old), written(found.sections[section][field]))
        for section, fields in found.problem.sections.items()
        for field, old in fields.items()
        if found.sections[section][field] != old
    )


def written(value: Any) -> str:  # noqa: ANN401
    """Return a value of a setting in few characters."""
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else str(value)
