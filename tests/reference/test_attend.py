"""Every way to attend exactly gives one result: outputs and gradients (specs 1)."""

import subprocess
import sys

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

from kt_forecast.nn import attend as module
from kt_forecast.nn.attend import attend, attend_cached, attend_weighed

ROWS, HEADS, SIZE = 2, 3, 4


def noise(*shape, seed=1):
    drawn = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=drawn, dtype=torch.float64).requires_grad_()


def heads(steps, back=0):
    shape = (ROWS, HEADS, back + steps, SIZE)
    return noise(ROWS, HEADS, steps, SIZE, seed=2), noise(*shape, seed=3), noise(*shape, seed=4)


def band(steps, back, window, dilation=1):
    ago = torch.arange(steps)[:, None] + back - torch.arange(back + steps)
    return (ago >= 0) & (ago < window * dilation) & (ago % dilation == 0)


def dense(query, key, value, mask):
    logits = query @ key.mT * SIZE**-0.5
    return logits.masked_fill(~mask, -torch.inf).softmax(-1) @ value


def agree(got, wanted, *leaves):
    torch.testing.assert_close(got, wanted, atol=1e-12, rtol=0.0)
    weight = noise(*got.shape, seed=9).detach()
    slopes = (
        torch.autograd.grad((y * weight).sum(), leaves, retain_graph=True) for y in (got, wanted)
    )
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0.0)
        assert one.abs().max() > 0


@pytest.mark.parametrize("kernel", ["auto", "exact", "blocks"])
@pytest.mark.parametrize("window", [None, 2, 5, 40])
def test_kernels_agree(window, kernel):
    q, k, v = heads(23)
    wanted = dense(q, k, v, band(23, 0, window or 23))
    agree(attend(q, k, v, window, kernel=kernel), wanted, q, k, v)


@pytest.mark.parametrize("kernel", ["auto", "exact", "blocks"])
@pytest.mark.parametrize("window", [None, 2, 5, 40])
def test_documents_are_read_alone(window, kernel, monkeypatch):
    monkeypatch.setattr(module, "QUERY_CHUNK", 6)
    q, k, v = heads(23)
    document = torch.tensor([[0] * 3 + [1] * 15 + [4] * 5, [2] * 23])
    mask = band(23, 0, window or 23) & (document[:, None, :, None] == document[:, None, None])
    wanted = dense(q, k, v, mask)
    agree(attend(q, k, v, window, document=document, kernel=kernel), wanted, q, k, v)


@pytest.mark.parametrize("steps", [1, 5, 23])
@pytest.mark.parametrize(("window", "dilation"), [(3, 4), (4, 1), (2, 7), (None, 5)])
def test_phases_equal_a_dilated_band(steps, window, dilation):
    if window is not None:
        back = (window - 1) * dilation
        q, k, v = heads(steps, back)
        before = torch.tensor([dilation + 1, 50])
        there = before[:, None] + torch.arange(back + steps) - back >= 0
        mask = band(steps, back, window, dilation) & there[:, None, None]
        got = attend(q, k, v, window, dilation=dilation, before=before)
        agree(got, dense(q, k, v, mask), q, k, v)
    q, k, v = heads(23)
    wanted = dense(q, k, v, band(23, 0, window or 23, dilation))
    agree(attend(q, k, v, window, dilation=dilation), wanted, q, k, v)


def test_a_cache_is_read_up_to_the_own_place(monkeypatch):
    monkeypatch.setattr(module, "QUERY_CHUNK", 4)
    q, k, v = heads(9, 8)
    place = torch.arange(9) + torch.tensor([[1], [8]])
    mask = (torch.arange(17) <= place[..., None])[:, None]
    agree(attend_cached(q, k, v, place), dense(q, k, v, mask), q, k, v)


@pytest.mark.parametrize("steps", [1, 127, 128, 300, 513])
@pytest.mark.parametrize("window", [1, 100, 129, 400])
def test_tiles_are_those_that_hold_a_pair(steps, window):
    def within(b, h, q, k):
        return (k <= q) & (q - k < window)

    made = module._band(steps, window, torch.device("cpu"))
    wanted = create_block_mask(within, None, None, steps, steps, device="cpu")
    same_tiles(made, wanted)


@pytest.mark.parametrize("rows", [0, 5])
def test_a_mask_kept_by_validation_serves_training(rows):
    module._band.cache_clear()
    with torch.inference_mode():
        made = module._band(300, 50, torch.device("cpu"), rows)
    assert module._band(300, 50, torch.device("cpu"), rows) is made
    kept = [part for part in vars(made).values() if isinstance(part, torch.Tensor)]
    assert kept
    assert not any(part.is_inference() for part in kept)


@pytest.mark.parametrize("window", [None, 150])
def test_tiles_of_documents_are_those_that_hold_a_pair(window):
    document = torch.tensor([[0] * 100 + [1] * 290 + [4] * 123, [2] * 513])

    def own(b, h, q, k):
        near = (k <= q) & (q - k < (window or 513))
        return near & (document[b, q] == document[b, k])

    made = module._of_documents(document, window)
    same_tiles(made, create_block_mask(own, 2, None, 513, 513, device="cpu"))


def same_tiles(made, wanted):
    assert torch.equal(made.to_dense(), wanted.to_dense())
    for kind in ("kv", "q"):
        for part in (f"{kind}_num_blocks", f"full_{kind}_num_blocks"):
            own = getattr(made, part)
            assert torch.equal(own, getattr(wanted, part).expand_as(own)), part


COMPILED = """
import torch
from kt_forecast.nn.attend import attend, attend_weighed

torch.manual_seed(0)
for steps, window in ((300, 50), (513, 130), (300, 200)):
    q, k, v = torch.randn(3, 2, 2, steps, 16)
    document = (torch.arange(steps) // 90).expand(2, -1)
    for given in ({}, {"document": document}):
        y = attend(q, k, v, window, kernel="flex", **given)
        wanted = attend(q, k, v, window, kernel="blocks", **given)
        torch.testing.assert_close(y, wanted, atol=2e-6, rtol=0.0)
    bias = torch.randn(2, window)
    y = attend_weighed(q, k, v, bias, kernel="flex")
    torch.testing.assert_close(y, attend_weighed(q, k, v, bias, kernel="blocks"), atol=2e-6, rtol=0)
"""


@pytest.mark.slow
def test_the_compiled_kernel_gives_the_same():
    """In a process of its own: shape checks cannot be compiled."""
    subprocess.run([sys.executable, "-c", COMPILED], check=True)


@pytest.mark.parametrize("documents", [False, True])
def test_memory_grows_with_the_length_only(documents):
    def kept(steps):
        sizes = {}

        def keep(x):
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        document = torch.zeros(ROWS, steps, dtype=torch.int64) if documents else None
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            attend(*heads(steps), None, document=document)
        return sum(sizes.values())

    assert kept(4096) < 2.2 * kept(2048)


def test_what_is_added_by_distance_is_added():
    q, k, v = heads(23)
    bias = noise(HEADS, 5, seed=7)
    plain = attend_weighed(q, k, v, torch.zeros_like(bias))
    agree(plain, dense(q, k, v, band(23, 0, 5)), q, k, v)
    hidden = bias.detach().clone()
    hidden[:, 2:] = -torch.inf
    hidden[:, :2] = 0.0
    agree(attend_weighed(q, k, v, hidden), dense(q, k, v, band(23, 0, 2)), q, k, v)


class OnGPU(torch.Tensor):
    """Says that it lies on a GPU."""

    is_cuda = True


def queries(steps, size=32, dtype=torch.float32):
    return torch.zeros(1, 1, steps, size, dtype=dtype).as_subclass(OnGPU)


def test_the_kernel_on_a_gpu_follows_from_length_and_type():
    most, tiles = module.EXACT_UP_TO, module.TILED_FROM
    assert [module.fastest(queries(steps), None) for steps in (most, most + 1)] == ["exact", "flex"]
    assert module.fastest(queries(most + 1, size=8), None) == "blocks"
    packed = [queries(steps, dtype=torch.bfloat16) for steps in (most, most + 1)]
    document = torch.zeros(1, most + 1, dtype=torch.long)
    found = [module.fastest(q, document[:, : q.shape[2]]) for q in packed]
    assert found == ["exact", "varying"]
    assert [module.tiled(queries(steps)) for steps in (tiles - 1, tiles)] == [False, True]
    assert not module.tiled(queries(tiles, dtype=torch.float64))


def test_many_pairs_of_learned_distances_are_written_out_on_a_gpu(monkeypatch):
    """FlexAttention would add the slopes of all of them to few numbers."""
    assert module.learns_in_tiles(queries(4096), 128)
    assert not module.learns_in_tiles(queries(65536), 128)
    assert not module.learns_in_tiles(queries(module.TILED_FROM - 1), 128)
    monkeypatch.setattr(module, "PAIRS_WRITTEN", 2**20)
    assert module.learns_in_tiles(queries(65536), 128), "else too much would be written"
