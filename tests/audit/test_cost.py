"""What is counted of a training pass: operations that compute, and the bytes that they move."""

import pytest
import torch
from torch import nn

from kt_forecast.audit.cost import growth, training_cost, training_traffic

STEPS, WIDTH = 6, 4
ROW = STEPS * WIDTH * 4


class Passing(nn.Module):
    """Hands on what a function makes of its steps."""

    def __init__(self, run):
        super().__init__()
        self.run = run

    def forward(self, x):
        return self.run(x), None


def counted(run, steps=STEPS):
    """Return what a pass does beside the sum of its steps, whose slope of ones may be kept."""
    plain = {"sum", "ones_like", "copy_"}
    by = training_traffic(Passing(run), torch.ones(1, steps, WIDTH)).by
    return {name: found for name, found in by.items() if name not in plain}


def test_what_computes_is_counted_forward_and_backward_with_what_it_moves():
    assert counted(lambda x: x * 2) == {"mul": (2, 2 * ROW + 2 * ROW - ROW + 4)}
    assert counted(lambda x: x.exp()) == {"exp": (1, 2 * ROW), "mul": (1, 2 * ROW + 4)}


def test_what_only_looks_at_numbers_in_another_way_is_free():
    assert counted(lambda x: x[:, None].squeeze(1).unflatten(2, (2, 2)).flatten(2)) == {}


def test_of_what_is_repeated_each_byte_is_read_once():
    given = torch.ones(1, 1, WIDTH).expand(1, STEPS, WIDTH)
    assert counted(lambda x: x + given)["add"] == (1, 2 * ROW + WIDTH * 4)


def test_of_what_is_picked_no_more_is_read_than_is_returned():
    one = torch.tensor([3])
    row = WIDTH * 4
    assert counted(lambda x: x.index_select(1, one))["index_select"] == (1, 2 * row + 8)


def test_what_is_filled_in_place_is_not_read():
    by = counted(lambda x: torch.empty_like(x).fill_(1.0) + x)
    assert by["fill_"] == (1, ROW)


def test_steps_without_values_give_the_same_counts():
    module = nn.Sequential(nn.Linear(WIDTH, 3), nn.LayerNorm(3))
    real = training_traffic(Passing(module), torch.randn(1, STEPS, WIDTH))
    without = training_traffic(
        lambda: Passing(nn.Sequential(nn.Linear(WIDTH, 3), nn.LayerNorm(3))), (1, STEPS, WIDTH)
    )
    assert real == without
    assert real.launches == sum(launches for launches, _ in real.by.values())
    assert real.moved == sum(moved for _, moved in real.by.values())


def test_what_the_first_pass_lays_down_is_left_out():
    laid = []

    def run(x):
        if not laid:
            laid.append(torch.arange(STEPS).cumsum(0))
        return x.index_select(1, laid[0] % STEPS)

    assert "cumsum" not in counted(run)


def test_a_loop_over_steps_is_seen():
    def run(x):
        return torch.cat([row.exp() for row in x.split(1, 1)], 1)

    found = growth(lambda _: Passing(run), WIDTH, streaming=False, lengths=(256, 512))
    assert found.launches == pytest.approx(1.0, abs=0.05)
    assert found.moved == pytest.approx(1.0, abs=0.05)
    whole = growth(lambda _: Passing(torch.exp), WIDTH, streaming=False, lengths=(256, 512))
    assert (whole.launches, whole.training_bytes) == (0.0, 1.0)


def test_exponents_do_not_depend_on_values():
    made = lambda _: Passing(lambda x: (x @ x.mT).softmax(-1) @ x)  # noqa: E731
    real, without = (
        growth(made, WIDTH, streaming=False, lengths=(64, 128), values=values)
        for values in (True, False)
    )
    assert real == without
    assert training_cost(made(1), torch.ones(1, 8, WIDTH))[0] > 0
