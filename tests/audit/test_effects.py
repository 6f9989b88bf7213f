"""How large a leak is, how far it reaches, and which example is kept of it."""

import pytest
import torch
from torch import nn

from kt_forecast.audit import audit, causal
from kt_forecast.audit.replacing import kinds, replaced

QUICK = {"modes": ("evaluation",), "skip": ("compiled",)}


class Unequal(nn.Module):
    """Each step reads a little of the next one, and the first step much of the last."""

    def forward(self, x):
        y = x + 0.01 * torch.cat([x[:, 1:], x[:, -1:]], 1)
        return torch.cat([y[:, :1] + x[:, -1:], y[:, 1:]], 1)


def test_a_finding_says_the_largest_effect_and_the_farthest_reach_of_all_moments():
    report = audit(Unequal(), torch.randn(2, 31, 3), causal(), **QUICK)
    finding, example = report.findings[0], report.findings[0].counterexample
    assert finding.ticks == 30
    assert finding.effect > 0.3
    assert example.place[1] == 0
    assert example.replay(Unequal()) == pytest.approx(finding.effect)


class Faded(nn.Module):
    """Early steps read the next one in full, later ones less and less."""

    def forward(self, x):
        weights = 0.5 ** torch.arange(x.shape[1])[:, None]
        return x + weights * torch.cat([x[:, 1:], x[:, -1:]], 1)


def test_the_example_that_is_kept_is_the_clearest():
    report = audit(Faded(), torch.randn(2, 13, 3), causal(), **QUICK)
    assert report.findings[0].ticks == 1
    assert report.findings[0].counterexample.place[1] <= 2


@pytest.mark.parametrize("values", [(0, 19), (0, 2), (5, 5), (0, 0), (-3, 4)])
def test_drawing_other_tokens_changes_every_one_of_them(values):
    low, high = values
    x = torch.randint(low, high + 1, (2, 31), generator=torch.Generator().manual_seed(0))
    other = replaced(x, x == x, kinds(x)[0], torch.Generator().manual_seed(0))
    assert (other != x).all()
    assert low == high or (low <= int(other.min()) and int(other.max()) <= high)
