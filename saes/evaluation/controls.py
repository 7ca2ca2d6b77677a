"""Label matching of a sweep with its controls, and the recovery of implanted directions."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.protocols import Codec
from lensbench.saes.evaluation import labels_table as table
from lensbench.saes.evaluation.labels import LabelledRows, Latents
from lensbench.saes.evaluation.passes import (
    Dictionary,
    Pass,
)
from lensbench.worlds import controls

if TYPE_CHECKING:
    pass


def own_seed(seed: int, what: str) -> int:
    """A seed for one purpose only.

    Generators of equal seed draw equal numbers: without this, directions to be found by chance
    would be the very ones that were implanted, or the rows that training began with.
    """
    return int(np.random.SeedSequence([seed, crc32(what.encode())]).generate_state(1)[0])


class LabelMatcher:
    """Labels of one or two stores, and the controls that need no dictionary."""

    def __init__(self, labels: LabelledRows, *, seed: int) -> None:
        self.labels, self.seed = labels, seed
        self.fixed = table.context_free(labels)
        columns = {str(i): labels.values[:, i] for i in range(len(labels.names))}
        dealt = controls.shuffled_labels(columns, labels.docs, seed=seed)
        self.shuffled = labels.replacing(np.stack(list(dealt.values()), 1))

    def match(
        self,
        dictionary: Dictionary,
        acts: Latents,
        noise: Latents | None,
        extra: Mapping[str, tuple[Latents, LabelledRows]],
    ) -> dict[str, Any]:
        """Columns of the label table for one dictionary; ``noise`` is the random dictionary's."""
        beside = dict(extra)
        if noise is not None:
            beside["shuffled_labels"] = (acts, self.shuffled)
            beside["random_dictionary"] = (noise, self.labels)
        return table.table_of(
            dictionary.name, acts, self.labels, beside, self.fixed, seed=self.seed
        )


class Centred:
    """A codec of ``x - mean``: gives a random dictionary the bias a trained one would learn."""

    def __init__(self, codec: Codec, mean: Float[Tensor, " d_model"]) -> None:
        self.codec, self.mean, self.d_sae = codec, mean, codec.d_sae

    def encode(self, x: Float[Tensor, "tokens d_model"]) -> Float[Tensor, "tokens d_sae"]:
        """Latents of the centred activations."""
        return self.codec.encode(x - self.mean)

    def decode(self, acts: Float[Tensor, "tokens d_sae"]) -> Float[Tensor, "tokens d_model"]:
        """Activations, the mean put back."""
        return self.codec.decode(acts) + self.mean


def implants_recovered(
    codec: Any, implants: Float[Tensor, "directions d_model"], seed: int
) -> tuple[float, float]:
    """Share of the implanted directions that are a decoder row, and of as many random ones.

    A direction counts when a row of ``W_dec`` has cosine >= 0.9 with it.
    """
    rows = codec.W_dec.detach().float().cpu()
    gen = torch.Generator().manual_seed(own_seed(seed, "random directions"))
    random = torch.randn(implants.shape, generator=gen)
    share = controls.recovered_share
    return share(rows, implants.float().cpu()), share(rows, random)


def random_of(dictionary: Dictionary, passed: Pass, seed: int) -> Dictionary:
    """Random directions of the same width and L0, on centred activations."""
    d_model, d_sae = len(passed.mean), dictionary.codec.d_sae
    k = min(max(1, round(passed.sums[dictionary.name].mean_l0)), d_sae)
    chosen = own_seed(seed, "random dictionary")
    codec = controls.random_dictionary(d_model, d_sae, k, seed=chosen)
    return Dictionary(dictionary.name, dictionary.site, Centred(codec, passed.mean.float()))
