"""A slow form that is followed in place of a fast one: what runs must be what was followed."""

import pytest
import torch
from torch import nn

from kt_forecast.audit import audit, causal
from kt_forecast.nn import kernels
from kt_forecast.nn.plain import Slowly, last_of_group, plainly
from kt_forecast.nn.streams import Span

QUICK = {"moments": 2, "modes": ("evaluation",)}
SKIPPED = ("compiled", "coin flips", "picture", "back ends", "aimed", "longer")


class Running(nn.Module):
    """A mean of the past, by sorting and back: what cannot be followed; and by a mask."""

    slowly = Slowly({"read": "_read_slowly"})

    def __init__(self, leak=None):
        super().__init__()
        self.leak = leak
        self.mix = nn.Linear(4, 4)

    def forward(self, x):
        return self.read(self.mix(x))

    def read(self, x):
        order = x[..., 0].argsort(1)
        there, back = (i[..., None].expand_as(x) for i in (order, order.argsort(1)))
        mean = x.gather(1, there).gather(1, back).cumsum(1)
        mean = mean / torch.arange(1, x.shape[1] + 1)[:, None]
        return mean if self.leak is None else self.leak(mean, x)

    def _read_slowly(self, x):
        past = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        return past.float().to(x) / past.sum(1, keepdim=True) @ x


class Wrong(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, slope):
        return 1.1 * slope


def by_the_future(mean, x):
    return mean + 0.1 * x.mean(1, keepdim=True)


def where_steps_alternate(mean, x):
    """Random steps never come back after one; then the whole is read."""
    back = (x[:, 2:] == x[:, :-2]).all(-1) & (x[:, 2:] != x[:, 1:-1]).any(-1)
    return mean + back.any(1)[:, None, None] * x.mean(1, keepdim=True)


def in_slopes(mean, x):
    return Wrong.apply(mean)


def audited(model):
    def call(inputs):
        return model(inputs["input"])

    def followed(inputs):
        with plainly(model):
            return call(inputs)

    steps = torch.randn(2, 11, 4, generator=torch.Generator().manual_seed(0))
    return audit(model, steps, causal(), call=call, plain=followed, skip=SKIPPED, **QUICK)


def test_a_slow_form_that_was_followed_is_a_condition_that_says_how_often_both_agreed():
    report = audited(Running())
    assert report.verdict == "conditional", report.summary()
    assert report.conditions == (
        "the call equals its plain form, which was followed, everywhere, as it did on "
        "14 inputs of many kinds, in slopes on 3 of them",
    )


class Summed(nn.Module):
    """A sum of the past, by what stands for a kernel of a GPU where kernels may run."""

    def forward(self, x):
        y = x.cumsum(1)
        return Kernel.apply(x, y) if kernels._allowed.get() else y


class Kernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        return torch.from_numpy(x.detach().numpy().cumsum(1))

    @staticmethod
    def backward(ctx, slope):
        return slope.flip(1).cumsum(1).flip(1), None


def test_plain_operations_are_followed_in_place_of_kernels():
    report = audited(Summed())
    assert report.verdict == "conditional", report.summary()


def test_a_leak_of_the_fast_form_alone_is_found():
    report = audited(Running(by_the_future))
    assert report.verdict == "leak", report.summary()


@pytest.mark.parametrize(
    ("leak", "where"), [(where_steps_alternate, "2 different steps in turn"), (in_slopes, "slopes")]
)
def test_a_fast_form_that_differs_where_draws_seldom_reach_is_not_proved(leak, where):
    report = audited(Running(leak))
    assert report.verdict == "unproven", report.summary()
    assert where in " ".join(report.reasons)


def test_no_other_attribute_of_that_name_changes_a_model():
    class Strange(Running):
        slowly = {"read": "_read_slowly"}  # noqa: RUF012 - by chance

    model = Strange(by_the_future)
    x = torch.randn(2, 5, 4)
    with plainly(model):
        assert torch.equal(model(x), Strange.forward(model, x))
        assert "read" not in vars(model)
    assert audited(model).verdict == "leak"


def test_slow_forms_are_gone_afterwards():
    model = Running(by_the_future)
    x = torch.randn(2, 5, 4)
    fast = model(x)
    with plainly(model):
        assert not torch.equal(model(x), fast)
    assert torch.equal(model(x), fast)
    with pytest.raises(RuntimeError), plainly(model):
        model(x.flatten(1))
    assert torch.equal(model(x), fast)


def test_a_call_without_slow_forms_needs_no_condition():
    class Causal(nn.Module):
        def forward(self, x):
            return x.cumsum(1)

    assert audited(Causal()).verdict == "proved"


def test_slow_forms_are_for_whole_sequences():
    span = Span(torch.tensor([3]), torch.tensor([2]), 2, 3, 3, whole=True)
    with pytest.raises(ValueError, match="go on with some"):
        last_of_group(torch.zeros(1, 1, 2, dtype=torch.int64), 2, span)
