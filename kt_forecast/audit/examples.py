"""What reproduces a leak: two batches, or coin flips that were predicted. Saved without code."""

import json
from dataclasses import dataclass, field
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kt_forecast.audit.flipping import Tosses, predicted, scored
from kt_forecast.audit.nest import calling, nested
from kt_forecast.audit.replacing import change_of
from kt_forecast.audit.running import Runner, Setting
from kt_forecast.audit.stages import wrapped
from kt_forecast.audit.training import training_step, watched

Arrays = dict[str, Tensor]


@dataclass(frozen=True)
class Counterexample:
    """Two batches alike in all that an output may depend on, at which it differs.

    Attributes:
        before: the batch, by input.
        after: the same with what is known too late replaced.
        output: path of the output that moves.
        place: index of the element that moves most.
        effect: by how much.
        moment: after which everything was replaced.
        kind: of replacement.
        setting: mode, weights and path of the run.
        seed: of the random draws inside the model.
        method: ``replacement``; ``length``, where ``after`` is the beginning of ``before``;
            ``replay``, where ``after`` is the call in between; ``rows``; ``streaming``;
            ``padding``; ``training``, of the training step's predictions.
        moved_to: where the element stands in the second run, if elsewhere than in the first.
    """

    before: Arrays = field(repr=False)
    after: Arrays = field(repr=False)
    output: str
    place: tuple[int, ...]
    effect: float
    moment: int
    kind: str
    setting: Setting
    seed: int
    method: str
    moved_to: tuple[int, ...] = ()

    def __str__(self) -> str:
        """Say it in a few words."""
        place = ", ".join(map(str, self.place))
        return f"{self.setting}; {self.kind} after moment {self.moment}; seen at [{place}]"

    def replay(self, model: Any, call: Any = None, *, like: Any = None) -> float:  # noqa: ANN401
        """Return how far the output moves when it is all done again.

        Args:
            model: the module that was audited, or the function.
            call: as given to `audit`; of a training step, what was given as ``training``.
            like: the batch that was audited; needed where it is a dataclass or a named tuple.

        Raises:
            ValueError: it is of a training step, and the model has none.
        """
        if self.method == "training":
            runner = _trainer(model, self.before, call, like, self.seed)
        else:
            runner = _runner(model, self.before, call, like, self.seed)
        if self.method == "replay":
            with runner.held(self.setting):
                first = runner.run(self.before, self.setting)
                runner.run(self.after, self.setting)
                second = runner.run(self.before, self.setting)
        else:
            first = runner(self.before, self.setting)
            second = runner(self.after, self.setting)
        was = first[self.output][self.place]
        now = second[self.output][self.moved_to or self.place]
        return float(change_of(now, was))

    def save(self, path: Path | BufferedIOBase) -> None:
        """Write it to an ``.npz`` file without code in it."""
        facts = {
            "output": self.output,
            "place": self.place,
            "effect": self.effect,
            "moment": self.moment,
            "kind": self.kind,
            "seed": self.seed,
            "method": self.method,
            "moved_to": self.moved_to,
            "setting": vars(self.setting),
        }
        _write(path, facts, before=self.before, after=self.after)

    @classmethod
    def load(cls, path: Path) -> "Counterexample":
        """Read what `save` wrote."""
        facts, both = _read(path, "before", "after")
        setting, place = Setting(**facts.pop("setting")), tuple(facts.pop("place"))
        facts["moved_to"] = tuple(facts.get("moved_to", ()))
        before, after = both["before"], both["after"]
        return cls(before=before, after=after, setting=setting, place=place, **facts)


@dataclass(frozen=True)
class CoinFlips:
    """Labels drawn by fair coins, which were predicted all the same.

    Attributes:
        batch: what else was given, by input; the labels as they were.
        labels: drawn in the place of these, by input; the first axis counts the draws.
        due: when each prediction is needed, by path; empty for a pipeline.
        modes: in which the trained model predicted; empty for a pipeline.
        share: of right predictions, or the mean score; one half is chance.
        effect: how far that is from one half.
        seed: of the random draws inside the model.
        method: ``coin flips``.
    """

    batch: Arrays = field(repr=False)
    labels: Arrays = field(repr=False)
    due: Arrays = field(repr=False)
    modes: tuple[str, ...]
    share: float
    effect: float
    seed: int
    method: str = "coin flips"

    def __str__(self) -> str:
        """Say it in a few words."""
        draws = len(next(iter(self.labels.values())))
        done = "trained and asked" if self.modes else "the pipeline was run"
        return f"{done} on {draws} draws of {', '.join(self.labels)}; {self.share:.3f} were known"

    def replay(self, model: Any, call: Any = None, *, like: Any = None) -> float:  # noqa: ANN401
        """Return how far from one half predictions are when it is all done again.

        Args:
            model: the module that was audited; of a pipeline, what was given as ``pipeline``.
            call: what was given as ``training``.
            like: the batch that was audited; needed where it is a dataclass or a named tuple.

        Raises:
            ValueError: the model has no training step.
        """
        draws = len(next(iter(self.labels.values())))
        stored = iter([{k: x[i] for k, x in self.labels.items()} for i in range(draws)])
        coins = Tosses(self.batch, list(self.labels), stored.__next__)
        if not self.modes:
            return scored(model, coins, draws).share - 0.5
        trainer = _trainer(model, self.batch, call, like, self.seed)
        found = predicted(trainer, coins, self.due, self.modes)
        return max(found, key=lambda one: abs(one.far)).share - 0.5

    def save(self, path: Path | BufferedIOBase) -> None:
        """Write it to an ``.npz`` file without code in it."""
        facts = {
            "modes": self.modes,
            "share": self.share,
            "effect": self.effect,
            "seed": self.seed,
            "method": self.method,
        }
        _write(path, facts, batch=self.batch, labels=self.labels, due=self.due)

    @classmethod
    def load(cls, path: Path) -> "CoinFlips":
        """Read what `save` wrote."""
        facts, arrays = _read(path, "batch", "labels", "due")
        batch, labels, due = (arrays[name] for name in ("batch", "labels", "due"))
        modes = tuple(facts.pop("modes"))
        return cls(batch=batch, labels=labels, due=due, modes=modes, **facts)


def _runner(model: Any, named: Arrays, call: Any, like: Any, seed: int) -> Runner:  # noqa: ANN401
    module, called = wrapped(model)
    batch = nested(named) if like is None else like
    return Runner(module, call or calling(called, batch), seed)


def _trainer(model: Any, named: Arrays, call: Any, like: Any, seed: int) -> Runner:  # noqa: ANN401
    runner = _runner(model, named, None, like, seed)
    outputs = runner(named, Setting()) if call is None else {}
    batch = nested(named) if like is None else like
    step = training_step(model, batch, runner.call, outputs, call)
    if step is None:
        raise ValueError("the model has no training step; call= takes it")
    return Runner(runner.model, watched(step), seed)


def _write(path: Path | BufferedIOBase, facts: dict[str, Any], **groups: Arrays) -> None:
    stored, types = {}, {}
    for group, tensors in groups.items():
        for name, x in tensors.items():
            key = f"{group}/{name}"
            plain = x.detach().cpu()
            if x.dtype == torch.bfloat16:  # which numpy does not have
                plain, types[key] = plain.float(), "bfloat16"
            stored[key] = plain.numpy()
    said = json.dumps(facts | {"types": types})
    np.savez(path, facts=np.array(said), **stored)  # type: ignore[arg-type]


def _read(path: Path, *groups: str) -> tuple[dict[str, Any], dict[str, Arrays]]:
    with np.load(path, allow_pickle=False) as file:
        facts = json.loads(str(file["facts"]))
        types = facts.pop("types", {})
        found: dict[str, Arrays] = {group: {} for group in groups}
        for key in file.files:
            group, _, name = key.partition("/")
            if group in found:
                x = torch.from_numpy(file[key])
                found[group][name] = x.to(getattr(torch, types[key])) if key in types else x
    return facts, found
