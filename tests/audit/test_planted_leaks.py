"""The auditor must find each planted leak, and stay silent on its honest twin."""

from importlib import import_module
from pathlib import Path

import pytest
import torch

from kt_forecast.audit import LeakError, audit, clock

LEAKS = sorted(p.stem for p in (Path(__file__).parents[1] / "leaks").glob("*.py"))


def built(name, *, honest):
    torch.manual_seed(0)
    return import_module(f"leaks.{name}").build(honest=honest)


def test_there_are_leaks_and_each_is_described():
    page = (Path(__file__).parents[1] / "leaks" / "README.md").read_text()
    assert len(LEAKS) > 5
    assert [name for name in LEAKS if f"| {name}.py |" not in page] == []


@pytest.mark.parametrize("name", LEAKS)
def test_a_planted_leak_is_found(name):
    report = audit(*built(name, honest=False))
    assert report.verdict == "leak"
    assert report.findings[0].effect > 0
    assert "LEAKS" in report.summary()
    with pytest.raises(LeakError, match="moves by up to"):
        report.raise_for_leaks()


@pytest.mark.parametrize("name", LEAKS)
def test_its_honest_twin_is_not_accused(name):
    report = audit(*built(name, honest=True))
    assert report.findings == ()
    assert report.verdict == "unproven"
    report.raise_for_leaks()


def test_an_audit_leaves_the_model_as_it_was():
    model, batch, contract = built("batch_statistics", honest=False)
    model.eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    audit(model, batch, contract)
    assert not model.training
    for name, t in model.state_dict().items():
        assert torch.equal(t, before[name]), name


def test_the_guilty_input_is_named():
    model, batch, contract = built("own_response", honest=False)
    named = {finding.input for finding in audit(model, batch, contract).findings}
    assert "response" in named
    assert "question" not in named


def test_a_free_clock_says_what_is_late():
    class Pick(torch.nn.Module):
        def forward(self, x):
            return x[:, 3:4].expand_as(x)

    x = torch.randn(1, 5, 1)
    known = {"input": torch.tensor([[0, 0, 0, 9, 0]])}
    needed = torch.tensor([[0, 0, 0, 9, 9]])
    report = audit(Pick(), x, clock(known, needed))
    assert report.verdict == "leak"
    assert report.findings[0].ticks == 9
    assert audit(Pick(), x, clock(known, needed + 9)).verdict == "unproven"
