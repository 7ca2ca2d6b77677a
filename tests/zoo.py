"""Tiny configs of the architectures beyond the plain decoders, for every suite to share."""

from typing import Any

D_VOCAB = 61
_BASE: dict[str, Any] = {
    "vocab_size": D_VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = {**_BASE, "num_key_value_heads": 2}
_MOE = {**_GROUPED, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_NARROW: dict[str, Any] = {  # GPT-2's names of sizes
    "vocab_size": D_VOCAB,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_SEQ2SEQ: dict[str, Any] = {
    "vocab_size": D_VOCAB,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
_T5: dict[str, Any] = {
    "vocab_size": D_VOCAB,
    "d_model": 32,
    "d_kv": 12,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 0,
}
_DEEPSEEK = {
    **_MOE,
    "num_key_value_heads": 4,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 8,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 12,
    "routed_scaling_factor": 1.5,
}

EXPERTS: dict[str, dict[str, Any]] = {
    "mixtral": {**_GROUPED, "num_local_experts": 5, "num_experts_per_tok": 2},
    "qwen2_moe": {
        **_MOE,
        "num_experts": 6,
        "shared_expert_intermediate_size": 20,
        "mlp_only_layers": [1],
    },
    "qwen3_moe": {**_MOE, "num_experts": 6, "head_dim": 12, "norm_topk_prob": True},
    "olmoe": {**_MOE, "num_experts": 6},
    "deepseek_v3": _DEEPSEEK,
    "gpt_oss": {
        **_GROUPED,
        "num_local_experts": 5,
        "num_experts_per_tok": 2,
        "head_dim": 12,
        "sliding_window": 4,
    },
}
DECODERS: dict[str, dict[str, Any]] = {
    "gemma": {**_GROUPED, "head_dim": 12},
    "smollm3": {**_GROUPED},
    "starcoder2": {**_GROUPED, "sliding_window": 5},
    "phi": {**_GROUPED},
    "olmo2": {**_GROUPED},
    "glm4": {**_GROUPED, "head_dim": 12},
}
WITHOUT_INTERFACE: dict[str, dict[str, Any]] = {
    "codegen": {**_NARROW, "rotary_dim": 4},
    "gptj": {**_NARROW, "rotary_dim": 4},
    "bloom": {"vocab_size": D_VOCAB, "hidden_size": 32, "n_layer": 3, "n_head": 4},
    "falcon": {**_BASE, "num_kv_heads": 4, "new_decoder_architecture": False, "bias": True},
    "falcon_new": {**_BASE, "num_kv_heads": 2, "new_decoder_architecture": True},
    "falcon_serial": {
        **_BASE,
        "new_decoder_architecture": False,
        "parallel_attn": False,
        "alibi": True,
    },
    "gpt_neo": {
        "vocab_size": D_VOCAB,
        "hidden_size": 32,
        "num_layers": 3,
        "num_heads": 4,
        "intermediate_size": 48,
        "attention_types": [[["global", "local", "global"], 1]],
        "window_size": 4,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {**_BASE},
    "roberta": {**_BASE, "max_position_embeddings": 66, "pad_token_id": 1, "bos_token_id": 0},
    "modernbert": {
        **_BASE,
        "local_attention": 4,
        "global_attn_every_n_layers": 2,
        "cls_token_id": 1,
        "sep_token_id": 2,
    },
}
SEQ2SEQ: dict[str, dict[str, Any]] = {
    "t5": {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "t5_plain": {**_T5, "feed_forward_proj": "relu"},
    "mt5": {**_T5, "feed_forward_proj": "gated-gelu"},
    "bart": {**_SEQ2SEQ},
    "mbart": {**_SEQ2SEQ},
    "marian": {**_SEQ2SEQ},
    "m2m_100": {**_SEQ2SEQ},
}
RECURRENT: dict[str, dict[str, Any]] = {
    "mamba": {
        "vocab_size": D_VOCAB,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "state_size": 4,
        "conv_kernel": 3,
        "expand": 2,
        "time_step_rank": 3,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
}
ZOO: dict[str, dict[str, Any]] = {
    **EXPERTS,
    **DECODERS,
    **WITHOUT_INTERFACE,
    **ENCODERS,
    **SEQ2SEQ,
    **RECURRENT,
}
"""Every further architecture: a variant is its model type and a suffix."""


def model_type(kind: str) -> str:
    """``falcon_new`` -> ``falcon``."""
    for suffix in ("_new", "_serial", "_plain"):
        kind = kind.removesuffix(suffix)
    return kind
