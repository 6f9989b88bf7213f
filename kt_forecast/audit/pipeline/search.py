"""`audit_pipeline`: all probes on one function, and a report of what ran and what was found."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kt_forecast.audit.pipeline.association import EXACT, associations
from kt_forecast.audit.pipeline.changes import Change, described
from kt_forecast.audit.pipeline.compare import COLUMNS, FITTED, PRESENCE, Moved
from kt_forecast.audit.pipeline.contract import PipelineError, Rows
from kt_forecast.audit.pipeline.diagnose import Diagnosis, diagnose
from kt_forecast.audit.pipeline.frames import is_table, ticks
from kt_forecast.audit.pipeline.output import Form, Pipeline
from kt_forecast.audit.pipeline.probes import LATER, PROBES, Hit, Record, Search
from kt_forecast.audit.pipeline.reach import Reach, reach
from kt_forecast.audit.pipeline.repair import REPAIRS
from kt_forecast.audit.pipeline.splits import Fault, compare_splits, duplicates_inside
from kt_forecast.audit.pipeline.world import MAIN, build
from kt_forecast.audit.report import Finding, Report

SHOWN = 20
"""Columns whose leak is diagnosed; beyond, it is only found."""


@dataclass(frozen=True)
class PipelineFinding(Finding):
    """One way in which a table's future, or its answers, get into features.

    ``ticks`` counts the later rows that the value needs, of its own entity where those suffice;
    0 where it reads its own row.

    Attributes:
        pattern: the kind of leak, as far as the evidence tells.
        repair: what to do about it.
        type: the type of leakage in the words of Kapoor and Narayanan (Patterns 2023).
        span: time from the row to the last row that it needs, in the unit of the time column
            (seconds for dates).
        found_by: all probes that found it.
    """

    pattern: str = ""
    repair: str = ""
    type: str = ""
    span: float = 0.0
    found_by: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Say it in two sentences."""
        ahead = f", {self.ticks} rows ahead" if self.ticks else ""
        return (
            f"{self.output} leaks from {self.input}{ahead}: {self.pattern} "
            f"(by {', '.join(self.found_by)}). Repair: {self.repair}"
        )


def audit_pipeline(
    function: Callable[..., Any],
    table: Any,  # noqa: ANN401
    contract: Rows,
    *,
    form: Form = "features",
    beside: Mapping[str, tuple[Any, Rows]] | None = None,
    probes: tuple[str, ...] = tuple(PROBES),
    moments: int = 5,
    seed: int = 0,
) -> Report:
    """Search for features that depend on rows or answers known too late.

    The function is run many times on changed copies of the tables, and what it returns for rows
    that must not move is compared beyond rounding. Global generators of random numbers are seeded
    alike in every run. A run that fails is counted with its reason, never passed over.

    Args:
        function: what is audited; called with copies, and with the tables beside by keyword.
        table: a frame of pandas or polars (lazy ones too), the size of a sample.
        contract: when its cells are known.
        form: ``features``: ``function(table)`` returns features;
            ``fit_transform``: ``function(train, test)`` returns train features, test features and,
            if wanted, anything fitted, and the contract's split says which rows are which;
            ``split``: ``function(table)`` returns train features and test features with their keys.
        beside: other tables that the function joins, with their own clocks, by keyword.
        probes: which to run, see `probes.PROBES`.
        moments: how many moments to cut at.
        seed: of the replacements.

    Returns:
        The report. Its verdict is ``leak`` where there are findings, and else ``unproven``: a
        search proves nothing. ``scope["probes"]`` says what ran on what, ``scope["conditions"]``
        what the verdict hinges on, ``scope["open"]`` what could not be judged and why.

    Raises:
        PipelineError: the contract names no column of the table, or the result cannot be joined
            to its rows.
    """
    world = build(table, contract, beside or {})
    search = Search(Pipeline(function, world, form), moments=moments, seed=seed)
    search.run(probes)
    _drop_known(search)
    findings = _findings(search)
    conditions = _conditions(search)
    for probe, run in (("split", _splits), ("answer", _answers)):
        if probe in probes:
            record = Record(probe)
            search.records.append(record)
            more, doubts = run(search, record)
            findings += more
            conditions += doubts
    open_ = _open(search, function)
    scope = _scope(search, contract, moments=moments, seed=seed)
    scope |= {"conditions": conditions, "open": open_}
    return Report("leak" if findings else "unproven", scope, tuple(findings))


def replay(
    function: Callable[..., Any],
    table: Any,  # noqa: ANN401
    contract: Rows,
    finding: Finding,
    *,
    form: Form = "features",
    beside: Mapping[str, tuple[Any, Rows]] | None = None,
) -> float:
    """Repeat the counterexample of a finding.

    Returns:
        How far the output moved; 0.0 if it did not, or if the finding is no run of the function.
    """
    search = Search(
        Pipeline(function, build(table, contract, beside or {}), form), moments=1, seed=0
    )
    stored = finding.counterexample
    if "change" not in stored:
        return 0.0
    first = _restored(stored["first"]) if stored.get("first") else None
    moved = search.outcome(_restored(stored["change"]), first).moved.get(stored["output"])
    return moved.effect if moved else 0.0


def rows_ahead(
    function: Callable[..., Any],
    table: Any,  # noqa: ANN401
    contract: Rows,
    output: str,
    *,
    row: int,
    beside: Mapping[str, tuple[Any, Rows]] | None = None,
) -> Reach | None:
    """Bisect how many later rows, and how much time, one value of a feature needs.

    Args:
        function: from a table to features.
        table: see `audit_pipeline`.
        contract: when its cells are known.
        output: the feature.
        row: number of the row in the table, from 0.
        beside: other tables that the function joins.

    Returns:
        The reach, or None where the value is the same without any later row.

    Raises:
        PipelineError: the function returns no such feature for that row.
    """
    world = build(table, contract, beside or {})
    search = Search(Pipeline(function, world, "features"), moments=1, seed=0)
    places = np.flatnonzero(search.base.row == row)
    if not len(places) or output not in search.base.columns:
        raise PipelineError(f"the function returns no {output} for row {row}")
    whole = Moved(places, 0.0, 0.0)
    return reach(search, Hit(output, whole, Change("truncate")), int(places[0]))


def _restored(stored: Mapping[str, Any]) -> Change:
    known = {k: v for k, v in stored.items() if k != "time"}
    for name in ("columns", "keep"):
        known[name] = tuple(known.get(name, ()))
    return Change(**known)


def _drop_known(search: Search) -> None:
    """Forget hits that reading ahead what is known in advance explains."""
    contract = search.world[MAIN].contract
    if not any(side.contract.known for side in search.world.values()):
        return
    legal: dict[int, set[str]] = {}
    kept = []
    valued = {h.name for h in search.hits if h.probe == "mutate"}
    for hit in search.hits:
        explained = hit.probe in {"truncate", "gaps"} and hit.name not in valued
        if explained and contract.time not in contract.known:
            moment = hit.change.moment
            if moment not in legal:
                legal[moment] = _reads_known(search, moment)
            explained = hit.name in legal[moment]
        if not explained:
            kept.append(hit)
    search.hits = kept
    for record in search.records:
        if record.probe in LATER:
            names = {h.name for h in kept if h.probe == record.probe and not h.open}
            record.found = [name for name in record.found if name in names]


def _reads_known(search: Search, moment: int) -> set[str]:
    found: set[str] = set()
    for kind in ("redraw", "permute"):
        try:
            found |= search.outcome(Change("known", kind, moment, search.seed)).moved.keys()
        except Exception:  # noqa: BLE001, S112  (what cannot run explains nothing)
            continue
    return found


def _findings(search: Search) -> list[Finding]:
    families: dict[tuple[str, str], list[Hit]] = {}
    for hit in search.hits:
        if not hit.open:
            family = "later" if hit.probe in LATER else hit.probe
            inside = hit.name not in search.base.columns and hit.name not in {COLUMNS, PRESENCE}
            families.setdefault((FITTED if inside else hit.name, family), []).append(hit)
    plain = {name for name, family in families if family in {"later", "own"}}
    found: list[Finding] = []
    for (name, family), hits in families.items():
        if family == "entity" and name in plain:
            continue
        if name == COLUMNS and family == "later" and (name, "fit") in families:
            continue
        diagnosis = (
            diagnose(search, hits) if len(found) < SHOWN else Diagnosis("later rows", ("?",))
        )
        found.append(_finding(search, hits, diagnosis))
    return found


def _finding(search: Search, hits: list[Hit], diagnosis: Diagnosis) -> Finding:
    worst = max(hits, key=lambda h: (h.moved.effect, h.moved.share))
    main = search.world[MAIN]
    dates = main.frame.values(main.contract.time).dtype.kind == "M"
    reach = diagnosis.reach
    repair = REPAIRS[diagnosis.pattern]
    example: dict[str, Any] = {
        "change": described(worst.change, search.world, search.pipeline.moments),
        "output": worst.name,
        "before": worst.moved.before,
        "after": worst.moved.after,
    }
    if worst.first:
        example["first"] = described(worst.first, search.world, search.pipeline.moments)
    if len(worst.moved.rows) and worst.name in {*search.base.columns, PRESENCE}:
        example["row"] = int(search.base.row[worst.moved.rows[0]])
    return PipelineFinding(
        input=", ".join(diagnosis.inputs),
        output=worst.name,
        ticks=reach.rows if reach else 0,
        effect=worst.moved.effect,
        method=worst.probe,
        counterexample=example,
        pattern=diagnosis.pattern,
        repair=repair.sentence,
        type=repair.type,
        span=(reach.time / 1e9 if dates else reach.time) if reach else 0.0,
        found_by=tuple(dict.fromkeys(h.probe for h in hits)),
    )


def _conditions(search: Search) -> list[str]:
    leaks = {h.name for h in search.hits if not h.open}
    found: dict[str, set[str]] = {}
    for hit in search.hits:
        if hit.open and hit.name not in leaks:
            found.setdefault(hit.open, set()).add(hit.name)
    return [f"{why} ({', '.join(sorted(names))})" for why, names in found.items()]


def _splits(search: Search, record: Record) -> tuple[list[Finding], list[str]]:
    main = search.world[MAIN]
    faults: list[Fault] = []
    record.ran, record.rows_compared = 1, len(main)
    if search.splits:
        faults += compare_splits(main)
    else:
        faults += duplicates_inside(main)
    for name, side in search.world.items():
        faults += _stamps(name, side)
    findings = [_fault(f, "split") for f in faults if not f.doubtful]
    record.found = [f.pattern for f in faults if not f.doubtful]
    return findings, [f"{f.pattern}: {f.count}, {f.doubtful}" for f in faults if f.doubtful]


def _stamps(table: str, side: Any) -> list[Fault]:  # noqa: ANN401
    found = []
    time = ticks(side.frame.values(side.contract.time))
    for column, stamp in side.contract.stamped.items():
        given = ~side.frame.missing(stamp)
        late = given.copy()
        late[given] = ticks(side.frame.values(stamp)[given]) > time[given]
        if late.any():
            name = f"{table}.{column}" if table != MAIN else column
            row = {"row": int(np.flatnonzero(late)[0])}
            found.append(Fault("stamp after the row", name, int(late.sum()), row))
    return found


def _fault(fault: Fault, method: str) -> Finding:
    repair = REPAIRS[fault.pattern]
    return PipelineFinding(
        input=fault.input,
        output="(the table)",
        ticks=0,
        effect=float(fault.count),
        method=method,
        counterexample={"count": fault.count, **fault.where},
        pattern=fault.pattern,
        repair=repair.sentence,
        type=repair.type,
        found_by=(method,),
    )


def _answers(search: Search, record: Record) -> tuple[list[Finding], list[str]]:
    """Hold columns against the target; those that tell it are leaks where a feature reads them."""
    contract = search.world[MAIN].contract
    if not contract.target:
        record.skipped = "no target is declared"
        return [], []
    found, reason = associations(search.world)
    record.skipped = reason
    record.ran, record.rows_compared = int(not reason), len(search.world[MAIN])
    findings: list[Finding] = []
    doubts = []
    for known in found:
        read = _own_readers(search, known.column)
        told = f"{known.column} alone tells the target of held-out rows ({known.measure})"
        if known.score < EXACT or not read:
            whom = f"read by {', '.join(sorted(read))}" if read else "no feature reads it"
            doubts.append(f"{told}; {whom}")
            continue
        for hits in read.values():
            diagnosis = Diagnosis("knows the answer", (known.column,))
            findings.append(replace(_finding(search, hits, diagnosis), method="answer"))
        record.found += sorted(read)
    return findings, doubts


def _own_readers(search: Search, column: str) -> dict[str, list[Hit]]:
    """Return the features of a row that move when its own value of a column does."""
    found: dict[str, list[Hit]] = {}
    for moment in search.moments:
        change = Change("answer", "redraw", moment, search.seed, columns=(column,))
        try:
            moved = search.outcome(change).moved
        except Exception:  # noqa: BLE001, S112  (tried again at the next moment)
            continue
        for name, how in moved.items():
            carried = name in search.carried and name != search.world[MAIN].contract.target
            if name in search.judged or carried:
                found.setdefault(name, []).append(Hit(name, how, change))
    return found


def _open(search: Search, function: Callable[..., Any]) -> list[str]:
    """Say what could not be judged, and why."""
    found = [f"{name}: differs between two equal runs" for name in sorted(search.unstable)]
    found += [
        f"{name}: random, judged only where as many numbers are drawn"
        for name in sorted(search.random)
    ]
    found += [f"{r.probe}: not run ({r.skipped})" for r in search.records if r.skipped]
    for record in search.records:
        for reason, times in record.failed.items():
            found.append(f"{record.probe}: failed in {times} runs ({reason})")
        if record.ran and not record.rows_compared:
            found.append(f"{record.probe}: no row could be compared")
    found += [
        f"{name}: no replacement moves it (constant, of time and key only, or from elsewhere)"
        for name in sorted(search.moved_by_nothing())
    ]
    found += [
        f"{name}: a table the function reads by itself was not varied"
        for name in _captured(function)
    ]
    if search.splits and search.pipeline.form == "features":
        found.append("features of training rows may be fitted on all training rows")
    return found


def _captured(function: Callable[..., Any]) -> list[str]:
    """Return the names of tables that a function takes from around it."""
    try:
        around = inspect.getclosurevars(function)
    except TypeError:
        return []
    return [n for n, value in {**around.globals, **around.nonlocals}.items() if is_table(value)]


def _scope(search: Search, contract: Rows, *, moments: int, seed: int) -> dict[str, Any]:
    main = search.world[MAIN]
    stored = {k: v for k, v in vars(contract).items() if v and k != "split"}
    stored |= {"split": contract.split if isinstance(contract.split, str) else bool(contract.split)}
    return {
        "contract": {k: dict(v) if isinstance(v, Mapping) else v for k, v in stored.items()},
        "method": "changed tables (a search: it finds leaks and proves none)",
        "form": search.pipeline.form,
        "joined_by": search.pipeline.joined_by,
        "rows": {name or "table": len(side) for name, side in search.world.items()},
        "features": sorted(search.judged),
        "labels": sorted({*contract.labels, *([contract.target] if contract.target else [])}),
        "carried_through": sorted(search.carried - {contract.time, contract.entity}),
        "probes": [vars(record) for record in search.records],
        "moments": [float(search.pipeline.moments[m]) for m in search.moments],
        "moments_wanted": moments,
        "seed": seed,
        "trials": sum(record.ran for record in search.records),
        "runs": search.pipeline.runs,
        "not_covered": "values, rows and moments that no probe drew; files and services that the "
        f"function reads; {len(main)} rows of this table only",
    }
