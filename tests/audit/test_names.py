"""Known mistakes are called by their names where the evidence says so, and nothing else is."""

import pytest
import torch
import torch.nn.functional as F
from leaks.common_checks import build
from torch import nn

from kt_forecast.audit import audit, causal

STEPS = 13
X = torch.randn(2, STEPS, 4, generator=torch.Generator().manual_seed(0))
QUICK = {"modes": ("evaluation",), "moments": 4, "skip": ["compiled"]}

NAMED = {
    "mask_inverted": "mask inverted",
    "mask_off_by_one": "mask off by one",
    "mask_discarded": "attention without a causal mask",
    "circular_padding": "circular padding",
    "same_padding": "padding reaches ahead",
    "max_pooling": "pooling window reaches t+1",
    "centred_average": "pooling window reaches t+2",
    "batch_statistics": "batch statistics over time",
    "instance_norm": "normalised over the whole window",
    "layer_norm_over_time": "normalised over the whole window",
    "whole_series_scaling": "normalised over the whole window",
    "squeeze_and_excite": "statistic of the whole window",
    "expert_choice": "selection ranked across time",
    "top_k_routing": "selection ranked across time",
    "place_of_the_maximum": "selection ranked across time",
    "all_masked_row": "all-masked row becomes uniform",
    "bidirectional_recurrence": "bidirectional recurrence",
    "fourier_mixing": "spectrum of the whole window",
    "roll_wraps": "wraps around",
    "reverse_running_sum": "runs backwards in time",
    "stale_buffer": "state kept between calls",
    "neighbour": "another row",
}
"""Leaks of the catalogue, and what the first finding of each is to be called."""

OTHERWISE = {
    "time_as_channels": {"circular padding", "padding reaches ahead"},
    "packed_convolution": {"circular padding"},
    "bidirectional": {"mask inverted", "mask off by one"},
    "chomp_too_small": {"circular padding"},
    "streaming_layers_add_up": {"circular padding"},
    "weak_coupling": {"normalised over the whole window"},
}
"""Leaks that come close to a name and are something else."""


@pytest.mark.parametrize("name", NAMED)
def test_a_known_mistake_is_called_by_its_name(name):
    report = audit(*build(name), moments=4, skip=["compiled"])
    assert report.findings[0].pattern == NAMED[name], report.findings[0]
    assert report.findings[0].repair


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_only_looks_like_a_known_mistake_is_not_called_one(name):
    report = audit(*build(name), moments=4, skip=["compiled"])
    assert not {f.pattern for f in report.findings} & OTHERWISE[name]


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def past(x, diagonal=0):
    return torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril(diagonal)


def attended(x, hidden):
    return (x @ x.mT).masked_fill(hidden, -torch.inf).softmax(-1).nan_to_num() @ x


def uniform(x):
    weights = (x @ x.mT).masked_fill(~past(x, -1), -1e30).softmax(-1)
    return weights @ x


def selected(x):
    return x * (x[..., :1] >= x[..., 0].topk(4, 1).values[:, -1:, None])


MADE = {
    "mask inverted": lambda x: attended(x, past(x, -1)),
    "all-masked row becomes uniform": uniform,
    "selection ranked across time": selected,
    "normalised over the whole window": lambda x: (x - x.mean(1, keepdim=True)) / x.std(),
    "circular padding": lambda x: (
        F.conv1d(F.pad(x.mT, (1, 1), mode="circular"), torch.ones(4, 1, 3), groups=4).mT
    ),
    "pooling window reaches t+2": lambda x: F.max_pool1d(x.mT, 5, 1, 2).mT,
}


@pytest.mark.parametrize("pattern", MADE)
def test_a_mistake_made_without_a_module_of_its_own_is_named_too(pattern):
    report = audit(Function(MADE[pattern]), X, causal(), **QUICK)
    assert report.findings[0].pattern == pattern, report.findings[0]
