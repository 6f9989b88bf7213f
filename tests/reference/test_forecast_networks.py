"""Identities that the published forecasting networks satisfy exactly."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast import baselines
from kt_forecast.baselines import itransformer, patchtst
from kt_forecast.nn.system import System
from kt_forecast.sequences.series import Window, WindowBatch, WindowShape
from kt_forecast.tasks.forecasting import ForecastingConfig, SeriesForecaster

CONTEXT, HORIZON, CHANNELS = 40, 6, 3
TINY = {
    "nlinear": {},
    "dlinear": {"average": 7},
    "patchtst": {"width": 16, "heads": 4, "layers": 2, "inner": 24, "patch": 8, "stride": 4},
    "itransformer": {"width": 16, "heads": 4, "layers": 2, "inner": 24},
}


def test_every_network_of_the_folder_is_here():
    parts = {name: baselines.load(name) for name in baselines.names()}
    networks = {name for name, p in parts.items() if isinstance(p, System) and p.build is None}
    assert networks == set(TINY)


def forecaster(
    name: str, *, settings: dict[str, object] | None = None, known: int = 0, **task: object
) -> SeriesForecaster:
    """Return a network within its task, all parameters random, in double precision."""
    system = baselines.load(name)
    config = system.config.parse(TINY[name] | (settings or {}), name)
    sizes = {"context": CONTEXT, "horizon": HORIZON}
    chosen = ForecastingConfig.parse((system.forecasting or {}) | sizes | task, name)
    shape = WindowShape(context=CONTEXT, horizon=HORIZON, channels=CHANNELS, known=known)
    torch.manual_seed(0)
    model = SeriesForecaster(system, config, chosen, shape).double().eval()
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if key.endswith("running_var"):
                tensor.uniform_(0.5, 2.0)
            elif tensor.is_floating_point():
                tensor.normal_(0.0, 0.3)
    return model


def window(channels: int = CHANNELS, *, rows: int = 2, known: int = 0, seed: int = 1) -> Window:
    draw = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    return Window(
        context=noise(rows, channels, CONTEXT),
        real=None,
        past=noise(rows, channels, CONTEXT, 0),
        known=noise(rows, 1, CONTEXT + HORIZON, known).expand(-1, channels, -1, -1),
        static=noise(rows, channels, 0),
    )


def channels_of(given: Window, order: torch.Tensor | slice) -> Window:
    return part(given, (slice(None), order))


def part(given: Window, index: object) -> Window:
    tensors = {name: t[index] for name, t in vars(given).items() if t is not None}
    return replace(given, **tensors)


def ahead(model: SeriesForecaster, given: Window) -> torch.Tensor:
    """Return the first output of each step ahead, without the task's last rounding."""
    with torch.no_grad():
        shift, spread = model._window_measured(given)
        scaled = (given.context - shift) / spread
        return model.network(replace(given, context=scaled))[..., 0] * spread + shift


def same(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=0.0)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("outputs", [1, 3])
def test_a_network_gives_every_output_of_every_step_ahead(name, outputs):
    task = {"output": "quantile", "levels": (0.1, 0.5, 0.9)} if outputs > 1 else {}
    model = forecaster(name, **task)
    given = window(CHANNELS if model.task.mixing else 1)
    assert model(given).shape == (*given.context.shape[:2], 1, HORIZON, outputs)
    batch = WindowBatch(
        values=torch.randn(*given.context.shape[:2], CONTEXT + HORIZON).double(),
        real=None,
        past=given.past[:, :, :1].expand(-1, -1, CONTEXT + HORIZON, -1),
        known=given.known,
        static=given.static,
        series=torch.zeros(given.context.shape[:2], dtype=torch.int64),
        place=torch.arange(2),
        n_context=CONTEXT,
    )
    total, count = model.loss(batch)
    total.backward()
    assert count == batch.target.numel()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        # Softmax ignores what all keys share.
        assert bool(parameter.grad.any()) or key.endswith("key.bias"), key


@pytest.mark.parametrize("name", TINY)
def test_a_row_of_a_batch_forecasts_as_it_does_alone(name):
    model, given = forecaster(name), window(rows=4)
    alone = ahead(model, part(given, slice(2, 3)))
    same(alone, ahead(model, given)[2:3])


def test_nlinear_forecasts_a_shifted_series_shifted():
    model, given = forecaster("nlinear"), window()
    moved = replace(given, context=given.context + 7.5)
    same(ahead(model, moved), ahead(model, given) + 7.5)
    rigid = forecaster("nlinear", normalisation="none")
    assert (ahead(rigid, moved) - ahead(rigid, given) - 7.5).abs().max() > 0.1


@pytest.mark.parametrize("individual", [False, True])
def test_dlinear_is_one_matrix(individual):
    model = forecaster("dlinear", settings={"individual": individual}, mixing=individual)
    network, given = model.network, window()
    smooth = torch.zeros(CONTEXT, CONTEXT, dtype=torch.float64)
    for step in range(CONTEXT):
        for near in range(step - 3, step + 4):
            smooth[step, min(max(near, 0), CONTEXT - 1)] += 1 / 7
    whole = torch.eye(CONTEXT, dtype=torch.float64)
    of_rest, of_trend = network.of_rest, network.of_trend
    matrix = of_rest.weight @ (whole - smooth) + of_trend.weight @ smooth
    wanted = torch.einsum("bcl,chl->bch", given.context, matrix.expand(CHANNELS, -1, -1)) + (
        of_rest.bias + of_trend.bias
    )
    same(ahead(model, given), wanted)
    assert len(of_rest.weight) == (CHANNELS if individual else 1)


def test_dlinear_begins_with_the_mean_of_the_context():
    system = baselines.load("dlinear")
    shape = WindowShape(context=CONTEXT, horizon=HORIZON)
    network = system.network(system.config(), shape).double()
    for ahead_of in (network.of_rest, network.of_trend):
        nn.init.zeros_(ahead_of.bias)
    given = window()
    mean = given.context.mean(-1)[..., None, None].expand(-1, -1, HORIZON, 1)
    same(network(given), mean, 1e-7)


def test_patchtst_forecasts_permuted_channels_permuted():
    model, given = forecaster("patchtst"), window()
    order = torch.tensor([2, 0, 1])
    permuted = channels_of(given, order)
    same(ahead(model, permuted), ahead(model, given)[:, order])
    one = channels_of(given, slice(1, 2))
    same(ahead(model, one), ahead(model, given)[:, 1:2])


def test_patchtst_forecasts_a_scaled_and_shifted_series_scaled_and_shifted():
    model, given = forecaster("patchtst"), window()
    # The spread is kept from zero by a constant, which only large series make negligible.
    large = replace(given, context=1e4 * given.context)
    moved = replace(given, context=-3.0 + 2.0 * large.context)
    same(ahead(model, moved) / 1e4, (-3.0 + 2.0 * ahead(model, large)) / 1e4, 1e-8)


def test_patches_cover_the_context_and_repeat_its_end():
    for context, patch, stride in ((40, 8, 4), (43, 8, 4), (336, 16, 8), (5, 16, 8)):
        config = patchtst.PatchTSTConfig(width=16, heads=4, patch=patch, stride=stride, dropout=0)
        network = patchtst.PatchTST(config, WindowShape(context=context, horizon=2))
        size = min(patch, context)
        x = torch.randn(1, 1, context)
        network.embed, network.position = nn.Identity(), nn.Parameter(torch.zeros(1, 1))
        tokens = network.tokens(x)[0]
        padded = torch.cat([x[0, 0], x[0, 0, -1:].expand(stride)])
        assert len(tokens) == (context - size) // stride + 2
        for number, token in enumerate(tokens):
            assert torch.equal(token, padded[number * stride : number * stride + size])


def test_patchtst_attention_is_multi_head_attention_until_scores_are_added():
    config = patchtst.PatchTSTConfig(**TINY["patchtst"], dropout=0.0)
    torch.manual_seed(0)
    layer = patchtst.EncoderLayer(config).double()
    known = nn.MultiheadAttention(config.width, config.heads, batch_first=True).double()
    parts = (layer.query, layer.key, layer.value)
    with torch.no_grad():
        known.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        known.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        known.out_proj.load_state_dict(layer.out.state_dict())
    x = torch.randn(2, 5, config.width, dtype=torch.float64)
    read, scores = layer.attend(x, None)
    same(read, known(x, x, x)[0])
    before = torch.randn_like(scores)
    moved, added = layer.attend(x, before)
    same(added, scores + before)
    value = layer.value(x).unflatten(-1, layer.split).transpose(1, 2)
    by_hand = torch.einsum("rhqk,rhkd->rqhd", F.softmax(scores + before, -1), value).flatten(-2)
    same(moved, layer.out(by_hand))


def test_patchtst_hands_the_scores_from_layer_to_layer():
    model, given = forecaster("patchtst"), window()
    first, second = model.network.layers
    seen = []
    second.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    first.register_forward_hook(lambda *args: seen.append(args[2][1]))
    ahead(model, given)
    assert seen[0] is seen[1]


def test_itransformer_forecasts_permuted_series_permuted():
    model, given = forecaster("itransformer", known=2), window(known=2)
    order = torch.tensor([2, 0, 1])
    permuted = channels_of(given, order)
    same(ahead(model, permuted), ahead(model, given)[:, order])
    alone = channels_of(given, slice(1))
    assert (ahead(model, alone) - ahead(model, given)[:, :1]).abs().max() > 1e-3


def test_itransformer_takes_any_number_of_series():
    model = forecaster("itransformer")
    for channels in (1, CHANNELS, 11):
        assert ahead(model, window(channels)).shape == (2, channels, HORIZON)
    given = window(2)
    twice = channels_of(given, torch.tensor([0, 1, 0, 1]))
    # Attention over every series twice is attention over every series.
    same(ahead(model, twice), ahead(model, given).repeat(1, 2, 1))


def test_itransformer_reads_covariates_of_the_steps_ahead():
    model, given = forecaster("itransformer", known=1), window(known=1)
    known = given.known.clone()
    known[:, :, -1] += 1.0
    assert (ahead(model, replace(given, known=known)) - ahead(model, given)).abs().max() > 1e-3


def test_itransformer_layer_is_the_encoder_layer_of_torch():
    config = itransformer.ITransformerConfig(**TINY["itransformer"], dropout=0.0)
    torch.manual_seed(0)
    layer = itransformer.EncoderLayer(config).double().eval()
    known = nn.TransformerEncoderLayer(
        config.width, config.heads, config.inner, 0.0, "gelu", batch_first=True
    ).double()
    parts = (layer.query, layer.key, layer.value)
    with torch.no_grad():
        known.self_attn.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        known.self_attn.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        known.self_attn.out_proj.load_state_dict(layer.out.state_dict())
        known.linear1.load_state_dict(layer.feed[0].state_dict())
        known.linear2.load_state_dict(layer.feed[3].state_dict())
    x = torch.randn(2, 5, config.width, dtype=torch.float64)
    same(layer(x), known(x))


@pytest.mark.parametrize("small", [patchtst, itransformer])
def test_published_sizes_of_small_sets_are_settings(small):
    small.SYSTEM.config.parse(small.SMALL, "small")
    with pytest.raises(ValueError, match="must divide width"):
        small.SYSTEM.config(width=20, heads=8)
