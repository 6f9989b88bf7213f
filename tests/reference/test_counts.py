"""Counts before each event, against a loop over a dictionary."""

from collections import Counter

import pytest
import torch

from kt_forecast.nn.counts import counts_before


@pytest.mark.parametrize("seed", range(5))
def test_counts_equal_a_dictionary(seed):
    generator = torch.Generator().manual_seed(seed)
    key = torch.randint(0, 4, (3, 40), generator=generator)
    event = torch.randint(0, 2, (3, 40), generator=generator).cumsum(1)
    amount = torch.randint(-2, 3, (3, 40, 2), generator=generator).double()
    got = counts_before(key, event, amount)
    for row in range(3):
        for t in range(40):
            wanted = Counter()
            for s in range(t):
                if event[row, s] < event[row, t] and key[row, s] == key[row, t]:
                    wanted.update({0: amount[row, s, 0].item(), 1: amount[row, s, 1].item()})
            assert got[row, t].tolist() == [wanted[0], wanted[1]]


def test_one_entry_has_nothing_before_it():
    one = torch.zeros(2, 1, dtype=torch.int64)
    assert counts_before(one, one, torch.ones(2, 1, 1)).tolist() == [[[0.0]], [[0.0]]]
