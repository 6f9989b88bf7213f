"""Cells of recurrent networks, as a GPU computes them at once: each row alone."""

import torch
from torch import Tensor

from kt_forecast.audit.dependency.calls import Call, Result, rule
from kt_forecast.audit.dependency.labels import greatest, unknown


@rule("_thnn_fused_gru_cell", "_thnn_fused_lstm_cell")
def _cell(call: Call) -> Result:
    """Every number of a row's new state may depend on all of the row's gates and old state."""
    row = None
    for x in call.args:
        if not isinstance(x, Tensor):
            continue
        latest = call.shadow(x).latest.to(call.args[0].device)
        latest = greatest(latest, [x.ndim - 1]) if x.ndim > 1 else greatest(latest, keep=False)
        row = latest if row is None else torch.maximum(row, latest)
    assert row is not None  # noqa: S101 - the gates are tensors
    return [unknown(row.expand(out.shape)) for out in call.outs]
