"""Falsification: replace what is known too late and look whether anything needed before moves.

Bit by bit first; what moves is then run in double precision, where rounding nearly vanishes and a
leak does not, so that no tolerance decides. A search draws samples: it shows leaks and proves
nothing.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from kt_forecast.audit.replacing import (
    Clocks,
    Moved,
    change_of,
    is_rounding,
    kinds,
    moved,
    replaced,
)
from kt_forecast.audit.running import COARSE_PATHS, Outputs, Runner, Setting

Run = Callable[[dict[str, Tensor]], Outputs]

FIRST = 2
"""Of what moved first, and of what moved most, so many are looked at again."""


@dataclass(frozen=True)
class Hit:
    """A replacement that moved what it must not move.

    Attributes:
        inputs: names of what was replaced.
        output: what moved.
        place: where it moved most.
        effect: by how much.
        ticks: how many moments beyond the need the farthest replaced element lies that still
            moves it.
        moment: after which everything was replaced.
        kind: of replacement.
        setting: of the run.
        before: the inputs.
        after: the inputs replaced.
        moved_to: where it stands in the second run, if elsewhere than in the first.
    """

    inputs: tuple[str, ...]
    output: str
    place: tuple[int, ...]
    effect: float
    ticks: int
    moment: int
    kind: str
    setting: Setting
    before: dict[str, Tensor] = field(repr=False)
    after: dict[str, Tensor] = field(repr=False)
    moved_to: tuple[int, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """What moved, before anyone has looked whether it was rounding.

    Attributes:
        hit: the replacement.
        was: the outputs.
        now: the outputs after it.
    """

    hit: Hit
    was: Outputs = field(repr=False)
    now: Outputs = field(repr=False)


@dataclass
class Search:
    """A search through settings, moments and kinds of replacement.

    Attributes:
        runner: runs the model.
        inputs: tensors by name.
        clocks: when they are known, and outputs needed.
        generator: of replacements.
        trials: how many replacements were tried.
        moving: settings in which a replacement moved outputs that may move: the power check.
        settings: in which the model could be run.
        failed: why it could not in others.
        rounding: whether something moved by no more than rounding.
    """

    runner: Runner
    inputs: dict[str, Tensor]
    clocks: Clocks
    generator: torch.Generator
    trials: int = 0
    moving: dict[str, bool] = field(default_factory=dict)
    settings: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    rounding: bool = False

    def run(
        self,
        setting: Setting,
        *,
        moments: list[int],
        groups: Iterable[tuple[str, ...]],
        most: int = 4,
        double: bool = True,
    ) -> list[Hit]:
        """Return the clearest hit of each group of inputs that moves what it must not.

        Args:
            setting: how to run the model.
            moments: after which everything is replaced.
            groups: names of inputs replaced together.
            most: kinds of replacement to try at a moment, until one moves what must stay; of single
                inputs two at most.
            double: whether the model can run in double precision.
        """
        groups = list(groups)
        seen: dict[tuple[str, ...], list[Candidate]] = {}
        try:
            with self.runner.held(setting) as run:
                for candidate in self._candidates(run, setting, moments, groups, most):
                    found = [*seen.get(candidate.hit.inputs, []), candidate]
                    seen[candidate.hit.inputs] = _some(found)
        except Exception as error:  # noqa: BLE001 - of a model nothing is known
            self.failed[str(setting)] = f"{type(error).__name__}: {first_line(error)}"
            return []
        self.settings.append(str(setting))
        hits = [self._clearest(candidates, double=double) for candidates in seen.values()]
        return [hit for hit in hits if hit is not None]

    def _clearest(self, candidates: list["Candidate"], *, double: bool) -> Hit | None:
        """Return the hit with the largest effect that stands, and the farthest reach of any."""
        best: Hit | None = None
        for candidate in sorted(candidates, key=_clarity, reverse=True):
            earliest = all(candidate.hit.moment <= other.hit.moment for other in candidates)
            if best is not None and not earliest:
                continue
            hit = self._confirmed(candidate.hit, candidate.was, candidate.now, double=double)
            if hit is None:
                self.rounding = True
                continue
            hit = self._reach(hit)
            best = hit if best is None else replace(best, ticks=max(best.ticks, hit.ticks))
        return best

    def _candidates(
        self,
        run: Run,
        setting: Setting,
        moments: list[int],
        groups: list[tuple[str, ...]],
        most: int,
    ) -> Iterator["Candidate"]:
        base = run(self.inputs)
        self.moving.setdefault(str(setting), False)
        for moment in moments:
            stays = {p: due <= moment for p, due in self.clocks.needed.items()}
            may = {p: ~where for p, where in stays.items()}
            for names in groups:
                late = {n: self.clocks.available[n] > moment for n in names}
                if not any(bool(where.any()) for where in late.values()):
                    continue
                every = len(names) == len(self.clocks.available)
                for kind in self._kinds(names)[: most if every else min(most, 2)]:
                    changed = dict(self.inputs)
                    for name, where in late.items():
                        changed[name] = replaced(self.inputs[name], where, kind, self.generator)
                    after = run(changed)
                    self.trials += 1
                    if not self.moving[str(setting)]:
                        self.moving[str(setting)] = moved(after, base, may) is not None
                    found = moved(after, base, stays)
                    if found is not None:
                        hit = _hit(names, found, moment, kind, setting, self.inputs, changed)
                        yield Candidate(hit, base, after)
                        break

    def _kinds(self, names: tuple[str, ...]) -> list[str]:
        found: dict[str, None] = {}
        for name in names:
            found |= dict.fromkeys(kinds(self.inputs[name]))
        return list(found)

    def _confirmed(self, hit: Hit, was: Outputs, now: Outputs, *, double: bool) -> Hit | None:
        """Return the hit, in double precision where the model has it; None if it was rounding."""
        found = Moved(hit.output, hit.effect, hit.place)
        if not repeatable(self.runner, hit):
            self.failed[str(hit.setting)] = "two runs of the same batch differ"
            return None
        if not is_rounding(now, was, found):
            return hit
        if hit.setting.path in COARSE_PATHS or hit.setting.double or not double:
            return None
        setting = replace(hit.setting, double=True)
        try:
            was, now = self.runner(hit.before, setting), self.runner(hit.after, setting)
        except Exception:  # noqa: BLE001 - then single precision has decided
            return None
        stays = {p: due <= hit.moment for p, due in self.clocks.needed.items()}
        again = moved(now, was, stays)
        if again is None or is_rounding(now, was, again):
            return None
        return replace(
            hit, output=again.path, effect=max(again.effect, hit.effect), place=again.place
        )

    def _reach(self, hit: Hit) -> Hit:
        """Return the hit with the farthest moment whose replacement alone still shows."""
        later = torch.cat([self.clocks.available[n].reshape(-1) for n in hit.inputs]).unique()
        later = later[later > hit.moment]
        stays = {p: due <= hit.moment for p, due in self.clocks.needed.items()}
        low, high = 0, len(later) - 1
        earliest = int(self.clocks.needed[hit.output][hit.place])
        try:
            with self.runner.held(hit.setting) as run:
                base = run(hit.before)
                while low < high:
                    middle = (low + high + 1) // 2
                    part = dict(hit.before)
                    for name in hit.inputs:
                        far = self.clocks.available[name] >= later[middle]
                        far = far.to(hit.before[name].device)
                        part[name] = torch.where(far, hit.after[name], hit.before[name])
                    after = run(part)
                    found = moved(after, base, stays)
                    if found is not None and found.effect > 1e-3 * hit.effect:
                        low = middle
                        earliest = self._earliest(after, base, stays, 1e-3 * hit.effect)
                    else:
                        high = middle - 1
        except Exception:  # noqa: BLE001 - the hit stands, its reach is not narrowed down
            low = 0
        return replace(hit, ticks=int(later[low]) - earliest)

    def _earliest(
        self, after: Outputs, base: Outputs, stays: dict[str, Tensor], least: float
    ) -> int:
        """Return the earliest moment at which more than so much has moved."""
        found = []
        for path, where in stays.items():
            due = self.clocks.needed[path][where & (change_of(after[path], base[path]) > least)]
            found += [int(due.min())] if due.numel() else []
        return min(found)


def _clarity(candidate: Candidate) -> tuple[bool, float]:
    """Order what moved: numbers that stay numbers, then the largest effect."""
    return math.isfinite(candidate.hit.effect), candidate.hit.effect


def _some(candidates: list[Candidate]) -> list[Candidate]:
    """Return the first, the clearest and the earliest of what moved."""
    clearest = sorted(candidates, key=_clarity, reverse=True)[:FIRST]
    earliest = min(candidates, key=lambda candidate: candidate.hit.moment)
    chosen = {id(c) for c in (*candidates[:FIRST], *clearest, earliest)}
    return [c for c in candidates if id(c) in chosen]


def repeatable(runner: Runner, hit: Hit) -> bool:
    """Return whether two runs before anything is replaced agree, but for rounding."""
    once, again = runner(hit.before, hit.setting), runner(hit.before, hit.setting)
    everywhere = {p: torch.ones(y.shape, dtype=torch.bool) for p, y in once.items() if p in again}
    far = moved(again, once, everywhere)
    return far is None or is_rounding(again, once, far)


def _hit(
    names: tuple[str, ...],
    found: Moved,
    moment: int,
    kind: str,
    setting: Setting,
    before: dict[str, Tensor],
    after: dict[str, Tensor],
) -> Hit:
    return Hit(
        names, found.path, found.place, found.effect, 0, moment, kind, setting, before, after
    )


def first_line(error: BaseException) -> str:
    """Return what an error says, shortened to one line."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else ""


def sampled(
    ticks: Tensor, count: int, generator: torch.Generator, first: Iterable[int] = ()
) -> list[int]:
    """Return moments to replace after: those asked for first, then the ends, then random ones.

    Args:
        ticks: all moments.
        count: how many to return at most.
        generator: draws them.
        first: moments to prefer.
    """
    values = ticks.tolist()
    order = [values[i] for i in torch.randperm(len(values), generator=generator).tolist()]
    middle = values[len(values) // 2 : len(values) // 2 + 1]
    preferred = [*first, *middle, *values[-2:], *values[:1], *order]
    return list(dict.fromkeys(v for v in preferred if v in set(values)))[:count]
