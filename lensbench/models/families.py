"""Where each architecture keeps its parts: module paths as data, one entry per family.

A new family is a new entry here, nothing else; the certificate and the contract suite then say
whether it is right. Paths inside a block are relative to the block.
"""

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from lensbench.errors import ConfigError, UnknownNameError
from lensbench.models.base import Shape


@dataclass(frozen=True, kw_only=True)
class Family:
    """Module paths of one architecture."""

    blocks: str
    final_norm: str
    attn: str = "self_attn"
    o_proj: str = "self_attn.o_proj"
    ln1: str = "input_layernorm"
    ln2: str = "post_attention_layernorm"
    attn_out: str = "self_attn"
    """Module whose output is added to the residual stream (a post-norm where there is one)."""
    gate: str | None = "mlp.gate_proj"
    up: str = "mlp.up_proj"
    fused: bool = False
    """``up`` computes gate and up together, gate first."""
    down: str = "mlp.down_proj"
    mlp_out: str = "mlp"
    flat_mlp: bool = False
    """From ``resid_mid`` on, a block works on ``[batch * pos, d]``."""
    parallel: bool = False
    """Attention and MLP both read ``resid_pre``; there is no ``resid_mid``."""


_LLAMA = Family(blocks="model.layers", final_norm="model.norm")
_GEMMA = Family(
    blocks="model.layers",
    final_norm="model.norm",
    attn_out="post_attention_layernorm",
    ln2="pre_feedforward_layernorm",
    mlp_out="post_feedforward_layernorm",
)

FAMILIES: dict[str, Family] = {
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "gpt2": Family(
        blocks="transformer.h",
        final_norm="transformer.ln_f",
        attn="attn",
        o_proj="attn.c_proj",
        ln1="ln_1",
        ln2="ln_2",
        attn_out="attn",
        gate=None,
        up="mlp.c_fc",
        down="mlp.c_proj",
    ),
    "gpt_neox": Family(
        blocks="gpt_neox.layers",
        final_norm="gpt_neox.final_layer_norm",
        attn="attention",
        o_proj="attention.dense",
        attn_out="attention",
        gate=None,
        up="mlp.dense_h_to_4h",
        down="mlp.dense_4h_to_h",
        parallel=True,
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "opt": Family(
        blocks="model.decoder.layers",
        final_norm="model.decoder.final_layer_norm",
        o_proj="self_attn.out_proj",
        ln1="self_attn_layer_norm",
        ln2="final_layer_norm",
        gate=None,
        up="fc1",
        down="fc2",
        mlp_out="fc2",
        flat_mlp=True,
    ),
    "phi3": Family(
        blocks="model.layers", final_norm="model.norm", gate=None, up="mlp.gate_up_proj", fused=True
    ),
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}
"""``config.model_type`` of transformers -> paths."""


def family_of(config: Any) -> Family:
    """The family of a transformers config, adjusted to its flags.

    Raises:
        UnknownNameError: a ``model_type`` without an entry.
        ConfigError: a variant whose residual stream has no pre-norm blocks (OPT-350m).
    """
    kind = str(getattr(config, "model_type", ""))
    if kind not in FAMILIES:
        raise UnknownNameError(
            "model family",
            kind,
            known=sorted(FAMILIES),
            hint="Other families follow; the list is in lensbench/models/families.py.",
        )
    family = FAMILIES[kind]
    if kind == "gpt_neox" and not config.use_parallel_residual:
        family = replace(family, parallel=False)
    if kind == "opt" and not config.do_layer_norm_before:
        raise ConfigError(
            "OPT with do_layer_norm_before=False (OPT-350m) normalises the residual stream itself; "
            "its sites would mean something else, so it is refused. Use another OPT size."
        )
    return family


def shape_of(config: Any) -> Shape:
    """Sizes of a model, whatever its config calls them."""
    d_model = int(config.hidden_size)
    n_heads = int(config.num_attention_heads)
    d_mlp = next(
        (
            int(v)
            for name in ("intermediate_size", "ffn_dim", "n_inner")
            if (v := getattr(config, name, None))
        ),
        4 * d_model,
    )
    return Shape(
        n_layers=int(config.num_hidden_layers),
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=int(getattr(config, "num_key_value_heads", None) or n_heads),
        d_head=int(getattr(config, "head_dim", None) or d_model // n_heads),
        d_mlp=d_mlp,
        d_vocab=int(config.vocab_size),
        n_ctx=int(getattr(config, "max_position_embeddings", 0) or 0),
    )


def submodule(root: nn.Module, path: str) -> nn.Module:
    """``root.a.b`` for the path ``a.b``."""
    return root.get_submodule(path)
