"""How fast and how large: reading, checking, sorting, splitting and sequencing simulated rows.

    python tests/benchmarks/bench_data.py --rows 2000000

prints JSON. Every stage is a process of its own, so that its peak memory is its own. Two loops over
students do the same work on the first students only, as all would take too long, and must give
the same tensors: one over rows in dictionaries, the leanest there is, and one over a data frame a
student, as preprocessing scripts are written. What is compared are rows a second.
"""

import argparse
import hashlib
import json
import multiprocessing
import resource
import tempfile
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import torch

from kt_forecast.data.simulate import Simulation, simulate
from kt_forecast.data.splits import ByStudents, Role, split
from kt_forecast.data.tables import load
from kt_forecast.schema import CONCEPTS, ELAPSED, QUESTION, RESPONSE, STUDENT, TIME
from kt_forecast.sequences.batching import Batches
from kt_forecast.sequences.build import build_role, fit_vocabulary

PART_ROWS = 1_000_000
STEPS_A_STUDENT = 100.0
LOOP_ROWS = {"rows": 200_000, "frames": 50_000}
COLUMNS = [STUDENT, QUESTION, CONCEPTS, RESPONSE, TIME, ELAPSED]


def make(folder: Path, rows: int) -> dict:
    """Write the rows as a folder of Parquet parts and as one CSV, rows of students mixed."""
    (folder / "parquet").mkdir()
    text = folder / "rows.csv"
    text.write_text(",".join(COLUMNS) + "\n")
    written = 0
    while written < rows:
        students = max(1, round(min(PART_ROWS, rows - written) / STEPS_A_STUDENT))
        settings = Simulation(
            students=students,
            mean_steps=STEPS_A_STUDENT,
            questions=10_000,
            concepts=200,
            seed=written,
        )
        # Sorted by time the students of a part interleave, as they do in a log.
        part = simulate(settings).with_columns(pl.col(STUDENT) + written).sort(TIME)
        part.write_parquet(folder / "parquet" / f"part-{written:012}.parquet")
        joined = part.with_columns(pl.col(CONCEPTS).cast(pl.List(pl.String)).list.join("_"))
        with text.open("ab") as out:
            joined.select(COLUMNS).write_csv(out, include_header=False, float_precision=1)
        written += part.height
    return {"rows": written, "csv_megabytes": round(text.stat().st_size / 1e6)}


def flow(path: Path) -> dict:
    """Time the way of the data from the file to sequences of every role, and a look at batches."""
    work = time.process_time()
    clock = [time.perf_counter()]
    table = load(path)
    clock.append(time.perf_counter())
    roles = split(table, ByStudents())
    vocabulary = fit_vocabulary(table, roles)
    clock.append(time.perf_counter())
    made = [build_role(table, vocabulary, roles, role) for role in list(Role)[:3]]
    clock.append(time.perf_counter())
    steps = sum(sequences.n_steps for sequences in made)
    measured = rates(len(table), clock[-1] - clock[0], time.process_time() - work)
    peak = peak_gigabytes()
    batches = Batches(made[0], history=200)
    began = time.perf_counter()
    given = 0
    for _, batch in zip(range(100), batches, strict=False):
        given += int(batch.real.sum())
    return {
        **measured,
        "seconds_load_split_build": [round(b - a, 2) for a, b in pairwise(clock)],
        "steps": steps,
        "peak_gigabytes": peak,
        "batched_steps_per_second": round(given / (time.perf_counter() - began)),
        "padding_share": round(batches.padding_share, 4),
    }


def loop(path: Path, gather: str, rows: int) -> dict:
    """The same work as `flow`, student by student; the results must agree."""
    students = round(rows / STEPS_A_STUDENT)
    part = pl.scan_parquet(path).filter(pl.col(STUDENT) < students).collect()
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder) / "first.parquet"
        part.write_parquet(first)
        clock, work = time.perf_counter(), time.process_time()
        made = by_hand(GATHER[gather](pl.read_parquet(first).select(COLUMNS)))
        clock, work = time.perf_counter() - clock, time.process_time() - work
        table = load(first)
    roles = split(table, ByStudents())
    vocabulary = fit_vocabulary(table, roles)
    for role in list(Role)[:3]:
        ours = build_role(table, vocabulary, roles, role)
        for name in ("start", "question", "concept_start", "concept", "response", "event"):
            assert torch.equal(getattr(ours, name), made[role][name].to(getattr(ours, name).dtype))
        assert torch.allclose(ours.seconds, made[role]["seconds"])
    return rates(part.height, clock, work)


def rates(rows: int, seconds: float, processor_seconds: float) -> dict:
    """Return times and rates; processor seconds do not depend on what else the machine does."""
    return {
        "rows": rows,
        "seconds": round(seconds, 2),
        "processor_seconds": round(processor_seconds, 2),
        "rows_per_second": round(rows / seconds),
        "rows_per_processor_second": round(rows / processor_seconds),
    }


def steps_of_rows(table: pl.DataFrame) -> dict[str, list]:
    """Gather checked steps of each student in dictionaries: the leanest loop.

    Raises:
        ValueError: a row holds what the door refuses.
    """
    by_student = defaultdict(list)
    for number, row in enumerate(table.iter_rows(), 1):
        student, question, concepts, response, moment, elapsed = row
        if response not in {0, 1}:
            raise ValueError(f"row {number}: response {response!r}")
        if student is None or question is None or moment is None:
            raise ValueError(f"row {number}: a name or a time is missing")
        if elapsed is None or not np.isfinite(elapsed):
            raise ValueError(f"row {number}: elapsed {elapsed!r}")
        held = {str(concept) for concept in concepts}
        by_student[str(student)].append([moment, str(question), held, response, elapsed])
    for name, steps in by_student.items():
        steps.sort(key=lambda step: step[0])
        by_student[name] = merged(steps)
    return by_student


def steps_of_frames(table: pl.DataFrame) -> dict[str, list]:
    """Gather checked steps from one data frame a student, as preprocessing scripts do.

    Raises:
        ValueError: a row holds what the door refuses.
    """
    by_student = {}
    for student, rows in table.to_pandas().groupby(STUDENT):
        if not rows[RESPONSE].isin([0, 1]).all() or rows[[QUESTION, TIME]].isna().any(axis=None):
            raise ValueError(f"student {student}: a value is missing or wrong")
        if not np.isfinite(rows[ELAPSED]).all():
            raise ValueError(f"student {student}: elapsed is not finite")
        ordered = rows.sort_values(TIME, kind="stable")
        events = ordered.groupby([TIME, QUESTION, RESPONSE], sort=False, as_index=False)
        steps = events.agg(
            {CONCEPTS: lambda sets: {str(c) for s in sets for c in s}, ELAPSED: "first"}
        )
        columns = [steps[TIME], steps[QUESTION].astype(str), steps[CONCEPTS], steps[RESPONSE]]
        by_student[str(student)] = list(zip(*columns, steps[ELAPSED], strict=True))
    return by_student


GATHER = {"rows": steps_of_rows, "frames": steps_of_frames}


def by_hand(by_student: dict[str, list]) -> dict[Role, dict[str, torch.Tensor]]:
    """Name, hash, split and lay out the steps in plain Python."""
    names = sorted(by_student)
    digest = hashlib.sha256()
    for name in names:
        for moment, question, held, response, elapsed in by_student[name]:
            digest.update(
                f"{name},{moment},{question},{sorted(held)},{response},{elapsed}".encode()
            )
    order = np.random.default_rng(0).permutation(len(names))
    n_test, n_valid = round(len(names) * 0.2), round(len(names) * 0.1)
    role_of = dict.fromkeys(names, Role.TRAIN)
    role_of.update((names[place], Role.TEST) for place in order[:n_test])
    role_of.update((names[place], Role.VALID) for place in order[n_test : n_test + n_valid])
    train = [step for name in names if role_of[name] == Role.TRAIN for step in by_student[name]]
    questions = indices({step[1] for step in train})
    concepts = indices({concept for step in train for concept in step[2]})
    made = {role: defaultdict(list, start=[0], concept_start=[0]) for role in list(Role)[:3]}
    for name in names:
        lay_out(by_student[name], made[role_of[name]], questions, concepts)
    return {
        role: {key: torch.tensor(value) for key, value in sequence.items()}
        for role, sequence in made.items()
    }


def merged(steps: list) -> list:
    """Merge the rows of one time, question and response, and count repeated questions."""
    kept, seen = [], {}
    repeats = agreeing = 0
    for step in steps:
        same = seen.get((step[0], step[1], step[3]))
        if same:
            same[2] |= step[2]
            continue
        if kept and kept[-1][1] == step[1]:
            repeats += 1
            agreeing += kept[-1][3] == step[3]
        seen[step[0], step[1], step[3]] = step
        kept.append(step)
    return kept


def indices(names: set[str]) -> dict[str, int]:
    """Number names from 1, in text order."""
    return {name: place for place, name in enumerate(sorted(names), start=1)}


def lay_out(steps: list, sequence: dict, questions: dict, concepts: dict) -> None:
    """Append one student to the sequences of its role."""
    event, before, opened = -1, None, None
    for moment, question, held, response, elapsed in steps:
        if moment != opened:
            event, before, opened = event + 1, opened, moment
        sequence["question"].append(questions.get(question, 0))
        sequence["concept"].extend(concepts.get(concept, 0) for concept in sorted(held))
        sequence["concept_start"].append(len(sequence["concept"]))
        sequence["response"].append(response)
        sequence["event"].append(event)
        sequence["seconds"].append(0.0 if before is None else (moment - before) / 1000)
        sequence["elapsed"].append(elapsed)
    sequence["start"].append(len(sequence["question"]))


def peak_gigabytes() -> float:
    """Return the most memory this process ever held, in gigabytes."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)


def apart(work, *arguments) -> dict:
    """Run in a fresh process and return what it returns."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--folder", type=Path, default=None, help="where to write the rows")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as made:
        folder = Path(made)
        found = apart(make, folder, chosen.rows)
        parquet, text = folder / "parquet", folder / "rows.csv"
        found["loop"] = {
            gather: apart(loop, parquet, gather, rows) for gather, rows in LOOP_ROWS.items()
        }
        for name, path in (("parquet", parquet), ("csv", text)):
            ours = found[name] = apart(flow, path)
            for gather, slow in found["loop"].items():
                ours[f"times_the_loop_over_{gather}"] = {
                    unit: round(ours[unit] / slow[unit], 1)
                    for unit in ("rows_per_second", "rows_per_processor_second")
                }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
