"""Sums, means and maxima of table rows, a bag of indices at a time."""

import torch

from kt_forecast.audit.dependency.calls import Call, Result, rule
from kt_forecast.audit.dependency.labels import NONE, every, greatest, join, top, unknown


@rule("_embedding_bag", "_embedding_bag_forward_only")
def _bags(call: Call) -> Result:
    table, index, start = call["weight"], call["indices"], call["offsets"]
    if not bool(every(call.shadow(start).known, keep=False)):
        return None
    picked = call.shadow(index)
    weights = call["per_sample_weights"]
    if weights is not None:
        picked = join(picked, call.shadow(weights))
    rows = call.shadow(table).latest
    first = start.to(torch.int64)
    count = len(first) - int(bool(call["include_last_offset"]))
    places = torch.arange(len(index), device=index.device)
    bag = torch.searchsorted(first, places, right=True) - 1
    latest = picked.latest.expand(index.shape).to(torch.int64)
    start_of = torch.full((count,), NONE, dtype=torch.int64, device=index.device)
    inside = (bag >= 0) & (bag < count)
    found = start_of.scatter_reduce(0, bag[inside], latest[inside], "amax")
    found = found.to(rows.dtype).clamp(min=top(greatest(rows, keep=False)))
    bags = unknown(found[:, None].expand(call.outs[0].shape))
    rest = unknown(torch.tensor(top(picked.latest), dtype=rows.dtype, device=index.device))
    return [bags, *([rest] * (len(call.outs) - 1))]
