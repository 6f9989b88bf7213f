"""neuralforecast: forecasters through their own prediction step.

The library is given whole windows, the steps ahead included, as in its cross-validation: it cuts,
normalises and masks them itself. A calendar is known ahead, a measured series is not.
"""

from collections.abc import Callable
from functools import partial
from importlib.metadata import version as installed
from typing import Any

import torch
from reach.cases import HONEST, LEAK, READING, Adapter, Built, Case
from torch import Tensor

from kt_forecast.audit import clock, forecast
from kt_forecast.audit.running import EVALUATION, TRAINING

LIBRARY = "neuralforecast"
CONTEXT, HORIZON, ROWS, SERIES = 24, 5, 3, 2

QUIET = {
    "enable_progress_bar": False,
    "logger": False,
    "enable_model_summary": False,
    "max_steps": 1,
}


def version() -> str:
    """Return the version; raise `ImportError` if the library is not here."""
    import neuralforecast  # noqa: F401 - that it can be imported is the question

    return installed("neuralforecast")


def made(name: str, settings: dict[str, Any], *, context: int = CONTEXT) -> Any:
    """Return a model of the library, which knows a calendar and a measured series if it can."""
    from neuralforecast import models

    kind = getattr(models, name)
    given = dict(settings)
    if kind.EXOGENOUS_FUTR:
        given["futr_exog_list"] = ["calendar"]
    if kind.EXOGENOUS_HIST:
        given["hist_exog_list"] = ["measured"]
    if kind.MULTIVARIATE:
        given["n_series"] = SERIES
    torch.manual_seed(0)
    return kind(h=HORIZON, input_size=context, scaler_type="standard", **given, **QUIET)


def steps(*shape: int) -> Tensor:
    """Return random numbers, others for each shape."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def univariate(name: str, **settings: Any) -> Built:
    """Return a model of one series, a series a row."""
    model = made(name, settings)
    model.test_size = model.predict_step_size = HORIZON
    model.n_predicts = 1
    batch = {"y": steps(ROWS, CONTEXT + HORIZON), "calendar": steps(ROWS, CONTEXT + HORIZON)}
    if model.EXOGENOUS_HIST:
        batch["measured"] = steps(ROWS, CONTEXT + HORIZON) + 1.0
    return Built(Adapter(model, predicted), batch, forecast(CONTEXT, HORIZON, known=["calendar"]))


def predicted(model: Any, **inputs: Tensor) -> Tensor:
    """Call the prediction step on whole series."""
    import pandas as pd

    mask = torch.ones_like(inputs["y"])
    columns = {**inputs, "available_mask": mask}
    batch = {
        "temporal": torch.stack(list(columns.values()), 1),
        "temporal_cols": pd.Index(list(columns)),
        "y_idx": 0,
    }
    return model.predict_step(batch, 0)


def multivariate(name: str, **settings: Any) -> Built:
    """Return a model of several series, a window a row."""
    model = made(name, settings)
    shape = (ROWS, CONTEXT + HORIZON, SERIES)
    batch = {"y": steps(*shape), "calendar": steps(*shape)}
    if model.EXOGENOUS_HIST:
        batch["measured"] = steps(*shape) + 1.0
    return Built(Adapter(model, together), batch, forecast(CONTEXT, HORIZON, known=["calendar"]))


def together(model: Any, **inputs: Tensor) -> Tensor:
    """Normalise, cut and forecast windows as the prediction step does."""
    import pandas as pd

    columns = {**inputs, "available_mask": torch.ones_like(inputs["y"])}
    names = pd.Index(list(columns))
    windows = {
        "temporal": torch.stack(list(columns.values()), 2),
        "temporal_cols": names,
        "static": None,
        "static_cols": None,
    }
    batch = {"y_idx": 0, "temporal_cols": names}
    windows = model._normalization(windows=windows, y_idx=0)
    insample, mask, _, _, hist, futr, stat = model._parse_windows(batch, windows)
    return model._predict_step_direct_batch(
        insample_y=insample,
        insample_mask=mask,
        hist_exog=hist,
        futr_exog=futr,
        stat_exog=stat,
        y_idx=0,
    )


def taught(name: str, **settings: Any) -> Built:
    """Return a recurrent model fed its targets, as in its training: one step ahead at each."""
    model = made(name, settings)
    n = CONTEXT + HORIZON - 1
    batch = {"y": steps(ROWS, n, 1), "calendar": steps(ROWS, n, 1)}

    def run(model: Any, y: Tensor, calendar: Tensor) -> Tensor:
        model.rnn_state = None
        measured = torch.zeros_like(y) if model.hist_exog_size else None
        windows = {
            "insample_y": y,
            "insample_mask": torch.ones_like(y),
            "futr_exog": calendar if model.futr_exog_size else None,
            "hist_exog": measured,
            "stat_exog": None,
        }
        found = model(windows)
        return torch.stack(found, -1) if isinstance(found, tuple) else found

    known = torch.arange(n)[None]
    due = {"y": known, "calendar": known}
    return Built(Adapter(model, run), batch, clock(due, known[:, -HORIZON:]))


WIDE = {"hidden_size": 8, "n_head": 2, "conv_hidden_size": 8, "encoder_layers": 2}
SERIAL = {"encoder_n_layers": 1, "encoder_hidden_size": 8, "decoder_hidden_size": 8}
SMALL = {"hidden_size": 8}
BOTH = (EVALUATION, TRAINING)
APART = (EVALUATION,)

MEAN = "TSLib's FFT_for_Period, whose period is that of the mean over the batch; survey of leaks"


def one(
    name: str,
    expected: str = HONEST,
    source: str = READING,
    modes: tuple[str, ...] = BOTH,
    label: str = "",
    **settings: Any,
) -> Case:
    """Return the case of a model of one series."""
    return Case(label or name, partial(univariate, name, **settings), expected, source, modes)


def several(
    name: str,
    expected: str = HONEST,
    source: str = READING,
    modes: tuple[str, ...] = BOTH,
    **settings: Any,
) -> Case:
    """Return the case of a model of several series."""
    return Case(name, partial(multivariate, name, **settings), expected, source, modes)


def teacher(name: str, build: Callable[..., Built] = taught, **settings: Any) -> Case:
    """Return the case of a recurrent model in its training form."""
    return Case(f"{name}, fed its targets", partial(build, name, **settings))


CASES = (
    one("MLP", **SMALL),
    one("NBEATS", mlp_units=3 * [[8, 8]]),
    one("NBEATSx", mlp_units=3 * [[8, 8]]),
    one("NHITS", mlp_units=3 * [[8, 8]]),
    one("DLinear", moving_avg_window=5),
    one("NLinear"),
    one("TiDE", hidden_size=8, decoder_output_dim=4, temporal_decoder_dim=8),
    one("DeepNPTS", **SMALL, modes=APART, source="batch normalisation over rows in training"),
    one("KAN", **SMALL),
    one("TFT", hidden_size=8, n_head=2),
    one("RNN", **SERIAL),
    one("GRU", **SERIAL),
    one("LSTM", **SERIAL),
    one("LSTM", recurrent=True, label="LSTM, step by step", **SERIAL),
    one("DilatedRNN", dilations=[[1, 2]], encoder_hidden_size=8, decoder_hidden_size=8),
    one("TCN", encoder_hidden_size=8, decoder_hidden_size=8, dilations=[1, 2, 4]),
    one("BiTCN", **SMALL),
    one("DeepAR", lstm_n_layers=1, lstm_hidden_size=8, trajectory_samples=5),
    one("VanillaTransformer", **WIDE),
    one("Informer", **WIDE, modes=APART, source="batch normalisation over rows in training"),
    one("Autoformer", **WIDE, modes=APART, source="evaluation; training means delays over rows"),
    Case(
        "Autoformer, in training",
        partial(univariate, "Autoformer", **WIDE),
        LEAK,
        "reading of its code: delays are chosen from the mean over the batch",
        (TRAINING,),
    ),
    one("FEDformer", hidden_size=8, n_head=8, conv_hidden_size=8),
    one(
        "PatchTST",
        hidden_size=8,
        n_heads=2,
        linear_hidden_size=8,
        encoder_layers=1,
        patch_len=4,
        stride=2,
        modes=APART,
        source="batch normalisation over rows in training",
    ),
    one(
        "TimesNet",
        LEAK,
        MEAN,
        hidden_size=8,
        conv_hidden_size=8,
        top_k=2,
        num_kernels=2,
    ),
    several("MLPMultivariate", **SMALL),
    several("iTransformer", hidden_size=8, n_heads=2, e_layers=1, d_ff=8),
    several("TSMixer", ff_dim=8, modes=APART, source="batch normalisation over rows in training"),
    several("TSMixerx", ff_dim=8),
    several("SOFTS", hidden_size=8, d_core=8, d_ff=8),
    several(
        "StemGNN",
        LEAK,
        "found by the audit, then read: the graph is the mean attention over the batch",
        multi_layer=2,
    ),
    several("TimeMixer", d_model=8, d_ff=8, e_layers=1),
    several("TimeXer", hidden_size=8, n_heads=2, e_layers=1, d_ff=8, patch_len=4),
    several("RMoK", modes=APART, source="batch normalisation over rows in training"),
    teacher("DeepAR", lstm_n_layers=1, lstm_hidden_size=8),
    teacher("LSTM", recurrent=True, **SERIAL),
    teacher("GRU", recurrent=True, **SERIAL),
)
