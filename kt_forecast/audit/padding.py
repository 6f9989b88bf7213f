"""Padding: what stands where nothing happened may hold anything, and there may be any amount of it.

Which input says what is padding is declared, or taken from its name and its values, and said in the
report.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from kt_forecast.audit.dependency.analysis import spread
from kt_forecast.audit.proving import prove
from kt_forecast.audit.replacing import Clocks, is_rounding, kinds, moved, replaced
from kt_forecast.audit.running import GENERIC, Outputs, Runner, Setting
from kt_forecast.audit.search import Hit, first_line

REAL_WORDS = ("mask", "real", "valid", "attend")
"""Parts of names of masks of real steps."""

PADDING_WORD, LENGTH_WORD = "pad", "len"
"""Parts of names of masks of padding, and of lengths."""

MORE = 3
"""Steps of padding that are added."""

LEAST = 2
"""Steps that a row keeps at least where a batch without padding is given some."""


@dataclass(frozen=True)
class Padding:
    """Which input says what is padding.

    Attributes:
        name: of the input.
        kind: a mask of steps, or a number of real steps for each row.
        real: its value at real steps, of a mask.
        side: where the padding of the given batch stands; right, where it has none.
        how: how that is known.
    """

    name: str
    kind: Literal["mask", "lengths"]
    real: bool
    side: Literal["left", "right"]
    how: str

    def __str__(self) -> str:
        """Say it in a few words."""
        if self.kind == "lengths":
            return f"{self.name} holds lengths ({self.how})"
        holds = "real steps" if self.real else "padding"
        return f"{self.name} is a mask of {holds}, padded on the {self.side} ({self.how})"

    def steps(self, x: Tensor, n: int) -> Tensor:
        """Return which of ``n`` steps are real, batch x time."""
        if self.kind == "lengths":
            return torch.arange(n, device=x.device) < x[:, None]
        return x.bool() == self.real

    def said(self, real: Tensor, like: Tensor) -> Tensor:
        """Return the input that says which steps are real."""
        if self.kind == "lengths":
            return real.sum(1).to(like)
        return (real if self.real else ~real).to(like)


def find_padding(
    inputs: dict[str, Tensor], axes: dict[str, int], declared: str | None
) -> Padding | str:
    """Return which input says what is padding, or why none does.

    Args:
        inputs: tensors by name.
        axes: the time axis of each input that has one.
        declared: the name of the input, if it was given.
    """
    shapes = [inputs[n].shape[:2] for n, axis in axes.items() if axis == 1 and n != declared]
    if not shapes:
        return "no input has rows and then steps"
    rows, steps = shapes[0]
    for name, x in inputs.items():
        if declared not in {None, name}:
            continue
        word = name.rsplit(".", maxsplit=1)[-1].lower()
        found = None
        if x.shape == (rows,) and not x.is_floating_point() and x.dtype != torch.bool:
            found = _lengths(name, word, x, steps, asked=declared is not None)
        elif x.shape == (rows, steps) and len(shapes) > (declared is None):
            found = _mask(name, word, x, asked=declared is not None)
        if found is not None:
            return found
    if declared is not None:
        return f"{declared} is neither a mask of steps nor a number of them for each row"
    return "no input is called a mask or a length, or has the values of one"


def _lengths(name: str, word: str, x: Tensor, steps: int, *, asked: bool) -> Padding | None:
    fits = bool((x >= 1).all()) and int(x.max()) <= steps
    named, plain = LENGTH_WORD in word, word.isdigit() and int(x.max()) == steps
    if not fits or not (asked or named or plain):
        return None
    how = "as declared" if asked else "by its name" if named else "by its values"
    return Padding(name, "lengths", real=True, side="right", how=how)


def _mask(name: str, word: str, x: Tensor, *, asked: bool) -> Padding | None:
    if not bool(((x == 0) | (x == 1)).all()):
        return None
    found = x.bool()
    padded, named = PADDING_WORD in word, any(part in word for part in REAL_WORDS)
    if padded or named:
        real = not padded
        how = "as declared, and by its name" if asked else "by its name"
    elif asked:
        real, how = True, "as declared"
    elif word.isdigit() and x.dtype == torch.bool and not bool((found == found[:1, :1]).all()):
        ends = [bool((found[:, end] == found[0, end]).all()) for end in (0, -1)]
        if ends[0] == ends[1]:
            return None
        real, how = bool(found[0, 0 if ends[0] else -1]), "by its values"
    else:
        return None
    where = found == real
    right = bool((where[:, 1:] <= where[:, :-1]).all())
    left = bool((where[:, 1:] >= where[:, :-1]).all())
    if not (right or left) or not bool(where.any(1).all()):
        return None
    return Padding(name, "mask", real=real, side="right" if right else "left", how=how)


@dataclass
class Padded:
    """Changes padding, and looks whether real steps stay as they are.

    Attributes:
        runner: runs the model.
        inputs: tensors by name.
        axes: the time axis of each input that has one.
        outputs: the time axis of each output that has one.
        padding: what says which steps are real.
        generator: of replacements.
        double: whether the model can run in double precision.
        trials: how many changes were tried.
        said: what was tried, for the report.
    """

    runner: Runner
    inputs: dict[str, Tensor]
    axes: dict[str, int]
    outputs: dict[str, int]
    padding: Padding
    generator: torch.Generator
    double: bool
    trials: int = 0
    said: list[str] = field(default_factory=list)

    def run(self) -> list[Hit]:
        """Return a hit for the first change that moves what it must not move."""
        self.steps = self.inputs[next(iter(self._timed()))].shape[1]
        real = self.padding.steps(self.inputs[self.padding.name], self.steps)
        given = not bool(real.all())
        if not given:
            count = len(real)
            lengths = (self.steps - 2 * torch.arange(count)).clamp(min=min(LEAST, self.steps))
            real = torch.arange(self.steps) < lengths[:, None].to(real.device)
        self.inputs = self._masked(real)
        self.said = [str(self.padding), *([] if given else ["the batch was given some"])]
        for weights in ("own", GENERIC):
            setting = Setting(weights=weights, double=self.double)
            for name, change in (
                ("what it holds", self._content),
                ("a row of nothing else", self._all_masked),
                ("more of it", self._more),
            ):
                try:
                    hit = change(setting, real)
                except Exception as error:  # noqa: BLE001 - of a model nothing is known
                    self._note(f"{name}: refused ({type(error).__name__}: {first_line(error)})")
                    continue
                self._note(name)
                if hit is not None:
                    return [hit]
        self._other_side(Setting(double=self.double), real)
        return []

    def proved(self) -> bool:
        """Return whether tracking shows that no real step reads what padding holds."""
        real = self.padding.steps(self.inputs[self.padding.name], self.steps)
        outputs = self.runner(self.inputs, Setting())
        late = (~real).long().cpu()
        needed = {
            path: (late if self._has_steps(path, y) else late[:, :1] * 0)
            for path, y in outputs.items()
            if self._judged(y)
        }
        available = dict.fromkeys(self._timed(), late)
        clocks = Clocks(
            {n: spread(late, self.inputs[n].shape) for n in available},
            {p: spread(t, outputs[p].shape) for p, t in needed.items()},
        )
        pair = (available, needed)
        return prove(self.runner, self.inputs, pair, clocks, Setting(), name="padding").holds

    def _note(self, what: str) -> None:
        if what not in self.said:
            self.said.append(what)

    def _timed(self) -> list[str]:
        return [n for n, axis in self.axes.items() if axis == 1 and n != self.padding.name]

    def _masked(self, real: Tensor) -> dict[str, Tensor]:
        name = self.padding.name
        return self.inputs | {name: self.padding.said(real, self.inputs[name])}

    def _judged(self, y: Tensor) -> bool:
        return y.ndim > 0 and len(y) == len(self.inputs[self.padding.name])

    def _has_steps(self, path: str, y: Tensor) -> bool:
        return self.outputs.get(path) == 1 and y.ndim > 1 and y.shape[1] == self.steps

    def _stays(self, outputs: Outputs, real: Tensor) -> dict[str, Tensor]:
        """Return where outputs must stay: at real steps, and in all of a row without steps."""
        found = {}
        for path, y in outputs.items():
            if self._judged(y):
                steps = real if self._has_steps(path, y) else real.any(1)
                found[path] = spread(steps.cpu(), y.shape)
        return found

    def _content(self, setting: Setting, real: Tensor) -> Hit | None:
        with self.runner.held(setting) as run:
            before = run(self.inputs)
            for kind in ("noise", "large noise"):
                changed = dict(self.inputs)
                for name in self._timed():
                    x = self.inputs[name]
                    kind_here = kind if kind in kinds(x) else kinds(x)[0]
                    where = spread(~real, x.shape)
                    changed[name] = replaced(x, where, kind_here, self.generator)
                hit = self._compared(
                    setting, changed, before, run(changed), real, f"padding replaced by {kind}"
                )
                if hit is not None:
                    return hit
        return None

    def _all_masked(self, setting: Setting, real: Tensor) -> Hit | None:
        """Mask the whole last row, and then replace it: the other rows must not notice."""
        if len(real) < 2:
            return None
        empty = real.clone()
        empty[-1] = False
        changed = self._masked(empty)
        other = dict(changed)
        for name in self._timed():
            x = changed[name]
            where = torch.zeros_like(x, dtype=torch.bool)
            where[-1] = True
            other[name] = replaced(x, where, kinds(x)[0], self.generator)
        with self.runner.held(setting) as run:
            before = run(self.inputs)
            for after in (changed, other):
                kind = "the last row masked as a whole"
                hit = self._compared(setting, after, before, run(after), empty, kind)
                if hit is not None:
                    return hit
        return None

    def _more(self, setting: Setting, real: Tensor) -> Hit | None:
        """Add steps of padding on the side where it is."""
        left = self.padding.side == "left"
        no = torch.zeros(len(real), MORE, dtype=torch.bool, device=real.device)
        wider = torch.cat([no, real] if left else [real, no], 1)
        changed = dict(self.inputs)
        for name in self._timed():
            x = self.inputs[name]
            filler = x[:, :1].expand(-1, MORE, *x.shape[2:])
            changed[name] = torch.cat([filler, x] if left else [x, filler], 1)
        changed[self.padding.name] = self.padding.said(wider, self.inputs[self.padding.name])
        before, after = self.runner(self.inputs, setting), self.runner(changed, setting)
        cut = {}
        for path, y in after.items():
            was = before.get(path)
            if was is not None and y.ndim == was.ndim and y.ndim > 1 and y.shape != was.shape:
                start = MORE if left and y.shape[1] == was.shape[1] + MORE else 0
                y = y.narrow(1, start, min(was.shape[1], y.shape[1] - start))  # noqa: PLW2901
            cut[path] = y
        shift = MORE if left else 0
        return self._compared(setting, changed, before, cut, real, f"{MORE} steps more", shift)

    def _other_side(self, setting: Setting, real: Tensor) -> None:
        """Say whether padding on the other side gives the same answers; it need not."""
        if self.padding.kind == "lengths":
            return
        n = real.sum(1)
        by = (self.steps - n) if self.padding.side == "right" else n - self.steps
        index = (torch.arange(self.steps, device=real.device) - by[:, None]) % self.steps
        side = "left" if self.padding.side == "right" else "right"
        changed = self._masked(real.gather(1, index))
        for name in self._timed():
            x = self.inputs[name]
            where = spread(index, x.shape).to(x.device)
            changed[name] = x.gather(1, where)
        try:
            before, after = self.runner(self.inputs, setting), self.runner(changed, setting)
            back = ((torch.arange(self.steps, device=real.device) + by[:, None]) % self.steps).cpu()
            turned = {
                path: y.cpu().gather(1, spread(back, y.shape)) if self._has_steps(path, y) else y
                for path, y in after.items()
            }
            self.trials += 1
            far = moved(turned, before, self._stays(before, real))
        except Exception as error:  # noqa: BLE001 - of a model nothing is known
            self._note(f"on the {side}: refused ({type(error).__name__}: {first_line(error)})")
            return
        same = far is None or is_rounding(turned, before, far)
        self._note(f"on the {side}: {'the same' if same else 'other'} answers")

    def _compared(
        self,
        setting: Setting,
        changed: dict[str, Tensor],
        before: Outputs,
        after: Outputs,
        real: Tensor,
        kind: str,
        shift: int = 0,
    ) -> Hit | None:
        self.trials += 1
        stays = {p: where for p, where in self._stays(before, real).items() if p in after}
        far = moved(after, before, stays)
        if far is None or is_rounding(after, before, far):
            return None
        moved_to = tuple(p + shift * (i == 1) for i, p in enumerate(far.place)) if shift else ()
        names = tuple(n for n in self._timed() if n in changed)
        return Hit(
            names, far.path, far.place, far.effect, 0, 0, kind, setting, self.inputs, changed,
            moved_to,
        )  # fmt: skip
