"""A dictionary that reads one site and writes another: an MLP in sparse, readable parts."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.saes.coder import SparseCoder


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Transcoder(SparseCoder):
    """``y_hat = f(x @ W_enc + b_enc) @ W_dec + b_dec (+ x @ W_skip)``.

    ``x`` is what an MLP reads and ``y`` what it writes (Dunefsky et al. 2024, arXiv:2406.11944);
    the skip connection is that of Paulo et al. 2025 (arXiv:2501.18823). ``decode`` gives the
    sparse part alone; calling it gives both.
    """

    role: ClassVar[str] = "transcoder"

    W_skip: Float[Tensor, "d_in d_out"] | None = None

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return super()._shapes() | {"W_skip": (self.d_in, self.d_out)}

    @property
    def target(self) -> str | None:
        """Site that is written, if known."""
        return self.metadata.get("target") or self.config.get("target")

    @property
    def told_widths(self) -> str:
        """Widths in words."""
        skip = "" if self.W_skip is None else ", skip"
        return f"{self.d_in} to {self.d_out}{skip}"

    def skip(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        """``x @ W_skip``; zero without a skip connection."""
        flat = self._read(x)
        if self.W_skip is None:
            return x.new_zeros(*x.shape[:-1], self.d_out)
        return (flat @ self.W_skip).reshape(*x.shape[:-1], self.d_out)

    def _forward(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_out"]:
        sparse = super()._forward(x)
        return sparse if self.W_skip is None else torch.addmm(sparse, x, self.W_skip)
