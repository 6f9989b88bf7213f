"""What the checks in common use see of the catalogue.

    python tests/leaks/common_checks.py            prints the table
    python tests/leaks/common_checks.py --write    also stores it beside this file

Each check runs as its users run it: in evaluation mode, with the model's own weights, with one
replacement. It sees a leak (``seen``), does not (``blind``), or cannot run (``cannot``): gradients
need inputs that are no integers and a model that writes nothing in place, prefixes need an output
for every step and a model that takes any length.
"""

import csv
import importlib.util
import sys
from collections import Counter
from pathlib import Path

import torch

HERE = Path(__file__).parent
TABLE = HERE / "common_checks.csv"


def catalogue():
    """Return the names of the leaks and of the honest models that have no leaking twin."""
    names = sorted(path.stem for path in HERE.glob("*.py") if path.stem != Path(__file__).stem)
    honest = [name for name in names if name.startswith("honest_")]
    return [name for name in names if name not in honest], honest


def load(name):
    """Import one file of the catalogue, wherever the caller stands."""
    spec = importlib.util.spec_from_file_location(f"leaks.{name}", HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(name, *, honest=False):
    """Return model, batch and contract of one file, the same at every call."""
    torch.manual_seed(0)
    module = load(name)
    return module.build() if name.startswith("honest_") else module.build(honest=honest)


class Case:
    """A model to be checked: its inputs by name, when they are known and what is needed when."""

    def __init__(self, name, *, honest):
        self.model, batch, contract = build(name, honest=honest)
        self.model.eval()
        self.single = isinstance(batch, torch.Tensor)
        self.inputs = {"input": batch} if self.single else batch
        self.available, needed = contract.clocks(self.inputs)
        self.needed = needed["output"]

    def __call__(self, inputs):
        torch.manual_seed(0)
        output = self.model(inputs["input"]) if self.single else self.model(**inputs)
        return output if isinstance(output, torch.Tensor) else output[0]

    def later(self, moment):
        """Return where each input is known only after the moment."""
        return {name: spread(t, self.inputs[name]) > moment for name, t in self.available.items()}


def spread(moment, x):
    return moment.reshape(*moment.shape, *[1] * (x.ndim - moment.ndim)).expand(x.shape)


def another(x):
    if x.is_floating_point():
        return torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    return int(x.max()) + int(x.min()) - x


def moved(after, before, rtol):
    if not before.numel():
        return False
    return bool(((after - before).abs() > rtol * before.abs().amax()).any())


@torch.no_grad()
def changed_after(case, moment, rtol):
    before = case(case.inputs)
    late = case.later(moment)
    after = case(
        {
            name: torch.where(late[name], another(x), x) if name in late else x
            for name, x in case.inputs.items()
        }
    )
    due = spread(case.needed, before) <= moment
    return moved(after[due], before[due], rtol)


def last_step(case):
    """Change what is known last and compare all before."""
    return changed_after(case, max(int(t.max()) for t in case.available.values()) - 1, 1e-5)


def second_half(case):
    """Change the second half and compare the first."""
    first = min(int(t.min()) for t in case.available.values())
    last = max(int(t.max()) for t in case.available.values())
    return changed_after(case, max((first + last) // 2, int(case.needed.min())), 1e-4)


@torch.no_grad()
def prefixes(case):
    """Run every prefix and compare with the run of the whole."""
    whole = case(case.inputs)
    steps = max(x.shape[1] for x in case.inputs.values() if x.ndim > 1)
    if whole.ndim < 2 or whole.shape[1] != steps:
        return None
    ran = False
    for length in range(2, steps):
        try:
            part = case(
                {
                    name: x[:, :length] if x.ndim > 1 and x.shape[1] == steps else x
                    for name, x in case.inputs.items()
                }
            )
            removed = min(
                int(spread(t, case.inputs[name])[:, length:].min())
                for name, t in case.available.items()
            )
            due = spread(case.needed, whole)[:, :length] < removed
            if moved(part[due], whole[:, :length][due], 1e-4):
                return True
        except (RuntimeError, IndexError, ValueError, ArithmeticError):
            continue
        ran = True
    return False if ran else None


def gradient(case, moments):
    if not any(case.inputs[name].is_floating_point() for name in case.available):
        return None
    inputs = {
        name: x.clone().requires_grad_() if x.is_floating_point() else x
        for name, x in case.inputs.items()
    }
    output = case(inputs)
    if not output.requires_grad:
        return False
    wanted = {name: x for name, x in inputs.items() if x.requires_grad and name in case.available}
    for moment in moments:
        due = output[spread(case.needed, output) == moment].sum()
        try:
            found = torch.autograd.grad(due, wanted.values(), retain_graph=True, allow_unused=True)
        except RuntimeError:  # written to in place
            return None
        late = case.later(moment)
        for name, change in zip(wanted, found, strict=True):
            if change is not None and bool((change.nan_to_num()[late[name]] != 0).any()):
                return True
    return False


def one_gradient(case):
    """Differentiate what is needed at one moment in the middle."""
    moments = case.needed.unique()
    return gradient(case, moments[len(moments) // 2, None].tolist())


def jacobian(case):
    """Differentiate what is needed at each moment."""
    return gradient(case, case.needed.unique().tolist())


@torch.no_grad()
def undefined(case):
    """Make what is known last undefined, and look for undefined numbers before."""
    last = max(int(t.max()) for t in case.available.values()) - 1
    late = case.later(last)
    numbers = [name for name in late if case.inputs[name].is_floating_point()]
    if not numbers:
        return None
    poisoned = {name: case.inputs[name].masked_fill(late[name], torch.nan) for name in numbers}
    try:
        before, after = case(case.inputs), case(case.inputs | poisoned)
    except (RuntimeError, IndexError, ValueError, ArithmeticError):
        return None
    due = spread(case.needed, before) <= last
    return bool((after[due].isnan() & ~before[due].isnan()).any())


CHECKS = {
    check.__name__: check
    for check in (last_step, second_half, prefixes, one_gradient, jacobian, undefined)
}
WORDS = {True: "seen", False: "blind", None: "cannot"}


def measure(name, *, honest=False):
    """Return what each check says of one model."""
    said = {}
    for title, check in CHECKS.items():
        case = Case(name, honest=honest)
        said[title] = WORDS[check(case)]
    return said


def stored():
    """Return the stored table: what each check said of each leak."""
    with TABLE.open(newline="") as file:
        return {row.pop("leak"): row for row in csv.DictReader(file)}


def main():
    leaks, honest = catalogue()
    table = {name: measure(name) for name in leaks}
    twins = [measure(name, honest=True) for name in leaks]
    accused = Counter(
        title
        for said in [*twins, *map(measure, honest)]
        for title, word in said.items()
        if word == "seen"
    )
    print(f"{'':32}" + "".join(f"{title:>14}" for title in CHECKS))
    for name, said in table.items():
        print(f"{name:32}" + "".join(f"{word:>14}" for word in said.values()))
    seen = Counter(t for said in table.values() for t, word in said.items() if word == "seen")
    print(f"{f'leaks seen of {len(leaks)}':32}" + "".join(f"{seen[t]:>14}" for t in CHECKS))
    count = f"honest accused of {len(leaks) + len(honest)}"
    print(f"{count:32}" + "".join(f"{accused[t]:>14}" for t in CHECKS))
    unseen = sum("seen" not in said.values() for said in table.values())
    print(f"seen by none of them: {unseen}")
    if "--write" in sys.argv:
        with TABLE.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["leak", *CHECKS], lineterminator="\n")
            writer.writeheader()
            writer.writerows({"leak": name, **said} for name, said in table.items())


if __name__ == "__main__":
    main()
