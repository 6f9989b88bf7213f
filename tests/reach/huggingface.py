"""Hugging Face transformers: decoders, encoders, encoder-decoders and forecasters, random weights.

Sequences are longer than every chunk and window of the tiny configurations.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version as installed
from typing import Any

import torch
from reach.cases import HONEST, LEAK, READING, Adapter, Built, Case
from torch import Tensor

from kt_forecast.audit import causal, clock
from kt_forecast.audit.running import EVALUATION, TRAINING

LIBRARY = "transformers"
ROWS, STEPS, WORDS = 2, 19, 41

PROVED = "survey of leaks, abstract run on real modules"


def version() -> str:
    """Return the version; raise `ImportError` if the library is not here."""
    import transformers  # noqa: F401 - that it can be imported is the question

    return installed("transformers")


SIZES = {
    "vocab_size": WORDS,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
STATE = {"state_size": 4, "num_heads": 4, "head_dim": 8, "n_groups": 1, "chunk_size": 8}


def words(rows: int = ROWS, steps: int = STEPS) -> Tensor:
    """Return random words, none of them special."""
    return torch.randint(3, WORDS, (rows, steps), generator=torch.Generator().manual_seed(0))


def configured(name: str, settings: dict[str, Any], **more: Any) -> Any:
    """Return a configuration of the library."""
    import transformers

    asked = {key: x for key, x in (settings | more).items() if x is not None}
    return getattr(transformers, name)(**asked)


def made(name: str, config: Any, attention: str | None = None) -> Any:
    """Return a model of the library with random weights."""
    import transformers

    torch.manual_seed(0)
    kind = getattr(transformers, name)
    asked = {} if attention is None else {"attn_implementation": attention}
    return kind._from_config(config, **asked)


def logits(model: Any, input_ids: Tensor, **rest: Tensor) -> Tensor:
    """Return the scores of the next word."""
    return model(input_ids=input_ids, use_cache=False, **rest).logits


def language(
    model: str,
    config: str,
    *,
    attention: str | None = None,
    mask: bool = False,
    steps: int = STEPS,
    **settings: Any,
) -> Built:
    """Return a language model: the scores at a word may depend on it and on earlier ones."""
    made_of = made(model, configured(config, SIZES, **settings), attention)
    batch = {"input_ids": words(steps=steps)}
    if not mask:
        return Built(Adapter(made_of, logits), batch, causal(axis=1))
    batch["attention_mask"] = torch.ones(ROWS, STEPS, dtype=torch.long)
    moments = torch.arange(STEPS)[None]
    contract = replace(clock({"input_ids": moments}, moments), name="causal, mask known")
    return Built(Adapter(made_of, logits), batch, contract)


def states(model: str, config: str, **settings: Any) -> Built:
    """Return a model without scores: its last states, under the causal contract."""
    made_of = made(model, configured(config, SIZES, **settings))

    def run(model: Any, input_ids: Tensor) -> Tensor:
        return model(input_ids=input_ids).last_hidden_state

    return Built(Adapter(made_of, run), {"input_ids": words()}, causal(axis=1))


def pair(model: str, config: str, **settings: Any) -> Built:
    """Return an encoder-decoder: all of the source is known, the target word by word."""
    made_of = made(model, configured(config, SIZES, **settings))

    def run(model: Any, source: Tensor, target: Tensor) -> Tensor:
        return model(input_ids=source, decoder_input_ids=target, use_cache=False).logits

    moments = torch.arange(STEPS)[None]
    batch = {"source": words(steps=STEPS - 6), "target": words()}
    contract = replace(
        clock({"source": torch.tensor([[-1]]), "target": moments}, moments), name="causal target"
    )
    return Built(Adapter(made_of, run), batch, contract)


CONTEXT, HORIZON, LAGS = 16, 6, [1, 2, 3]


def forecaster(model: str, config: str, **settings: Any) -> Built:
    """Return a forecaster in its training form: each step ahead is given the true ones before."""
    sizes = {
        "prediction_length": HORIZON,
        "context_length": CONTEXT,
        "lags_sequence": LAGS,
        "num_time_features": 1,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 8,
        "decoder_ffn_dim": 8,
        "d_model": 8,
        "scaling": "mean",
    }
    made_of = made(model, configured(config, sizes, **settings))
    past = CONTEXT + max(LAGS)
    generator = torch.Generator().manual_seed(0)
    batch = {
        "past_values": torch.randn(ROWS, past, generator=generator),
        "future_values": torch.randn(ROWS, HORIZON, generator=generator),
    }
    moments = torch.arange(past + HORIZON)[None]
    contract = clock(
        {"past_values": moments[:, :past], "future_values": moments[:, past:]},
        moments[:, past:] - 1,
    )
    return Built(
        Adapter(made_of, advanced), batch, replace(contract, name="forecast, fed its targets")
    )


def advanced(model: Any, past_values: Tensor, future_values: Tensor) -> Tensor:
    """Return the parameters of each step ahead."""
    out = model.model(
        past_values=past_values,
        past_time_features=torch.zeros(*past_values.shape, 1),
        past_observed_mask=torch.ones_like(past_values),
        future_values=future_values,
        future_time_features=torch.zeros(*future_values.shape, 1),
    )
    return torch.stack(model.output_params(out[0][:, -HORIZON:]), -1)


def patched(model: str, config: str, **settings: Any) -> Built:
    """Return a forecaster of the context alone, one series a row."""
    made_of = made(model, configured(config, {}, **settings))

    def run(model: Any, past_values: Tensor) -> Tensor:
        return model(past_values=past_values).prediction_outputs

    batch = {"past_values": torch.randn(ROWS, CONTEXT, 2, generator=torch.manual_seed(0))}
    contract = clock({"past_values": torch.arange(CONTEXT)[None]}, torch.tensor(CONTEXT - 1))
    return Built(Adapter(made_of, run), batch, replace(contract, name="forecast"))


BOTH, APART = (EVALUATION, TRAINING), (EVALUATION,)


def lm(
    label: str,
    model: str,
    config: str,
    expected: str = HONEST,
    source: str = READING,
    build: Callable[..., Built] = language,
    modes: tuple[str, ...] = BOTH,
    **settings: Any,
) -> Case:
    """Return the case of a language model."""
    return Case(label, partial(build, model, config, **settings), expected, source, modes)


GPT = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "n_inner": 24}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
ENCODER = "an encoder reads both ways"

CASES = (
    lm("GPT-2", "GPT2LMHeadModel", "GPT2Config", source=PROVED, **GPT),
    lm("GPT-2, eager", "GPT2LMHeadModel", "GPT2Config", source=PROVED, attention="eager", **GPT),
    lm("GPT-2, with a mask", "GPT2LMHeadModel", "GPT2Config", mask=True, **GPT),
    lm(
        "GPT-Neo",
        "GPTNeoForCausalLM",
        "GPTNeoConfig",
        attention="eager",
        num_layers=2,
        attention_types=[[["global", "local"], 1]],
        window_size=4,
        num_heads=2,
    ),
    lm("GPT-NeoX", "GPTNeoXForCausalLM", "GPTNeoXConfig"),
    lm("GPT-J", "GPTJForCausalLM", "GPTJConfig", rotary_dim=4, **GPT),
    lm("OPT", "OPTForCausalLM", "OPTConfig", ffn_dim=24, word_embed_proj_dim=16),
    lm("BLOOM", "BloomForCausalLM", "BloomConfig", n_layer=2, n_head=2),
    lm("Falcon", "FalconForCausalLM", "FalconConfig"),
    lm("Llama", "LlamaForCausalLM", "LlamaConfig", source=PROVED),
    lm("Llama, eager", "LlamaForCausalLM", "LlamaConfig", source=PROVED, attention="eager"),
    lm(
        "Mistral, sliding window",
        "MistralForCausalLM",
        "MistralConfig",
        source=PROVED,
        sliding_window=5,
    ),
    lm("Mixtral", "MixtralForCausalLM", "MixtralConfig", **EXPERTS),
    lm("Qwen2", "Qwen2ForCausalLM", "Qwen2Config"),
    lm("Qwen3", "Qwen3ForCausalLM", "Qwen3Config", head_dim=8),
    lm(
        "Qwen3-MoE",
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=8,
    ),
    lm(
        "Qwen3-Next",
        "Qwen3NextForCausalLM",
        "Qwen3NextConfig",
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=8,
        shared_expert_intermediate_size=8,
        linear_num_value_heads=2,
        linear_num_key_heads=2,
        linear_key_head_dim=4,
        linear_value_head_dim=4,
    ),
    lm("Gemma", "GemmaForCausalLM", "GemmaConfig", head_dim=8),
    lm(
        "Gemma 2, sliding window",
        "Gemma2ForCausalLM",
        "Gemma2Config",
        source=PROVED,
        head_dim=8,
        sliding_window=5,
        attention="eager",
    ),
    lm("Phi", "PhiForCausalLM", "PhiConfig"),
    lm("OLMo 2", "Olmo2ForCausalLM", "Olmo2Config"),
    lm(
        "DeepSeek-V3",
        "DeepseekV3ForCausalLM",
        "DeepseekV3Config",
        num_key_value_heads=2,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        moe_intermediate_size=8,
        kv_lora_rank=8,
        q_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=4,
        v_head_dim=8,
        first_k_dense_replace=1,
    ),
    lm(
        "Doge",
        "DogeForCausalLM",
        "DogeConfig",
        source="survey of leaks; transformers 48748 mended",
        keep_window_size=5,
    ),
    lm("Mamba", "MambaForCausalLM", "MambaConfig", source=PROVED, state_size=4),
    lm("Mamba 2", "Mamba2ForCausalLM", "Mamba2Config", source=PROVED, expand=2, **STATE),
    lm("Falcon-Mamba", "FalconMambaForCausalLM", "FalconMambaConfig", source=PROVED, state_size=4),
    lm(
        "Bamba",
        "BambaForCausalLM",
        "BambaConfig",
        source=PROVED,
        mamba_n_heads=4,
        mamba_d_head=8,
        mamba_d_state=4,
        mamba_chunk_size=8,
        attn_layer_indices=[1],
    ),
    lm(
        "Zamba 2",
        "Zamba2ForCausalLM",
        "Zamba2Config",
        source="survey of leaks; transformers 47475 mended",
        mamba_d_state=4,
        mamba_ngroups=1,
        n_mamba_heads=4,
        mamba_headdim=8,
        chunk_size=8,
        layers_block_type=["mamba", "hybrid"],
        num_mem_blocks=1,
    ),
    lm(
        "Nemotron-H",
        "NemotronHForCausalLM",
        "NemotronHConfig",
        source="survey of leaks; transformers 47246 mended",
        layers_block_type=["mamba", "attention"],
        ssm_state_size=4,
        mamba_num_heads=4,
        mamba_head_dim=8,
        n_groups=1,
        chunk_size=8,
        head_dim=8,
    ),
    lm(
        "Jamba",
        "JambaForCausalLM",
        "JambaConfig",
        num_experts=2,
        num_experts_per_tok=1,
        attn_layer_period=2,
        attn_layer_offset=1,
        mamba_d_state=4,
        mamba_dt_rank=2,
        use_mamba_kernels=False,
    ),
    lm(
        "RWKV",
        "RwkvForCausalLM",
        "RwkvConfig",
        source=PROVED,
        attention="eager",
        attention_hidden_size=16,
        context_length=64,
    ),
    lm(
        "RecurrentGemma",
        "RecurrentGemmaForCausalLM",
        "RecurrentGemmaConfig",
        attention="eager",
        lru_width=16,
        attention_window_size=5,
        block_types=["recurrent", "attention"],
    ),
    lm(
        "xLSTM",
        "xLSTMForCausalLM",
        "xLSTMConfig",
        attention="eager",
        embedding_dim=16,
        num_blocks=1,
        num_heads=2,
        chunk_size=8,
    ),
    lm(
        "XLNet, one way",
        "XLNetLMHeadModel",
        "XLNetConfig",
        LEAK,
        "its language model reads both ways unless given a permutation",
        d_model=16,
        n_layer=1,
        n_head=2,
        d_inner=24,
        max_position_embeddings=None,
    ),
    lm(
        "Reformer, hashed",
        "ReformerModelWithLMHead",
        "ReformerConfig",
        LEAK,
        "found by the audit, then read: a chunk depends on the ranks of later words",
        attn_layers=["lsh"],
        is_decoder=True,
        attention_head_size=8,
        axial_pos_embds=False,
        lsh_attn_chunk_length=4,
        num_buckets=2,
        num_hashes=1,
        feed_forward_size=24,
        hash_seed=0,
        steps=16,
    ),
    lm(
        "Reformer, local",
        "ReformerModelWithLMHead",
        "ReformerConfig",
        attn_layers=["local"],
        is_decoder=True,
        attention_head_size=8,
        axial_pos_embds=False,
        local_attn_chunk_length=4,
        feed_forward_size=24,
        steps=16,
    ),
    lm(
        "XGLM",
        "XGLMForCausalLM",
        "XGLMConfig",
        d_model=16,
        ffn_dim=24,
        num_layers=1,
        attention_heads=2,
    ),
    lm(
        "BigBird decoder",
        "BigBirdForCausalLM",
        "BigBirdConfig",
        attention="eager",
        source="survey of leaks; leaking in 5.10, mended since",
        is_decoder=True,
        attention_type="original_full",
    ),
    lm(
        "RoFormer decoder",
        "RoFormerForCausalLM",
        "RoFormerConfig",
        attention="eager",
        source="survey of leaks; transformers 48745, mended since",
        is_decoder=True,
        embedding_size=16,
    ),
    lm(
        "RemBERT decoder",
        "RemBertForCausalLM",
        "RemBertConfig",
        attention="eager",
        source="survey of leaks; leaking in 5.10, mended since",
        is_decoder=True,
        input_embedding_size=16,
        output_embedding_size=16,
    ),
    lm(
        "MegatronBERT decoder",
        "MegatronBertForCausalLM",
        "MegatronBertConfig",
        attention="eager",
        source="survey of leaks; leaking in 5.10, mended since",
        is_decoder=True,
    ),
    lm("BERT decoder", "BertLMHeadModel", "BertConfig", source=PROVED, is_decoder=True),
    lm("BERT", "BertModel", "BertConfig", LEAK, ENCODER, build=states),
    lm("RoBERTa", "RobertaModel", "RobertaConfig", LEAK, ENCODER, build=states),
    lm(
        "DistilBERT",
        "DistilBertModel",
        "DistilBertConfig",
        LEAK,
        ENCODER,
        build=states,
        dim=16,
        n_heads=2,
        n_layers=1,
        hidden_dim=24,
    ),
    lm("ELECTRA", "ElectraModel", "ElectraConfig", LEAK, ENCODER, build=states, embedding_size=16),
    lm("FNet", "FNetModel", "FNetConfig", LEAK, "a Fourier transform over time", build=states),
    lm(
        "T5",
        "T5ForConditionalGeneration",
        "T5Config",
        build=pair,
        d_model=16,
        d_kv=8,
        d_ff=24,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
    ),
    lm(
        "BART",
        "BartForConditionalGeneration",
        "BartConfig",
        build=pair,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
    ),
    lm(
        "Marian",
        "MarianMTModel",
        "MarianConfig",
        build=pair,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        decoder_start_token_id=0,
    ),
    lm(
        "Pegasus",
        "PegasusForConditionalGeneration",
        "PegasusConfig",
        build=pair,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
    ),
    lm(
        "TimeSeriesTransformer",
        "TimeSeriesTransformerForPrediction",
        "TimeSeriesTransformerConfig",
        build=forecaster,
    ),
    lm(
        "Informer, full attention",
        "InformerForPrediction",
        "InformerConfig",
        build=forecaster,
        attention_type="full",
        distil=False,
    ),
    lm(
        "Informer",
        "InformerForPrediction",
        "InformerConfig",
        LEAK,
        "reading of its code: which queries of the decoder attend is ranked over all of its steps",
        build=forecaster,
        distil=False,
        sampling_factor=1,
    ),
    lm(
        "Autoformer",
        "AutoformerForPrediction",
        "AutoformerConfig",
        LEAK,
        "found by the audit, then read: heads get the delays of other rows",
        build=forecaster,
        label_length=4,
        modes=APART,
    ),
    lm(
        "PatchTST",
        "PatchTSTForPrediction",
        "PatchTSTConfig",
        build=patched,
        modes=APART,
        source="batch normalisation over rows in training",
        num_input_channels=2,
        context_length=CONTEXT,
        patch_length=4,
        patch_stride=2,
        prediction_length=HORIZON,
        d_model=8,
        num_attention_heads=2,
        num_hidden_layers=1,
        ffn_dim=8,
    ),
    lm(
        "PatchTSMixer",
        "PatchTSMixerForPrediction",
        "PatchTSMixerConfig",
        build=patched,
        num_input_channels=2,
        context_length=CONTEXT,
        patch_length=4,
        patch_stride=2,
        prediction_length=HORIZON,
        d_model=8,
        num_layers=1,
    ),
)
