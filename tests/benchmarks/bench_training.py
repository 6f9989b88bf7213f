"""One training epoch, ours against a plain loop over rows padded to a fixed length.

Same model, same optimiser, same interactions, same steps a batch, in one run, after a warm-up of
each; prints JSON. The plain loop is what common toolkits do: histories cut into rows of the same
length, every row padded to it, a data loader, one row after another.

    python tests/benchmarks/bench_training.py --data path/to/assist2009
"""

import argparse
import copy
import json
import os
import time

import torch
from torch import nn
from torch.utils.data import DataLoader

from kt_forecast import zoo
from kt_forecast.data.simulate import Simulation, simulate
from kt_forecast.data.splits import ByStudents, Role, split
from kt_forecast.data.tables import load
from kt_forecast.sequences.batching import Batches, chunks, collate
from kt_forecast.sequences.build import build_role, fit_vocabulary
from kt_forecast.sequences.interactions import Batch, StudentSequences
from kt_forecast.tasks.knowledge_tracing import Tracer, TracingConfig

LENGTH = 200


def ours(sequences: StudentSequences, steps_per_batch: int) -> Batches:
    return Batches(sequences, history=LENGTH, steps_per_batch=steps_per_batch)


def plain(sequences: StudentSequences, steps_per_batch: int) -> DataLoader[Batch]:
    pieces = chunks(sequences, LENGTH)
    rows = [collate(sequences, pieces.take(torch.tensor([i]).numpy())) for i in range(len(pieces))]
    widest = max(row.concepts.shape[2] for row in rows)

    def padded(row: Batch) -> Batch:
        missing = LENGTH - row.shape[1]
        fill = row.map(lambda x: nn.functional.pad(x, (0,) * 2 * (x.ndim - 2) + (0, missing)))
        concepts = nn.functional.pad(fill.concepts, (0, widest - fill.concepts.shape[2]))
        return Batch(**{**vars(fill), "concepts": concepts})

    def stacked(some: list[Batch]) -> Batch:
        names = [name for name, x in vars(some[0]).items() if isinstance(x, torch.Tensor)]
        tensors = {name: torch.cat([getattr(row, name) for row in some]) for name in names}
        return Batch(**tensors, bundles=False)

    return DataLoader(
        [padded(row) for row in rows],  # type: ignore[arg-type]
        batch_size=max(1, steps_per_batch // LENGTH),
        shuffle=True,
        collate_fn=stacked,
    )


def epoch(model: nn.Module, batches: object) -> tuple[float, int]:
    optimiser = torch.optim.AdamW(model.parameters())
    model.train()
    steps, began = 0, time.perf_counter()
    for batch in batches:  # type: ignore[attr-defined]
        total, count = model.loss(batch)
        optimiser.zero_grad()
        (total / count).backward()
        optimiser.step()
        steps += int(batch.real.sum())
    return time.perf_counter() - began, steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="a table or a data set's name; else students are simulated")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--steps-per-batch", type=int, default=8000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    table = load(options.data or simulate(Simulation(students=3000, mean_steps=75)))
    roles = split(table, ByStudents())
    vocabulary = fit_vocabulary(table, roles)
    sequences = build_role(table, vocabulary, roles, Role.TRAIN)
    torch.manual_seed(0)
    system = zoo.load("gpt")
    model = Tracer(system, system.config(width=options.width), TracingConfig(), vocabulary)
    sequences = model.fit_statistics(sequences)
    loops = {
        "ours": ours(sequences, options.steps_per_batch),
        "plain": plain(sequences, options.steps_per_batch),
    }
    times: dict[str, list[float]] = {name: [] for name in loops}
    steps = 0
    for turn in range(options.repeats + 1):
        for name, batches in loops.items():
            seconds, steps = epoch(copy.deepcopy(model), batches)
            if turn:
                times[name].append(seconds)
    best = {name: min(seconds) for name, seconds in times.items()}
    print(
        json.dumps(
            {
                "data": table.name,
                "steps": steps,
                "width": options.width,
                "threads": torch.get_num_threads(),
                "cores": os.cpu_count(),
                "torch": torch.__version__,
                "steps_per_second": {name: round(steps / s) for name, s in best.items()},
                "ratio": round(best["plain"] / best["ours"], 2),
                "padding_share": round(loops["ours"].padding_share, 4),  # type: ignore[union-attr]
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
