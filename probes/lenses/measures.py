"""What a lens says of a state: measures against the final prediction, the k best tokens, tiles.

Logits of all layers and tokens together are never held: a tile of tokens is read at one site after
the other, and what is kept of it has the size of its tokens times k.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

METRICS = {
    "entropy": "nats",
    "kl_to_final": "KL(final ‖ this layer) [nats]",
    "agreement": "share of tokens",
    "target_prob": "probability",
    "target_rank": "rank (1 is best)",
    "cross_entropy": "nats",
}
"""What is measured at each layer, with its unit."""
TILE = 1 << 23
"""Logits held at a time per tensor: 32 MiB of float32."""
_BLOCK = 256


def tiles(n_tokens: int, d_vocab: int, most: int = 2048) -> Iterator[slice]:
    """Consecutive tokens whose logits fit into one tile, at most ``most``; all of about one size.

    A short last tile would read all of the unembedding for a few tokens.
    """
    largest = max(1, min(most, TILE // d_vocab))
    size = max(1, -(-n_tokens // max(1, -(-n_tokens // largest))))
    for start in range(0, n_tokens, size):
        yield slice(start, min(start + size, n_tokens))


@dataclass(frozen=True, eq=False)
class Final:
    """The prediction that the others are compared with, of one tile of tokens."""

    p: Float[Tensor, "tokens d_vocab"]
    negative_entropy: Float[Tensor, " tokens"]
    best: Int[Tensor, " tokens"]

    @classmethod
    def of(cls, logits: Float[Tensor, "tokens d_vocab"]) -> "Final":
        """Take the logits of the last layer for one tile."""
        logp = logits.log_softmax(-1)
        p = logp.exp()
        return cls(p, _dot(p, logp), top_k(logp, 1)[1].squeeze(1))


def measure(
    logits: Float[Tensor, "tokens d_vocab"],
    final: Float[Tensor, "tokens d_vocab"] | Final,
    targets: Int[Tensor, " tokens"],
) -> Float[Tensor, "metrics tokens"]:
    """The rows of :data:`METRICS` for each token; both inputs are logits.

    ``target_rank`` is 1 plus the number of tokens that are more probable than the target. Of
    logits that are no numbers every row is NaN, of such final ones ``agreement`` and the KL.
    """
    known = final if isinstance(final, Final) else Final.of(final)
    return measure_log(logits.log_softmax(-1), known, targets)


def measure_log(
    logq: Float[Tensor, "tokens d_vocab"],
    final: Final,
    targets: Int[Tensor, " tokens"],
    best: Int[Tensor, " tokens"] | None = None,
) -> Float[Tensor, "metrics tokens"]:
    """The same of log probabilities; ``best`` are their largest, where they are known."""
    wanted = logq.gather(1, targets[:, None])
    found = top_k(logq, 1)[1].squeeze(1) if best is None else best
    unknown, nan = wanted.squeeze(1).isnan(), torch.nan  # no comparison with NaN is true
    return torch.stack(
        [
            -_dot(logq.exp(), logq),
            (final.negative_entropy - _dot(final.p, logq)).clamp_min(0),
            (found == final.best)
            .float()
            .masked_fill(unknown | final.negative_entropy.isnan(), nan),
            wanted.exp().squeeze(1),
            (1.0 + (logq > wanted).sum(-1)).masked_fill(unknown, nan),
            -wanted.squeeze(1),
        ]
    )


def top_k(
    logits: Float[Tensor, "tokens d_vocab"], k: int
) -> tuple[Float[Tensor, "tokens k"], Int[Tensor, "tokens k"]]:
    """The k largest logits and their ids, largest first. Equivalent to ``torch.topk``.

    In two steps where the vocabulary is large: the k blocks of 256 ids with the largest maxima hold
    the k largest logits, so only those are sorted.
    """
    n, d_vocab = logits.shape
    blocks = d_vocab // _BLOCK
    if blocks < 4 * k:
        values, ids = logits.topk(k, -1)
        return values, ids
    cut = blocks * _BLOCK
    by_block = logits[:, :cut].unflatten(1, (blocks, _BLOCK))
    chosen = by_block.amax(-1).topk(k, -1).indices
    inside = chosen[:, :, None] * _BLOCK + torch.arange(_BLOCK, device=logits.device)
    rest = torch.arange(cut, d_vocab, device=logits.device).expand(n, -1)
    candidates = torch.cat((inside.flatten(1), rest), 1)
    values, at = logits.gather(1, candidates).topk(k, -1)
    return values, candidates.gather(1, at)


def prediction_depth(
    agreement: Bool[np.ndarray, "layers tokens"] | Float[np.ndarray, "layers tokens"],
) -> Int[np.ndarray, " tokens"]:
    """First row from which on the most probable token is the final one, for good.

    min { i : argmax p_j = argmax p_L for all j >= i }, counted in rows of ``agreement``; the number
    of rows where even the last does not agree. Source: Belrose et al. 2023, arXiv:2303.08112, after
    Baldock et al. 2021, arXiv:2106.09647.
    """
    differs = ~(np.asarray(agreement)[::-1] >= 1)  # NaN is no agreement
    settled = np.where(differs.any(0), differs.argmax(0), len(differs))
    return len(differs) - settled


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Row by row, without a product of the size of both."""
    return torch.einsum("tv,tv->t", a, b)
