"""A latent store in which it is known what every latent fires on."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

SITE = "blocks.0.resid_post"
OR, AFTER, LUCK, HIDDEN, DEAD, ALWAYS = range(6)


def corpus(n: int = 500) -> Any:
    from lensbench.worlds.atlas import Atlas

    return Atlas(0).sample(n, family="facts")


def commonest(text: Any) -> list[str]:
    """The two countries that the text names most often."""
    from lensbench.worlds.atlas.lexicon import COUNTRIES

    counts = np.bincount(text.tokens, minlength=len(text.vocab))
    return sorted(COUNTRIES, key=lambda c: -counts[list(text.vocab).index(c)])[:2]


def planted(text: Any) -> np.ndarray:
    """Strengths ``[rows, 6]`` of the planted latents.

    OR: on either of the two commonest countries. AFTER: on the token after "in". LUCK: on a random
    twentieth of the tokens. HIDDEN: on the full stop of a random half of the documents, which no
    text tells. DEAD: never. ALWAYS: everywhere.
    """
    rng = np.random.default_rng(0)
    words, docs = np.asarray(text.vocab)[text.tokens], text.doc_ids
    before = np.roll(words, 1)
    before[text.offsets[:-1]] = ""
    chosen = rng.random(docs.max() + 1) < 0.5
    fires = np.zeros((len(words), 6), bool)
    fires[:, OR] = np.isin(words, commonest(text))
    fires[:, AFTER] = before == "in"
    fires[:, LUCK] = rng.random(len(words)) < 0.05
    fires[:, HIDDEN] = (words == ".") & chosen[docs]
    fires[:, ALWAYS] = True
    return (fires * rng.uniform(0.5, 2.0, fires.shape)).astype(np.float32)


def stores(folder: Path, n: int = 500) -> tuple[Any, Any, Any]:
    """Activation store, latent store (a latent per dimension), and the text."""
    from lensbench import saes
    from tests.saes_evaluation_helpers import HandSet, write_store

    text = corpus(n)
    values = torch.from_numpy(planted(text))
    store = write_store(folder / "acts", text, {SITE: values})
    codec = HandSet(torch.eye(6), torch.eye(6))
    dictionary = saes.Dictionary("planted", SITE, codec)
    return store, saes.encode_store(dictionary, store, out=folder / "latents"), text


class Words:
    """A tokenizer of whole words joined by spaces."""

    def __init__(self, vocab: Any) -> None:
        self.vocab, self.all_special_tokens = list(vocab), []

    def decode(self, ids: Any, **_: Any) -> str:
        return " ".join(self.vocab[i] for i in ids)

    def convert_ids_to_tokens(self, ids: Any) -> list[str]:
        return [self.vocab[i] for i in ids]

    def convert_tokens_to_string(self, pieces: Any) -> str:
        return "".join(pieces)
