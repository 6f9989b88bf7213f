"""pytorch-forecasting: models made from its own data set, on a batch of its own loader.

Its decoder input holds the target of the steps ahead beside what is known ahead, so each variable
of it has a clock of its own.
"""

from dataclasses import replace
from functools import partial
from importlib.metadata import version as installed
from typing import Any

import torch
from reach.cases import HONEST, READING, Adapter, Built, Case
from torch import Tensor

from kt_forecast.audit import clock
from kt_forecast.audit.running import EVALUATION, TRAINING

LIBRARY = "pytorch-forecasting"
CONTEXT, HORIZON, ROWS, STEPS = 12, 5, 3, 40


def version() -> str:
    """Return the version; raise `ImportError` if the library is not here."""
    import pytorch_forecasting  # noqa: F401 - that it can be imported is the question

    return installed("pytorch-forecasting")


def dataset(*, alone: bool) -> Any:
    """Return windows of three series, with a calendar unless the target stands alone."""
    import numpy as np
    import pandas as pd
    from pytorch_forecasting import TimeSeriesDataSet

    draw = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "series": np.repeat(list("abc"), STEPS),
            "step": np.tile(np.arange(STEPS), 3),
            "y": draw.normal(3.0, 1.0, 3 * STEPS),
            "calendar": draw.normal(size=3 * STEPS),
        }
    )
    return TimeSeriesDataSet(
        table,
        time_idx="step",
        target="y",
        group_ids=["series"],
        max_encoder_length=CONTEXT,
        max_prediction_length=HORIZON,
        time_varying_known_reals=[] if alone else ["calendar"],
        time_varying_unknown_reals=["y"],
    )


def built(name: str, *, alone: bool = False, taught: bool = False, **settings: Any) -> Built:
    """Return a model on a batch of the library.

    Args:
        name: of its class.
        alone: whether it takes nothing but the target.
        taught: whether each step ahead may use the true steps before it, as in training.
        settings: of the model.
    """
    import pytorch_forecasting

    torch.manual_seed(0)
    windows = dataset(alone=alone)
    model = getattr(pytorch_forecasting, name).from_dataset(windows, **settings)
    whole, _ = next(iter(windows.to_dataloader(train=True, batch_size=ROWS, num_workers=0)))
    learned = list(windows.reals).index("y")
    moments = torch.arange(CONTEXT + HORIZON)
    batch = {key: whole[key] for key in ("encoder_cont", "decoder_cont")}
    later = torch.full((1, HORIZON, whole["decoder_cont"].shape[-1]), -1)
    later[:, :, learned] = moments[CONTEXT:]
    available = {"encoder_cont": moments[None, :CONTEXT], "decoder_cont": later}
    due = moments[None, CONTEXT:] - 1 if taught else torch.tensor(CONTEXT - 1)
    contract = replace(
        clock(available, due),
        name="forecast, fed its targets" if taught else "forecast",
        assumptions=("known in advance: the calendar",),
    )

    def run(model: Any, encoder_cont: Tensor, decoder_cont: Tensor) -> Tensor:
        given = whole | {"encoder_cont": encoder_cont, "decoder_cont": decoder_cont}
        found: Tensor = model(given).prediction
        return found

    return Built(Adapter(model, run), batch, contract)


def case(
    name: str,
    modes: tuple[str, ...] = (EVALUATION, TRAINING),
    source: str = READING,
    label: str = "",
    **settings: Any,
) -> Case:
    """Return the case of a model."""
    return Case(label or name, partial(built, name, **settings), HONEST, source, modes)


CASES = (
    case(
        "TemporalFusionTransformer",
        hidden_size=8,
        attention_head_size=2,
        hidden_continuous_size=4,
    ),
    case("RecurrentNetwork", modes=(EVALUATION,), hidden_size=8),
    case("DecoderMLP", modes=(EVALUATION,), hidden_size=8),
    case(
        "DeepAR",
        modes=(TRAINING,),
        taught=True,
        hidden_size=8,
        label="DeepAR, fed its targets",
        source="survey of leaks: its issue 182, mended since",
    ),
    case(
        "RecurrentNetwork",
        modes=(TRAINING,),
        taught=True,
        hidden_size=8,
        label="RecurrentNetwork, fed its targets",
    ),
    case("NBeats", alone=True, widths=[8, 8]),
    case("NHiTS", hidden_size=8),
)
