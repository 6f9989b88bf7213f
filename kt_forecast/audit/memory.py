"""Does a call read what an earlier call has left in the model? Two calls followed as one run."""

from typing import Any

import torch
from torch import Tensor

from kt_forecast.audit.contract import Clock
from kt_forecast.audit.dependency import track
from kt_forecast.audit.replacing import Clocks
from kt_forecast.audit.running import Runner, Setting, kept, path_of

EARLIER = "earlier."
"""Before the names of an earlier call's inputs."""


def reads_back(
    runner: Runner,
    inputs: dict[str, Tensor],
    pair: tuple[Clock, Clock],
    clocks: Clocks,
    setting: Setting,
) -> bool:
    """Return whether an output may depend on the inputs of an earlier call.

    The inputs of the first of two calls are labelled as known after everything else: an output of
    the second that keeps to its contract cannot have read them. It may also be that the two calls
    could not be followed; then the answer is yes.

    Args:
        runner: runs the model.
        inputs: tensors by name.
        pair: the contract's clocks, as declared.
        clocks: the same, spread to inputs and outputs.
        setting: of both calls.
    """
    moments = [t for t in (*clocks.available.values(), *clocks.needed.values()) if t.numel()]
    last = max((int(t.max()) for t in moments), default=0) + 1
    both = inputs | {EARLIER + name: x for name, x in inputs.items()}
    available = pair[0] | {EARLIER + name: torch.tensor(last) for name in inputs}

    def call(given: dict[str, Tensor]) -> Any:  # noqa: ANN401 - whatever the model returns
        with path_of(setting):
            runner.plain({name: given[EARLIER + name] for name in inputs})
            return runner.plain({name: given[name] for name in inputs})

    try:
        with kept(runner.model), runner.set(setting):
            found = track(call, both, available, model=runner.model, seed=runner.seed)
    except Exception:  # noqa: BLE001 - of a model nothing is known
        return True
    if any(escape.moment >= last for escape in found.escapes):
        return True
    labels = [found.outputs.get(path) for path in clocks.needed]
    return any(x is None or bool((x >= last).any()) for x in labels)
