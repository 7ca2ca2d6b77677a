"""Label matching of a sweep with its controls, and the recovery of implanted directions."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Float
from scipy import sparse
from torch import Tensor

from lensbench.errors import MismatchError
from lensbench.protocols import Codec
from lensbench.saes.evaluation import labels_table as table
from lensbench.saes.evaluation.data import EvaluationRows
from lensbench.saes.evaluation.labels import LabelledRows, Latents, check_same_tokens
from lensbench.saes.evaluation.passes import (
    Dictionary,
    Pass,
    as_dictionary,
    blocks,
    encode,
    to_csr,
)
from lensbench.worlds import controls

if TYPE_CHECKING:
    from lensbench.store import ActivationStore


def own_seed(seed: int, what: str) -> int:
    """A seed for one purpose only.

    Generators of equal seed draw equal numbers: without this, directions to be found by chance
    would be the very ones that were implanted, or the rows that training began with.
    """
    return int(np.random.SeedSequence([seed, crc32(what.encode())]).generate_state(1)[0])


class LabelMatcher:
    """Labels of one or two stores, and the latents that go with them.

    With ``heldout`` everything is chosen on the rows of the first store and scored on its rows.
    """

    def __init__(
        self,
        labels: LabelledRows,
        parts: Sequence[tuple["ActivationStore", EvaluationRows]],
        *,
        batch_size: int,
        seed: int,
    ) -> None:
        self.labels, self.parts = labels, parts
        self.batch_size, self.seed = batch_size, seed
        self.fixed = table.context_free(labels)
        columns = {str(i): labels.values[:, i] for i in range(len(labels.names))}
        dealt = controls.shuffled_labels(columns, labels.docs, seed=seed)
        self.shuffled = labels.replacing(np.stack(list(dealt.values()), 1))

    def latents(self, codec: Codec, site: str, first: Latents | None = None) -> Latents:
        """Latents of every labelled row; ``first`` are those of the first store, if known."""
        found: list[Latents] = [] if first is None else [first]
        for store, rows in self.parts[len(found) :]:
            for x, _ in blocks(store, site, rows, self.batch_size):
                found.append(to_csr(encode(codec, x)))
        return sparse.csr_array(sparse.vstack(found))

    def match(
        self,
        dictionary: Dictionary,
        passed: Pass,
        extra: Mapping[str, tuple[Latents, LabelledRows]],
        *,
        with_controls: bool,
    ) -> dict[str, Any]:
        """Columns of the label table for one dictionary."""
        acts = self.latents(dictionary.codec, dictionary.site, passed.acts[dictionary.name])
        beside = dict(extra)
        if with_controls:
            k = max(1, round(acts.nnz / acts.shape[0]))
            noise = Centred(
                controls.random_dictionary(
                    len(passed.mean),
                    acts.shape[1],
                    k,
                    seed=own_seed(self.seed, "random dictionary"),
                ),
                passed.mean,
            )
            beside["shuffled_labels"] = (acts, self.shuffled)
            beside["random_dictionary"] = (self.latents(noise, dictionary.site), self.labels)
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


def twin_latents(
    matcher: LabelMatcher, run: Any, store: "ActivationStore", rows: EvaluationRows
) -> Latents:
    """Latents of a dictionary trained on the re-initialised twin, on the same tokens.

    Raises:
        MismatchError: the twin's store does not hold the same tokens in the same rows, or the
            labels span two stores.
    """
    if len(matcher.parts) > 1:
        raise MismatchError("a twin is compared on one store; leave out heldout= or twin=")
    index = store.index()
    if store.n_tokens <= int(rows.rows.max()):
        raise MismatchError(f"the twin's store has {store.n_tokens} rows, too few for this text")
    check_same_tokens(rows.tokens, np.asarray(index.token_ids)[rows.rows])
    dictionary = as_dictionary(run)
    parts = [
        to_csr(encode(dictionary.codec, x))
        for x, _ in blocks(store, dictionary.site, rows, matcher.batch_size)
    ]
    return sparse.csr_array(sparse.vstack(parts))
