"""The pytest plugin: a fixture that fails on leaks, and waivers that run out."""

pytest_plugins = ["pytester"]

TESTS = """
import pytest, torch
from torch import nn

class Escapes(nn.Module):
    def forward(self, x):
        return x + torch.tensor(x[:, :1].tolist())

X = torch.randn(2, 7, 3)
OPTIONS = dict(modes=("evaluation",), moments=2, skip=("compiled",))

def test_honest(assert_causal):
    assert assert_causal(nn.Linear(3, 3), X, **OPTIONS).verdict == "proved"

def test_leak(assert_causal):
    assert_causal(nn.GRU(3, 3, batch_first=True, bidirectional=True), X, **OPTIONS)

def test_unproven(assert_causal):
    assert_causal(Escapes(), X, **OPTIONS)

@pytest.mark.waive_audit(reason="the list holds the first step only", until="2999-01-01")
def test_waived(assert_causal):
    assert_causal(Escapes(), X, **OPTIONS)

@pytest.mark.waive_audit(reason="it was thought to be", until="2020-01-01")
def test_run_out(assert_causal):
    assert_causal(Escapes(), X, **OPTIONS)
"""


def test_leaks_and_what_is_not_waived_fail(pytester):
    pytester.makepyfile(TESTS)
    found = pytester.runpytest_subprocess("-p", "pytest_kt_forecast", "-p", "no:cacheprovider")
    outcomes = found.parseoutcomes()
    assert (outcomes["passed"], outcomes["failed"]) == (2, 3)
    for name in ("test_leak", "test_unproven", "test_run_out"):
        found.stdout.fnmatch_lines([f"FAILED *{name}*"])
