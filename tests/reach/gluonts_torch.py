"""GluonTS: its torch networks, their distribution's parameters for all steps ahead."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import version as installed
from typing import Any

import torch
from reach.cases import HONEST, READING, Adapter, Built, Case
from torch import Tensor

from kt_forecast.audit import forecast

LIBRARY = "GluonTS"
CONTEXT, HORIZON, ROWS, SERIES = 16, 5, 3, 2


def version() -> str:
    """Return the version; raise `ImportError` if the library is not here."""
    import gluonts.torch  # noqa: F401 - that it can be imported is the question

    return installed("gluonts")


def network(module: str, name: str, **settings: Any) -> Any:
    """Return a network of the library with random weights."""
    torch.manual_seed(0)
    kind = getattr(import_module(f"gluonts.torch.model.{module}.module"), name)
    return kind(context_length=CONTEXT, prediction_length=HORIZON, **settings)


def draw(*shape: int) -> Tensor:
    """Return random numbers, others for each shape."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def parameters(out: Any) -> Tensor:
    """Return all parameters of a distribution beside each other, scaled as they are used."""
    values, loc, scale = out
    parts = [x if x.ndim == loc.ndim else x.reshape(*x.shape[: loc.ndim]) for x in values]
    return torch.stack(parts, -1) * scale[..., None] + loc[..., None]


def plain(module: str, name: str, *, many: bool = False, before: int = 0, **settings: Any) -> Built:
    """Return a network that reads the past target."""
    model = network(module, name, **settings)

    def run(model: Any, y: Tensor) -> Tensor:
        return parameters(model(y, torch.ones_like(y)))

    past = CONTEXT + before
    y = draw(ROWS, past, SERIES) if many else draw(ROWS, past)
    return Built(Adapter(model, run), {"y": y}, forecast(past, HORIZON))


def feed_forward() -> Built:
    """Return the feed-forward network, which takes no mask."""
    model = network("simple_feedforward", "SimpleFeedForwardModel", hidden_dimensions=[8])
    run = Adapter(model, lambda model, y: parameters(model(y)))
    return Built(run, {"y": draw(ROWS, CONTEXT)}, forecast(CONTEXT, HORIZON))


def calendar(build: Callable[..., Any], use: Callable[..., Tensor], past: int = CONTEXT) -> Built:
    """Return a network that knows a calendar of all steps."""
    batch = {
        "y": draw(ROWS, past),
        "past_calendar": draw(ROWS, past, 1),
        "next_calendar": draw(ROWS, HORIZON, 1),
    }
    contract = forecast(past, HORIZON, known=["past_calendar", "next_calendar"])
    return Built(Adapter(build(), use), batch, contract)


LAGS = [1, 2, 3]


def deepar() -> Built:
    """Return DeepAR, which draws paths step by step."""

    def build() -> Any:
        return network("deepar", "DeepARModel", freq="D", hidden_size=8, lags_seq=LAGS)

    def run(model: Any, y: Tensor, past_calendar: Tensor, next_calendar: Tensor) -> Tensor:
        facts = torch.zeros(len(y), 1)
        return model(
            facts.long(),
            facts,
            past_calendar,
            y,
            torch.ones_like(y),
            next_calendar,
            num_parallel_samples=2,
        )

    return calendar(build, run, CONTEXT + max(LAGS))


def tide() -> Built:
    """Return TiDE."""
    wide = dict.fromkeys(
        (
            "feat_proj_hidden_dim",
            "encoder_hidden_dim",
            "decoder_hidden_dim",
            "temporal_hidden_dim",
            "distr_hidden_dim",
            "decoder_output_dim",
        ),
        8,
    )

    def build() -> Any:
        from gluonts.torch.distributions import StudentTOutput

        return network(
            "tide",
            "TiDEModel",
            num_feat_dynamic_real=1,
            num_feat_dynamic_proj=2,
            num_feat_static_real=1,
            num_feat_static_cat=1,
            cardinality=[2],
            embedding_dimension=[2],
            dropout_rate=0.1,
            num_layers_encoder=1,
            num_layers_decoder=1,
            layer_norm=True,
            distr_output=StudentTOutput(),
            scaling="mean",
            **wide,
        )

    def run(model: Any, y: Tensor, past_calendar: Tensor, next_calendar: Tensor) -> Tensor:
        facts = torch.zeros(len(y), 1)
        out = model(facts, facts.long(), past_calendar, y, torch.ones_like(y), next_calendar)
        return parameters(out)

    return calendar(build, run)


def fusion() -> Built:
    """Return the temporal fusion transformer."""

    def build() -> Any:
        return network(
            "tft",
            "TemporalFusionTransformerModel",
            d_feat_dynamic_real=[1],
            d_feat_static_real=[1],
            c_feat_static_cat=[2],
            num_heads=2,
            d_hidden=8,
            d_var=8,
        )

    def run(model: Any, y: Tensor, past_calendar: Tensor, next_calendar: Tensor) -> Tensor:
        facts = torch.zeros(len(y), 1)
        both = torch.cat([past_calendar, next_calendar], 1)
        values, loc, scale = model(y, torch.ones_like(y), facts, facts.long(), both)
        return values[0] * scale[..., None] + loc[..., None]

    return calendar(build, run)


ATTENTION = {
    "d_model": 8,
    "nhead": 2,
    "dim_feedforward": 8,
    "dropout": 0.1,
    "activation": "relu",
    "norm_first": False,
    "num_encoder_layers": 1,
    "scaling": "mean",
}
PATCHES = {"patch_len": 4, "stride": 2, "padding_patch": "end", "num_feat_dynamic_real": 0}

CASES = (
    Case("SimpleFeedForward", feed_forward),
    Case("DLinear", partial(plain, "d_linear", "DLinearModel", hidden_dimension=8, kernel_size=5)),
    Case("PatchTST", partial(plain, "patch_tst", "PatchTSTModel", **ATTENTION, **PATCHES)),
    Case(
        "LagTST",
        partial(plain, "lag_tst", "LagTSTModel", freq="D", before=2, lags_seq=[1, 2], **ATTENTION),
    ),
    Case(
        "iTransformer",
        partial(plain, "i_transformer", "ITransformerModel", many=True, **ATTENTION),
        HONEST,
        READING,
    ),
    Case("DeepAR", deepar),
    Case("TiDE", tide),
    Case("TFT", fusion),
)
