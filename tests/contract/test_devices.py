"""A training pass holds nothing on another device than the data, and waits for no number.

Tensors of torch's meta device have shapes and no values: a tensor that was made on the CPU cannot
meet them, and whoever looks at a value, which on a GPU means to wait for it, fails.
"""

from contextlib import nullcontext

import pytest
import torch

from kt_forecast.tasks.knowledge_tracing import Tracer, TracingConfig
from tests.contract.systems import (
    STEP_CAUSAL,
    SYSTEMS,
    VOCABULARY,
    WIDTH,
    interactions,
    settings,
)

LOOKS = {
    "adaptive_span": "trims what it reads to the spans that it has learned",
}
"""Systems that look at a value in each pass, and why they must."""


@pytest.fixture(autouse=True)
def _no_autocast(monkeypatch):
    """Leave out what the meta device does not know."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: False)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda _: torch.bfloat16)


@pytest.mark.parametrize("name", STEP_CAUSAL)
def test_a_mixer_trains_where_its_data_are_and_waits_for_nothing(name):
    if name in LOOKS:
        pytest.skip(LOOKS[name])
    mixer = SYSTEMS[name].build(settings(name)).to("meta").train()
    x = torch.empty(3, 40, WIDTH, device="meta", requires_grad=True)
    y, _ = mixer(x)
    y.sum().backward()
    assert x.grad is not None
    assert y.device.type == "meta"


@pytest.mark.parametrize("name", STEP_CAUSAL)
def test_a_tracer_trains_where_its_data_are_and_waits_for_nothing(name):
    if name in LOOKS:
        pytest.skip(LOOKS[name])
    system = SYSTEMS[name]
    config = TracingConfig.model_validate(system.tracing or {})
    model = Tracer(system, settings(name), config, VOCABULARY).to("meta").train()
    batch = interactions(3, 12).map(lambda x: x.to("meta"))
    total, count = model.loss(batch)
    total.backward()
    assert total.device.type == count.device.type == "meta"
