"""Turns what stages saw into findings: where each leak enters, and what it is called."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from kt_forecast.audit.contract import Clock
from kt_forecast.audit.dependency import Origin
from kt_forecast.audit.examples import Counterexample
from kt_forecast.audit.picture import courses
from kt_forecast.audit.proving import Proof, locate, row_clocks, row_count
from kt_forecast.audit.repair import Evidence, named
from kt_forecast.audit.replacing import Clocks, kinds, moved, replaced
from kt_forecast.audit.report import Course, Finding
from kt_forecast.audit.running import Outputs, Runner, Setting, kept
from kt_forecast.audit.search import Hit

LOCATED = 4
"""Hits whose place is looked for."""

ORIGINS = 4
"""Independent places of one leak that are named."""


@dataclass
class Findings:
    """Makes findings of hits and proofs of one audit.

    Attributes:
        runner: runs the model.
        inputs: tensors by name.
        pairs: the contract's clocks.
        clocks: the same, spread.
        row_axis: the axis of rows.
        training: what runs the training step, and the clocks of that.
        rows: proofs about rows, whose escapes tell where rows meet outside torch.
        mixing: whether rows were seen to move each other.
    """

    runner: Runner
    inputs: dict[str, Tensor]
    pairs: list[tuple[Clock, Clock]]
    clocks: list[Clocks]
    row_axis: int
    training: tuple[Runner, list[tuple[Clock, Clock]], list[Clocks]] | None = None
    rows: list[Proof] = field(default_factory=list)
    mixing: bool = False

    def of_hits(self, hits: list[tuple[Hit, str]], proofs: list[Proof]) -> tuple[Finding, ...]:
        """Return a finding for each hit and each independent place where it enters."""
        found: list[Finding] = []
        self.mixing = any(method == "rows" for _, method in hits)
        for i, (hit, method) in enumerate(hits):
            origins = self._origins(hit, method) if i < LOCATED else []
            if not origins and method == "replacement":
                origins = _escaped(hit, proofs)
            if not origins and method == "rows":
                origins = _escaped(hit, self.rows)
            base = Finding(
                input=", ".join(hit.inputs),
                output=hit.output,
                ticks=hit.ticks,
                effect=hit.effect,
                method=method,
                counterexample=Counterexample(
                    before=hit.before,
                    after=hit.after,
                    output=hit.output,
                    place=hit.place,
                    effect=hit.effect,
                    moment=hit.moment,
                    kind=hit.kind,
                    setting=hit.setting,
                    seed=self.runner.seed,
                    method=method,
                    moved_to=hit.moved_to,
                ),
                courses=self._courses(hit, method) if i < LOCATED else (),
            )
            past = self._past_matters(hit) if method == "replacement" else None
            for origin in _or_none(origins):
                placed = _at(base, origin)
                found.append(self._named(placed, proofs, past=past))
        return tuple(sorted(found, key=_weight))

    def of_proofs(self, proofs: list[Proof]) -> tuple[Finding, ...]:
        """Return what tracking could not exclude."""
        found = []
        for proof in proofs:
            setting = Setting(proof.name.split(",")[0])
            if not proof.excess or proof.name.split(",")[0] not in {"evaluation", "training"}:
                continue
            places = locate(self.runner, self.inputs, self.pairs[0], self.clocks[0], setting)
            for excess in proof.excess:
                for origin in _or_none(places.get(excess.path, [])[:ORIGINS]):
                    base = Finding("an input", excess.path, excess.ticks, 0.0, "tracking")
                    found.append(self._named(_at(base, origin), [proof], past=None))
        return tuple(dict.fromkeys(found))

    def _origins(self, hit: Hit, method: str) -> list[Origin]:
        runner = self.runner
        if method == "rows":
            pairs = row_clocks(self.inputs, self._outputs(hit), self.row_axis)
        elif method == "replacement":
            pairs = list(zip(self.pairs, self.clocks, strict=True))
        elif method == "training" and self.training is not None:
            runner, clocked, moments = self.training
            pairs = list(zip(clocked, moments, strict=True))
        else:
            return []
        only = hit.inputs[0] if len(hit.inputs) == 1 and method == "replacement" else None
        setting = replace(hit.setting, double=False)
        same = all(hit.before[n].shape == x.shape for n, x in self.inputs.items())
        for pair, clocks in pairs if same else []:
            places = locate(runner, self.inputs, pair, clocks, setting, only)
            if places.get(hit.output):
                return places[hit.output][:ORIGINS]
        return []

    def _courses(self, hit: Hit, method: str) -> tuple[Course, ...]:
        """Run both batches of a counter-example once more, for the page."""
        clocks = next((c for c in self.clocks if hit.output in c.needed), None)
        if clocks is None or method not in {"replacement", "rows", "replay"}:
            return ()
        if any(hit.before[n].shape != x.shape for n, x in self.inputs.items()):
            return ()
        try:
            with self.runner.held(hit.setting) as run:
                was = run(hit.before)
                now = run(hit.after) if method != "replay" else {}
            if method == "replay":
                with kept(self.runner.model), self.runner.set(hit.setting):
                    self.runner.run(hit.before, hit.setting)
                    self.runner.run(hit.after, hit.setting)
                    now = self.runner.run(hit.before, hit.setting)
        except Exception:  # noqa: BLE001 - a finding without a plot is still a finding
            return ()
        return courses(hit, clocks, was, now)

    def _outputs(self, hit: Hit) -> Outputs:
        return self.runner(self.inputs, replace(hit.setting, double=False))

    def _past_matters(self, hit: Hit) -> bool:
        """Return whether the first half of what is known moves anything that is needed after it."""
        clocks = next((c for c in self.clocks if hit.output in c.needed), None)
        if clocks is None or any(hit.before[n].shape != x.shape for n, x in self.inputs.items()):
            return True
        ticks = clocks.ticks
        middle = int(ticks[len(ticks) // 2])
        generator = torch.Generator().manual_seed(self.runner.seed)
        changed = dict(self.inputs)
        for name, known in clocks.available.items():
            x = self.inputs[name]
            changed[name] = replaced(x, known < middle, kinds(x)[0], generator)
        after = {path: due >= middle for path, due in clocks.needed.items()}
        with self.runner.held(hit.setting) as run:
            return moved(run(changed), run(self.inputs), after) is not None

    def _to_the_end(self, path: str, proofs: list[Proof]) -> int:
        """Return how many moments of the first half reach the last one, of all that is needed."""
        clocks = next((c for c in self.clocks if path in c.needed), None)
        if clocks is None or not len(clocks.ticks):
            return 0
        due, last = clocks.needed[path], int(clocks.ticks.max())
        early = due <= clocks.ticks[len(clocks.ticks) // 2]
        found = [
            int(due[early & (proof.labels[path] >= last)].unique().numel())
            for proof in proofs
            if path in proof.labels and proof.labels[path].shape == due.shape
        ]
        known = max((int(x.max()) for x in clocks.available.values() if x.numel()), default=last)
        return max(found, default=0) if known <= last else 0

    def _named(self, finding: Finding, proofs: list[Proof], *, past: bool | None) -> Finding:
        """Name a known mistake."""
        excess = [e for proof in proofs for e in proof.excess if e.path == finding.output]
        ticks = self.clocks[0].ticks if self.clocks else torch.empty(0)
        known = [int(x.max()) for c in self.clocks for x in c.available.values() if x.numel()]
        first = int(ticks.min()) if len(ticks) else 0
        widest = max((e.ticks for e in excess), default=finding.ticks)
        evidence = Evidence(
            finding=finding,
            part=_part(self.runner.model, finding.module),
            late_moments=max((len(e.moments) for e in excess), default=0),
            moments=len(ticks),
            whole=bool(known) and widest >= max(known) - first,
            past_matters=past,
            to_the_end=self._to_the_end(finding.output, proofs),
            rows_mix=self.mixing if row_count(self.inputs, self.row_axis) > 1 else None,
        )
        pattern, repair = named(evidence)
        return replace(finding, pattern=pattern, repair=repair)


def _weight(finding: Finding) -> tuple[bool, bool, int, float]:
    """Order findings: those along time first, those with a place, the largest effect."""
    apart = finding.method != "replacement"
    return apart, not finding.op, finding.input.count(","), -finding.effect


def _escaped(hit: Hit, proofs: list[Proof]) -> list[Origin]:
    """Return where values that are too late for what moved have left torch."""
    found = [
        Origin(escape.module, escape.what, escape.source, escape.moment, ())
        for proof in proofs
        if hit.setting.mode in proof.name.split(", ")
        for escape in proof.escapes
        if escape.moment > hit.moment
    ]
    return list(dict.fromkeys(found))[:ORIGINS]


def _or_none(origins: list[Origin]) -> list[Origin | None]:
    return [*origins] or [None]


def _at(finding: Finding, origin: Origin | None) -> Finding:
    if origin is None:
        return finding
    return replace(
        finding,
        module=origin.module,
        op=origin.op,
        source=origin.source,
        chain=origin.chain,
    )


def _part(model: nn.Module, title: str) -> nn.Module | None:
    name = title.split(" (", maxsplit=1)[0]
    if name == "<model>":
        return model
    return dict(model.named_modules()).get(name) if name else None
