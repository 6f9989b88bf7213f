"""A stack's segments as an exported program takes them: no number chooses the way."""

import pytest
import torch

from kt_forecast import zoo


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("retnet", {"magnitudes": True}),
        ("mamba", {"form": "mamba1"}),
        ("mamba", {"form": "mamba2"}),
        ("infini_transformer", {"segment": 4, "rule": "linear"}),
        ("infini_transformer", {"segment": 4, "rule": "delta"}),
    ],
)
def test_masks_do_what_looking_at_numbers_does(name, settings, monkeypatch):
    torch.manual_seed(0)
    mixer = zoo.load(name).build(zoo.load(name).config(width=16, **settings)).double().eval()
    x, valid = torch.randn(3, 23, 16).double(), torch.rand(3, 23) < 0.6
    valid[0, 8:10] = False

    def streamed():
        state, pieces = mixer.init_state(3), []
        for piece, real in zip(
            x.split([7, 1, 1, 1, 13], 1), valid.split([7, 1, 1, 1, 13], 1), strict=True
        ):
            before = state
            y, state = mixer(piece, state, valid=real)
            pieces.append(y[real])
            for a, b in zip(before.tensors().values(), state.tensors().values(), strict=True):
                assert torch.equal(a[~real.any(1)], b[~real.any(1)])
        return *pieces, *state.tensors().values()

    wanted = streamed()
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    for a, b in zip(streamed(), wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0.0)
