"""What recording a run costs: seconds of a training with and without MLflow, and of each write.

The same small training is repeated, recorded and not, in turn; the share of the recorded time that
is spent inside the tracker is what recording costs. The limit is the one that users are promised.
"""

import argparse
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from kt_forecast.data.splits import Role
from kt_forecast.experiment import Recipe, shipped, tables
from kt_forecast.experiment.flow import Rows, plans, prepare
from kt_forecast.tracer import fit_plan
from kt_forecast.tracking import Tracker
from kt_forecast.training import Epoch

LIMIT = 0.03


def trained(recipe: Recipe, rows: Rows, root: Path | None) -> tuple[float, float, int]:
    """Return seconds of a training, those of them inside the tracker, and how many writes."""
    chosen, _ = plans(recipe)
    parts = (rows.parts[Role.TRAIN], rows.parts[Role.VALID], rows.vocabulary)
    spent: list[float] = []
    with Tracker("bench", "logging", root=root) if root else nullcontext() as run:

        def timed(epoch: Epoch) -> None:
            start = time.perf_counter()
            run.epoch(epoch)
            spent.append(time.perf_counter() - start)

        before = time.perf_counter()
        fit_plan(chosen, *parts, callbacks=[timed] if run else [], device="cpu")
        return time.perf_counter() - before, sum(spent), len(spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--root", type=Path, help="Folder of the store; else a fresh one.")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        root = options.root or Path(folder) / "mlruns"
        recipe = Recipe.read(shipped("demo")).changed(
            {"training": {"epochs": options.epochs, "patience": options.epochs}}, "bench"
        )
        rows = prepare(recipe, tables.load(recipe.data))
        shares = []
        for _ in range(options.repeats):
            bare, _, _ = trained(recipe, rows, None)
            whole, inside, writes = trained(recipe, rows, root)
            shares.append(inside / (whole - inside))
            print(
                f"not recorded {bare:.2f} s, recorded {whole:.2f} s, of it {inside:.3f} s in"
                f" {writes} writes ({1000 * inside / max(writes, 1):.1f} ms each):"
                f" {shares[-1]:.2%} of the training"
            )
        share = sorted(shares)[len(shares) // 2]
    print(f"recording costs {share:.2%} of training; promised is at most {LIMIT:.0%}")
    sys.exit(share > LIMIT)


if __name__ == "__main__":
    main()
