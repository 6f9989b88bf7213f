"""What tests/conftest.py promises of all other tests."""

import random

import numpy as np
import pytest
import torch
from beartype.roar import BeartypeCallHintViolation

from kt_forecast.data.splits import ByStudents, split
from kt_forecast.metrics import Answers
from kt_forecast.nn.streams import uninterrupted

COUNTS, SHARES = np.ones(2, dtype=int), np.ones(2)


@pytest.mark.parametrize("wrong", [(COUNTS, np.ones(3), COUNTS), (SHARES, SHARES, COUNTS)])
def test_sizes_and_kinds_of_arrays_are_checked_in_a_dataclass(wrong):
    with pytest.raises(BeartypeCallHintViolation):
        Answers(*wrong)


def test_sizes_and_kinds_of_arrays_are_checked_in_a_function():
    with pytest.raises(BeartypeCallHintViolation):
        uninterrupted(torch.zeros(3, dtype=torch.bool), 3)
    with pytest.raises(BeartypeCallHintViolation):
        uninterrupted(torch.zeros(1, 3), 3)


def test_plain_types_are_checked():
    with pytest.raises(BeartypeCallHintViolation):
        split("a table", ByStudents())


def test_chance_begins_alike_in_every_test():
    assert random.random() == random.Random(0).random()
    assert np.random.random() == np.random.RandomState(0).random()  # noqa: NPY002
    assert torch.rand(()) == torch.rand((), generator=torch.Generator().manual_seed(0))
