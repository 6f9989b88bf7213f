"""Time-Series-Library: its forecasters, fed as its own experiment feeds them.

The decoder is given the end of the context and zeros for the steps ahead; the calendar of all steps
is known. The true steps ahead are among the inputs, so that whoever reads them is seen.
"""

import sys
from dataclasses import replace
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
from reach.cases import HONEST, LEAK, READING, Adapter, Built, Case
from reach.checkouts import checkout
from torch import Tensor

from kt_forecast.audit import clock
from kt_forecast.audit.running import EVALUATION, TRAINING

LIBRARY = "Time-Series-Library"
CONTEXT, LABEL, HORIZON, ROWS, SERIES = 24, 12, 8, 3, 3

SETTINGS = {
    "task_name": "long_term_forecast",
    "seq_len": CONTEXT,
    "label_len": LABEL,
    "pred_len": HORIZON,
    "features": "M",
    "data": "custom",
    "freq": "h",
    "embed": "timeF",
    "activation": "gelu",
    "enc_in": SERIES,
    "dec_in": SERIES,
    "c_out": SERIES,
    "d_model": 8,
    "n_heads": 2,
    "e_layers": 1,
    "d_layers": 1,
    "d_ff": 8,
    "d_conv": 4,
    "expand": 2,
    "moving_avg": 5,
    "factor": 1,
    "distil": True,
    "dropout": 0.1,
    "top_k": 2,
    "num_kernels": 2,
    "channel_independence": 1,
    "decomp_method": "moving_avg",
    "use_norm": 1,
    "down_sampling_layers": 1,
    "down_sampling_window": 2,
    "down_sampling_method": "avg",
    "seg_len": 8,
    "patch_len": 4,
    "p_hidden_dims": [8, 8],
    "p_hidden_layers": 2,
    "node_dim": 4,
    "gcn_depth": 1,
    "propalpha": 0.3,
    "conv_channel": 4,
    "skip_channel": 4,
    "subgraph_size": 2,
    "individual": False,
    "alpha": 0.5,
    "top_p": 0.5,
    "pos": 1,
    "ratio": 0.5,
    "batch_size": ROWS,
    "use_amp": False,
    "num_class": 0,
    "device": torch.device("cpu"),
}


def version() -> str:
    """Return the commit of the checkout; raise `LookupError` if there is none."""
    folder, commit = checkout("KT_FORECAST_TSLIB", "layers")
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    return commit


def built(name: str, *, teaches: bool = False, **settings: Any) -> Built:
    """Return a model of the library under the contract of forecasting.

    Args:
        name: of its module.
        teaches: give the decoder the true steps ahead in place of zeros.
        settings: in place of ours.
    """
    torch.manual_seed(0)
    options = SimpleNamespace(**(SETTINGS | settings))
    model = import_module(f"models.{name}").Model(options).float()
    generator = torch.Generator().manual_seed(1)
    context, start = options.seq_len, options.seq_len - options.label_len
    whole = torch.randn(ROWS, context + HORIZON, options.enc_in, generator=generator)
    calendar = torch.rand(ROWS, context + HORIZON, 4, generator=generator) - 0.5
    batch = {
        "x": whole[:, :context],
        "y": whole[:, start:],
        "x_mark": calendar[:, :context],
        "y_mark": calendar[:, start:],
    }
    moments = torch.arange(context + HORIZON)[None]
    contract = clock(
        {"x": moments[:, :context], "y": moments[:, start:]}, torch.tensor(context - 1)
    )
    contract = replace(contract, name="forecast", assumptions=("known in advance: the calendar",))
    return Built(Adapter(model, taught if teaches else forecasted), batch, contract)


def forecasted(model: Any, x: Tensor, y: Tensor, x_mark: Tensor, y_mark: Tensor) -> Tensor:
    """Call a model as the library's experiment does."""
    ahead = torch.zeros_like(y[:, -HORIZON:])
    given = torch.cat([y[:, :-HORIZON], ahead], 1)
    return last(model(x, x_mark, given, y_mark))


def taught(model: Any, x: Tensor, y: Tensor, x_mark: Tensor, y_mark: Tensor) -> Tensor:
    """Call a model with its targets in the slots of the decoder."""
    return last(model(x, x_mark, y, y_mark))


def last(out: Any) -> Tensor:
    """Return the steps ahead."""
    y: Tensor = out[0] if isinstance(out, tuple) else out
    return y[:, -HORIZON:]


APART = (EVALUATION,)
BATCH_NORM = "batch normalisation over rows in training"
SPECTRUM = "survey of leaks: periods from the mean spectrum of the batch, by way of numpy"
SLOTS = "survey of leaks, M63: the target in the decoder's slots"


def case(
    name: str,
    expected: str = HONEST,
    source: str = READING,
    modes: tuple[str, ...] = (EVALUATION, TRAINING),
    **settings: Any,
) -> Case:
    """Return the case of a model of the library."""
    return Case(name, partial(built, name, **settings), expected, source, modes)


CASES = (
    case("Transformer"),
    case("Informer", source=BATCH_NORM, modes=APART, e_layers=2),
    case("Reformer"),
    case("Autoformer", source="evaluation; training means delays over rows", modes=APART),
    Case(
        "Autoformer, in training",
        partial(built, "Autoformer"),
        LEAK,
        "reading of its code: delays are chosen from the mean over the batch",
        (TRAINING,),
    ),
    case("FEDformer", n_heads=8),
    case("Nonstationary_Transformer"),
    case("Pyraformer", source=BATCH_NORM, modes=APART),
    case("ETSformer", e_layers=1, d_layers=1),
    case("Crossformer"),
    case("PatchTST", source=BATCH_NORM, modes=APART),
    case("PAttn"),
    case("iTransformer"),
    case("TimeXer"),
    case("MultiPatchFormer", seq_len=96, label_len=12),
    Case(
        "TimeFilter",
        partial(built, "TimeFilter"),
        open="places of a mask are listed over all rows before they are used within one",
    ),
    case("DLinear"),
    case("TSMixer"),
    case("TiDE"),
    case("LightTS"),
    case("FreTS"),
    case("FiLM"),
    case("TimeMixer"),
    case("WPMixer", source=BATCH_NORM, modes=APART),
    case("SCINet"),
    case("MICN", label_len=CONTEXT),
    case("SegRNN"),
    case("TemporalFusionTransformer", data="ETTh1", enc_in=7, c_out=7),
    case("MambaSimple"),
    case("TimesNet", LEAK, SPECTRUM),
    case("MSGNet", LEAK, "reading of its code: the same periods from the batch"),
    Case("Informer, fed its targets", partial(built, "Informer", teaches=True), LEAK, SLOTS, APART),
    Case("Transformer, fed its targets", partial(built, "Transformer", teaches=True), LEAK, SLOTS),
)
