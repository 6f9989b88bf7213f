"""Darts: torch models after one step of its own fitting, through their own module."""

from functools import partial
from importlib.metadata import version as installed
from typing import Any

import torch
from reach.cases import HONEST, READING, Adapter, Built, Case
from torch import Tensor

from kt_forecast.audit import clock, forecast
from kt_forecast.audit.running import EVALUATION, TRAINING

LIBRARY = "Darts"
CONTEXT, HORIZON, ROWS, STEPS = 12, 4, 3, 40

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "max_steps": 1,
}


def version() -> str:
    """Return the version; raise `ImportError` if the library is not here."""
    import darts.models  # noqa: F401 - that it can be imported is the question

    return installed("darts")


def fitted(name: str, **settings: Any) -> Any:
    """Return the module of a model after one step."""
    import numpy as np
    from darts import TimeSeries, models

    values = np.random.default_rng(0).normal(size=(STEPS, 1)).astype("float32")
    model = getattr(models, name)(
        input_chunk_length=CONTEXT, pl_trainer_kwargs=QUIET, random_state=0, n_epochs=1, **settings
    )
    model.fit(TimeSeries.from_values(values))
    return model.model.float()


def built(name: str, **settings: Any) -> Built:
    """Return a model under the contract of forecasting."""
    module = fitted(name, output_chunk_length=HORIZON, **settings)
    y = torch.randn(ROWS, CONTEXT, 1, generator=torch.Generator().manual_seed(0))

    def run(module: Any, y: Tensor) -> Tensor:
        from darts.utils.data.torch_datasets.utils import PLModuleInput

        return module(PLModuleInput(past_target=y)).prediction[:, -HORIZON:]

    return Built(Adapter(module, run), {"y": y}, forecast(CONTEXT, HORIZON))


def taught(name: str, **settings: Any) -> Built:
    """Return a model that is fed the true steps ahead, as in its training."""
    from darts.utils.data.torch_datasets.utils import ModuleStage, PLModuleInput

    module = fitted(name, output_chunk_length=HORIZON, **settings)
    whole = torch.randn(ROWS, CONTEXT + HORIZON, 1, generator=torch.Generator().manual_seed(0))
    moments = torch.arange(CONTEXT + HORIZON)[None]

    def run(module: Any, y: Tensor, ahead: Tensor) -> Tensor:
        given = PLModuleInput(past_target=y, future_target=ahead, stage=ModuleStage.TRAIN)
        return module(given).prediction

    batch = {"y": whole[:, :CONTEXT], "ahead": whole[:, CONTEXT:]}
    available = {"y": moments[:, :CONTEXT], "ahead": moments[:, CONTEXT:]}
    return Built(Adapter(module, run), batch, clock(available, moments[:, CONTEXT:] - 1))


def case(
    name: str,
    modes: tuple[str, ...] = (EVALUATION, TRAINING),
    source: str = READING,
    **settings: Any,
) -> Case:
    """Return the case of a model."""
    return Case(name, partial(built, name, **settings), HONEST, source, modes)


ATTENTION = {
    "d_model": 8,
    "nhead": 2,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
    "dim_feedforward": 8,
}

CASES = (
    case("TCNModel", kernel_size=3, num_filters=4),
    case("NBEATSModel", num_stacks=2, num_layers=2, layer_widths=8),
    case("NHiTSModel", num_stacks=2, num_layers=2, layer_widths=8),
    case("BlockRNNModel", hidden_dim=8),
    case("DLinearModel", kernel_size=5),
    case("NLinearModel"),
    case("TiDEModel", hidden_size=8, decoder_output_dim=4, temporal_decoder_hidden=8),
    case("TSMixerModel", hidden_size=8, ff_size=8, num_blocks=1),
    case("TransformerModel", **ATTENTION),
    Case("TransformerModel, fed its targets", partial(taught, "TransformerModel", **ATTENTION)),
)
