"""Kernels give what plain operations give; which of them runs follows from tensors and installs."""

from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast import zoo
from kt_forecast.nn import kernels
from kt_forecast.nn.decayed import decayed
from kt_forecast.nn.scan import selective_scan
from kt_forecast.studies.growth import GrowthSettings, trained
from kt_forecast.studies.needle import NeedleSettings, StudentTask, train
from kt_forecast.studies.study import Clock

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="kernels run on a GPU only")
PACKAGES = {"decayed": "fla", "scan": "mamba_ssm"}


def test_studies_form_no_gradient_by_cudnn_attention():
    seen = []
    allowed = torch.backends.cuda.cudnn_sdp_enabled

    class Asking(nn.Linear):
        def forward(self, x):
            seen.append(allowed())
            x.register_hook(lambda _: seen.append(allowed()))
            return super().forward(x), None

    x = noise(1, 4, 3).requires_grad_()
    trained(Asking(3, 3), x, GrowthSettings(device="cpu"))
    needle = NeedleSettings(width=8, heads=2, layers=1, passes=1, rows=2, device="cpu")
    task = StudentTask(needle)
    model = task.model("gpt", needle)
    model.register_forward_pre_hook(lambda *_: seen.append(allowed()))
    train(model, task, needle, Clock())
    assert len(seen) == 3
    assert set(seen) == {False}


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def of_decayed(steps=150, heads=3, keys=8, values=20):
    return (
        noise(2, 1, steps, keys),
        noise(2, heads, steps, keys, seed=1) * keys**-0.5,
        noise(2, steps, heads, values, seed=2).transpose(1, 2),
        F.logsigmoid(noise(2, heads, steps, seed=3) + 1),
        noise(2, heads, keys, values, seed=4),
    )


def of_scan(steps=75, channels=11, states=6):
    both = noise(2, steps, 2 * states, seed=4)
    return (
        noise(2, steps, channels),
        F.softplus(noise(2, steps, channels, seed=1)),
        -noise(channels, states, seed=2).exp(),
        both[..., :states],
        both[..., states:],
        noise(2, channels, states, seed=5),
    )


def with_gradients(run, given):
    """Return outputs, and gradients of a weighted sum of them."""
    given = [x.detach().clone().requires_grad_() for x in given]
    outputs = run(*given)
    worth = sum((y * noise(*y.shape, seed=9).to(y)).sum() for y in outputs)
    return [*outputs, *torch.autograd.grad(worth, given)]


def assert_equal(fast, slow, *, close):
    for a, b in zip(fast, slow, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(
            a.cpu(), b.cpu().to(a.dtype), atol=close * b.abs().max().item(), rtol=0.0
        )


def published_scan(u, delta, a, b, c):
    """Do what mamba-ssm documents: channels before steps, from zero, and no last state."""
    h, found = u.new_zeros(*u.shape[:2], a.shape[1]), []
    for t in range(u.shape[2]):
        share = (delta[:, :, t, None] * a).exp()
        h = share * h + (delta * u)[:, :, t, None] * b[:, None, :, t]
        found.append((h * c[:, None, :, t]).sum(-1))
    return torch.stack(found, 2)


def published_attention(q, k, v, g=None, g_gamma=None, *, scale, initial_state, output_final_state):
    """Do what fla documents of gated linear attention with one gate a head."""
    assert output_final_state
    s, found = initial_state, []
    for t in range(q.shape[1]):
        decay = g_gamma.expand(len(q), -1) if g is None else g[:, t]
        s = decay.exp()[..., None, None] * s + k[:, t, :, :, None] * v[:, t, :, None]
        found.append((scale * q[:, t, :, None] @ s)[:, :, 0])
    return torch.stack(found, 1), s


def test_a_scan_from_zero_without_its_end_gives_ours_with_gradients():
    given = of_scan(steps=13)
    fast = with_gradients(lambda *x: kernels._by_mamba_ssm(published_scan, *x), given)
    assert_equal(fast, with_gradients(selective_scan, given), close=2e-5)


def test_gated_attention_with_steps_before_heads_gives_ours_with_gradients():
    given = of_decayed(steps=13)
    fast = with_gradients(lambda *x: kernels._by_fla(published_attention, *x), given)
    assert_equal(fast, with_gradients(decayed, given), close=2e-5)


def test_a_steady_decay_is_handed_over_once_a_head():
    *given, _, state = of_decayed(steps=13)
    decay = torch.tensor([-0.1, -0.2, -0.3])[None, :, None].expand(-1, -1, 13)
    fast = kernels._by_fla(published_attention, *given, decay, state)
    assert_equal(fast, decayed(*given, decay, state), close=2e-5)


def test_plain_operations_run_on_a_processor():
    assert kernels.for_decayed(*of_decayed()[1:3]) is None
    assert kernels.for_scan(of_scan()[0], 6) is None


def test_what_may_run_is_limited_inside_only():
    assert kernels._allowed.get() == ("package", "own")
    with kernels.only("own"):
        assert kernels._allowed.get() == ("own",)
        with kernels.only():
            assert kernels._allowed.get() == ()
    assert kernels._allowed.get() == ("package", "own")


def test_products_are_rounded_only_where_that_is_allowed():
    single = torch.zeros(1)
    assert not kernels._rough(single)
    assert kernels._rough(single.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert kernels._rough(single)


@pytest.fixture(params=["own", "package"])
def kind(request):
    return request.param


def needs(kind, what):
    if kind == "package" and find_spec(PACKAGES[what]) is None:
        pytest.skip(f"{PACKAGES[what]} is not installed")


@GPU
@pytest.mark.parametrize("steps", [1, 64, 150])
@pytest.mark.parametrize(
    ("kind", "sizes"),
    [("own", (8, 20)), ("own", (64, 64)), ("own", (128, 256)), ("package", (16, 32))],
)
def test_fading_sums_by_kernels_equal_plain_ones(kind, steps, sizes):
    needs(kind, "decayed")
    if kind == "package" and not kernels._sound():
        pytest.skip("fla refuses this release of Triton on this GPU")
    given = [x.cuda() for x in of_decayed(steps, 3, *sizes)]
    with kernels.only():
        slow = with_gradients(decayed, [x.double() for x in given])
    with kernels.only(kind), torch.autocast("cuda", torch.bfloat16, enabled=kind == "package"):
        fast = with_gradients(decayed, given)
    assert_equal(fast, slow, close=1e-2 if kind == "package" else 2e-5)


@GPU
@pytest.mark.parametrize("steps", [1, 32, 75, 2050])
@pytest.mark.parametrize("states", [4, 16, 64])
def test_scans_by_kernels_equal_plain_ones(kind, steps, states):
    needs(kind, "scan")
    given = [x.cuda() for x in of_scan(steps, 11, states)]
    with kernels.only():
        slow = with_gradients(selective_scan, [x.double() for x in given])
    with kernels.only(kind):
        fast = with_gradients(selective_scan, given)
    assert_equal(fast, slow, close=2e-5)


@GPU
@pytest.mark.parametrize(
    ("name", "settings"),
    [("retnet", {}), ("mamba", {"form": "mamba1"}), ("mamba", {"form": "mamba2", "groups": 2})],
)
def test_systems_by_kernels_stream_as_plain_ones_pass(kind, name, settings):
    needs(kind, "scan" if settings.get("form") == "mamba1" else "decayed")
    rough = kind == "package" and settings.get("form") != "mamba1"
    system = zoo.load(name)
    torch.manual_seed(0)
    module = system.build(system.config(width=32, **settings)).cuda().eval()
    x = noise(3, 200, 32).cuda()
    valid = torch.rand(3, 200, generator=torch.Generator().manual_seed(1)).cuda() < 0.8
    with kernels.only(), torch.no_grad():
        slow, end = module(x, module.init_state(3), valid=valid)
    state, pieces, sizes = module.init_state(3), [], [1, 70, 3, 126]
    torch.backends.cuda.matmul.fp32_precision = "tf32" if rough else "ieee"
    with kernels.only(kind), torch.no_grad():
        for piece, real in zip(x.split(sizes, 1), valid.split(sizes, 1), strict=True):
            y, state = module(piece, state, valid=real)
            pieces.append(y)
        still = module(x[:, :9], state, valid=torch.zeros_like(valid[:, :9]))[1]
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    close = 1e-2 if rough else 1e-4
    fast = torch.cat(pieces, 1)
    torch.testing.assert_close(fast[valid], slow[valid], atol=close, rtol=close)
    for name_, tensor in state.tensors().items():
        torch.testing.assert_close(tensor, end.tensors()[name_], atol=close, rtol=close)
        assert torch.equal(tensor, still.tensors()[name_])
