"""The loss of the LayerSkip recipe over a transformers model with Llama's layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lensbench.worlds.batches import IGNORE


def layer_skip_loss(
    model: Any,
    tokens: Int[Tensor, "rows width"],
    targets: Int[Tensor, "rows width"],
    *,
    weights: Float[np.ndarray, " layers"],
    kept: Bool[np.ndarray, "layers rows"],
    positions: Int[Tensor, "rows width"],
    mask: Bool[Tensor, "rows 1 width width"],
) -> Float[Tensor, ""]:
    """sum_l weights[l] CE(lm_head(norm(h_l)), targets), rows skipping the layers they do not keep.

    Nats. h_l is the residual stream after layer l, ``targets`` are -100 where nothing is predicted,
    ``mask`` is true where a query sees a key. A skipped layer is not run for its row and nothing is
    rescaled. With all weight on the last layer and every layer kept this is the plain loss.
    """
    trunk = model.model
    additive = torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, -3e4)
    hidden = trunk.embed_tokens(tokens)
    turns = trunk.rotary_emb(hidden, position_ids=positions)
    total = hidden.new_zeros(())
    for layer, weight, rows in zip(trunk.layers, weights, torch.from_numpy(kept), strict=True):
        hidden = _run(layer, hidden, additive, positions, turns, rows.to(tokens.device))
        if weight > 0:
            logits = model.lm_head(trunk.norm(hidden))
            total = total + float(weight) * nn.functional.cross_entropy(
                logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE
            )
    return total


def _run(
    layer: nn.Module,
    hidden: Tensor,
    mask: Tensor,
    positions: Tensor,
    turns: tuple[Tensor, Tensor],
    rows: Bool[Tensor, " rows"],
) -> Tensor:
    """``hidden`` after ``layer`` ran on ``rows`` alone."""
    if bool(rows.all()):
        return layer(hidden, attention_mask=mask, position_ids=positions, position_embeddings=turns)
    if not bool(rows.any()):
        return hidden
    at = rows.nonzero()[:, 0]
    out = layer(
        hidden[at],
        attention_mask=mask[at],
        position_ids=positions[at],
        position_embeddings=(turns[0][at], turns[1][at]),
    )
    return hidden.index_copy(0, at, out.to(hidden.dtype))
