"""Values that no sample has, for leaks that only they show.

Where tracking cannot exclude a leak and no ordinary replacement shows one, the future is replaced
by what thresholds, guards and special tokens wait for: numbers beyond all thresholds, undefined
and infinite ones, tokens of the vocabulary that the batch does not hold. Such values make rounding
large and spread undefined numbers through products with zero, so that a hit counts only if single
and double precision agree about it, or if both runs give finite numbers where they differ.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from kt_forecast.audit.replacing import Clocks, Moved, change_of, is_rounding, moved
from kt_forecast.audit.running import Outputs, Runner, Setting
from kt_forecast.audit.search import Hit

HUGE = 1e10
"""Beyond any threshold that a model is likely to hold, and far from overflow when squared."""

AGREES = 1e-2
"""Share of a change in single precision that must remain of it in double precision."""

TOKENS = 32
"""Tokens that the batch does not hold and that are tried, one after the other, at most."""

Make = Callable[[Tensor, torch.Generator], Tensor]

NUMBERS: tuple[tuple[str, Make], ...] = (
    ("huge", lambda x, g: torch.randn(x.shape, generator=g).to(x.device) * HUGE),
    ("huge and positive", lambda x, _: torch.full(x.shape, HUGE, device=x.device)),
    ("huge and negative", lambda x, _: torch.full(x.shape, -HUGE, device=x.device)),
    ("undefined", lambda x, _: torch.full(x.shape, torch.nan, device=x.device)),
    ("infinite", lambda x, _: torch.full(x.shape, torch.inf, device=x.device)),
)


@dataclass
class Aimed:
    """A search with values that no sample has.

    Attributes:
        runner: runs the model.
        inputs: tensors by name.
        clocks: when they are known, and outputs needed.
        generator: of replacements.
        double: whether the model runs in double precision.
        trials: how many replacements were tried.
    """

    runner: Runner
    inputs: dict[str, Tensor]
    clocks: Clocks
    generator: torch.Generator
    double: bool
    trials: int = 0

    def run(self, setting: Setting, moments: list[int]) -> Hit | None:
        """Return the first replacement that moves what it must not; None if none does.

        Args:
            setting: how to run the model.
            moments: after which to replace everything.
        """
        names = list(self.clocks.available)
        groups = [(name,) for name in names] + ([tuple(names)] if len(names) > 1 else [])
        with self.runner.held(setting) as run:
            base = run(self.inputs)
            for moment in moments:
                for group in groups:
                    for kind, changed in self._changed(group, moment):
                        hit = self._tried(run, base, Hit(
                            group, "", (), 0.0, 0, moment, kind, setting, self.inputs, changed
                        ))  # fmt: skip
                        if hit is not None:
                            return hit
        return None

    def _tried(
        self, run: Callable[[dict[str, Tensor]], Outputs], base: Outputs, trial: Hit
    ) -> Hit | None:
        self.trials += 1
        try:
            after = run(trial.after)
        except Exception:  # noqa: BLE001 - a model may refuse what no sample has
            return None
        found = self._moved(after, base, trial.moment)
        if found is None or not self._stands(after, base, trial, found):
            return None
        due = int(self.clocks.needed[found.path][found.place])
        known = [self.clocks.available[name].max() for name in trial.inputs]
        return replace(
            trial,
            output=found.path,
            place=found.place,
            effect=found.effect,
            ticks=int(max(known)) - due,
        )

    def _changed(
        self, names: tuple[str, ...], moment: int
    ) -> Iterator[tuple[str, dict[str, Tensor]]]:
        late = {n: (self.clocks.available[n] > moment).to(self.inputs[n].device) for n in names}
        if not any(bool(where.any()) for where in late.values()):
            return
        numbers = [n for n in names if self.inputs[n].is_floating_point()]
        for kind, make in NUMBERS if numbers else ():
            changed = dict(self.inputs)
            for name in numbers:
                x = self.inputs[name]
                changed[name] = torch.where(late[name], make(x, self.generator).to(x), x)
            yield kind, changed
        for name in names:
            for token in self._unseen(self.inputs[name]):
                x = self.inputs[name]
                full = torch.full_like(x, token)
                kind = f"token {token}, which the batch does not hold,"
                yield kind, self.inputs | {name: torch.where(late[name], full, x)}

    def _unseen(self, x: Tensor) -> list[int]:
        """Return tokens of the model's vocabularies that a batch does not hold."""
        if x.is_floating_point() or x.dtype == torch.bool:
            return []
        known = set(x.unique().tolist())
        modules = self.runner.model.modules()
        sizes = [m.num_embeddings for m in modules if isinstance(m, nn.Embedding | nn.EmbeddingBag)]
        least = max(known, default=0)
        size = min((n for n in sizes if n > least), default=0)
        tokens = [v for v in range(size) if v not in known]
        ends = [*tokens[-TOKENS // 4 :][::-1], *tokens[: TOKENS // 4]]
        order = torch.randperm(len(tokens), generator=self.generator).tolist()
        return list(dict.fromkeys([*ends, *(tokens[i] for i in order)]))[:TOKENS]

    def _moved(self, after: Outputs, base: Outputs, moment: int) -> Moved | None:
        """Return what moved from one finite number to another."""
        stays = {
            path: (due <= moment).cpu() & _finite(base[path]) & _finite(after[path])
            for path, due in self.clocks.needed.items()
            if after[path].shape == base[path].shape
        }
        return moved(after, base, stays)

    def _stands(self, after: Outputs, base: Outputs, trial: Hit, found: Moved) -> bool:
        """Return whether a change is more than rounding."""
        if not base[found.path].is_floating_point():
            return True
        if not self.double or trial.setting.double:
            return not is_rounding(after, base, found)
        setting = replace(trial.setting, double=True)
        try:
            was, now = self.runner(trial.before, setting), self.runner(trial.after, setting)
        except Exception:  # noqa: BLE001 - then single precision has decided
            return not is_rounding(after, base, found)
        change = change_of(now[found.path], was[found.path])[found.place]
        return AGREES * found.effect <= float(change) <= found.effect / AGREES


def _finite(x: Tensor) -> Tensor:
    return x.isfinite().cpu() if x.is_floating_point() else torch.ones(x.shape, dtype=torch.bool)
