"""How much of a state points at tokens at all, whatever they are."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.errors import NonFiniteError

if TYPE_CHECKING:
    from lensbench.models import Model


@dataclass(frozen=True, eq=False)
class TokenEnergy:
    """Squared cosine of a state with the tokens' rows, over that of the rows with one another.

    energy(h) = sqrt(mean_i (u_i . h / |h|)^2) / sqrt(mean_ij (u_i . u_j)^2), with u_i the rows of
    W_U * norm.weight at length 1. Unitless, >= 0: 1 for a random direction of the space that the
    rows fill evenly, 0 for a state that no token reads. Only the d x d Gram matrix is kept.
    Source: Wendler et al. 2024, arXiv:2402.10588.
    """

    gram: Float[Tensor, "d_model d_model"]
    """Mean over tokens of u_i u_i^T."""
    centres: bool = False
    """The final norm takes the mean over dimensions away."""

    @classmethod
    def of_table(
        cls,
        table: Float[Tensor, "d_vocab d_model"],
        gain: Float[Tensor, " d_model"] | None = None,
        *,
        centres: bool = False,
    ) -> "TokenEnergy":
        """From an unembedding and the gain of the norm before it; rows of 0 count as tokens."""
        rows = table if gain is None else table * gain
        unit = torch.nn.functional.normalize(rows.double(), dim=-1)
        return cls(unit.T @ unit / len(unit), centres)

    @classmethod
    def of(cls, model: "Model") -> "TokenEnergy":
        """Of a transformers model.

        Raises:
            ConfigError: a head that is no plain matrix, or another back end.
        """
        from lensbench.models.matrices import ends_of

        ends = ends_of(model)
        return cls.of_table(ends.table, ends.gain, centres=ends.centres)

    def __call__(self, states: Float[Tensor, "... d_model"]) -> Float[Tensor, "..."]:
        """Energy of each state; NaN for a state of 0.

        Raises:
            NonFiniteError: a state that is not finite.
        """
        h = states.to(self.gram)
        if not bool(torch.isfinite(h).all()):
            raise NonFiniteError("a state holds NaN or infinity, which has no energy")
        h = h - h.mean(-1, keepdim=True) if self.centres else h
        h = h / h.norm(dim=-1, keepdim=True)
        read = torch.einsum("...i,ij,...j->...", h, self.gram, h).clamp_min(0)
        return read.sqrt() / self.gram.norm()
