"""Counts before each event, against a loop over a dictionary."""

from collections import Counter

import pytest
import torch

from kt_forecast.nn.counts import counts_before, last_after, last_before


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


@pytest.mark.parametrize("seed", range(5))
def test_the_last_values_equal_a_list_a_key_across_segments(seed):
    generator = torch.Generator().manual_seed(seed)
    key = torch.randint(0, 4, (3, 40), generator=generator)
    event = torch.randint(0, 2, (3, 40), generator=generator).cumsum(1)
    value = torch.randn(3, 40, generator=generator)
    counts = torch.rand(3, 40, generator=generator) < 0.8
    register = torch.randn(3, 4, 3, generator=generator)
    carried = register.gather(1, key[..., None].expand(-1, -1, 3))
    got = last_before(key, event, value, carried)
    for row in range(3):
        for t in range(40):
            earlier = [
                value[row, s].item()
                for s in range(t)
                if event[row, s] < event[row, t] and key[row, s] == key[row, t]
            ]
            wanted = [*reversed(earlier), *register[row, key[row, t]].tolist()][:3]
            assert got[row, t].tolist() == wanted
    after = last_after(register, key, value, counts)
    for row in range(3):
        for k in range(4):
            new = [value[row, s].item() for s in range(40) if key[row, s] == k and counts[row, s]]
            assert after[row, k].tolist() == [*reversed(new), *register[row, k].tolist()][:3]


def test_nothing_new_leaves_the_last_values_as_they_were():
    register = torch.randn(2, 5, 3)
    key = torch.zeros(2, 4, dtype=torch.int64)
    nothing = torch.zeros(2, 4, dtype=torch.bool)
    assert torch.equal(last_after(register, key, torch.ones(2, 4), nothing), register)
