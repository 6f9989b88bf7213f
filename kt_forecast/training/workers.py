"""The processes that train one model together."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kt_forecast.errors import InputError


@dataclass(frozen=True)
class Workers:
    """This process among those that train together.

    Attributes:
        rank: this process, counted from 0; only the first one writes.
        world: how many there are.
        device: where this one computes.
    """

    rank: int
    world: int
    device: torch.device

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of ``values`` over the processes."""
        if self.world == 1:
            return values
        everyone = values.clone()
        dist.all_reduce(everyone)
        return everyone

    def first(self, values: list[float]) -> list[float]:
        """Return the ``values`` of rank 0."""
        if self.world == 1:
            return values
        shared = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.broadcast(shared, 0)
        return shared.tolist()

    def gather(self, value: Tensor) -> Tensor:
        """Return the ``value`` of every process, stacked by rank, on the CPU."""
        if self.world == 1:
            return value[None].cpu()
        mine = value.to(self.device)
        found = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(found, mine)
        return torch.stack(found).cpu()

    def gather_each(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of every process, whose names and shapes may differ, on the CPU.

        Returns:
            Each tensor by the rank of its process and its name.
        """
        mine = {name: tensor.cpu() for name, tensor in tensors.items()}
        found: list[Any] = [mine]
        if self.world > 1:
            found = [None] * self.world
            dist.all_gather_object(found, mine)
        return {f"{rank}.{name}": x for rank, own in enumerate(found) for name, x in own.items()}


def device_named(name: str) -> torch.device:
    """Return a device that is here.

    Args:
        name: as torch names it, or ``auto``: a GPU where there is one, else the CPU.

    Raises:
        InputError: torch knows no such device, or cannot use it here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).sum().item()
    except (RuntimeError, AssertionError, NotImplementedError):
        raise InputError(
            f"device {name!r} is not here; accepted are auto, cpu"
            f"{' and cuda' if torch.cuda.is_available() else ''}"
        ) from None
    return device


@contextmanager
def workers(device: str = "auto") -> Iterator[Workers]:
    """Join the processes that torchrun started; without torchrun, be the only one.

    Args:
        device: see `device_named`.

    Raises:
        InputError: there is no such device.
    """
    chosen = device_named(device)
    if dist.is_initialized():
        yield _joined(chosen)
    elif "WORLD_SIZE" not in os.environ:
        yield Workers(0, 1, chosen)
    else:
        if chosen.type == "cuda":
            chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(chosen)
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
        try:
            yield _joined(chosen)
        finally:
            dist.destroy_process_group()


def _joined(device: torch.device) -> Workers:
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    return Workers(dist.get_rank(), dist.get_world_size(), device)
