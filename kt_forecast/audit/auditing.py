"""The audit of a model: proof, attempt at refutation, and what neither covers."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from kt_forecast.audit import stages
from kt_forecast.audit.aimed import Aimed
from kt_forecast.audit.axes import along_clocks, bound, find_axes, harvested, next_prime, resized
from kt_forecast.audit.backends import compiler, compiling, paths
from kt_forecast.audit.contract import Clock, Contract, ContractError
from kt_forecast.audit.findings import Findings
from kt_forecast.audit.likeness import compared
from kt_forecast.audit.memory import reads_back
from kt_forecast.audit.nest import calling, flattened
from kt_forecast.audit.picture import Drawing
from kt_forecast.audit.proving import Proof, prove, row_clocks, row_count
from kt_forecast.audit.replacing import (
    Clocks,
    is_rounding,
    kinds,
    moved,
    replaced,
    spread_clocks,
)
from kt_forecast.audit.report import Finding, Picture, Report, Stage, Verdict
from kt_forecast.audit.running import (
    EAGER,
    EVALUATION,
    GENERIC,
    GRADIENTS,
    OWN,
    TRAINING,
    Runner,
    Setting,
    runs_in_double,
)
from kt_forecast.audit.search import Hit, Search, first_line, sampled
from kt_forecast.audit.sharing import prove_rows_too, same_program
from kt_forecast.audit.steps import Asked, Steps

STAGES = (
    "tracking",
    "search",
    "back ends",
    "compiled",
    "longer",
    "aimed",
    "lengths",
    "replay",
    "rows",
    "streaming",
    "padding",
    "training step",
    "coin flips",
)
"""What an audit does after the probe."""

PICTURE = "picture"
"""What may be left out beside stages."""

KINDS, QUICK_KINDS = 4, 2
"""Kinds of replacement that the search tries, and where a proof holds."""

QUICK_MOMENTS, FEW_MOMENTS = 3, 2
"""Moments that the search samples where a proof holds, to check the proof itself; on a path."""

GROUPS = 3
"""Inputs that are replaced one by one under generic weights too; more of them only together."""

LONGEST, LONG_ENOUGH = 4, 600
"""How many times the given length may be exceeded, to reach beyond chunks and windows; a length
that may be reached whatever was given."""

LONG = 256
"""Steps of a sequence that is taken to be long: most is then done with little more than these."""


def audit(  # noqa: PLR0913 - each is a choice of its own, with a default
    model: Any,  # noqa: ANN401 - a module, or anything that can be called
    batch: Any,  # noqa: ANN401 - any nest of tensors
    contract: Contract,
    *,
    call: Callable[[dict[str, Tensor]], Any] | None = None,
    plain: Callable[[dict[str, Tensor]], Any] | None = None,
    modes: Collection[str] = (EVALUATION, TRAINING),
    moments: int = 16,
    seed: int = 0,
    skip: Collection[str] = (),
    training: Callable[[Any], Any] | None = None,
    pipeline: Callable[[Tensor], float] | None = None,
    labels: Collection[str] = (),
    padding: str | None = None,
) -> Report:
    """Prove that no output depends on what it could not have known, or show one that does.

    Every tensor operation of a real run is followed, in each mode; that is the proof. Then what
    is known too late is replaced, with the model's own weights and with generic ones, with and
    without gradients, in half and in double precision; the beginning of a sequence is compared
    with the whole, a call with itself after another call, rows with what they are beside other
    rows, steps with the whole, real steps beside other padding. The training step is followed back
    from its loss, and the model may learn coin flips, which nobody can predict. Nothing of the
    model is changed when the call returns.

    Args:
        model: the module, on the device it is on; or any callable.
        batch: a tensor, or any nest of tuples, mappings and dataclasses.
        contract: when inputs are known and outputs needed.
        call: from the inputs by name (nested ones joined by dots) to any nest of outputs; by
            default the model is called as its users call it.
        plain: the same call with parts that cannot be followed (a kernel, a trick of sorting)
            written plainly. It is tracked in place of ``call`` if it gives the same outputs, which
            is then a condition of the proof; all that is replaced is run by ``call``.
        modes: ``evaluation``, ``training`` or both; a system whose training couples rows by design
            is audited in evaluation only.
        moments: how many moments the search samples; all of them where there are no more.
        seed: of replacements, and of random draws inside the model.
        skip: stages to leave out, see `STAGES`; without tracking nothing is proved. Also
            ``picture``, the map that the page shows.
        training: from the batch to a loss, or to predictions; by default the model's
            ``loss(batch)`` or ``training_step``, or its call, if that returns a loss.
        pipeline: all of a pipeline, from labels (in the shape of the input that holds them) to a
            score that is one half for who knows nothing; it is run on fair coin flips.
        labels: names of the inputs that hold labels; by default those called so.
        padding: name of the input that is a mask of steps, or the number of real ones for each
            row; by default it is known by its name or its values.

    Raises:
        ContractError: model, batch and contract do not fit together.
    """
    inputs, _ = flattened(batch)
    _check(inputs, contract)
    skip = (skip,) if isinstance(skip, str) else skip
    modes = (modes,) if isinstance(modes, str) else tuple(modes)
    if not modes or set(modes) - {EVALUATION, TRAINING}:
        raise ContractError(f"modes={modes}: accepted are {EVALUATION}, {TRAINING} or both")
    strange = sorted(set(skip) - {*STAGES, PICTURE})
    if strange:
        raise ContractError(f"skip={strange} are no stages; there are {list(STAGES)}")
    module, called = stages.wrapped(model)
    runner = Runner(module, call or calling(called, batch), seed, plain)
    strange = sorted(set(labels) - set(inputs))
    if strange:
        raise ContractError(f"labels={strange} are no inputs; the batch has {sorted(inputs)}")
    asked = Asked(model, batch, padding, training, pipeline, tuple(labels))
    run = _Audit(runner, inputs, contract, modes, moments, frozenset(skip), asked)
    return run.report(single=call is None and len(inputs) == 1)


def _check(inputs: dict[str, Tensor], contract: Any) -> None:  # noqa: ANN401 - as it was given
    """Refuse what nothing can be said of.

    Raises:
        ContractError: there is no contract, no tensor, or an empty one.
    """
    if not isinstance(contract, Contract):
        said = f"{contract!r}" if isinstance(contract, str) else f"a {type(contract).__name__}"
        raise ContractError(f"the contract is {said}; accepted is one such as causal()")
    if not inputs:
        raise ContractError("the batch holds no tensor; accepted are tensors in any nest")
    empty = [name for name, x in inputs.items() if 0 in x.shape[:2]]
    if len(empty) == len(inputs):
        raise ContractError(
            f"the batch is empty: {empty[0]} has the shape {list(inputs[empty[0]].shape)}; accepted"
            " is one with rows and steps"
        )


@dataclass(frozen=True)
class Whole:
    """A long sequence as it was given, put aside while most is done with fewer steps.

    Attributes:
        inputs: tensors by name.
        pairs: the contract's clocks.
        clocks: the same, spread.
        steps: of it.
    """

    inputs: dict[str, Tensor]
    pairs: list[tuple[Clock, Clock]]
    clocks: list[Clocks]
    steps: int

    def has(self, hit: Hit) -> bool:
        """Return whether a hit is one at this length."""
        return all(x.shape == self.inputs[name].shape for name, x in hit.before.items())


@dataclass
class _Audit:
    """One audit, stage after stage."""

    runner: Runner
    inputs: dict[str, Tensor]
    contract: Contract
    modes: tuple[str, ...]
    moments: int
    skip: frozenset[str]
    asked: Asked
    stages: list[Stage] = field(default_factory=list)
    proofs: list[Proof] = field(default_factory=list)
    row_proofs: list[Proof] = field(default_factory=list)
    hits: list[tuple[Hit, str]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    conditions: list[str] = field(default_factory=list)
    scope: dict[str, Any] = field(default_factory=dict)
    trials: int = 0
    rows_proved: set[str] = field(default_factory=set)
    whole: Whole | None = None
    outputs: dict[str, Tensor] = field(init=False)
    pairs: list[tuple[Clock, Clock]] = field(init=False)
    clocks: list[Clocks] = field(init=False)

    def report(self, *, single: bool) -> Report:
        """Run all stages and return what came out."""
        self._probe()
        for name, stage in (
            ("tracking", self._tracking),
            ("search", self._search),
            ("back ends", self._back_ends),
            ("compiled", self._compiled),
            ("longer", self._longer),
            ("aimed", self._aimed),
            ("lengths", self._lengths),
            ("replay", self._replay),
            ("rows", self._rows),
        ):
            self._do(name, stage)
        self._do("streaming", lambda: self._streaming(single=single))
        steps = self._steps()
        self._do("padding", steps.padding)
        self._do("training step", lambda: self._training(steps))
        self._do("coin flips", steps.coin_flips)
        self.hits += steps.hits
        self.trials += steps.trials
        findings = Findings(self.runner, self.inputs, self.pairs, self.clocks, self.row_axis)
        if self.whole is not None and any(self.whole.has(hit) for hit, _ in self.hits):
            whole = self.whole
            findings = Findings(self.runner, whole.inputs, whole.pairs, whole.clocks, self.row_axis)
        if steps.trainer is not None and steps.judged is not None:
            judged = steps.judged
            findings.training = (steps.trainer, [judged.pair], [judged.clocks])
        findings.rows = self.row_proofs
        found = (*findings.of_hits(self.hits, self.proofs), *steps.findings)
        suspicions = () if found else findings.of_proofs(self.proofs)
        verdict = self._verdict(found)
        picture, zoom = (None, None) if PICTURE in self.skip else self._pictures()
        return Report(
            verdict=verdict,
            scope=self._scope(),
            findings=found,
            suspicions=suspicions,
            conditions=tuple(dict.fromkeys(self.conditions)) if verdict != "proved" else (),
            reasons=tuple(dict.fromkeys(self.reasons)) if verdict == "unproven" else (),
            stages=tuple(self.stages),
            picture=picture,
            zoom=zoom,
            modules=self._modules(),
        )

    # The probe.

    def _probe(self) -> None:
        began = perf_counter()
        base = Setting()
        try:
            self.outputs = self.runner(self.inputs, base)
        except ContractError:
            raise
        except Exception as error:
            raise ContractError(
                f"the model cannot be called with this batch ({type(error).__name__}: "
                f"{first_line(error)})"
            ) from error
        if not self.outputs:
            raise ContractError("the model returns no tensor; accepted are tensors in any nest")
        self.sizes = harvested(self.runner.model)
        self._bind()
        self.whole = None
        shape = {name: list(x.shape) for name, x in self.inputs.items()}
        self._shorten()
        again = self.runner(self.inputs, base)
        everywhere = {p: torch.ones(y.shape, dtype=torch.bool) for p, y in self.outputs.items()}
        self.repeats = again.keys() == self.outputs.keys() and (
            moved(again, self.outputs, everywhere) is None
        )
        self.double = runs_in_double(self.runner, self.inputs, base)
        self._compare_plain()
        judged = sorted({p for c in self.clocks for p in c.needed})
        self.scope |= {
            "contract": self.contract.name,
            "assumptions": list(self.contract.assumptions),
            "shape": shape,
            "judged": judged,
            "not_judged": sorted(set(self.outputs) - set(judged)),
            "known_always": sorted(
                set(self.inputs) - {n for c in self.clocks for n in c.available}
            ),
            "sizes_in_the_model": self.sizes,
            "back_ends": {},
        }
        same = "two runs give the same bits" if self.repeats else "two runs differ"
        double = "double precision runs" if self.double else "double precision does not run"
        self._note("probe", "passed" if self.repeats else "open", f"{same}; {double}", began)
        if not self.repeats:
            self.reasons.append("two runs of the same batch differ, with the same random draws")

    def _shorten(self) -> None:
        """Put a long sequence aside for what must be seen at its length; take fewer steps of it."""
        if not (self.bound.any_length and self.axes):
            return
        steps = max(self.inputs[name].shape[axis] for name, axis in self.axes.items())
        fewer = next_prime(max(2 * max(self.sizes.values(), default=0), LONG) + 1)
        if fewer >= steps:
            return
        inputs = resized(self.inputs, self.axes, fewer)
        try:
            outputs = self.runner(inputs, Setting())
            pairs = self.bound.pairs(inputs)
            clocks = [spread_clocks(pair, inputs, outputs) for pair in pairs]
        except Exception:  # noqa: BLE001 - a model for one length is audited at that length
            return
        self.whole = Whole(self.inputs, self.pairs, self.clocks, steps)
        self.inputs, self.outputs, self.pairs, self.clocks = inputs, outputs, pairs, clocks
        self.scope["lengths"] = [steps, fewer]
        self.scope["shortened"] = (
            f"at {steps} steps: evaluation was followed, the future replaced, the beginning "
            f"compared; all else was done with {fewer} steps"
        )

    def _compare_plain(self) -> None:
        """Follow the plain form of the call only if it says the same as the call."""
        plain, call = self.runner.plain, self.runner.call
        if plain is call:
            return
        self.runner.plain = call
        settings = [Setting(mode) for mode in self.modes]
        if all(same_program(self.runner, self.inputs, [(call, s), (plain, s)]) for s in settings):
            return
        like = compared(
            self.runner, plain, self.inputs, self.clocks, self.axes, self.modes, double=self.double
        )
        if like.unlike or not like.inputs:
            self.reasons.append(
                "the plain form of the call gives other outputs than the call"
                f" ({like.unlike or 'it does not run'})"
            )
            return
        self.runner.plain = plain
        self.conditions.append(
            "the call equals its plain form, which was followed, everywhere, as it did on "
            f"{like.inputs} inputs of many kinds, in slopes on {like.slopes} of them"
        )

    def _bind(self) -> None:
        """Find time axes where the contract leaves them open, and spread its clocks."""
        self.axes: dict[str, int] = {}
        self.out_axes: dict[str, int] = {}
        contract = self.contract
        if contract.shift is not None:
            axes = find_axes(self.runner, self.inputs, self.outputs, contract.axis)
            contract = bound(contract, axes)
            self.axes = axes.inputs
            self.out_axes = {path: axis for path, (axis, _) in axes.outputs.items()}
            self.scope["axes"] = {
                "inputs": axes.inputs,
                "outputs": self.out_axes,
                "how": axes.how,
            }
        self.bound = contract
        self.pairs = contract.pairs(self.inputs)
        self.clocks = [spread_clocks(pair, self.inputs, self.outputs) for pair in self.pairs]
        self._must_say_something()
        if not self.axes and self.pairs[0][0]:
            self.axes = along_clocks(self.pairs[0][0], self.inputs)
            first = next(iter(self.axes.values()), 0)
            self.out_axes = dict.fromkeys(self.clocks[0].needed, first) if self.axes else {}
        self.row_axis = 1 if contract.axis == 0 else 0

    def _must_say_something(self) -> None:
        """Refuse a contract under which nothing could leak; say where nothing is late.

        Raises:
            ContractError: it has no clocks, and no other row.
        """
        rows = all(not known and not due for known, due in self.pairs)
        if rows and row_count(self.inputs, 0) < 2:
            raise ContractError("one row depends on no other; accepted is a batch of two or more")
        if not rows and any(not due for _, due in self.pairs):
            raise ContractError("the contract says of no output when it is needed")
        known = [x.max() for c in self.clocks for x in c.available.values() if x.numel()]
        due = [x.min() for c in self.clocks for x in c.needed.values() if x.numel()]
        self.scope["nothing_late"] = (
            "no input is known later than any output is needed"
            if not rows and (not known or (due and max(known) <= min(due)))
            else ""
        )

    # The proof.

    def _tracking(self) -> tuple[str, str]:
        same: list[str] = []
        for mode in self.modes:
            setting = Setting(mode)
            others = [Setting(m) for m in self.modes if m != mode and m in self.rows_proved]
            ways = [(self.runner.plain, way) for way in (*others[:1], setting)]
            if others and same_program(self.runner, self.inputs, ways):
                self.rows_proved.add(mode)
                same.append(f"{mode} runs the operations of {others[0].mode}")
                continue
            proof = None
            if len(self.pairs) == 1 and self.pairs[0][0]:
                proof = prove_rows_too(
                    self.runner, self.inputs, self.outputs, self.clocks[0], setting, self.row_axis
                )
            if proof is not None:
                self.rows_proved.add(mode)
                self.proofs.append(proof)
                continue
            for i, (pair, clocks) in enumerate(zip(self.pairs, self.clocks, strict=True)):
                if pair[0]:
                    name = mode if len(self.pairs) == 1 else f"{mode}, clock {i + 1}"
                    proof = prove(self.runner, self.inputs, pair, clocks, setting, name=name)
                    self.proofs.append(proof)
        if self.whole is not None and self._proved:
            name, whole = f"{self.whole.steps} steps", self.whole
            setting = Setting(self.modes[0])
            for pair, clocks in zip(whole.pairs, whole.clocks, strict=True):
                proof = prove(self.runner, whole.inputs, pair, clocks, setting, name=name)
                self.proofs.append(proof)
        outcome, said = self._judged(self.proofs)
        return outcome, "; ".join([said, *same])

    def _judged(self, proofs: list[Proof]) -> tuple[str, str]:
        """Take what proofs say into the verdict."""
        said = []
        for proof in proofs:
            self.conditions += proof.conditions
            if proof.failed:
                self.reasons.append(f"{proof.name}: the run could not be followed ({proof.failed})")
            for gap in proof.gaps:
                self.reasons.append(f"values leave torch ({gap})")
            for excess in proof.excess:
                self.reasons.append(
                    f"{proof.name}: {excess.path} may depend on what is known {excess.ticks} ticks "
                    "too late"
                )
            held = "holds" if proof.holds else "does not hold"
            said.append(f"{proof.name} {held}, {proof.n_ops} operations")
        if any(proof.failed for proof in proofs):
            return "failed", "; ".join(said)
        holds = all(proof.holds for proof in proofs)
        return ("proved" if holds else "open"), "; ".join(said) or "the contract has no clock"

    @property
    def n_ops(self) -> int:
        """Operations of one run, as far as it was followed."""
        return min((proof.n_ops for proof in self.proofs if proof.n_ops), default=0)

    @property
    def _proved(self) -> bool:
        return bool(self.proofs) and all(proof.holds for proof in self.proofs)

    def _other_length(self, steps: int) -> tuple[int, str]:
        """Return a prime length beyond every chunk and window, and which of those is too long."""
        beyond = 2 * max(self.sizes.values(), default=0)
        length = next_prime(max(steps, beyond) + 1)
        if length <= max(LONGEST * steps, LONG_ENOUGH):
            return length, ""
        return next_prime(steps + 1), f"sizes in the model up to {beyond // 2} are not exceeded"

    def _longer(self) -> tuple[str, str]:
        """Track a longer sequence, of a prime length beyond every chunk and window."""
        if not self.bound.any_length or not self.axes:
            return "skipped", "the contract is for this length"
        if self.whole is not None:
            return "skipped", "the whole is longer than what else was followed"
        steps = max(self.inputs[name].shape[axis] for name, axis in self.axes.items())
        length, missed = self._other_length(steps)
        longer = resized(self.inputs, self.axes, length)
        try:
            outputs = self.runner(longer, Setting())
            pair = self.bound.pairs(longer)[0]
            clocks = spread_clocks(pair, longer, outputs)
        except Exception as error:  # noqa: BLE001 - of a model nothing is known
            return "skipped", f"{length} steps are refused ({type(error).__name__})"
        proof = prove(self.runner, longer, pair, clocks, Setting(), name=f"{length} steps")
        self.scope["lengths"] = [steps, length]
        outcome, said = self._judged([proof])
        said = f"{said}; {missed}" if missed else said
        if proof.excess and not any(p.excess for p in self.proofs):
            search = Search(self.runner, longer, clocks, self._generator())
            ticks = sampled(clocks.ticks, self.moments, self._generator(), proof.excess[0].moments)
            hits = search.run(
                Setting(), moments=ticks, groups=[tuple(clocks.available)], double=self.double
            )
            self.trials += search.trials
            self.hits += [(hit, "replacement") for hit in hits]
        return outcome, said

    # The attempt at refutation.

    def _search(self) -> tuple[str, str]:
        if not self.repeats:
            return "skipped", "two runs of the same batch differ"
        said = []
        before = len(self.hits)
        for clocks in self.clocks:
            if not clocks.available or not len(clocks.ticks):
                continue
            search = Search(self.runner, self.inputs, clocks, self._generator())
            self._searched(search, self._settings())
            self.trials += search.trials
            moving = sum(search.moving.values())
            said.append(f"{search.trials} replacements in {len(search.settings)} settings")
            said.append(f"what they may move moved in {moving}")
            said += [f"{name} did not run ({why})" for name, why in search.failed.items()]
            self.scope["settings"] = search.settings
            self._ran(search)
            self.scope["rounding"] = "something moved by rounding only" if search.rounding else ""
            if not moving and not self._proved and not self._moves():
                self.reasons.append("no replacement moved anything, so the search shows nothing")
        if self.whole is not None and not self.hits:
            said.append(self._search_whole(self.whole))
        found = len(self.hits) - before
        return ("found" if found else "passed"), "; ".join(said) or "the contract has no clock"

    def _search_whole(self, whole: "Whole") -> str:
        """Replace what is known too late in a long sequence, as it was given."""
        trials = 0
        for clocks in whole.clocks:
            if clocks.available and len(clocks.ticks):
                search = Search(self.runner, whole.inputs, clocks, self._generator())
                ticks = sampled(clocks.ticks, QUICK_MOMENTS, self._generator())
                hits = search.run(
                    Setting(self.modes[0]), moments=ticks, groups=[tuple(clocks.available)],
                    most=QUICK_KINDS, double=self.double,
                )  # fmt: skip
                trials += search.trials
                self.hits += [(hit, "replacement") for hit in hits]
        self.trials += trials
        return f"{trials} at {whole.steps} steps"

    def _aimed(self) -> tuple[str, str]:
        """Try values that no sample has, where a leak is neither shown nor excluded."""
        if not self.repeats:
            return "skipped", "two runs of the same batch differ"
        if self.hits or self._proved:
            return "skipped", "a leak is shown" if self.hits else "tracking holds"
        said = 0
        for clocks in self.clocks:
            if not clocks.available or not len(clocks.ticks):
                continue
            search = Aimed(self.runner, self.inputs, clocks, self._generator(), self.double)
            excess = [m for proof in self.proofs for e in proof.excess for m in e.moments]
            ticks = sampled(clocks.ticks, QUICK_MOMENTS, self._generator(), _spaced(excess, 2))
            for mode in self.modes:
                hit = search.run(Setting(mode), ticks)
                if hit is not None:
                    self.hits.append((hit, "replacement"))
                    break
            said += search.trials
        self.trials += said
        detail = f"{said} replacements by values that the batch does not hold"
        return ("found" if self.hits else "passed"), detail

    def _moves(self) -> bool:
        """Return whether replacing everything moves anything: else a search has no power."""
        everywhere = {p: torch.ones(y.shape, dtype=torch.bool) for p, y in self.outputs.items()}
        found = self.runner(self._replaced(), Setting())
        return moved(found, self.outputs, everywhere) is not None

    def _replaced(self) -> dict[str, Tensor]:
        """Return the inputs with everything replaced that has a clock."""
        generator = self._generator()
        other = {
            n: replaced(x, torch.ones_like(x, dtype=torch.bool), kinds(x)[0], generator)
            for n, x in self.inputs.items()
            if any(n in clocks.available for clocks in self.clocks)
        }
        return self.inputs | other

    def _searched(self, search: Search, settings: Iterable[tuple[Setting, bool]]) -> None:
        names = list(search.clocks.available)
        singles: list[tuple[str, ...]] = [(name,) for name in names]
        together = [tuple(names)] if len(names) > 1 else []
        generator = self._generator()
        excess = [m for proof in self.proofs for e in proof.excess for m in e.moments]
        count = min(self.moments, QUICK_MOMENTS) if self._proved else self.moments
        ticks = sampled(search.clocks.ticks, count, generator, _spaced(excess, count // 2))
        for setting, few in settings:
            found = {hit.inputs for hit, _ in self.hits}
            groups = [g for g in (*singles, *together) if g not in found]
            if self._proved or few or (setting.weights == GENERIC and len(names) > GROUPS):
                groups = together or singles
            elif found:
                groups = [g for g in groups if g in singles]
            if not groups or (found and (few or setting.weights == GENERIC)):
                continue
            used = ticks[:FEW_MOMENTS] if few and self._proved else ticks
            used = used[:QUICK_MOMENTS] if few else used
            most = 1 if few else QUICK_KINDS if self._proved else KINDS
            hits = search.run(setting, moments=used, groups=groups, most=most, double=self.double)
            alone = [hit for hit in hits if len(hit.inputs) == 1]
            self.hits += [(hit, "replacement") for hit in alone or hits]

    def _settings(self) -> Iterator[tuple[Setting, bool]]:
        """Yield settings, and whether few replacements are enough there."""
        for mode in self.modes:
            yield Setting(mode), False
        for mode in self.modes:
            yield Setting(mode, GENERIC), self._proved
        if self.double and not self._proved:
            for mode in self.modes:
                yield Setting(mode, OWN, EAGER, double=True), True

    def _back_ends(self) -> tuple[str, str]:
        """Replace what is known too late on every other path that a run can take here."""
        asked = []
        for path, missing in paths(self.runner, self.inputs):
            modes = self.modes if path == GRADIENTS else (EVALUATION,)
            for mode in modes:
                setting = Setting(mode, OWN, path)
                if missing:
                    self.scope["back_ends"][str(setting)] = f"skipped: {missing}"
                else:
                    asked.append(setting)
        return self._on_paths(asked)

    def _compiled(self) -> tuple[str, str]:
        """Replace what is known too late in the model as a compiler makes it."""
        path, less = compiler(self.n_ops)
        if not path:
            return "skipped", less
        with compiling() as graphs:
            outcome, said = self._on_paths([Setting(path=path)])
            if outcome != "skipped":
                n = graphs()
                less = less or ("" if n else "the compiler left the model as it is")
                said = f"{said}; {n} graphs"
        return outcome, "; ".join([said, *([less] if less else [])])

    def _on_paths(self, settings: list[Setting]) -> tuple[str, str]:
        if not self.repeats:
            return "skipped", "two runs of the same batch differ"
        if self.hits:
            for setting in settings:
                self.scope["back_ends"][str(setting)] = "skipped: a leak was found before"
            return "skipped", "a leak was found before"
        trials, ran = 0, 0
        failed: dict[str, str] = {}
        for clocks in self.clocks:
            if clocks.available and len(clocks.ticks):
                search = Search(self.runner, self.inputs, clocks, self._generator())
                self._searched(search, [(setting, True) for setting in settings])
                self._ran(search)
                trials += search.trials
                ran, failed = max(ran, len(search.settings)), failed | search.failed
        self.trials += trials
        if not ran:
            whys = "; ".join(f"{name}: {why}" for name, why in failed.items())
            return "skipped", whys or "the contract has no clock"
        said = f"{trials} replacements on {ran} paths"
        said = "; ".join([said, *(f"{name} did not run ({why})" for name, why in failed.items())])
        return ("found" if self.hits else "passed"), said

    def _ran(self, search: Search) -> None:
        """Note for the report what ran, and why what did not."""
        for name in search.settings:
            self.scope["back_ends"][name] = "ran"
        for name, why in search.failed.items():
            self.scope["back_ends"][name] = f"skipped: {why}"

    def _lengths(self) -> tuple[str, str]:
        if not self.axes or not self.pairs[0][0]:
            return "skipped", "inputs have no common time axis"
        steps = max(self.inputs[name].shape[axis] for name, axis in self.axes.items())
        inputs, pair = self.inputs, self.pairs[0]
        lengths = sorted({n for n in (2 + steps // 5, steps // 2, steps - 1) if 1 < n < steps})
        if self.whole is not None:
            steps, inputs, pair = self.whole.steps, self.whole.inputs, self.whole.pairs[0]
            lengths = [steps - 1]
        setting = Setting(double=self.double)
        hits, ran, why = stages.other_lengths(
            self.runner, inputs, pair, self.axes, self.out_axes, lengths[::-1], setting
        )
        if not ran:
            return "skipped", why or "no shorter length"
        self.trials += len(ran)
        if not any(method == "replacement" for _, method in self.hits):
            self.hits += [(hit, "length") for hit in hits]
        said = f"{', '.join(map(str, ran))} of {steps} steps"
        return ("found" if hits else "passed"), f"{said}; {why}" if why else said

    def _replay(self) -> tuple[str, str]:
        if not self.repeats:
            return "skipped", "two runs of the same batch differ"
        hits = stages.replayed(self.runner, self.inputs, self._generator(), Setting())
        self.trials += 1
        self.hits += [(hit, "replay") for hit in hits]
        state = {n for proof in self.proofs if EVALUATION in proof.name for n in proof.state}
        if state and not hits and self._reads_back():
            self.conditions.append(
                f"what the model keeps ({', '.join(sorted(state))}) is not read back"
            )
        return ("found" if hits else "passed"), "a call, another call, the first again"

    def _reads_back(self) -> bool:
        return any(
            reads_back(self.runner, self.inputs, pair, clocks, Setting())
            for pair, clocks in zip(self.pairs, self.clocks, strict=True)
        )

    def _rows(self) -> tuple[str, str]:
        clocked = {
            n: x for n, x in self.inputs.items() if any(n in c.available for c in self.clocks)
        }
        clocked = clocked or self.inputs
        count = row_count(clocked, self.row_axis)
        if count < 2:
            return "skipped", "the batch has one row"
        proofs: list[Proof] = []
        hits: list[tuple[Hit, str]] = []
        both = [mode for mode in self.modes if mode in self.rows_proved]
        for mode in self.modes:
            if "tracking" not in self.skip and mode not in both:
                for i, (pair, clocks) in enumerate(
                    row_clocks(clocked, self.outputs, self.row_axis)
                ):
                    name = f"rows, {mode}, {'downwards' if i else 'upwards'}"
                    setting = Setting(mode)
                    proofs.append(prove(self.runner, self.inputs, pair, clocks, setting, name=name))
            first = mode == self.modes[0] or mode not in both
            for weights in (OWN, GENERIC) if first else (GENERIC,):
                setting = Setting(mode, weights)
                if self.repeats and not hits:
                    found, trials = stages.other_rows(
                        self.runner, self.inputs, clocked, self._generator(), setting,
                        self.row_axis, double=self.double,
                    )  # fmt: skip
                    self.trials += trials
                    hits += [(hit, "rows") for hit in found]
        self.hits += hits
        self.row_proofs = proofs
        outcome, said = self._judged(proofs)
        if both:
            followed = f"rows and time were followed together in {' and '.join(both)}"
            said = "; ".join([followed, *([said] if proofs else [])])
        return ("found" if hits else outcome), said

    def _streaming(self, *, single: bool) -> tuple[str, str]:
        if not single or self.contract.shift is None:
            return "skipped", "a step form is looked for under one input along time"
        name, x = next(iter(self.inputs.items()))
        axis = self.axes.get(name, 1)
        setting = Setting(double=self.double)
        found = stages.streamed(self.runner, x, axis, setting)
        if isinstance(found, str):
            return "skipped", found
        whole, parts = found
        everywhere = {path: torch.ones(y.shape, dtype=torch.bool) for path, y in whole.items()}
        far = moved(parts, whole, everywhere)
        self.trials += 1
        if far is None or is_rounding(parts, whole, far):
            return "passed", f"{x.shape[axis]} steps one by one equal the whole"
        kind = "one by one"
        hit = Hit((name,), next(iter(self.outputs)), far.place, far.effect, 0, 0, kind, setting, self.inputs, self.inputs)  # fmt: skip  # noqa: E501
        self.hits.append((hit, "streaming"))
        return "found", f"steps one by one differ from the whole by {far.effect:.3g}"

    def _steps(self) -> Steps:
        return Steps(
            self.asked, self.runner, self.inputs, self.outputs, self.bound, self.clocks[0],
            self.axes, self.out_axes, self.modes, self.moments, self.double, self.row_axis,
        )  # fmt: skip

    def _training(self, steps: Steps) -> tuple[str, str]:
        outcome, said, proofs = steps.training()
        if outcome == "skipped":
            return outcome, said
        judged, more = self._judged(proofs)
        return outcome or judged, f"{said}; {more}"

    # The outcome.

    def _verdict(self, findings: tuple[Finding, ...]) -> Verdict:
        if findings:
            return "leak"
        if "tracking" in self.skip:
            self.reasons.append("operations were not followed")
        if self.reasons:
            return "unproven"
        return "conditional" if self.conditions else "proved"

    def _scope(self) -> dict[str, Any]:
        steps = [self.inputs[name].shape[axis] for name, axis in self.axes.items()]
        return self.scope | {
            "modes": list(self.modes),
            "method": "tracking of every operation, and replacement of what is known too late",
            "lengths": self.scope.get("lengths", [max(steps)] if steps else []),
            "moments": self.moments,
            "trials": self.trials,
            "operations": sum(proof.n_ops for proof in self.proofs),
            "notes": list(dict.fromkeys(n for proof in self.proofs for n in proof.notes)),
            "not_covered": (
                "other paths through the code than these inputs take; back ends other than the "
                "plain one, and kernels that fuse operations, are sampled, not followed"
            ),
        }

    def _pictures(self) -> tuple[Picture | None, Picture | None]:
        """Return a map of all moments, and one of single moments around the first leak."""
        if not self.clocks or not self.clocks[0].available:
            return None, None
        clocks = self.clocks[0]
        labels = next((p.labels for p in self.proofs if p.labels), {})
        hits = [hit for hit, method in self.hits if method == "replacement"]
        hits = [hit for hit in hits if self.whole is None or not self.whole.has(hit)]
        setting = hits[0].setting if hits else Setting()
        drawing = Drawing(self.runner, self.inputs, clocks, labels, setting, self.runner.seed)
        whole = drawing.whole(full=bool(hits))
        if not hits or hits[0].output not in clocks.needed or whole is None:
            return whole, None
        needed = clocks.needed[hits[0].output]
        if len(hits[0].place) != needed.ndim:
            return whole, None
        moment = int(needed[hits[0].place])
        return whole, drawing.around(moment, moment + hits[0].ticks)

    def _modules(self) -> tuple[tuple[str, str], ...]:
        return tuple((n, type(m).__name__) for n, m in self.runner.model.named_modules())

    def _do(self, name: str, stage: Callable[[], tuple[str, str]]) -> None:
        began = perf_counter()
        if name in self.skip:
            self._note(name, "skipped", "as asked", began)
            return
        try:
            outcome, detail = stage()
        except ContractError:
            raise
        except Exception as error:  # noqa: BLE001 - of a model nothing is known
            outcome, detail = "failed", f"{type(error).__name__}: {first_line(error)}"
            self.reasons.append(f"the stage {name} could not be run ({detail})")
        self._note(name, outcome, detail, began)

    def _note(self, name: str, outcome: str, detail: str, began: float) -> None:
        self.stages.append(Stage(name, outcome, detail, round(perf_counter() - began, 3)))

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.runner.seed)


def _spaced(moments: list[int], count: int) -> list[int]:
    """Return some of the moments, evenly spaced, the one in the middle first."""
    values = sorted(set(moments))
    middle = values[len(values) // 2 : len(values) // 2 + 1]
    if len(values) > max(count, 1):
        values = [values[i * (len(values) - 1) // max(count - 1, 1)] for i in range(count)]
    return list(dict.fromkeys([*middle, *values]))
