"""One dictionary for several sites, layers of a model or two models: what do they share?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.errors import ConfigError, MismatchError
from lensbench.saes.coder import SparseCoder


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Crosscoder(SparseCoder):
    """``acts = f(sum_m a^m @ W_enc^m + b_enc)``, ``a_hat^m = acts @ W_dec^m + b_dec^m``.

    The sites m are laid side by side: ``[tokens, sum of widths]`` in the order of ``sites``;
    :meth:`join` makes that of a mapping and :meth:`split` takes it apart. Latents are in the units
    of training, where every site has mean square norm of its width.
    Source: Lindsey et al. 2024, "Sparse crosscoders for cross-layer features and model diffing".
    """

    role: ClassVar[str] = "crosscoder"

    sites: tuple[str, ...]
    widths: tuple[int, ...]
    """Of each site."""
    scales: tuple[float, ...]
    """Factor with which the activations of each site were trained on."""

    def __post_init__(self) -> None:
        """Check that the parts fit together."""
        n = len(self.sites)
        if n < 2 or (len(self.widths), len(self.scales)) != (n, n):
            raise ConfigError(
                f"a crosscoder needs two sites or more with a width and a scale each; got {n} "
                f"sites, {len(self.widths)} widths and {len(self.scales)} scales"
            )
        if sum(self.widths) != self.d_in:
            raise ConfigError(
                f"the widths {list(self.widths)} add up to {sum(self.widths)}, but W_enc reads "
                f"{self.d_in} numbers"
            )
        super().__post_init__()

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        wide = {"W_dec": (self.d_sae, self.d_in), "b_dec": (self.d_in,)}
        return super()._shapes() | wide

    @property
    def told_widths(self) -> str:
        """Widths in words."""
        return "+".join(str(w) for w in self.widths)

    def join(self, acts: Mapping[str, Tensor]) -> Float[Tensor, "... d_in"]:
        """Activations by site, side by side.

        Raises:
            MismatchError: a site is absent, or not as wide as it should be.
        """
        if missing := [s for s in self.sites if s not in acts]:
            raise MismatchError(
                f"this crosscoder reads {', '.join(self.sites)}; {', '.join(missing)} is not among "
                f"{', '.join(acts) or 'nothing'}"
            )
        for site, width in zip(self.sites, self.widths, strict=True):
            if acts[site].shape[-1] != width:
                raise MismatchError(f"{site} is {acts[site].shape[-1]} wide; it should be {width}")
        return torch.cat([acts[s] for s in self.sites], dim=-1)

    def split(self, joined: Float[Tensor, "... d_in"]) -> dict[str, Tensor]:
        """What :meth:`join` made, by site again."""
        return dict(zip(self.sites, joined.split(self.widths, dim=-1), strict=True))

    def decoder_norms(self) -> Float[Tensor, "d_sae sites"]:
        """Length of what each latent writes to each site, in the units of training."""
        parts = zip(self.W_dec.split(self.widths, dim=1), self.scales, strict=True)
        return torch.stack([part.norm(dim=1) * scale for part, scale in parts], dim=1)

    def relative_norms(self) -> Float[Tensor, "d_sae sites"]:
        """Share of each site in the norms of a latent, ``|d_m| / sum_m |d_m|``; 0 .. 1.

        Of two sites, the second column is the relative decoder norm: 0 for a latent of the first
        alone, 1 for one of the second alone, about 0.5 for one that both have. NaN for a latent
        that writes nothing.
        """
        norms = self.decoder_norms()
        return norms / norms.sum(1, keepdim=True)
