"""A tiny training run in a process of its own: run by the tests of resuming and of torchrun."""

import argparse
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from kt_forecast.training import Checkpoint, TrainingConfig, fit, workers


@dataclass(frozen=True)
class Rows:
    x: Tensor
    y: Tensor
    real: Tensor
    place: Tensor

    def to(self, device):
        return Rows(*(getattr(self, f).to(device) for f in ("x", "y", "real", "place")))


class TinyBatches:
    """Rows of unequal length, so that the processes' shares hold unequal numbers of steps."""

    def __init__(self, count: int = 6, rows: int = 8, time: int = 5):
        self.count, self.rows = count, rows
        made = torch.Generator().manual_seed(1)
        total = count * rows
        self.x = torch.randint(0, 20, (total, time), generator=made)
        length = torch.randint(1, time + 1, (total, 1), generator=made)
        self.real = torch.arange(time) < length
        self.y = (self.x % 3 == 0).float()
        self.place = torch.where(self.real, torch.arange(total * time).view(total, time), -1)

    def __len__(self):
        return self.count

    def epoch(self, number, *, start=0, rank=0, world=1) -> Iterator[Rows]:
        made = torch.Generator().manual_seed(number)
        order = torch.randperm(len(self.x), generator=made)
        for i in range(start, self.count):
            mine = order[i * self.rows : (i + 1) * self.rows][rank::world]
            batch = Rows(self.x[mine], self.y[mine], self.real[mine], self.place[mine])
            yield self.change(number, i, batch)

    def change(self, epoch, batch, rows):
        """What a test does to a batch on its way."""
        return rows


class TinyModel(nn.Module):
    def __init__(self, dropout: float = 0.0):
        super().__init__()
        made = torch.Generator().manual_seed(3)
        self.table = nn.Embedding(20, 4)
        self.head = nn.Linear(4, 1)
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=made) * 0.5)

    def forward(self, x):
        return self.head(self.dropout(self.table(x)))[..., 0]

    def loss(self, batch):
        each = nn.functional.binary_cross_entropy_with_logits(
            self(batch.x), batch.y, reduction="none"
        )
        return (each * batch.real).sum(), batch.real.sum()


def validation(model: nn.Module):
    x = torch.arange(20)[None]

    def validate():
        device = next(model.parameters()).device
        loss = nn.functional.binary_cross_entropy_with_logits(
            model(x.to(device)), (x % 3 == 0).float().to(device)
        )
        return {"nll": float(loss)}

    return validate


SETTINGS = {"metric": "nll", "direction": "min", "epochs": 3, "learning_rate": 0.05}
PLACE = {"check_updates": 1, "checkpoint_seconds": 0.0}


class Doomed(TinyBatches):
    """Kills its own process before a batch."""

    def change(self, epoch, batch, rows):
        if f"{epoch}.{batch}" == self.end:
            os.kill(os.getpid(), signal.SIGKILL)
        return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--end", help="epoch.batch before which the process is killed")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--ema", type=float, default=0.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args(arguments)
    model = TinyModel(args.dropout)
    config = TrainingConfig(**SETTINGS, **PLACE, ema=args.ema, compile=args.compile)
    place = Checkpoint(args.folder / "place", fingerprint="data", resume=True)
    with workers(args.device) as group:
        train = Doomed()
        train.end = args.end
        done = fit(model, train, validation(model), config, checkpoint=place, device=args.device)
        losses = [record.loss for record in done.history]
        metrics = [record.metrics["nll"] for record in done.history]
        found = {"losses": losses, "metrics": metrics, "world": group.world, "pid": os.getpid()}
        (args.folder / f"rank{group.rank}.json").write_text(json.dumps(found))
        weights = {k: v.cpu() for k, v in model.state_dict().items()}
        save_file(weights, args.folder / f"rank{group.rank}.safetensors")


if __name__ == "__main__":
    main()
