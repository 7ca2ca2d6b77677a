"""Architectures whose L0 is set: the largest of a token, of a batch, of a batch with prefixes."""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from lensbench.saes.architectures.base import DictionaryConfig

MULTI = 4
"""How many times k the other loss of Multi-TopK keeps."""


class FixedK(DictionaryConfig):
    """Architectures whose L0 is set, not found."""

    k: int = Field(32, ge=1)
    """Latents kept per token (on average over the batch where a batch is selected from)."""

    @model_validator(mode="after")
    def _k_fits(self) -> "FixedK":
        if self.k > self.d_sae:
            raise ValueError(f"k must be in 1..d_sae={self.d_sae}, got {self.k}")
        return self

    def sparsity(self) -> str:
        """The sparsity setting in a few characters."""
        return f"k{self.k}"


class TopKConfig(FixedK):
    """Keep the k largest pre-activations of every token (Gao et al. 2024, arXiv:2406.04093)."""

    architecture: Literal["topk"] = "topk"
    multi_topk: float = Field(0.0, ge=0)
    """Weight of the same loss with four times as many latents (ibid., "Multi-TopK": 1/8), so that
    other numbers of latents than k reconstruct too; off by default."""

    @property
    def widest(self) -> int:
        """Latents per token that are learnt from."""
        return min(self.d_sae, MULTI * self.k) if self.multi_topk else self.k

    def sparsity(self) -> str:
        """The sparsity setting in a few characters."""
        return f"{super().sparsity()}{f'+{MULTI * self.k}' if self.multi_topk else ''}"

    def form(self) -> tuple[Any, ...]:
        """What dictionaries that are stepped together must share, beside sites and width."""
        return (self.kind(), self.k, self.multi_topk) if self.multi_topk else (self.kind(),)


class FromBatch(FixedK):
    """Keep the k * batch largest of a whole batch.

    At inference a threshold, the moving average of the smallest kept value, replaces the batch.
    """

    threshold_rate: float = Field(0.01, gt=0, le=1)
    """Smallest step of the moving average of the threshold; it is 20 / steps so far until then."""


class BatchTopKConfig(FromBatch):
    """Keep the k * batch largest of a whole batch (Bussmann et al. 2024, arXiv:2412.06410)."""

    architecture: Literal["batchtopk"] = "batchtopk"


class MatryoshkaConfig(FromBatch):
    """BatchTopK whose first latents must reconstruct alone.

    The reconstruction loss is the mean over prefixes m of ``|x_hat_m - x|^2``, where ``x_hat_m``
    decodes the first m latents only; the last prefix is the whole dictionary (Bussmann et al. 2025,
    arXiv:2503.17547).
    """

    end_to_end: ClassVar[bool] = False
    architecture: Literal["matryoshka"] = "matryoshka"
    prefixes: tuple[float, ...] = Field((1 / 16, 1 / 8, 1 / 4, 1 / 2), min_length=1)
    """Shares of d_sae, below 1 and rising; the whole dictionary is added as the last."""

    @model_validator(mode="after")
    def _rising(self) -> "MatryoshkaConfig":
        rule = "prefixes must rise from above 0 to below 1, each by a latent or more; got"
        if any(not 0 < share < 1 for share in self.prefixes):
            raise ValueError(f"{rule} {list(self.prefixes)}")
        widths = self.widths()
        if widths != sorted(set(widths)):
            raise ValueError(
                f"{rule} {list(self.prefixes)}, which are {widths[:-1]} of {self.d_sae} latents"
            )
        return self

    def widths(self) -> list[int]:
        """Numbers of latents of the prefixes, the whole dictionary last."""
        return [max(1, round(share * self.d_sae)) for share in self.prefixes] + [self.d_sae]

    def form(self) -> tuple[Any, ...]:
        """What dictionaries that are stepped together must share, beside site and width."""
        return (self.kind(), *self.widths())
