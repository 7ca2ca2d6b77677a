"""What an architecture is made of: module paths as data.

A new architecture is a new entry in ``catalogue.py``, nothing else; the certificate and the
contract suite then say whether it is right. Paths inside a block are relative to the block, and a
path that one block lacks (a dense layer among experts) takes its sites away from that block only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from lensbench.errors import ConfigError, UnknownNameError
from lensbench.models.base import Shape

Rule = Literal["softmax", "chosen_softmax", "sigmoid_groups"]
"""How a router chooses experts by their logits (``routers.py``)."""


@dataclass(frozen=True, kw_only=True)
class Cross:
    """Cross-attention inside a decoder block."""

    attn: str
    o_proj: str
    ln: str
    out: str
    """Module whose output is added to the residual stream."""
    mid_out: str | None = None
    """Module whose output is ``resid_xmid``; None: the block adds up in the open."""


@dataclass(frozen=True, kw_only=True)
class Experts:
    """A mixture of experts in the place of the MLP."""

    router: str = "mlp.gate"
    """Gives ``(logits, weights, indices)``."""
    experts: str = "mlp.experts"
    """Takes ``(states, indices, weights)``."""
    shared: str | None = None
    rule: Rule = "softmax"
    gives_pair: bool = False
    """The MLP gives ``(states, scores)``."""


@dataclass(frozen=True, kw_only=True)
class StateSpace:
    """A selective state-space layer in the place of attention and MLP."""

    mixer: str = "mixer"
    in_proj: str = "mixer.in_proj"
    x_proj: str = "mixer.x_proj"
    out_proj: str = "mixer.out_proj"


@dataclass(frozen=True, kw_only=True)
class Family:
    """Module paths of one stack of blocks."""

    blocks: str
    final_norm: str | None
    attn: str | None = "self_attn"
    o_proj: str = "self_attn.o_proj"
    ln1: str = "input_layernorm"
    ln2: str | None = "post_attention_layernorm"
    """Norm before the MLP; None where both branches share one norm."""
    attn_out: str = "self_attn"
    """Module whose output is added to the residual stream (a post-norm where there is one)."""
    mid_in: str | None = None
    """Module whose input is ``resid_mid``; None: the next norm."""
    mid_out: str | None = None
    """Module whose output is ``resid_mid``; None: the block adds up in the open."""
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
    in_place: bool = False
    """The block adds into the output of its MLP, so what is captured must be a copy."""
    gives_tuple: bool = False
    """A block gives ``(states, attention weights)``."""
    shared_bias: bool = False
    """T5: block 0 makes the position bias of all blocks and hands it on."""
    cross: Cross | None = None
    moe: Experts | None = None
    ssm: StateSpace | None = None


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One architecture: its stacks, how it reads positions, and how it unembeds."""

    stacks: Mapping[str, Family]
    """``{"": ...}``, or ``{"encoder": ..., "decoder": ...}``."""
    auto: Literal["CausalLM", "Seq2SeqLM", "MaskedLM"] = "CausalLM"
    """Which ``AutoModelFor...`` opens it."""
    interface: bool = True
    """Its attention goes through transformers' ``AttentionInterface``."""
    head: tuple[str, ...] = ()
    """Modules from the final state to the logits; empty: the output embedding alone."""
    right_padded: bool = False
    """Positions are counted from the first column, so padding must stand on the right."""
    own_positions: bool = False
    """Positions are read off the ids (padding is known by its id)."""
    positions: str = ""
    """Module of learned positions, added to the embedding."""
    entry_norm: str = ""
    """Norm between the embedding and block 0."""
    position_offset: Literal["none", "pad"] = "none"
    """``pad``: position 0 is row ``pad_token_id + 1`` of the table (RoBERTa)."""
    cache: str = "past_key_values"
    """Name of the argument that takes the cache."""
    unsupported: str = field(default="")
    """Why a variant is refused; set by :func:`architecture_of`."""

    @property
    def main(self) -> str:
        """The stack that gives the logits."""
        return "decoder" if "decoder" in self.stacks else ""

    @property
    def causal(self) -> bool:
        """False for encoders: each position sees the whole text."""
        return self.auto != "MaskedLM"

    @property
    def two_stacks(self) -> bool:
        """An encoder and a decoder."""
        return len(self.stacks) > 1

    @property
    def recurrent(self) -> bool:
        """Keeps a state instead of keys and values."""
        return self.stacks[self.main].ssm is not None


def architecture_of(config: Any) -> Architecture:
    """The architecture of a transformers config, adjusted to its flags.

    Raises:
        UnknownNameError: a ``model_type`` without an entry.
        ConfigError: a variant whose sites would mean something else.
    """
    from lensbench.models.catalogue import ARCHITECTURES, adjust

    kind = str(getattr(config, "model_type", ""))
    if kind not in ARCHITECTURES:
        raise UnknownNameError(
            "model family",
            kind,
            known=sorted(ARCHITECTURES),
            hint="Each is an entry in lensbench/models/catalogue.py.",
        )
    found = adjust(kind, ARCHITECTURES[kind], config)
    if found.unsupported:
        raise ConfigError(found.unsupported)
    return found


def family_of(config: Any) -> Family:
    """Paths of the stack that gives the logits."""
    found = architecture_of(config)
    return found.stacks[found.main]


def shape_of(config: Any, stack: str = "") -> Shape:
    """Sizes of a model (of one stack of it), whatever its config calls them."""
    side = "encoder" if stack == "encoder" else "decoder"
    d_model = int(config.hidden_size)
    n_heads = _first(config, f"{side}_attention_heads", "num_attention_heads") or 0
    d_qk = getattr(config, "qk_head_dim", None) or getattr(config, "d_kv", None)
    d_head = int(d_qk or getattr(config, "head_dim", None) or (d_model // max(n_heads, 1)))
    names = ("ffn_hidden_size", "intermediate_size", "d_ff", "ffn_dim", "n_inner")
    d_mlp = _first(config, f"{side}_ffn_dim", *names)
    n_experts = _first(config, "num_local_experts", "num_experts", "n_routed_experts") or 0
    return Shape(
        n_layers=_n_layers(config, stack),
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=int(getattr(config, "num_key_value_heads", None) or n_heads),
        d_head=d_head if n_heads else 0,
        d_head_v=int(getattr(config, "v_head_dim", None) or d_head) if n_heads else 0,
        d_mlp=d_mlp or 4 * d_model,
        d_vocab=_vocabulary(config, side),
        n_ctx=_n_ctx(config),
        n_experts=n_experts,
        top_k=int(getattr(config, "num_experts_per_tok", 0) or 0) if n_experts else 0,
        d_ssm_params=_ssm_params(config),
    )


def _vocabulary(config: Any, side: str) -> int:
    """Marian may give its decoder a vocabulary of its own."""
    own = getattr(config, "decoder_vocab_size", None) if side == "decoder" else None
    return int(own or config.vocab_size)


def _n_layers(config: Any, stack: str) -> int:
    if stack == "encoder":
        return int(_first(config, "encoder_layers", "num_layers", "num_hidden_layers") or 0)
    if stack == "decoder":
        return int(_first(config, "decoder_layers", "num_decoder_layers") or 0)
    return int(config.num_hidden_layers)


def _n_ctx(config: Any) -> int:
    table = int(getattr(config, "max_position_embeddings", 0) or 0)
    if architecture_of(config).position_offset == "pad":
        return table - int(config.pad_token_id) - 1
    return table


def _ssm_params(config: Any) -> int:
    rank, state = (getattr(config, n, None) for n in ("time_step_rank", "state_size"))
    return int(rank) + 2 * int(state) if rank and state else 0


def _first(config: Any, *names: str) -> int | None:
    found = (getattr(config, name, None) for name in names)
    return next((int(value) for value in found if value), None)


def submodule(root: nn.Module, path: str) -> nn.Module:
    """``root.a.b`` for the path ``a.b``."""
    return root.get_submodule(path)


def part(block: nn.Module, path: str | None) -> nn.Module | None:
    """The module at ``path`` of this block, or None where this block has none."""
    if path is None:
        return None
    try:
        found: Any = block.get_submodule(path)
    except AttributeError:
        return None
    return None if found is None or isinstance(found, nn.Identity) else found


def mlp_reader(block: nn.Module, family: Family) -> nn.Module | None:
    """The module whose input the whole MLP of this block reads, or None without an MLP.

    That of the up projection; where a gate or a router reads the same, the module that holds both.
    """
    if part(block, family.up) is not None:
        alone = family.fused or part(block, family.gate) is None
        return part(block, family.up if alone else family.up.rpartition(".")[0])
    if family.moe is not None and part(block, family.moe.router) is not None:
        return part(block, family.moe.router.rpartition(".")[0])
    return None


def blocks_of(root: nn.Module, family: Family) -> list[nn.Module]:
    """The blocks of a stack, in order."""
    return list(submodule(root, family.blocks).children())
