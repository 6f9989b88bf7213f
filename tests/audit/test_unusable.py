"""What cannot be audited is refused in one sentence; odd models are audited all the same."""

import pytest
import torch
from torch import nn

from kt_forecast.audit import ContractError, audit, causal, clock, rows_independent

QUICK = {"modes": ("evaluation",), "moments": 4, "skip": ("compiled",)}
X = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0))
TIME = torch.arange(9)[None]


@pytest.mark.parametrize(
    ("batch", "contract", "options", "said"),
    [
        (X[:, :0], causal(), {}, "the batch is empty"),
        (X[:0], causal(), {}, "the batch is empty"),
        (X.numpy(), causal(), {}, "no tensor"),
        (X, clock({"input": TIME}, {}), {}, "of no output when it is needed"),
        (X[:1], rows_independent(), {}, "two or more"),
        (X, causal(), {"modes": ()}, "accepted are evaluation, training or both"),
        (X, causal(), {"skip": ["serach"]}, "are no stages"),
    ],
)
def test_nothing_is_said_of_what_cannot_be_audited(batch, contract, options, said):
    with pytest.raises(ContractError, match=said):
        audit(lambda x: torch.as_tensor(x).cumsum(1), batch, contract, **QUICK | options)


def test_a_contract_under_which_nothing_is_late_is_said_to_be_one():
    for early in (clock({"input": torch.zeros_like(TIME)}, TIME), clock({}, TIME)):
        assert "no input is known later" in audit(Sums(0), X, early, **QUICK).scope["nothing_late"]
    assert not audit(Sums(0), X, causal(), **QUICK).scope["nothing_late"]


class Sums(nn.Module):
    def __init__(self, ahead: int):
        super().__init__()
        self.ahead = ahead
        self.out = nn.Linear(4, 4)

    def forward(self, x):
        return self.out(x).cumsum(1).roll(-self.ahead, 1)


def hooked(ahead):
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].register_forward_hook(lambda _module, _given, y: y.roll(-ahead, 1))
    return model


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize(
    ("make", "batch"),
    [
        (lambda k: torch.jit.script(Sums(k)), X),
        (lambda k: torch.compile(Sums(k), backend="eager"), X),
        (lambda k: nn.DataParallel(Sums(k)), X),
        (hooked, X),
        (lambda k: Sums(k).half(), X.half()),
        (lambda k: Sums(k).double(), X[:1].double()),
        (Sums, X[:, :2]),
        (Sums, torch.zeros_like(X)),
        (lambda k: lambda x: x.cumsum(1).roll(-k, 1), torch.ones(2, 9, dtype=torch.int64)),
    ],
    ids=["script", "compiled", "parallel", "hook", "half", "one row", "two steps", "zeros", "ones"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_odd_models_get_the_verdict_of_plain_ones(make, batch, ahead):
    report = audit(make(ahead), batch, causal(), **QUICK)
    assert report.verdict == ("leak" if ahead else "proved"), report.text()


def test_a_report_is_returned_and_written(tmp_path):
    report = audit(Sums(0), X, causal(), **QUICK)
    for name in ("json", "html", "junit"):
        write = getattr(report, f"to_{name}")
        assert write(tmp_path / name) == (tmp_path / name).read_text("utf-8") == write()
