"""Every planted leak of `tests/leaks` is found, and no honest model is accused."""

import functools
import linecache
from types import ModuleType

import pytest
import torch
from leaks.common_checks import CHECKS, build, catalogue, load, measure, stored
from torch.utils._python_dispatch import TorchDispatchMode

from kt_forecast.audit import LeakError, audit
from kt_forecast.audit.selftest import SelfTest, located

LEAKS, HONEST = catalogue()

NEEDS = {
    "dependency": "only following every operation shows what no replacement has drawn",
    "length": "the same steps at another length are to be compared",
    "replay": "a call, another call, and the first again are to be compared",
    "streaming": "the step form and the whole are to be compared",
    "gradients": "gradients are to be recorded",
    "compiled": "code that asks is to be told of a compiler",
    "autocast": "it is to be run in half precision",
    "float64": "rounding is told from a leak by a run in double precision",
}
"""What an auditor must do beyond replacing the future, in the words of the files."""

ORDER = ("unproven", "conditional", "proved")

QUICK = 8
"""One file of so many is audited by default; `make test-all` audits all of them."""


def cases(names):
    for i, name in enumerate(names):
        special = hasattr(load(name), "NEEDS") or i % QUICK == 0
        yield pytest.param(name, marks=() if special else pytest.mark.slow)


MISPLACED = {
    "expanded_concepts",
    "normalised_with_the_horizon",
    "questions_of_one_page",
    "written_before_read",
}
"""Leaks of which the first reading of what is too late is named, for want of a shift to blame."""

LESS = {"honest_fourier_convolution"}
"""Honest models of which the auditor says less than a sound one can."""


@functools.cache
def audited(name, *, honest):
    return audit(*build(name, honest=honest), moments=4, skip=["compiled", "picture"])


def as_well_as_can_be(name):
    """Hold the verdict of an honest model to the best that a sound auditor can say of it."""
    report = audited(name, honest=True)
    assert report.findings == (), report.summary()
    best = getattr(load(name), "BEST", "proved")
    assert (report.verdict == best) != (name in LESS), report.summary()
    assert ORDER.index(report.verdict) <= ORDER.index(best)


@pytest.mark.parametrize("name", list(cases(LEAKS)))
def test_a_planted_leak_is_found(name):
    report = audited(name, honest=False)
    assert report.verdict == "leak"
    assert report.findings[0].effect > 0
    assert "LEAKS" in report.summary()
    with pytest.raises(LeakError, match="moves by up to"):
        report.raise_for_leaks()


@pytest.mark.parametrize("name", list(cases(LEAKS)))
def test_its_honest_twin_is_not_accused(name):
    as_well_as_can_be(name)


@pytest.mark.parametrize("name", list(cases(LEAKS)))
def test_the_place_where_a_leak_enters_is_named(name):
    place = located(audited(name, honest=False), load(name))
    assert place.module is not False
    assert (place.op is False) == (name in MISPLACED)
    sources = [f.source.rpartition(":") for f in audited(name, honest=False).findings]
    lines = [linecache.getline(path, int(line)) for path, _, line in sources if path]
    wanted = getattr(load(name), "AT", "")
    assert not wanted or any(wanted in line for line in lines), lines


@pytest.mark.parametrize("name", list(cases(HONEST)))
def test_an_honest_model_is_not_accused(name):
    as_well_as_can_be(name)


def test_the_self_test_counts_what_the_catalogue_holds(monkeypatch):
    test = SelfTest(moments=4)
    few = (["mask_inverted", "roll_wraps"], ["honest_gate_at_zero"])
    part = ModuleType("part")
    whole = {"CHECKS": CHECKS, "load": load, "build": build, "measure": measure}
    vars(part).update(whole | {"catalogue": lambda: few})
    monkeypatch.setattr("kt_forecast.audit.selftest.catalogue", lambda: part)
    rows = list(test.rows())
    assert [row[0] for row in rows] == [*few[0], *few[1]]
    assert {len(row) for row in rows} == {len(test.header)}
    assert [row[1:3] for row in rows] == [("leak", "proved")] * 2 + [("", "proved")]
    assert rows[0][4] == "right"
    assert test.passed
    said = "\n".join(test.summary())
    assert "leaks found: 2 of 2; honest models accused: 0 of 3" in said
    assert "right submodule and operation: 2 of 2" in said
    assert "last_step: sees 2 of 2 leaks" in said


def test_the_catalogue_is_as_large_as_promised():
    assert len(LEAKS) >= 80
    assert len(HONEST) >= 40


@pytest.mark.parametrize("name", LEAKS + HONEST)
def test_a_file_says_what_it_holds(name):
    module = load(name)
    assert module.WHAT
    assert len(module.WHAT.split()) > 4
    assert getattr(module, "NEEDS", "dependency") in NEEDS
    assert getattr(module, "BEST", "proved") in {"proved", "conditional", "unproven"}
    assert (name in HONEST) != hasattr(module, "WHERE")


class Operations(TorchDispatchMode):
    """Notes which operations run in which submodule."""

    def __init__(self, model):
        super().__init__()
        self.inside = [""]
        self.seen = set()
        for name, module in model.named_modules():
            module.register_forward_pre_hook(lambda *_, name=name: self.inside.append(name))
            module.register_forward_hook(lambda *_: self.inside.pop() and None)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.add((self.inside[-1], func.overloadpacket.__name__))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", LEAKS)
def test_a_leak_names_a_module_and_an_operation_that_run(name):
    file = load(name)
    if file.WHERE is None:
        return
    model, batch, _ = build(name)
    ran = Operations(model)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(value=False)
    try:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            for recorded, mode in ((False, False), (True, True)):
                with torch.set_grad_enabled(recorded), ran:
                    model.train(mode)
                    model(batch) if isinstance(batch, torch.Tensor) else model(**batch)
    finally:
        torch.backends.mha.set_fastpath_enabled(value=fast)
    named = {part for part, _ in model.named_modules()}
    for module, operation in (file.WHERE, getattr(file, "ALSO", file.WHERE)):
        assert module in named
        if operation is not None:
            assert hasattr(torch.ops.aten, operation)
            assert (module, operation) in ran.seen


def reached(run, batch, other):
    """Return how far the steps before the last move when the last one is replaced."""
    changed = batch.clone()
    changed[:, -1] = other
    moved = run(changed)[:, :-1] - run(batch)[:, :-1]
    return float(moved.detach().nan_to_num().abs().max())


def in_half_precision(model):
    def run(batch):
        with torch.autocast("cpu", torch.bfloat16):
            return model(batch).float()

    return run


def proof(name, *, honest):
    """Show a leak that the search passes over by the very means its file asks for."""
    needs = load(name).NEEDS
    model, batch, _ = build(name, honest=honest)
    model.eval()
    if needs == "length":
        return float((model(batch)[:, :5] - model(batch[:, :5])).detach().abs().max())
    if needs == "replay":
        first = model(batch)
        model(batch + 1.0)
        return float((model(batch) - first).detach().abs().max())
    if needs == "streaming":
        steps, state = [], None
        for t in range(batch.shape[1]):
            step, state = model.step(batch[:, t], state)
            steps.append(step)
        return float((model(batch) - torch.stack(steps, 1)).detach().abs().max())
    if needs == "gradients":
        return reached(model, batch, 3.0)
    if needs == "compiled":
        return reached(torch.compile(model, backend="eager"), batch, 3.0)
    if needs == "autocast":
        return reached(in_half_precision(model), batch, 3.0)
    if not batch.is_floating_point():
        return reached(model, batch, int(batch.max()) + 1)
    model, batch = model.double(), batch.double()
    return max(reached(model, batch, extreme) for extreme in (1e12, torch.nan))


@pytest.mark.parametrize("name", [n for n in LEAKS if hasattr(load(n), "NEEDS")])
def test_what_the_search_passes_over_leaks_all_the_same(name):
    assert proof(name, honest=False) > 2e-6
    assert proof(name, honest=True) < 1e-6


def test_the_common_checks_see_what_the_stored_table_says():
    table = stored()
    assert sorted(table) == LEAKS
    some = LEAKS[::10]
    assert {name: measure(name) for name in some} == {name: table[name] for name in some}


def test_a_good_part_of_the_catalogue_escapes_every_common_check():
    table = stored()
    assert all(set(said) == set(CHECKS) for said in table.values())
    for check in CHECKS:
        assert sum(said[check] == "seen" for said in table.values()) < 0.8 * len(LEAKS)
