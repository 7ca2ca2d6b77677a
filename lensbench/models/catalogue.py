"""The architectures lensbench knows: ``config.model_type`` of transformers -> module paths."""

from dataclasses import replace
from typing import Any

from lensbench.models.families import Architecture, Cross, Experts, Family, StateSpace


def _one(family: Family, **changes: Any) -> Architecture:
    return Architecture(stacks={"": family}, **changes)


_LLAMA = Family(blocks="model.layers", final_norm="model.norm")
_FUSED = replace(_LLAMA, gate=None, up="mlp.gate_up_proj", fused=True)
_GEMMA = replace(
    _LLAMA,
    attn_out="post_attention_layernorm",
    ln2="pre_feedforward_layernorm",
    mlp_out="post_feedforward_layernorm",
)
_GLM4 = replace(
    _FUSED, attn_out="post_self_attn_layernorm", mlp_out="post_mlp_layernorm"
)  # ln2 is post_attention_layernorm, which stands before the MLP
_OLMO2 = replace(
    _LLAMA,
    ln1="post_attention_layernorm",
    attn_out="post_attention_layernorm",
    mid_in="mlp",
    ln2="post_feedforward_layernorm",
    mlp_out="post_feedforward_layernorm",
)
_GPT2 = Family(
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
)
_GPT_NEO = replace(_GPT2, attn="attn.attention", o_proj="attn.attention.out_proj", gives_tuple=True)
_GPTJ = replace(
    _GPT2,
    o_proj="attn.out_proj",
    ln2=None,
    up="mlp.fc_in",
    down="mlp.fc_out",
    parallel=True,
    gives_tuple=True,
)
_NEOX = Family(
    blocks="gpt_neox.layers",
    final_norm="gpt_neox.final_layer_norm",
    attn="attention",
    o_proj="attention.dense",
    attn_out="attention",
    gate=None,
    up="mlp.dense_h_to_4h",
    down="mlp.dense_4h_to_h",
    parallel=True,
)
_BLOOM = replace(
    _NEOX,
    blocks="transformer.h",
    final_norm="transformer.ln_f",
    attn="self_attention",
    o_proj="self_attention.dense",
    attn_out="self_attention.dense",  # the attention module adds the residual itself
    mlp_out="mlp.dense_4h_to_h",  # and so does the MLP
    parallel=False,
    gives_tuple=True,
)
_FALCON = replace(_BLOOM, attn_out="self_attention", mlp_out="mlp", parallel=True, in_place=True)
_OPT = Family(
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
)
_PHI = replace(
    _LLAMA,
    final_norm="model.final_layernorm",
    o_proj="self_attn.dense",
    ln2=None,
    gate=None,
    up="mlp.fc1",
    down="mlp.fc2",
    parallel=True,
)
_STARCODER2 = replace(_LLAMA, gate=None, up="mlp.c_fc", down="mlp.c_proj")
_MOE = replace(_LLAMA, moe=Experts())
_DEEPSEEK = Experts(shared="mlp.shared_experts", rule="sigmoid_groups")
_GPT_OSS = Experts(router="mlp.router", rule="chosen_softmax", gives_pair=True)
_BERT = Family(
    blocks="bert.encoder.layer",
    final_norm=None,
    attn="attention.self",
    o_proj="attention.output.dense",
    ln1="attention.output.LayerNorm",
    attn_out="attention.output.dense",
    mid_out="attention.output.LayerNorm",
    ln2="output.LayerNorm",
    gate=None,
    up="intermediate.dense",
    down="output.dense",
    mlp_out="output.dense",
)
_MODERNBERT = Family(
    blocks="model.layers",
    final_norm="model.final_norm",
    attn="attn",
    o_proj="attn.Wo",
    ln1="attn_norm",
    ln2="mlp_norm",
    attn_out="attn",
    gate=None,
    up="mlp.Wi",
    fused=True,
    down="mlp.Wo",
)
_MAMBA = Family(
    blocks="backbone.layers",
    final_norm="backbone.norm_f",
    attn=None,
    ln1="norm",
    ln2=None,
    ssm=StateSpace(),
)


def _t5(side: str, last: int) -> Family:
    return Family(
        blocks=f"{side}.block",
        final_norm=f"{side}.final_layer_norm",
        attn="layer.0.SelfAttention",
        o_proj="layer.0.SelfAttention.o",
        ln1="layer.0.layer_norm",
        attn_out="layer.0.SelfAttention",
        mid_out="layer.0",
        ln2=f"layer.{last}.layer_norm",
        gate=f"layer.{last}.DenseReluDense.wi_0",
        up=f"layer.{last}.DenseReluDense.wi_1",
        down=f"layer.{last}.DenseReluDense.wo",
        mlp_out=f"layer.{last}.DenseReluDense",
        shared_bias=True,
    )


_T5 = {
    "encoder": _t5("encoder", 1),
    "decoder": replace(
        _t5("decoder", 2),
        cross=Cross(
            attn="layer.1.EncDecAttention",
            o_proj="layer.1.EncDecAttention.o",
            ln="layer.1.layer_norm",
            out="layer.1.EncDecAttention",
            mid_out="layer.1",
        ),
    ),
}


def _bart(side: str, *, post_norm: bool) -> Family:
    """Norms stand after each sum (BART, Marian), or before each branch (mBART, NLLB)."""
    ends = {"encoder": "model.encoder.layer_norm", "decoder": "model.decoder.layer_norm"}
    cross = Cross(
        attn="encoder_attn",
        o_proj="encoder_attn.out_proj",
        ln="encoder_attn_layer_norm",
        out="encoder_attn",
        mid_out="encoder_attn_layer_norm" if post_norm else None,
    )
    return Family(
        blocks=f"model.{side}.layers",
        final_norm=None if post_norm else ends[side],
        o_proj="self_attn.out_proj",
        ln1="self_attn_layer_norm",
        mid_out="self_attn_layer_norm" if post_norm else None,
        ln2="final_layer_norm",
        gate=None,
        up="fc1",
        down="fc2",
        mlp_out="fc2",
        cross=cross if side == "decoder" else None,
    )


def _seq2seq(*, post_norm: bool, **changes: Any) -> Architecture:
    sides = {side: _bart(side, post_norm=post_norm) for side in ("encoder", "decoder")}
    return Architecture(stacks=sides, auto="Seq2SeqLM", **changes)


ARCHITECTURES: dict[str, Architecture] = {
    "bart": _seq2seq(post_norm=True, right_padded=True),
    "bert": _one(_BERT, auto="MaskedLM", head=("cls",)),
    "bloom": _one(_BLOOM, interface=False, entry_norm="transformer.word_embeddings_layernorm"),
    "codegen": _one(_GPTJ, interface=False),
    "deepseek_v3": _one(replace(_MOE, moe=_DEEPSEEK)),
    "falcon": _one(_FALCON, interface=False),
    "gemma": _one(_LLAMA),
    "gemma2": _one(_GEMMA),
    "gemma3_text": _one(_GEMMA),
    "glm4": _one(_GLM4),
    "gpt2": _one(_GPT2, positions="transformer.wpe"),
    "gpt_neo": _one(_GPT_NEO, interface=False, positions="transformer.wpe"),
    "gpt_neox": _one(_NEOX),
    "gpt_oss": _one(replace(_LLAMA, moe=_GPT_OSS)),
    "gptj": _one(_GPTJ, interface=False),
    "llama": _one(_LLAMA),
    "m2m_100": _seq2seq(post_norm=False, own_positions=True),
    "mamba": _one(_MAMBA, interface=False, cache="cache_params"),
    "marian": _seq2seq(post_norm=True, right_padded=True),
    "mbart": _seq2seq(post_norm=False, right_padded=True),
    "mistral": _one(_LLAMA),
    "mixtral": _one(_MOE),
    "modernbert": _one(_MODERNBERT, auto="MaskedLM", head=("head", "decoder")),
    "mt5": Architecture(stacks=_T5, auto="Seq2SeqLM"),
    "olmo2": _one(_OLMO2),
    "olmoe": _one(_MOE),
    "opt": _one(_OPT, positions="model.decoder.embed_positions"),
    "phi": _one(_PHI),
    "phi3": _one(_FUSED),
    "qwen2": _one(_LLAMA),
    "qwen2_moe": _one(replace(_MOE, moe=Experts(shared="mlp.shared_expert"))),
    "qwen3": _one(_LLAMA),
    "qwen3_moe": _one(_MOE),
    "roberta": _one(
        replace(_BERT, blocks="roberta.encoder.layer"),
        auto="MaskedLM",
        head=("lm_head",),
        position_offset="pad",
    ),
    "smollm3": _one(_LLAMA),
    "starcoder2": _one(_STARCODER2),
    "t5": Architecture(stacks=_T5, auto="Seq2SeqLM"),
}
"""Every architecture, by ``config.model_type``."""


def adjust(kind: str, found: Architecture, config: Any) -> Architecture:
    """The entry as this config has it: parallel or not, gated or not; or why it is refused."""
    family = found.stacks[found.main]
    if kind == "gpt_neox" and not config.use_parallel_residual:
        return replace(found, stacks={"": replace(family, parallel=False)})
    if kind == "falcon":
        return _falcon(found, family, config)
    if kind in ("t5", "mt5") and not config.is_gated_act:
        plain = {
            side: replace(f, gate=None, up=f.up.replace("wi_1", "wi"))
            for side, f in found.stacks.items()
        }
        return replace(found, stacks=plain)
    return replace(found, unsupported=_refusal(kind, config))


def _falcon(found: Architecture, family: Family, config: Any) -> Architecture:
    if config.new_decoder_architecture and (config.num_ln_in_parallel_attn or 2) == 2:
        family = replace(family, ln1="ln_attn", ln2="ln_mlp")
    elif config.new_decoder_architecture or config.parallel_attn:
        family = replace(family, ln2=None)
    else:
        family = replace(family, parallel=False, in_place=False)
    return replace(found, stacks={"": family})


def _refusal(kind: str, config: Any) -> str:
    if kind == "opt" and not config.do_layer_norm_before:
        return (
            "OPT with do_layer_norm_before=False (OPT-350m) normalises the residual stream itself; "
            "its sites would mean something else, so it is refused. Use another OPT size."
        )
    if kind == "bloom" and config.apply_residual_connection_post_layernorm:
        return (
            "BLOOM with apply_residual_connection_post_layernorm adds to the normed state; its "
            "sites would mean something else, so it is refused."
        )
    if kind == "bloom" and config.pretraining_tp > 1 and config.slow_but_exact:
        return (
            "BLOOM with slow_but_exact=True multiplies slices of its weights outside its modules, "
            "where no site is; set slow_but_exact=False."
        )
    if getattr(config, "chunk_size_feed_forward", 0):
        return (
            f"{kind} with chunk_size_feed_forward={config.chunk_size_feed_forward} runs its MLP in "
            "pieces, so no site of it sees the whole text; set chunk_size_feed_forward=0."
        )
    if kind in ("bert", "roberta") and config.is_decoder:
        return f"{kind} with is_decoder=True is refused; it is supported as an encoder."
    return ""
