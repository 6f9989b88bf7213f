"""Normalisation: every element depends on all that share its mean and variance."""

import torch
from torch import Tensor

from kt_forecast.audit.dependency.calls import Call, Result, rule
from kt_forecast.audit.dependency.labels import NONE, Shadow, greatest, unknown


def _with(call: Call, latest: Tensor, shape: list[int] | None, *names: str) -> Tensor:
    """Return labels joined with those of the scale and shift, reshaped to broadcast."""
    for name in names:
        x = call[name] if call.has(name) else None
        if isinstance(x, Tensor):
            other = call.shadow(x).latest
            latest = torch.maximum(latest, other if shape is None else other.reshape(shape))
    return latest


@rule("native_layer_norm", "_fused_rms_norm")
def _layer(call: Call) -> Result:
    x, normalised = call.args[:2]
    axes = list(range(x.ndim - len(normalised), x.ndim))
    latest = greatest(call.shadow(x).latest, axes)
    whole = _with(call, latest, None, "weight", "bias")
    return [unknown(whole.expand(x.shape)), unknown(latest), unknown(latest)]


@rule("native_group_norm")
def _group(call: Call) -> Result:
    x, weight, bias = call.args[:3]
    groups = call["group"]
    latest = call.shadow(x).latest.reshape(len(x), groups, -1)
    row = greatest(latest, [2], keep=False)
    wide = row[..., None].expand(len(x), groups, x.shape[1] // groups)
    wide = wide.reshape(len(x), x.shape[1], *([1] * (x.ndim - 2)))
    for given in (weight, bias):
        if given is not None:
            shape = [1, -1, *([1] * (x.ndim - 2))]
            wide = torch.maximum(wide, call.shadow(given).latest.reshape(shape))
    return [unknown(wide), unknown(row), unknown(row)]


@rule(
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "_native_batch_norm_legit_functional",
    "cudnn_batch_norm",
    "miopen_batch_norm",
    "_batch_norm_with_update",
    "_batch_norm_with_update_functional",
    "_batch_norm_no_update",
)
def _batch(call: Call) -> Result:
    """In training the batch and all steps share the statistics; their running mean learns them."""
    x = call.args[0]
    name = call.name.__name__
    if name.startswith("_batch_norm_with_update"):
        training = True
    elif "no_" in name:
        training = False
    else:
        training = bool(call["training"])
    shape = [1, -1, *([1] * (x.ndim - 2))]
    latest = call.shadow(x).latest
    running = [n for n in ("running_mean", "running_var") if call.has(n)]
    axes = [a for a in range(x.ndim) if a != 1]
    shared = greatest(latest, axes)
    if training:
        for n in running:
            if isinstance(call[n], Tensor):
                call.run.write(call[n], unknown(shared.reshape(-1)))
        latest = shared.expand(x.shape)
        moments = unknown(shared.reshape(-1))
    else:
        latest = _with(call, latest, shape, *running)
        moments = unknown(torch.tensor(NONE, dtype=latest.dtype))
        if call.has("running_mean") and isinstance(call["running_mean"], Tensor):
            moments = unknown(call.shadow(call["running_mean"]).latest)
    latest = _with(call, latest, shape, "weight", "bias")
    found: list[Shadow] = [unknown(latest)]
    for out in call.outs[1:]:
        fits = out.ndim == 1 and out.numel() == x.shape[1]
        rest = unknown(greatest(shared, keep=False) if out.numel() else torch.tensor(NONE))
        found.append(moments if fits else rest)
    return found
