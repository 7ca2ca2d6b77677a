"""Attention with its intermediates as modules, so that nnsight can reach them like any other.

Inside a forward pass q, k, v, scores, pattern and z are local variables, which no module gives out.
On our own copy of the modules (see ``twin.py``) each attention gets six identity modules, and an
attention function in transformers' interface passes its intermediates through them, in site layout
and in execution order. Layers that nobody asked about run transformers' own sdpa kernel.
(nnsight's ``.source`` reaches the arguments of the attention function too, but neither scores nor
pattern under sdpa, and by names that change with transformers' source.)
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NAME = "lensbench_nnsight"
"""Entry in transformers' registries of attention and mask functions."""
PARTS = ("q", "k", "v", "scores", "pattern", "z")
ATTRIBUTE = "lensbench_parts"


class Parts(nn.Module):
    """The six places of one attention module; ``opened`` says whether they are computed.

    ``always``: they are, because the module came with eager attention.
    """

    def __init__(self, *, always: bool = False) -> None:
        super().__init__()
        self.opened, self.always = False, always
        for name in PARTS:
            self.add_module(name, nn.Identity())

    def show(self, name: str, x: Tensor) -> Tensor:
        """``x`` as the place ``name`` gives it back."""
        return self.get_submodule(name)(x)


def register() -> None:
    """Enter the function and its mask in transformers' registries (idempotent)."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)  # without it the causal mask is lost


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    parts: Any = getattr(module, ATTRIBUTE, None)
    beyond_sdpa = kwargs.get("softcap") is not None or kwargs.get("s_aux") is not None
    if parts is None or not (parts.opened or parts.always or beyond_sdpa):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return _opened(module, parts, (query, key, value), attention_mask, **kwargs)


def _opened(
    module: nn.Module,
    parts: Parts,
    qkv: tuple[Tensor, Tensor, Tensor],
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    position_bias: Tensor | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """The open way: pattern = softmax(cap(q k^T scaling + bias) + mask), z = pattern v."""
    query, key, value = (
        parts.show(name, x.transpose(1, 2)).transpose(1, 2)
        for name, x in zip("qkv", qkv, strict=True)
    )
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = scores if position_bias is None else scores + position_bias
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    scores = parts.show("scores", _masked(module, attention_mask, scores))
    pattern = _softmax(scores, s_aux).to(query.dtype)
    pattern = parts.show("pattern", F.dropout(pattern, p=dropout, training=module.training))
    z = (pattern @ value).transpose(1, 2).contiguous()
    return parts.show("z", z), pattern


def _softmax(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """Over the keys, in fp32; a sink per head takes its share and gives nothing."""
    if sinks is None:
        return scores.softmax(-1, dtype=torch.float32)
    sink = sinks.reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1).to(scores.dtype)
    return torch.cat((scores, sink), -1).softmax(-1, dtype=torch.float32)[..., :-1]


def _masked(module: nn.Module, mask: Tensor | None, scores: Tensor) -> Tensor:
    """Scores with the lowest float where attending is forbidden; no mask means what sdpa means."""
    if mask is None:
        n_query, n_key = scores.shape[-2:]
        if n_query == 1 or not getattr(module, "is_causal", True):
            return scores
        mask = torch.ones(n_query, n_key, dtype=torch.bool, device=scores.device).tril()
    if mask.dtype == torch.bool:
        lowest = torch.finfo(scores.dtype).min
        mask = torch.zeros(mask.shape, dtype=scores.dtype, device=scores.device).masked_fill(
            ~mask, lowest
        )
    return scores + mask
