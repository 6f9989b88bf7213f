"""The stages about padding, the training step and coin flips."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kt_forecast.audit.axes import resized
from kt_forecast.audit.contract import Clock, Contract, ContractError
from kt_forecast.audit.dependency.analysis import spread
from kt_forecast.audit.examples import CoinFlips
from kt_forecast.audit.flipping import Flipped, Tosses, coins, predicted, scored
from kt_forecast.audit.padding import Padded, find_padding
from kt_forecast.audit.proving import Proof
from kt_forecast.audit.replacing import Clocks
from kt_forecast.audit.report import Finding
from kt_forecast.audit.running import GENERIC, OWN, TRAINING, Outputs, Runner, Setting
from kt_forecast.audit.search import Hit, Search, first_line, sampled
from kt_forecast.audit.training import (
    PREDICTION,
    Judged,
    judge,
    label_names,
    row_pairs,
    training_clock,
    training_needs,
    training_step,
    watched,
)

KINDS, FEW_KINDS = 4, 2
"""Kinds of replacement that are tried in a training step, and where a proof holds."""

SHORT = 32
"""Steps of the sequences on which coin flips are predicted, where the contract leaves them open."""


@dataclass(frozen=True)
class Asked:
    """What an audit was told about training and padding.

    Attributes:
        model: as it was given.
        batch: as it was given.
        padding: name of the input that says what is padding.
        training: from the batch to a loss, or to predictions.
        pipeline: from labels to a score that is one half for who knows nothing.
        labels: names of the inputs that hold labels.
    """

    model: Any
    batch: Any
    padding: str | None = None
    training: Callable[[Any], Any] | None = None
    pipeline: Callable[[Tensor], float] | None = None
    labels: Collection[str] = ()


@dataclass
class Steps:
    """These stages of one audit.

    Attributes:
        asked: what the audit was told.
        runner: runs the model.
        inputs: tensors by name.
        outputs: what the model makes of them.
        contract: bound to the axes found.
        clocks: of the contract, spread.
        axes: time axes of inputs.
        out_axes: time axes of outputs.
        modes: of the audit.
        moments: how many to sample.
        double: whether the model runs in double precision.
        row_axis: the axis of rows.
        hits: found by these stages, and how.
        findings: of coin flips, which have no pair of batches.
        trials: changes tried.
        trainer: runs the training step, where there is one.
        judged: what tracking says of it.
    """

    asked: Asked
    runner: Runner
    inputs: dict[str, Tensor]
    outputs: Outputs
    contract: Contract
    clocks: Clocks
    axes: dict[str, int]
    out_axes: dict[str, int]
    modes: tuple[str, ...]
    moments: int
    double: bool
    row_axis: int
    hits: list[tuple[Hit, str]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    trials: int = 0
    trainer: Runner | None = None
    judged: Judged | None = None

    def padding(self) -> tuple[str, str]:
        """Replace, add and move padding.

        Raises:
            ContractError: the input that was named says nothing about padding.
        """
        axes, out_axes = self.axes, self.out_axes
        if not axes:
            axes, out_axes = _second(self.inputs), _second(self.outputs)
        padding = find_padding(self.inputs, axes, self.asked.padding)
        if isinstance(padding, str):
            if self.asked.padding is not None:
                raise ContractError(f"padding={self.asked.padding!r}: {padding}")
            return "skipped", padding
        padded = Padded(
            self.runner, self.inputs, axes, out_axes, padding, self._generator(), self.double
        )
        hits = padded.run()
        self.trials += padded.trials
        self.hits += [(hit, "padding") for hit in hits]
        if not hits:
            holds = padded.proved()
            padded.said.append("proved that none is read" if holds else "sampled, not proved")
        return ("found" if hits else "passed"), "; ".join(padded.said)

    def training(self) -> tuple[str, str, list[Proof]]:
        """Follow the training step back from its loss, and replace what is known too late.

        Raises:
            ContractError: the function that was given cannot be called.
        """
        if TRAINING not in self.modes:
            return "skipped", "training is not among the modes", []
        given = self.asked.training
        step = training_step(
            self.asked.model, self.asked.batch, self.runner.call, self.outputs, given
        )
        if step is None:
            return (
                "skipped",
                "no loss(batch), no training_step, and no loss returned; see training=",
                [],
            )
        trainer = Runner(self.runner.model, watched(step), self.runner.seed)
        labels = label_names(self.inputs, self.asked.labels)
        try:
            available = training_clock(self.contract, self.inputs, self.axes, labels)
            needed = training_needs(self.contract, self.clocks)
            judged = judge(trainer, self.inputs, available, needed, labels)
        except Exception as error:
            said = f"{step.how} cannot be called ({type(error).__name__}: {first_line(error)})"
            if given is not None:
                raise ContractError(f"training=...: {said}") from error
            return "skipped", said, []
        if judged.why:
            return "skipped", f"{step.how}: {judged.why}", []
        self.trainer, self.judged = trainer, judged
        proofs = [judged.proof]
        before = len(self.hits)
        self._falsify(judged)
        for order, pair in zip(
            ("upwards", "downwards"), row_pairs(self.inputs, self.row_axis), strict=False
        ):
            name = f"training step, rows {order}"
            rows = judge(
                trainer, self.inputs, pair, Clocks({}, {}), labels, strictly=False, name=name
            )
            if not rows.why:
                proofs.append(rows.proof)
                if len(self.hits) == before and not rows.proof.holds:
                    self._falsify(rows)
        found = len(self.hits) > before
        said = f"{step.how}; labels: {', '.join(labels) or 'none by name'}"
        return ("found" if found else ""), said, proofs

    def coin_flips(self) -> tuple[str, str]:
        """Let coin flips be predicted: by the whole pipeline, or by the model after training.

        Raises:
            ContractError: the pipeline that was given cannot be run.
        """
        labels = label_names(self.inputs, self.asked.labels)
        try:
            if self.asked.pipeline is not None:
                return self._score(labels)
            if self.trainer is None or self.judged is None:
                return "skipped", "there is no training step, and no pipeline= was given"
            return self._predict(labels)
        except ContractError:
            raise
        except Exception as error:
            said = f"{type(error).__name__}: {first_line(error)}"
            if self.asked.pipeline is not None:
                raise ContractError(f"pipeline=...: {said}") from error
            return "skipped", f"the model could not be trained on them ({said})"

    def _falsify(self, judged: Judged) -> None:
        """Replace what predictions may not know in the training step."""
        assert self.trainer is not None  # noqa: S101 - just made
        search = Search(self.trainer, self.inputs, judged.clocks, self._generator())
        excess = [m for e in judged.proof.excess for m in e.moments]
        count = self.moments if excess else min(self.moments, 3)
        ticks = sampled(judged.clocks.ticks, count, self._generator(), excess[:count])
        names = list(judged.clocks.available)
        groups: list[tuple[str, ...]] = [(n,) for n in names] if excess else []
        groups += [tuple(names)] if len(names) > 1 or not groups else []
        most = FEW_KINDS if judged.proof.holds else KINDS
        for weights in (OWN, GENERIC):
            setting = Setting(TRAINING, weights)
            hits = search.run(setting, moments=ticks, groups=groups, most=most, double=self.double)
            if hits:
                alone = [hit for hit in hits if len(hit.inputs) == 1]
                self.hits += [(hit, "training") for hit in (alone or hits)]
                break
        self.trials += search.trials

    def _score(self, labels: list[str]) -> tuple[str, str]:
        assert self.asked.pipeline is not None  # noqa: S101 - the caller has looked
        if not labels:
            return "skipped", "no input is called a label; name it in labels=[...]"
        available = training_clock(self.contract, self.inputs, self.axes, labels)
        spreads = _spread(available, self.inputs, labels)
        flips = coins(self.inputs, labels, spreads, self._generator())
        found = scored(self.asked.pipeline, flips)
        self.trials += found.count
        return self._told(labels, [found], "mean score", flips)

    def _predict(self, labels: list[str]) -> tuple[str, str]:
        assert self.trainer is not None and self.judged is not None  # noqa: S101, PT018
        inputs, judged = self.inputs, self.judged
        steps = max((inputs[n].shape[axis] for n, axis in self.axes.items()), default=0)
        if self.contract.any_length and steps > SHORT:
            inputs = resized(inputs, self.axes, SHORT)
            available = training_clock(self.contract, inputs, self.axes, labels)
            judged = judge(self.trainer, inputs, available, Clocks({}, {}), labels)
        due = {p: t for p, t in judged.clocks.needed.items() if p.startswith(PREDICTION)}
        same = _same(inputs, labels)
        if not due or not same:
            return "skipped", "no input is called a label, or no loss of torch weighs it"
        if any(n not in judged.clocks.available for n in same):
            return "skipped", "the contract does not say when labels are known"
        flips = coins(inputs, same, judged.clocks.available, self._generator())
        found = predicted(self.trainer, flips, due, self.modes)
        self.trials += sum(one.count for one in found)
        return self._told(labels, found, "predicted", flips, due)

    def _told(
        self,
        labels: list[str],
        found: list[Flipped],
        word: str,
        flips: Tosses,
        due: dict[str, Tensor] | None = None,
    ) -> tuple[str, str]:
        best = max(found, key=lambda one: abs(one.far))
        if best.found:
            name, effect = ", ".join(labels), best.share - 0.5
            example = CoinFlips(
                batch=flips.inputs,
                labels=flips.drawn,
                due=due or {},
                modes=self.modes if due else (),
                share=best.share,
                effect=effect,
                seed=self.runner.seed,
            )
            output = PREDICTION if due else "score"
            self.findings.append(
                Finding(name, output, 0, effect, "coin flips", example, detail=str(best))
            )
        said = "; ".join(f"{word} {one}" for one in found)
        return ("found" if best.found else "passed"), said

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.runner.seed)


def _spread(available: Clock, inputs: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    return {
        n: spread(available[n].cpu().long(), inputs[n].shape).contiguous()
        for n in names
        if n in available
    }


def _second(tensors: dict[str, Tensor]) -> dict[str, int]:
    """Return the second axis of all tensors that have as much of it as the one with most axes."""
    deepest = max((x for x in tensors.values() if x.ndim > 1), key=Tensor.dim, default=None)
    if deepest is None:
        return {}
    return {name: 1 for name, x in tensors.items() if x.shape[:2] == deepest.shape[:2]}


def _same(inputs: dict[str, Tensor], labels: list[str]) -> list[str]:
    """Return the labels, and the inputs that are the same tensor under another name."""
    found = list(labels)
    for name, x in inputs.items():
        if name not in found and any(
            x.shape == inputs[n].shape and torch.equal(x, inputs[n].to(x)) for n in labels
        ):
            found.append(name)
    return found
