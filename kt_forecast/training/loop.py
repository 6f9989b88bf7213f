"""One pass over the training data after another, and the place a run keeps between two updates."""

import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.swa_utils import get_ema_multi_avg_fn

from kt_forecast.errors import InputError, TimeUpError, TrainingError
from kt_forecast.nn.kernels import without_cudnn_attention
from kt_forecast.sequences.stretches import Stretch, on_rows
from kt_forecast.training.files import copied, read_tensors, write_tensors
from kt_forecast.training.settings import Batches, Checkpoint, Epoch, Fitted, TrainingConfig
from kt_forecast.training.workers import Workers, workers

CHECKPOINT = "checkpoint.safetensors"


def fit(
    model: nn.Module,
    train: Batches,
    validate: Callable[[], dict[str, float]],
    config: TrainingConfig,
    *,
    checkpoint: Checkpoint | None = None,
    callbacks: Sequence[Callable[[Epoch], object]] = (),
    device: str = "auto",
) -> Fitted:
    """Train ``model`` until validation stops getting better, and give it its best weights.

    Args:
        model: has ``loss(batch) -> (sum, count)``; may have ``parameter_groups(config)``, which
            returns AdamW's groups in place of the standard ones. To be trained on stretches it has
            ``init_state(rows)`` and ``carried_loss(batch, state) -> (sum, count, state)`` too.
        train: the training batches.
        validate: scores the model on validation data; called without gradients. Every process
            calls it and rank 0's values count.
        config: settings of the loop.
        checkpoint: where to keep the run's place; None keeps none.
        callbacks: called with every epoch, also with those before an interruption.
        device: see `workers`.

    Raises:
        InputError: validation does not return the metric, or the checkpoint is another run's.
        TimeUpError: the checkpoint asked for the end before the first epoch was done.
        TrainingError: a loss, a gradient or the metric is not finite.
    """
    with workers(device) as group, _surroundings(config, group):
        loop = _Loop(model, train, config, group)
        if checkpoint and checkpoint.resume:
            loop.restore(checkpoint)
        for record in loop.history:
            _tell(callbacks, record)
        while not loop.stopped:
            loop.run(checkpoint)
            if loop.is_ended:
                loop.save(checkpoint)
                break
            loop.close(validate)
            loop.save(checkpoint)
            _tell(callbacks, loop.history[-1])
        if not loop.history:
            raise TimeUpError("the time ended in the first epoch")
        model.load_state_dict(loop.best_weights)
        model.eval()
        return Fitted(model, loop.best, tuple(loop.history), loop.stopped or "time")


def _tell(callbacks: Sequence[Callable[[Epoch], object]], record: Epoch) -> None:
    for callback in callbacks:
        callback(record)


@contextmanager
def _surroundings(config: TrainingConfig, group: Workers) -> Iterator[None]:
    """Choose seed and kernels for this process; leave the caller's as they were."""
    devices = [group.device] if group.device.type == "cuda" else []
    before = torch.are_deterministic_algorithms_enabled()
    lenient = torch.is_deterministic_algorithms_warn_only_enabled()
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with torch.random.fork_rng(devices), without_cudnn_attention():
        torch.manual_seed((config.seed << 16) + group.rank)
        torch.use_deterministic_algorithms(config.deterministic, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before, warn_only=lenient)


def parameter_groups(model: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """Return AdamW's groups: matrices decay; vectors and embedding tables do not."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    learned = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in learned if p.ndim > 1 and id(p) not in tables]
    decaying = {id(p) for p in matrices}
    rest = [p for p in learned if id(p) not in decaying]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return [g for g in groups if g["params"]]


class Loss(nn.Module):
    """The model's loss as a forward pass, which is what DDP and compilation wrap."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Any, state: Any = None) -> tuple[Tensor, Tensor, Any]:  # noqa: ANN401
        """Return the sum of losses, how many there are, and what the batch leaves behind."""
        model: Any = self.model
        if not isinstance(batch, Stretch) or batch.alone:
            return (*model.loss(batch.whole if isinstance(batch, Stretch) else batch), None)
        state = model.init_state(len(batch.lengths)) if batch.begins else state
        sums = []
        for rows, part in batch.segments():
            total, count, state = model.carried_loss(part, on_rows(state, rows))
            sums.append((total, count))
        total, count = (torch.stack(parts).sum() for parts in zip(*sums, strict=True))
        return total, count, state


class _Loop:
    """A run between two updates: all that a checkpoint must hold."""

    def __init__(
        self, model: nn.Module, train: Batches, config: TrainingConfig, group: Workers
    ) -> None:
        self.model = model.to(group.device)
        self.train = train
        self.config = config
        self.group = group
        own = getattr(model, "parameter_groups", None)
        groups = own(config) if own else parameter_groups(model, config)
        self.learned = [p for g in groups for p in g["params"]]
        is_real = all(p.is_floating_point() for p in self.learned)
        self.optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, fused=is_real)
        self.rates = [float(g["lr"]) for g in self.optimiser.param_groups]
        self.averaged = [p.detach().clone() for p in self.learned] if config.ema else []
        self.loss = self._wrapped()
        self.dtype = torch.bfloat16 if self._uses_bf16() else torch.float32
        self.carried: Any = None
        self.epoch, self.position = 1, 0
        self.loss_sum, self.count, self.seconds = 0.0, 0.0, 0.0
        self.unchecked: list[tuple[Tensor, Tensor, Tensor]] = []
        self.history: list[Epoch] = []
        self.best_weights: dict[str, Tensor] = {}
        self.saved = time.monotonic()
        self.is_ended = False

    def _wrapped(self) -> nn.Module:
        module: nn.Module = Loss(self.model)
        if self.config.compile:
            module.compile(dynamic=True)  # batches differ in length; each would compile anew
        return DistributedDataParallel(module) if self.group.world > 1 else module

    def _uses_bf16(self) -> bool:
        if self.config.precision == "auto":
            return self.group.device.type == "cuda" and torch.cuda.is_bf16_supported()
        return self.config.precision == "bf16"

    @property
    def best(self) -> Epoch:
        """The epoch that validation chose so far."""
        found = self.history[0]
        for record in self.history[1:]:
            if self.config.better(self._metric(record), self._metric(found)):
                found = record
        return found

    @property
    def stopped(self) -> Literal["epochs", "patience"] | None:
        """Why there is no next epoch, if there is none."""
        if self.history and len(self.history) - self.best.number >= self.config.patience:
            return "patience"
        return "epochs" if self.epoch > self.config.epochs else None

    def _metric(self, record: Epoch) -> float:
        return record.metrics[self.config.metric]

    def run(self, checkpoint: Checkpoint | None) -> None:
        """Train on what is left of the epoch.

        Raises:
            RuntimeError: the model failed, and not for an earlier loss that was not finite.
        """
        self.model.train()
        clock = time.monotonic()
        for batch in _shown(self._batches(self.position), self):
            if self._ends(checkpoint):
                break
            try:
                self._update(batch.to(self.group.device))
            except RuntimeError:
                if self.group.world == 1:
                    self._settle()  # an earlier loss that was not finite explains it better
                raise
            self.position += 1
            if self.position % self.config.check_updates == 0:
                self._settle()
                self.seconds, clock = self.seconds + time.monotonic() - clock, time.monotonic()
                if checkpoint and self._is_due():
                    self.save(checkpoint)
        self._settle()
        self.seconds += time.monotonic() - clock

    def _ends(self, checkpoint: Checkpoint | None) -> bool:
        """Return whether training is asked to end here; one process decides for all."""
        if checkpoint is not None and checkpoint.ends is not None:
            self.is_ended = bool(self.group.first([float(checkpoint.ends())])[0])
        return self.is_ended

    def _batches(self, start: int) -> Iterator[Any]:
        group = self.group
        return self.train.epoch(self.epoch, start=start, rank=group.rank, world=group.world)

    def _update(self, batch: Any) -> None:  # noqa: ANN401
        self._set_rate()
        self.optimiser.zero_grad()
        kind = self.group.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            total, count, state = self.loss(batch, self.carried)
        stays = batch.stays if isinstance(batch, Stretch) else 0
        self.carried = on_rows(state, stays, Tensor.detach) if stays else None
        total, count = total.float(), count.detach().float()
        # DDP averages over processes; the loss is the mean over the steps of all of them.
        share = self.group.world / self.group.total(count).clamp(min=1)
        (total * share).backward()
        norm = get_total_norm([p.grad for p in self.learned if p.grad is not None])
        if self.config.clip:
            clip_grads_with_norm_(self.learned, self.config.clip, norm)
        self.optimiser.step()
        if self.averaged:
            self._average()
        self.unchecked.append((total.detach(), count, norm))

    def _set_rate(self) -> None:
        share = self._schedule((self.epoch - 1) * len(self.train) + self.position)
        for rate, group in zip(self.rates, self.optimiser.param_groups, strict=True):
            group["lr"] = rate * share

    def _schedule(self, update: int) -> float:
        """Return the share of the learning rate at an update."""
        updates = self.config.epochs * len(self.train)
        warm = round(self.config.warmup * updates)
        if update < warm:
            return (update + 1) / warm
        if self.config.schedule == "constant":
            return 1.0
        return 0.5 + 0.5 * math.cos(math.pi * (update - warm) / (updates - warm))

    def _average(self) -> None:
        # A young average forgets faster, else it would hold on to the initial weights.
        updates = (self.epoch - 1) * len(self.train) + self.position
        decay = min(self.config.ema, (1 + updates) / (10 + updates))
        get_ema_multi_avg_fn(decay)(self.averaged, [p.detach() for p in self.learned], 0)

    def _settle(self) -> None:
        """Wait for the device and book the updates since the last wait.

        Raises:
            TrainingError: a loss or gradient among them is not finite.
        """
        if not self.unchecked:
            return
        losses, counts, norms = (torch.stack(c).double() for c in zip(*self.unchecked, strict=True))
        sums = self.group.total(torch.stack([losses, counts]))
        rows = torch.cat([sums, norms[None]]).T.tolist()
        first = self.position - len(self.unchecked)
        self.unchecked.clear()
        for place, (loss, count, norm) in enumerate(rows):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                self._refuse("gradient" if math.isfinite(loss) else "loss", first + place)
            self.loss_sum += loss
            self.count += count

    def _refuse(self, what: str, batch: int) -> None:
        places = next(self._batches(batch)).place
        spans = tuple(
            (int(real.min()), int(real.max()))
            for row in places.reshape(len(places), -1).cpu()
            if len(real := row[row >= 0])
        )
        named = ", ".join(f"{a}-{b}" for a, b in spans[:8]) + (", ..." if len(spans) > 8 else "")
        raise TrainingError(
            f"the {what} is not finite in epoch {self.epoch}, batch {batch}, whose rows hold the "
            f"training steps {named}; only finite numbers are accepted: look at those rows, or "
            f"lower learning_rate {self.config.learning_rate:g} or clip {self.config.clip:g}",
            epoch=self.epoch,
            batch=batch,
            spans=spans,
        )

    def close(self, validate: Callable[[], dict[str, float]]) -> None:
        """End the epoch: validate, keep the weights if they are the best so far.

        Raises:
            InputError: validation does not return the metric.
            TrainingError: the metric is not finite.
        """
        clock = time.monotonic()
        rate = float(self.optimiser.param_groups[0]["lr"])
        self.model.eval()
        with self._averaged_weights(), torch.no_grad():
            metrics = validate()
            names = sorted(metrics)
            values = self.group.first([float(metrics[name]) for name in names])
            record = Epoch(
                number=self.epoch,
                loss=self.loss_sum / max(self.count, 1.0),
                metrics=dict(zip(names, values, strict=True)),
                seconds=self.seconds + time.monotonic() - clock,
                steps_per_second=self.count / max(self.seconds, 1e-9),
                learning_rate=rate,
            )
            self._check_metric(record)
            self.history.append(record)
            if self.best is record:
                self.best_weights = copied(self.model.state_dict())
        self.epoch, self.position = self.epoch + 1, 0
        self.loss_sum, self.count, self.seconds = 0.0, 0.0, 0.0

    def _check_metric(self, record: Epoch) -> None:
        name = self.config.metric
        if name not in record.metrics:
            known = ", ".join(record.metrics)
            raise InputError(f"validation gives no metric {name!r}; metric may be one of: {known}")
        if not math.isfinite(record.metrics[name]):
            raise TrainingError(
                f"the validation metric {name!r} is {record.metrics[name]} in epoch "
                f"{record.number}; validation data must give a finite {name!r}",
                epoch=record.number,
            )

    @contextmanager
    def _averaged_weights(self) -> Iterator[None]:
        """Lend the model its averaged weights, if there are any."""
        own = [p.detach().clone() for p in self.learned] if self.averaged else []
        _put(self.learned, self.averaged)
        try:
            yield
        finally:
            _put(self.learned, own)

    def _is_due(self) -> bool:
        waited = time.monotonic() - self.saved >= self.config.checkpoint_seconds
        return bool(self.group.first([float(waited)])[0])

    def save(self, checkpoint: Checkpoint | None) -> None:
        """Write the run's place; every process must call this, rank 0 writes."""
        if checkpoint is None:
            return
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best_weights.items()}
        tensors |= {f"average.{i}": v for i, v in enumerate(self.averaged)}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{k}": v for k, v in state.items()}
        left = {} if self.carried is None else self.carried.tensors()
        tensors |= {f"carried.{k}": v for k, v in self.group.gather_each(left).items()}
        tensors["random.cpu"] = self.group.gather(torch.get_rng_state())
        if self.group.device.type == "cuda":
            tensors["random.cuda"] = self.group.gather(torch.cuda.get_rng_state(self.group.device))
        if self.group.rank == 0:
            facts = {
                "run": self._run(checkpoint.fingerprint),
                "epoch": self.epoch,
                "position": self.position,
                "loss_sum": self.loss_sum,
                "count": self.count,
                "seconds": self.seconds,
                "history": [asdict(record) for record in self.history],
            }
            write_tensors(checkpoint.folder / CHECKPOINT, tensors, facts)
        self.saved = time.monotonic()

    def _run(self, fingerprint: str) -> dict[str, Any]:
        """Return what must be equal for a checkpoint to be this run's."""
        settings = self.config.model_dump(exclude={"check_updates", "checkpoint_seconds"})
        shapes = {k: list(v.shape) for k, v in self.model.state_dict().items()}
        facts = {"fingerprint": fingerprint, "processes": self.group.world}
        facts |= {"device": self.group.device.type, "batches": len(self.train)}
        return settings | facts | {"shapes": shapes}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go to the place that the checkpoint holds; with no checkpoint, stay at the start.

        Raises:
            InputError: the file is damaged or another run's.
        """
        path = checkpoint.folder / CHECKPOINT
        if not path.exists():
            return
        tensors, facts = read_tensors(path)
        mine, theirs = self._run(checkpoint.fingerprint), facts["run"]
        differs = [k for k in mine | theirs if mine.get(k) != theirs.get(k)]
        if differs:
            key = differs[0]
            raise InputError(
                f"{path} is the checkpoint of another run: its {key} is {theirs.get(key)!r}, this "
                f"run's is {mine.get(key)!r}; resume with the same settings and data, or start "
                f"anew without resume"
            )
        self.model.load_state_dict(_under("model.", tensors))
        self.best_weights = _under("best.", tensors)
        _put(self.averaged, [tensors[f"average.{i}"] for i in range(len(self.averaged))])
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under("optimiser.", tensors).items():
            index, part = name.split(".", 1)
            state.setdefault(int(index), {})[part] = tensor
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": state, "param_groups": groups})
        # A copy: a view into the middle of a tensor crashes torch.
        torch.set_rng_state(tensors["random.cpu"][self.group.rank].clone())
        if self.group.device.type == "cuda":
            stream = tensors["random.cuda"][self.group.rank].clone()
            torch.cuda.set_rng_state(stream, self.group.device)
        left = _under(f"carried.{self.group.rank}.", tensors)
        if left:
            model: Any = self.model
            here = {name: tensor.to(self.group.device) for name, tensor in left.items()}
            self.carried = model.init_state(1).filled(here)
        self.epoch, self.position = facts["epoch"], facts["position"]
        self.loss_sum, self.count = facts["loss_sum"], facts["count"]
        self.seconds = facts["seconds"]
        self.history = [Epoch(**record) for record in facts["history"]]


def _put(into: list[Any], values: list[Tensor]) -> None:
    with torch.no_grad():
        for target, value in zip(into, values, strict=False):
            target.copy_(value)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _shown(batches: Iterable[Any], loop: _Loop) -> Iterator[Any]:
    """Pass the batches on; draw a progress bar where rank 0 writes to a terminal."""
    if loop.group.rank or not sys.stderr.isatty():
        yield from batches
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task("", total=len(loop.train), completed=loop.position)
        for batch in batches:
            yield batch
            mean = f"  loss {loop.loss_sum / loop.count:.4f}" if loop.count else ""
            bar.update(task, advance=1, description=f"epoch {loop.epoch}{mean}")
