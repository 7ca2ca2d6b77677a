"""Latents of a random dictionary on the same rows: what an explanation scores by luck."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse

from lensbench.saes.evaluation.controls import Centred, own_seed
from lensbench.saes.evaluation.passes import encode, to_csr
from lensbench.saes.latents.store import LatentStore
from lensbench.worlds.controls import random_dictionary

if TYPE_CHECKING:
    from lensbench.store import ActivationStore
    from lensbench.store.reader import StoreIndex

_BLOCK = 2048


@dataclass(frozen=True, eq=False)
class RandomFirings:
    """Where the latents of a random dictionary fire, for every row of a latent store."""

    acts: Any
    """A ``scipy.sparse.csc_array`` ``[rows, d_sae]``."""
    rows: "StoreIndex"

    @classmethod
    def of(cls, latents: LatentStore, store: "ActivationStore", *, seed: int) -> "RandomFirings":
        """A TopK dictionary of random unit directions, as wide and as sparse, on centred rows."""
        n, site = latents.n_tokens, latents.site
        k = min(max(1, round(latents.nnz / max(1, n))), latents.d_sae)
        sums = [_block(store, site, at, n).sum(0, dtype=np.float64) for at in range(0, n, _BLOCK)]
        mean = np.sum(sums, 0) / n
        codec = random_dictionary(
            len(mean), latents.d_sae, k, seed=own_seed(seed, "random dictionary")
        )
        centred = Centred(codec, torch.from_numpy(mean).float())
        parts = [
            to_csr(encode(centred, torch.from_numpy(_block(store, site, at, n))))
            for at in range(0, n, _BLOCK)
        ]
        found = sparse.csc_array(sparse.vstack(parts), dtype=np.float32)
        found.sort_indices()
        return cls(found, latents.index())

    def index(self) -> "StoreIndex":
        """That of the latent store."""
        return self.rows

    def column(self, latent: int) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Rows and values of one latent."""
        span = slice(self.acts.indptr[latent], self.acts.indptr[latent + 1])
        return self.acts.indices[span].astype(np.int64), self.acts.data[span]

    def like(self, density: Float[np.ndarray, " wanted"], least: int) -> Int[np.ndarray, " found"]:
        """A latent of the nearest density for each wanted one, none twice, dead ones left out."""
        counts = np.diff(self.acts.indptr)
        free = counts >= least
        out: list[int] = []
        for wanted in density[: int(free.sum())]:
            far = np.abs(np.log((counts + 1) / (wanted * self.acts.shape[0] + 1)))
            at = int(np.where(free, far, np.inf).argmin())
            free[at] = False
            out.append(at)
        return np.array(out, np.int64)


def _block(store: "ActivationStore", site: str, start: int, n: int) -> Float[np.ndarray, "rows d"]:
    return np.asarray(store.rows(site, np.arange(start, min(start + _BLOCK, n))), np.float32)
