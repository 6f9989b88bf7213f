"""Every planted leak of `tests/leaks` is found, and no honest model is accused."""

import pytest
import torch
from leaks.common_checks import CHECKS, build, catalogue, load, measure, stored
from torch.utils._python_dispatch import TorchDispatchMode

from kt_forecast.audit import LeakError, audit

LEAKS, HONEST = catalogue()

TODAY = {None}
"""What the auditor can do beyond the search by replacement, in the words of `NEEDS`."""

PASSED_OVER = {
    "dependency": "only following every operation shows what no replacement has drawn",
    "length": "the same steps at another length are to be compared",
    "replay": "a call, another call, and the first again are to be compared",
    "streaming": "the step form and the whole are to be compared",
    "gradients": "the search records no gradients",
    "compiled": "the search compiles nothing",
    "autocast": "the search runs in the model's own precision",
    "float64": "rounding is told from a leak by a run in double precision",
}
"""Why a file that needs more than the search is beyond it."""


def cases(names):
    for name in names:
        needs = getattr(load(name), "NEEDS", None)
        beyond = pytest.mark.xfail(reason=PASSED_OVER.get(needs, ""), strict=True)
        yield pytest.param(name, marks=() if needs in TODAY else beyond)


def audited(name, *, honest):
    return audit(*build(name, honest=honest), moments=2 if honest else 4)


@pytest.mark.parametrize("name", list(cases(LEAKS)))
def test_a_planted_leak_is_found(name):
    report = audited(name, honest=False)
    assert report.verdict == "leak"
    assert report.findings[0].effect > 0
    assert "LEAKS" in report.summary()
    with pytest.raises(LeakError, match="moves by up to"):
        report.raise_for_leaks()


@pytest.mark.parametrize("name", LEAKS)
def test_its_honest_twin_is_not_accused(name):
    assert audited(name, honest=True).findings == ()


@pytest.mark.parametrize("name", list(cases(HONEST)))
def test_an_honest_model_is_not_accused(name):
    assert audited(name, honest=True).findings == ()


def test_the_catalogue_is_as_large_as_promised():
    assert len(LEAKS) >= 80
    assert len(HONEST) >= 40


@pytest.mark.parametrize("name", LEAKS + HONEST)
def test_a_file_says_what_it_holds(name):
    module = load(name)
    assert module.WHAT
    assert len(module.WHAT.split()) > 4
    assert getattr(module, "NEEDS", "dependency") in PASSED_OVER
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
    where = load(name).WHERE
    if where is None:
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
    module, operation = where
    assert module in {name for name, _ in model.named_modules()}
    if operation is not None:
        assert hasattr(torch.ops.aten, operation)
        assert where in ran.seen, sorted(op for inside, op in ran.seen if inside == module)


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
