"""What an audit says of a leak, and what it leaves alone."""

import torch
from leaks.common_checks import build

from kt_forecast.audit import audit, clock


def test_an_audit_leaves_the_model_as_it_was():
    model, batch, contract = build("batch_statistics", honest=False)
    model.eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    audit(model, batch, contract)
    assert not model.training
    for name, t in model.state_dict().items():
        assert torch.equal(t, before[name]), name


def test_the_guilty_input_is_named():
    model, batch, contract = build("own_response", honest=False)
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
    assert audit(Pick(), x, clock(known, needed + 9)).verdict == "proved"
