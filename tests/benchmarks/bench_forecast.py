"""How long one forecast takes, and what training on many series needs; prints JSON.

Latency: `predict` on a loaded model, for one series in a data frame, its checks included. Memory:
a small GPT is trained for some updates on series in a Parquet file, by a process of its own, whose
largest resident size is read afterwards.

    python tests/benchmarks/bench_forecast.py [--series 100000] [--rows 1000]
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from kt_forecast.forecaster import Forecaster, load

HORIZON = 96
CONTEXT = 336
SEASON = 24
SERIES_PER_BLOCK = 5_000


def demand(series: int, rows: int, seed: int) -> np.ndarray:
    """Return a daily cycle with noise, one line a series."""
    random = np.random.default_rng(seed)
    cycle = np.sin(2 * np.pi * np.arange(rows) / SEASON)
    level, size = random.uniform(5, 50, (2, series, 1))
    noise = random.standard_normal((series, rows), dtype=np.float32)
    return (level + size * cycle + noise).astype(np.float32)


def frame(rows: int) -> pl.DataFrame:
    stamps = np.datetime64("2024-01-01", "us") + np.arange(rows) * np.timedelta64(1, "h")
    return pl.DataFrame({"unique_id": "home", "ds": stamps, "y": demand(1, rows, 0)[0]})


def latency(system: str, rows: int, repeats: int, folder: Path) -> dict[str, float]:
    """Return milliseconds of the first and of the usual forecast by a loaded model."""
    trained = system != "ridge"
    Forecaster(
        system,
        HORIZON,
        context=CONTEXT,
        forecasting={"windows_per_epoch": 512} if trained else None,
        training={"epochs": 1} if trained else None,
    ).fit(frame(rows)).save(folder)
    forecaster, one = load(folder, device="cpu"), frame(rows)
    found = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        forecaster.predict(one)
        found.append(1e3 * (time.perf_counter() - began))
    usual = np.array(found[1:])
    return {
        "first_ms": round(found[0], 2),
        "median_ms": round(float(np.median(usual)), 2),
        "p95_ms": round(float(np.quantile(usual, 0.95)), 2),
    }


def write(path: Path, series: int, rows: int) -> None:
    """Write series one after another, some at a time."""
    stamp = pa.timestamp("us")
    schema = pa.schema([("unique_id", pa.string()), ("ds", stamp), ("y", pa.float32())])
    hours = np.datetime64("2024-01-01", "us") + np.arange(rows) * np.timedelta64(1, "h")
    with pq.ParquetWriter(path, schema) as file:
        for low in range(0, series, SERIES_PER_BLOCK):
            some = min(SERIES_PER_BLOCK, series - low)
            ids = pa.array([f"series-{low + i}" for i in range(some)])
            columns = [
                ids.take(pa.array(np.arange(some).repeat(rows))),
                pa.array(np.tile(hours, some)),
                pa.array(demand(some, rows, low).ravel()),
            ]
            file.write_table(pa.table(columns, schema=schema))


def train(path: Path, updates: int, answer: SimpleQueue[dict[str, float]]) -> None:
    """Train in a process of its own, and say what it needed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    forecaster = Forecaster(
        "gpt",
        HORIZON,
        context=CONTEXT,
        settings={"width": 32, "heads": 4},
        forecasting={"windows_per_batch": 256, "windows_per_epoch": 256 * updates},
        training={"epochs": 1},
        device="cpu",
    ).fit(path, val_size=HORIZON)
    epoch = forecaster.epochs_[0]
    ahead = HORIZON * forecaster.fitted_.plan.forecasting.origins
    answer.put(
        {
            "seconds": round(time.perf_counter() - began, 1),
            "windows_per_second": round(epoch.steps_per_second / ahead),
            "imports_gib": round(before / 2**20, 2),
            "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        }
    )


def memory(series: int, rows: int, updates: int, folder: Path) -> dict[str, float]:
    """Return peak memory and speed of training on many series.

    Raises:
        RuntimeError: training failed.
    """
    path = folder / "series.parquet"
    write(path, series, rows)
    context = multiprocessing.get_context("spawn")
    answer = context.SimpleQueue()
    process = context.Process(target=train, args=(path, updates, answer))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"training ended with exit code {process.exitcode}")
    return answer.get()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=1_000)
    parser.add_argument("--updates", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = {
            "latency": {
                system: latency(system, options.rows, options.repeats, Path(folder) / system)
                for system in ("gpt", "ridge")
            },
            "memory": memory(options.series, options.rows, options.updates, Path(folder)),
        }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
