"""What the sites of a crosscoder share: a report of relative decoder norms and cosines."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from lensbench.errors import ConfigError, UnknownNameError
from lensbench.provenance import record
from lensbench.results import Controls, Result
from lensbench.saes.crosscoder import Crosscoder

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

EXCLUSIVE, SHARED = 0.05, (0.3, 0.7)
"""A latent belongs to one site where the other has less than this share of its norms, and to both
where each has between these; what lies between is told apart by neither."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SharedLatents(Result):
    """Relative decoder norms of a crosscoder's latents on two of its sites.

    ``relative_norm`` is ``|d_b| / (|d_a| + |d_b|)`` in the units of training, 0 .. 1; ``cosine``
    that of the two directions, NaN where the sites differ in width. The L1 penalty of a ``relu``
    crosscoder itself makes latents exclusive (Minder et al. 2025, arXiv:2504.02922): compare with
    ``batchtopk`` before a claim about two models.
    """

    sites: tuple[str, str]
    relative_norm: Float[np.ndarray, " d_sae"]
    cosine: Float[np.ndarray, " d_sae"]

    def groups(self) -> np.ndarray:
        """``only a``, ``only b``, ``shared`` or ``between``, by latent; NaN norms are ``dead``."""
        share = self.relative_norm
        a, b = (f"only {site}" for site in self.sites)
        conditions = [share < EXCLUSIVE, share > 1 - EXCLUSIVE, _within(share), np.isnan(share)]
        return np.select(conditions, [a, b, "shared", "writes nothing"], "between")

    def summary(self) -> dict[str, float]:
        """Latents of each kind, and the median cosine of those that are shared."""
        groups = self.groups()
        names = [f"only {self.sites[0]}", f"only {self.sites[1]}", "shared", "between"]
        found = {name: float((groups == name).sum()) for name in names}
        cosines = self.cosine[groups == "shared"]
        median = float(np.median(cosines)) if len(cosines) else float("nan")
        return found | {"median cosine of shared latents": median}

    def to_frame(self) -> "pd.DataFrame":
        """One row per latent: latent, relative_norm, cosine, group."""
        import pandas as pd

        return pd.DataFrame(
            {
                "latent": np.arange(len(self.relative_norm)),
                "relative_norm": self.relative_norm,
                "cosine": self.cosine,
                "group": self.groups(),
            }
        )

    def plot(self) -> "go.Figure":
        """Histogram of the relative decoder norms, by kind."""
        from lensbench.plots import histogram

        frame = self.to_frame().dropna(subset=["relative_norm"])
        return histogram(
            frame,
            value="relative_norm",
            color="group",
            unit="share of the norms",
            title=f"Relative decoder norm: 0 is {self.sites[0]} alone, 1 is {self.sites[1]} alone",
        )


def compare_sites(
    crosscoder: Any, a: str | None = None, b: str | None = None, *, seed: int = 0
) -> SharedLatents:
    """Which latents of a crosscoder two of its sites share.

    Args:
        crosscoder: a :class:`~lensbench.saes.crosscoder.Crosscoder`, or the run of one.
        a: a site; left out: the first.
        b: another; left out: the last.
        seed: of the control, which pairs each direction with that of another latent.

    Raises:
        ConfigError: no crosscoder.
        UnknownNameError: a site that it does not have.

    Example:
        >>> sites = ["blocks.2.resid_post", "blocks.3.resid_post"]
        >>> sweep = {
        ...     "train": {"tokens": 2048, "batch": 256},
        ...     "sweep": [{"architecture": "topk", "d_sae": 64, "k": 8, "sites": sites}],
        ... }
        >>> crosscoder = saes.train(store, sweep, out="run", progress=False)[0]
        >>> found = saes.compare_sites(crosscoder, *sites)
    """
    coder = getattr(crosscoder, "coder", crosscoder)
    if not isinstance(coder, Crosscoder):
        raise ConfigError(f"compare_sites takes a crosscoder, got a {type(coder).__name__}")
    names = (a or coder.sites[0], b or coder.sites[-1])
    for name in names:
        if name not in coder.sites:
            raise UnknownNameError("site of this crosscoder", name, known=coder.sites)
    if names[0] == names[1]:
        raise ConfigError(f"a and b are both {names[0]}; name two sites")
    at = [coder.sites.index(name) for name in names]
    norms = coder.decoder_norms()[:, at].double()
    share = norms[:, 1] / norms.sum(1)
    parts = coder.split(coder.W_dec)
    left, right = (parts[name].double() for name in names)
    order = torch.randperm(coder.d_sae, generator=torch.Generator().manual_seed(seed))
    cosine, shuffled = _cosine(left, right), _cosine(left, right[order])
    both = torch.from_numpy(_within(share.numpy()))
    chance = float(shuffled[both].median()) if bool(both.any()) else float("nan")
    return SharedLatents(
        sites=names,
        relative_norm=share.numpy(),
        cosine=cosine.numpy(),
        controls=Controls(
            {"median cosine of shuffled pairs": chance},
            "shuffled: the direction at one site beside that of another latent at the other",
        ),
        provenance=record(seed=seed),
    )


def _within(share: Float[np.ndarray, " d_sae"]) -> np.ndarray:
    return (share > SHARED[0]) & (share < SHARED[1])


def _cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if a.shape[1] != b.shape[1]:
        return a.new_full((len(a),), torch.nan)
    return torch.nn.functional.cosine_similarity(a, b, dim=1)
