"""How long a full audit takes and what memory it needs, by model and length; prints JSON.

Every audit runs in a process of its own, whose largest resident size is read afterwards; that of
a process that has only imported torch and the auditor is given beside it.

    python tests/benchmarks/bench_audit.py [--lengths 64 512] [--models lstm] [--stages]
"""

import argparse
import json
import multiprocessing
import os
import resource
import sys
import time
from multiprocessing.queues import SimpleQueue

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as kt-forecast does, before torch is there

import torch
from torch import Tensor, nn

from kt_forecast.audit import audit, causal

WIDTH = 64
ROWS = 3
LENGTHS = (64, 512, 2048)


class Transformer(nn.Module):
    """An encoder with a causal mask, and a head."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.head(self.layers(x, mask=mask, is_causal=True))


class Recurrent(nn.Module):
    """Two layers of LSTM, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.LSTM(WIDTH, WIDTH, 2, batch_first=True)
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.memory(x)[0])


class Convolutions(nn.Module):
    """Dilated convolutions padded on the left, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, 3, dilation=2**i) for i in range(4))
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = x.mT
        for i, layer in enumerate(self.layers):
            y = y + layer(nn.functional.pad(y, (2 * 2**i, 0))).relu()
        return self.head(y.mT)


MODELS: dict[str, type[nn.Module]] = {
    "transformer": Transformer,
    "lstm": Recurrent,
    "convolutions": Convolutions,
}


def measured(name: str, length: int, found: "SimpleQueue[dict[str, object]]") -> None:
    """Audit one model in this process."""
    before = peak()
    torch.manual_seed(0)
    model, x = MODELS[name](), torch.randn(ROWS, length, WIDTH)
    began, used = time.perf_counter(), time.process_time()
    report = audit(model, x, causal())
    found.put(
        {
            "model": name,
            "length": length,
            "verdict": report.verdict,
            "seconds": round(time.perf_counter() - began, 2),
            "cpu_seconds": round(time.process_time() - used, 2),
            "peak_mib": peak(),
            "peak_mib_before": before,
            "stages": {stage.name: round(stage.seconds, 2) for stage in report.stages},
        }
    )


def peak() -> int:
    """Return the largest resident size so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--stages", action="store_true", help="print the seconds of each stage")
    asked = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    rows = []
    for name in asked.models:
        for length in asked.lengths:
            queue: SimpleQueue[dict[str, object]] = context.SimpleQueue()
            process = context.Process(target=measured, args=(name, length, queue))
            process.start()
            process.join()
            row: dict[str, object] = {"model": name, "length": length, "verdict": "did not end"}
            rows.append(row if queue.empty() else queue.get())
            shown = (
                rows[-1] if asked.stages else {k: v for k, v in rows[-1].items() if k != "stages"}
            )
            print(*(f"{key} {value}" for key, value in shown.items()), file=sys.stderr, flush=True)
    print(json.dumps({"threads": torch.get_num_threads(), "rows": ROWS, "audits": rows}, indent=2))


if __name__ == "__main__":
    main()
