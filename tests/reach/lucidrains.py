"""x-transformers, reformer-pytorch, local-attention, and mambapy: decoders of a few files each."""

from functools import partial
from importlib.metadata import version as installed
from typing import Any

import torch
from reach.cases import HONEST, LEAK, READING, Adapter, Built, Case
from torch import Tensor

from kt_forecast.audit import causal

LIBRARY = "small decoders"
PACKAGES = ("x-transformers", "reformer-pytorch", "local-attention", "mambapy")
ROWS, STEPS, WORDS = 2, 17, 41
LONG = 32


def version() -> str:
    """Return all versions; raise `ImportError` if one of the libraries is not here."""
    import local_attention
    import mambapy
    import reformer_pytorch
    import x_transformers

    assert local_attention
    assert mambapy
    assert reformer_pytorch
    assert x_transformers
    return ", ".join(f"{name} {installed(name)}" for name in PACKAGES)


def words(steps: int = STEPS) -> Tensor:
    """Return random words."""
    return torch.randint(WORDS, (ROWS, steps), generator=torch.Generator().manual_seed(0))


def on_words(model: Any, steps: int = STEPS) -> Built:
    """Return a language model under the causal contract."""
    adapter = Adapter(model, lambda model, words: model(words))
    return Built(adapter, {"words": words(steps)}, causal(axis=1))


def x_decoder(kind: str = "Decoder", **settings: Any) -> Built:
    """Return x-transformers' wrapper around a stack."""
    import x_transformers

    torch.manual_seed(0)
    stack = getattr(x_transformers, kind)(dim=16, depth=2, heads=2, attn_dim_head=8, **settings)
    return on_words(
        x_transformers.TransformerWrapper(num_tokens=WORDS, max_seq_len=64, attn_layers=stack)
    )


def reformer() -> Built:
    """Return Reformer's language model: hashed attention in buckets."""
    from reformer_pytorch import ReformerLM

    torch.manual_seed(0)
    model = ReformerLM(
        num_tokens=WORDS,
        dim=16,
        depth=1,
        max_seq_len=LONG,
        heads=2,
        dim_head=8,
        bucket_size=4,
        n_hashes=2,
        causal=True,
    )
    return on_words(model, LONG)


def local() -> Built:
    """Return a transformer whose attention sees windows."""
    from local_attention import LocalTransformer

    torch.manual_seed(0)
    model = LocalTransformer(
        num_tokens=WORDS,
        dim=16,
        depth=2,
        max_seq_len=64,
        heads=2,
        dim_head=8,
        local_attn_window_size=4,
    )
    return on_words(model)


def mamba(*, parallel: bool) -> Built:
    """Return mambapy's stack, scanned in parallel or step by step."""
    from mambapy.mamba import Mamba, MambaConfig

    torch.manual_seed(0)
    model = Mamba(MambaConfig(d_model=8, n_layers=2, d_state=4, pscan=parallel))
    x = torch.randn(ROWS, STEPS, 8, generator=torch.Generator().manual_seed(0))
    return Built(model, x, causal(axis=1))


def x_case(name: str, expected: str = HONEST, source: str = READING, **settings: Any) -> Case:
    """Return the case of a stack of x-transformers."""
    return Case(f"x-transformers, {name}", partial(x_decoder, **settings), expected, source)


CASES = (
    x_case("plain"),
    x_case("rotary", rotary_pos_emb=True),
    x_case("ALiBi", alibi_pos_bias=True),
    x_case("relative bias of T5", rel_pos_bias=True),
    x_case("dynamic bias", dynamic_pos_bias=True),
    x_case("flash", attn_flash=True),
    x_case("one head of keys", attn_one_kv_head=True, ff_glu=True, use_rmsnorm=True),
    x_case("top k", attn_sparse_topk=4),
    x_case("talking heads", attn_pre_talking_heads=True),
    x_case("memory", attn_num_mem_kv=2),
    x_case("shifted tokens", shift_tokens=1),
    x_case("sandwich norm, gated residual", sandwich_norm=True, gate_residual=True),
    x_case("encoder", LEAK, "an encoder reads both ways", kind="Encoder"),
    Case("local-attention", local),
    Case(
        "reformer-pytorch",
        reformer,
        LEAK,
        "found by the audit, then read: a chunk depends on the ranks of later words",
    ),
    Case("mambapy, step by step", partial(mamba, parallel=False)),
    Case("mambapy, parallel scan", partial(mamba, parallel=True)),
)
