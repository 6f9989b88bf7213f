"""Counterexamples replay from their files, whatever was audited."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from kt_forecast.audit import Counterexample, audit, causal

QUICK = {"modes": ("evaluation",), "moments": 4, "skip": ("compiled",)}


def centred(x):
    return x - x.mean(1, keepdim=True)


@dataclass
class Series:
    values: torch.Tensor
    name: str = "load"


class Nested(nn.Module):
    def forward(self, past, static):
        return centred(past["values"] + past["more"][0]) + static[:, None]


class OfSeries(nn.Module):
    def forward(self, series):
        return centred(series.values)


X = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("model", "batch"),
    [
        (centred, X),
        (Nested(), {"past": {"values": X, "more": (X,)}, "static": X[:, 0]}),
        (OfSeries(), Series(X)),
        (OfSeries().to(torch.bfloat16), Series(X.bfloat16())),
    ],
    ids=["function", "nest", "dataclass", "bfloat16"],
)
def test_an_example_replays_from_its_file(model, batch, tmp_path):
    report = audit(model, batch, causal(), **QUICK)
    assert report.verdict == "leak", report.text()
    assert "leak-1.npz" in report.to_html()
    example = report.findings[0].counterexample
    example.save(tmp_path / "leak.npz")
    again = Counterexample.load(tmp_path / "leak.npz")
    assert {n: x.dtype for n, x in again.before.items()} == {
        n: x.dtype for n, x in example.before.items()
    }
    like = batch if isinstance(batch, Series) else None
    assert again.replay(model, like=like) == pytest.approx(report.findings[0].effect, rel=1e-4)
