"""One attention function for every architecture, entered in transformers' ``AttentionInterface``.

Outside a session, and on layers without a tap, it calls transformers' own sdpa kernel with the
same arguments, so nothing changes, not one bit. On a tapped layer it computes

    scores = softcap(q k^T * scaling) + mask;  pattern = softmax(scores);  z = pattern v

in the open. Registering an attention function without a mask function silently drops the causal
mask, therefore both are registered here, together.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lensbench.models.session import ACTIVE, Session

SDPA, EAGER = "lensbench", "lensbench_eager"
"""Names in the registries: untapped layers run transformers' sdpa, or the open computation."""


def register() -> None:
    """Enter both functions and their masks in transformers' registries (idempotent)."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(SDPA, _sdpa_based)
    AttentionInterface.register(EAGER, _open_attention)
    AttentionMaskInterface.register(SDPA, sdpa_mask)
    AttentionMaskInterface.register(EAGER, sdpa_mask)


def _sdpa_based(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    session = ACTIVE.get()
    tapped = session is not None and session.tapped_layer(module) is not None
    if tapped or kwargs.get("softcap") is not None:
        return _open_attention(module, query, key, value, attention_mask, **kwargs)
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


def _open_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Attention with every intermediate in the open; q, k, v are ``[batch head pos d_head]``."""
    session = ACTIVE.get()
    layer = None if session is None else session.tapped_layer(module)
    if session is not None and layer is not None:
        query = _tap(session, "attn.q", layer, query)
        key = _tap(session, "attn.k", layer, key)
        value = _tap(session, "attn.v", layer, value)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    mask = _additive(module, attention_mask, scores)
    if mask is not None:
        scores = scores + mask
    if session is not None and layer is not None:
        scores = _tap(session, "attn.scores", layer, scores, heads_first=True)
    pattern = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    pattern = F.dropout(pattern, p=dropout, training=module.training)
    if session is not None and layer is not None:
        pattern = _tap(session, "attn.pattern", layer, pattern, heads_first=True)
    z = (pattern @ value).transpose(1, 2).contiguous()
    if session is not None and ("attn.z", layer) in session.keys:
        z = session.tap(("attn.z", layer), z)
    return z, pattern


def _tap(
    session: Session, name: str, layer: int, x: Tensor, *, heads_first: bool = False
) -> Tensor:
    if (name, layer) not in session.keys:
        return x
    if heads_first:
        return session.tap((name, layer), x)
    return session.tap((name, layer), x.transpose(1, 2)).transpose(1, 2)


def _additive(module: nn.Module, mask: Tensor | None, scores: Tensor) -> Tensor | None:
    """The mask as a term of the scores: 0 where attending is allowed, the lowest float elsewhere.

    None means what it means to sdpa: causal when there is more than one query, else nothing.
    """
    lowest = torch.finfo(scores.dtype).min
    if mask is None:
        n_query, n_key = scores.shape[-2:]
        if n_query == 1 or not getattr(module, "is_causal", True):
            return None
        mask = torch.ones(n_query, n_key, dtype=torch.bool, device=scores.device).tril()
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=scores.dtype, device=scores.device).masked_fill(
            ~mask, lowest
        )
    return mask
