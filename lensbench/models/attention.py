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

from lensbench.models.session import ACTIVE

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
    tapped = session is not None and session.tapped_place(module) is not None
    if tapped or kwargs.get("softcap") is not None:
        # Kernels of sdpa add up in float32 whatever they are given; eager attention does not.
        return _open_attention(module, query, key, value, attention_mask, exact=True, **kwargs)
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
    position_bias: Tensor | None = None,
    s_aux: Tensor | None = None,
    exact: bool = False,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Attention with every intermediate in the open; q, k, v are ``[batch head pos d_head]``.

    ``position_bias`` is T5's, added to the scores; ``s_aux`` are gpt-oss' sinks, one score per head
    that takes its share of the softmax and has no value: rows of the pattern then sum to less
    than 1. ``exact`` takes the products in float32.
    """
    session = ACTIVE.get()
    place = None if session is None else session.tapped_place(module)

    def show(part: str, x: Tensor, *, heads_first: bool = False) -> Tensor:
        if session is None or place is None or place.key(part) not in session.keys:
            return x
        if heads_first:
            return session.tap(place.key(part), x)
        return session.tap(place.key(part), x.transpose(1, 2)).transpose(1, 2)

    query, key, value = show("q", query), show("k", key), show("v", value)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    dtype = query.dtype
    if exact and dtype.itemsize < torch.float32.itemsize:
        query, key, value = query.float(), key.float(), value.float()
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if position_bias is not None:
        scores = scores + position_bias
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    mask = _additive(module, attention_mask, scores)
    if mask is not None:
        scores = scores + mask
    scores = show("scores", scores, heads_first=True)
    # In float32, as in transformers' eager attention; sdpa keeps float64 where it is given it.
    double = exact and scores.dtype == torch.float64
    pattern = _softmax(scores, s_aux, torch.float64 if double else torch.float32).to(value.dtype)
    pattern = F.dropout(pattern, p=dropout, training=module.training)
    pattern = show("pattern", pattern, heads_first=True)
    z = (pattern @ value).to(dtype).transpose(1, 2).contiguous()
    if session is not None and place is not None and place.key("z") in session.keys:
        z = session.tap(place.key("z"), z)
    return z, pattern


def _softmax(scores: Tensor, sinks: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Softmax over the keys; with sinks over the keys and one sink per head."""
    if sinks is None:
        return scores.softmax(-1, dtype=dtype)
    extra = sinks.reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1).to(scores.dtype)
    return torch.cat((scores, extra), dim=-1).softmax(-1, dtype=dtype)[..., :-1]


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
