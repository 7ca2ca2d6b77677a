"""What the latents of a dictionary do on a text of one's own: one run of the model serves all."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from lensbench.app.workflows.latent_page import dictionary_of
from lensbench.app.workflows.live import hold_store, running
from lensbench.app.workflows.sequences import model_name
from lensbench.errors import ConfigError
from lensbench.saes.evaluation.passes import as_dictionary, encode, to_csr
from lensbench.tokens import token_texts

LONGEST = 2_000
"""Characters of a text to test."""


@dataclass(frozen=True, eq=False)
class TextLatents:
    """Every latent at every token of a text."""

    ids: tuple[int, ...]
    words: tuple[str, ...]
    acts: sparse.csc_array
    """``[tokens, d_sae]``."""
    special: tuple[bool, ...] = ()
    """Which tokens the tokenizer added, such as BOS; none where it is not said."""

    def of(self, latent: int) -> pd.DataFrame:
        """One row per token: position, token and the latent's activation.

        Raises:
            ConfigError: no such latent.
        """
        n = len(self.acts.indptr) - 1
        if not 0 <= latent < n:
            raise ConfigError(f"latents run from 0 to {n - 1}; got {latent}")
        frame = pd.DataFrame({"position": np.arange(len(self.ids)), "token": self.words,
                              "token_id": self.ids,
                              "activation": self._column(latent)})  # fmt: skip
        frame.attrs["units"] = {"activation": "units of the site"}
        return frame

    def strongest(self, n: int = 20) -> pd.DataFrame:
        """The latents of largest activation on the text: where it is, and on how many tokens.

        Special tokens such as BOS are left out where there are others: on them fire other latents
        than on words, and more strongly.
        """
        kept = ~np.array(self.special or [False] * len(self.ids))
        places = np.flatnonzero(kept) if kept.any() else np.arange(len(self.ids))
        acts = sparse.csc_array(self.acts.tocsr()[places])
        acts.sort_indices()
        ptr = acts.indptr
        alive = np.flatnonzero(np.diff(ptr))
        columns = [acts.data[ptr[j] : ptr[j + 1]] for j in alive]
        largest = np.array([c.max() for c in columns], np.float32)
        order = np.argsort(-largest, kind="stable")[:n]
        at = [int(places[acts.indices[ptr[alive[k]] + int(columns[k].argmax())]]) for k in order]
        frame = pd.DataFrame({
            "latent": alive[order], "activation": largest[order], "position": at,
            "token": [self.words[i] for i in at], "tokens": [len(columns[k]) for k in order],
        })  # fmt: skip
        frame.attrs["units"] = {"activation": "units of the site", "tokens": "tokens"}
        return frame

    def _column(self, latent: int) -> np.ndarray:
        out = np.zeros(len(self.ids), np.float32)
        span = slice(self.acts.indptr[latent], self.acts.indptr[latent + 1])
        out[self.acts.indices[span]] = self.acts.data[span]
        return out


@torch.no_grad()
def latents_of_text(run: Path, name: str, store: Path, text: str) -> TextLatents:
    """Every latent on ``text``: the model that the store is of is run on it once.

    Raises:
        ConfigError: no text, or one that is too long.
    """
    if not text.strip() or len(text) > LONGEST:
        raise ConfigError(f"give a text of 1 to {LONGEST:,} characters; this one has {len(text):,}")
    dictionary = as_dictionary(dictionary_of(run, name), encoded=True)
    held = hold_store(str(store))
    with running(*model_name(held)) as model:
        held.check_model(model.card)
        tokens = model.tokens(text)
        limit = model.card.n_ctx
        if limit and tokens.ids.shape[1] > limit:
            raise ConfigError(
                f"the text has {tokens.ids.shape[1]} tokens and the model reads {limit}; shorten it"
            )
        site = dictionary.site
        acts = model.run(tokens, capture=[site], logits="none").acts[site][0]
        ids = tokens.ids[0].tolist()
        words = token_texts(model.tokenizer, ids)
        known = set(getattr(model.tokenizer, "all_special_ids", ()))
    latents = to_csr(encode(dictionary.codec, acts.reshape(len(ids), -1).float()))
    return TextLatents(tuple(ids), tuple(words), sparse.csc_array(latents),
                       tuple(i in known for i in ids))  # fmt: skip
