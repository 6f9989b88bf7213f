"""The pytest plugin: a fixture that fails on leaks, and waivers that run out."""

from xml.etree import ElementTree as ET

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


WAIVERS = (
    TESTS.split("def test_honest", maxsplit=1)[0]
    + """
@pytest.mark.waive_audit(reason="it is only a small one", until="2999-01-01")
def test_waived_leak(assert_causal):
    assert_causal(nn.GRU(3, 3, batch_first=True, bidirectional=True), X, **OPTIONS)

@pytest.mark.waive_audit(until="2999-01-01")
def test_no_reason(assert_causal):
    assert_causal(Escapes(), X, **OPTIONS)

@pytest.mark.waive_audit(reason="for now")
def test_no_day(assert_causal):
    assert_causal(Escapes(), X, **OPTIONS)

@pytest.mark.waive_audit(reason="for now", until="soon")
def test_no_real_day(assert_causal):
    assert_causal(Escapes(), X, **OPTIONS)

@pytest.mark.waive_audit("the branch guards against overflow", "2999-01-01")
class TestAll:
    def test_by_class(self, assert_causal):
        assert_causal(Escapes(), X, **OPTIONS)
"""
)


def run(pytester, *flags):
    return pytester.runpytest_subprocess(
        "-p", "pytest_kt_forecast", "-p", "no:cacheprovider", "--strict-markers", *flags
    )


def test_a_waiver_has_a_reason_and_a_day_and_never_covers_a_leak(pytester):
    pytester.makepyfile(WAIVERS)
    found = run(pytester)
    outcomes = found.parseoutcomes()
    assert (outcomes["passed"], outcomes["failed"]) == (1, 4)
    found.stdout.fnmatch_lines(["*LeakError*moves by up to*"])
    assert found.stdout.str().count("needs a reason and a day, until=YYYY-MM-DD") >= 3


def test_junit_holds_verdict_and_waiver_of_every_test(pytester):
    pytester.makepyfile(TESTS)
    run(pytester, "--junitxml=junit.xml")
    suite = ET.parse(pytester.path / "junit.xml")  # noqa: S314 - our own
    told = {
        case.get("name"): {p.get("name"): p.get("value") for p in case.iter("property")}
        for case in suite.iter("testcase")
    }
    assert told["test_honest"] == {"audit": "proved"}
    assert told["test_leak"] == {"audit": "leak"}
    assert told["test_unproven"]["audit"] == "unproven"
    assert told["test_waived"]["audit waived"].startswith("until 2999-01-01: the ")
    failed = {c.get("name") for c in suite.iter("testcase") if c.find("failure") is not None}
    assert failed == {"test_leak", "test_unproven", "test_run_out"}


def test_leaks_and_what_is_not_waived_fail(pytester):
    pytester.makepyfile(TESTS)
    found = run(pytester)
    outcomes = found.parseoutcomes()
    assert (outcomes["passed"], outcomes["failed"]) == (2, 3)
    for name in ("test_leak", "test_unproven", "test_run_out"):
        found.stdout.fnmatch_lines([f"FAILED *{name}*"])
