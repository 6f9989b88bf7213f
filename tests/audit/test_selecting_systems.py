"""Systems that choose steps by value, or learn as they read: what was proved stays proved."""

import pytest
import torch
from contract.systems import SYSTEMS, settings

from kt_forecast.audit import audit, causal
from kt_forecast.audit.auditing import PICTURE, STAGES
from kt_forecast.nn.plain import plainly

STEPS = 21
PROVED = {
    "dynamic_sparse_attention": "proved",
    "ps_gtr": "conditional",
    "reformer": "conditional",
    "routing_transformer": "conditional",
    "sinkhorn_transformer": "proved",
    "titans": "proved",
}


GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
@pytest.mark.parametrize("mode", ["evaluation", pytest.param("training", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", PROVED)
def test_what_is_proved(name, mode, device):
    torch.manual_seed(0)
    config = settings(name)
    module = SYSTEMS[name].build(config).to(device)
    steps = torch.randn(1, STEPS, config.width).to(device)

    def call(inputs):
        return module(inputs["input"])[0]

    def followed(inputs):
        with plainly(module):
            return call(inputs)

    skip = [*(stage for stage in STAGES if stage != "tracking"), PICTURE]
    report = audit(module, steps, causal(), call=call, plain=followed, modes=mode, skip=skip)
    assert report.verdict == PROVED[name], report.summary()
    assert len(report.conditions) == (PROVED[name] == "conditional")
