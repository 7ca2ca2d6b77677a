"""Choosing tokens, and keeping drafts such that the text is distributed as the model's own.

Leviathan et al. 2023: a drafted token x, drawn from q, is kept with probability
min(1, p(x) / q(x)); the first one that is not is replaced by a draw from norm(max(0, p - q)). p and
q are the warped distributions (temperature, top-k, top-p) from which tokens are really drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.arguments import is_number, whole_number
from lensbench.errors import ConfigError


@dataclass(frozen=True)
class Warp:
    """How logits become the distribution that tokens are drawn from; temperature 0 is greedy.

    ``top_k`` 0 and ``top_p`` 1 keep every token. Applied in the order temperature, top-k, top-p.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what is no distribution."""
        if not is_number(self.temperature) or not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature must be >= 0 and finite, got {self.temperature!r}")
        whole_number("top_k", self.top_k, least=0)
        if not is_number(self.top_p) or not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must lie in (0, 1], got {self.top_p!r}")

    @property
    def is_greedy(self) -> bool:
        """Does the largest logit always win?"""
        return self.temperature == 0

    def __call__(self, logits: Float[Tensor, "... d_vocab"]) -> Float[Tensor, "... d_vocab"]:
        """Probabilities, one-hot where greedy (the first of equal logits)."""
        if self.is_greedy:
            best = logits.argmax(-1, keepdim=True)
            return torch.zeros_like(logits, dtype=torch.float64).scatter(-1, best, 1.0)
        scores = logits.double() / self.temperature
        if 0 < self.top_k < scores.shape[-1]:
            least = scores.topk(self.top_k).values[..., -1:]
            scores = scores.masked_fill(scores < least, -torch.inf)
        probs = scores.softmax(-1)
        if self.top_p < 1:
            ordered, order = probs.sort(-1, descending=True)
            beyond = ordered.cumsum(-1) - ordered >= self.top_p
            probs = probs.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), 0.0)
            probs = probs / probs.sum(-1, keepdim=True)
        return probs


class Sampler:
    """Draws of one run: a warp and a seeded generator."""

    def __init__(self, warp: Warp, seed: int) -> None:
        self.warp = warp
        self._rng = torch.Generator().manual_seed(seed)

    def draw(self, logits: Float[Tensor, " d_vocab"]) -> int:
        """A token of the warped distribution."""
        if self.warp.is_greedy:
            return int(logits.argmax())
        return self._pick(self.warp(logits))

    def draw_with(self, logits: Float[Tensor, " d_vocab"]) -> tuple[int, Tensor | None]:
        """A token and the distribution it was drawn from (None where greedy)."""
        if self.warp.is_greedy:
            return int(logits.argmax()), None
        probs = self.warp(logits)
        return self._pick(probs), probs

    def check(
        self,
        drafts: Sequence[int],
        drawn_from: Sequence[Tensor | None],
        logits: Float[Tensor, "drafted_plus_one d_vocab"],
    ) -> tuple[int, int]:
        """How many drafts are kept, and the token that follows them.

        ``logits[i]`` are the full model's where ``drafts[i]`` stands, the last row those after all
        of them. Greedy: kept while equal to the largest logit.
        """
        if self.warp.is_greedy:
            best = logits.argmax(-1).tolist()
            kept = next((i for i, d in enumerate(drafts) if d != best[i]), len(drafts))
            return kept, best[kept]
        p = self.warp(logits)
        for i, (draft, q) in enumerate(zip(drafts, drawn_from, strict=True)):
            assert q is not None  # drafts of a sampled run are drawn from something
            if self.uniform() * float(q[draft]) > float(p[i, draft]):
                return i, self._pick((p[i] - q).clamp_min(0))
        return len(drafts), self._pick(p[len(drafts)])

    def uniform(self) -> float:
        """A number in [0, 1)."""
        return float(torch.rand((), generator=self._rng, dtype=torch.float64))

    def _pick(self, weights: Tensor) -> int:
        return int(torch.multinomial(weights.cpu(), 1, generator=self._rng))
