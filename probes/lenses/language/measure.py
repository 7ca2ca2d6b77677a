"""Latent languages: through which language's words does a prediction pass?

Steps, numbered in the body:

1. Of each item's word in each language, the tokens it can begin with (``sets``).
2. Leave out items whose pivot word stands inside the target word, items two of whose languages
   share a token, and items with a word that has no token; they are counted.
3. Run each prompt; at its last token read every layer: p_l = softmax(readout(h_l)).
4. p_l(language) = sum of p_l over the item's tokens of that language; entropy of p_l in bits;
   energy of h_l.
5. Controls: random tokens, as many; the word of another item in the same language.

That a language holds probability at a layer says what the unembedding reads there, not that later
layers use it. Source: Wendler et al. 2024, "Do Llamas Work in English?", arXiv:2402.10588.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, NotEnoughDataError, UnknownNameError
from lensbench.probes.lenses.language.energy import TokenEnergy
from lensbench.probes.lenses.language.result import LatentLanguage
from lensbench.probes.lenses.language.sets import word_tokens
from lensbench.probes.lenses.logit import UnembedReadout, reader
from lensbench.probes.lenses.prompts import Prompts, prompt_rows
from lensbench.protocols import Readout
from lensbench.results import Controls
from lensbench.sites import Site
from lensbench.stats import mean_there

if TYPE_CHECKING:
    from lensbench.models import Model

Words = Mapping[str, Sequence[str]] | Mapping[str, Sequence[Sequence[int]]]


@dataclass(frozen=True)
class Items:
    """What is left to be measured: prompts, and the token sets of each by language."""

    prompts: tuple[list[int], ...]
    sets: tuple[tuple[frozenset[int], ...], ...]
    """By language, then item."""
    dropped: Mapping[str, int]


def latent_language(
    model: "Model",
    prompts: Prompts,
    words: Words,
    *,
    target: str,
    pivot: str,
    readout: Readout | None = None,
    energy: bool = True,
    batch_size: int = 16,
    seed: int = 0,
) -> LatentLanguage:
    """Probability of each language by layer at the last token of each prompt.

    p_l(language) = sum over t in T of softmax(readout(h_l))_t, where T are the tokens that begin
    the item's word in that language; 0 to 1. Entropy -sum p log2 p, bits. Energy: see
    :class:`TokenEnergy`.

    Args:
        model: a decoder.
        prompts: one per item (see :func:`translation_prompts`).
        words: per language the word of each item, as text or as the set of its token ids.
        target: the language that the prompts ask for.
        pivot: the language that might stand in between.
        readout: another lens than the logit lens.
        energy: measure it too (needs the unembedding as a matrix).
        batch_size: prompts at a time.
        seed: of the controls.

    Raises:
        UnknownNameError: a language without words.
        ConfigError: lists that do not fit, or target and pivot the same.
        MismatchError: a readout that was made for another model.
        NotEnoughDataError: fewer than two items are left.

    Example:
        >>> words = {"fr": ["poisson", "chien"], "en": ["fish", "dog"], "de": ["Fisch", "Hund"]}
        >>> found = probes.latent_language(
        ...     model,
        ...     ["English : fish - French :", "English : dog - French :"],
        ...     words,
        ...     target="fr",
        ...     pivot="en",
        ... )
    """
    start = time.time()
    model.require_next_token("the lens on languages")
    batch_size = whole_number("batch_size", batch_size, least=1)
    for name in (target, pivot):
        if name not in words:
            raise UnknownNameError("language", name, known=tuple(words))
    if target == pivot:
        raise ConfigError(f"target and pivot are both {target!r}; a pivot is a third language")
    languages = tuple(words)
    items = kept_items(model, prompts, words, target, pivot)  # 1, 2
    sets = {
        "prob": items.sets,
        "random": _random_sets(items.sets, model, seed),
        "others": _other_sets(items.sets, seed),
    }
    read = reader(model, readout)
    measured = TokenEnergy.of(model) if energy else None
    n, n_layers = len(items.prompts), model.n_layers
    found = {k: np.empty((len(languages), n_layers, n)) for k in sets}
    bits, share = np.empty((n_layers, n)), np.full((n_layers, n), np.nan)
    sites = [Site("resid_post", layer) for layer in range(n_layers)]
    for first in range(0, n, batch_size):
        rows = list(range(first, min(first + batch_size, n)))
        acts = model.run([items.prompts[i] for i in rows], capture=sites, logits="none").acts  # 3
        for layer, site in enumerate(sites):
            state = acts[site][:, -1]  # rows end together: padding is on the left
            p = read(state, layer).double().cpu().softmax(-1)
            for kind, chosen in sets.items():
                found[kind][:, layer, rows] = [_mass(p, [s[i] for i in rows]) for s in chosen]  # 4
            bits[layer, rows] = -torch.special.xlogy(p, p).sum(-1).numpy() / math.log(2)
            if measured is not None:
                share[layer, rows] = measured(state).cpu().numpy()
    at = languages.index(pivot)
    peak = int(found["prob"][at, :-1].mean(-1).argmax()) if n_layers > 1 else 0
    return LatentLanguage(
        layers=tuple(range(n_layers)),
        languages=languages,
        target=target,
        pivot=pivot,
        **found,
        entropy=bits,
        energy=share,
        n_items=n,
        dropped=items.dropped,
        config={
            "target": target,
            "pivot": pivot,
            "seed": seed,
            "d_vocab": model.card.d_vocab,
            "readout": type(readout or UnembedReadout(model)).__name__,
        },
        controls=Controls(
            {
                "random_tokens": float(found["random"][at, peak].mean()),
                "other_words": float(mean_there(found["others"][at, peak])),
            },
            note=f"probability of {pivot} after block {peak}, where it is highest below the last",
        ),
        provenance=provenance.record(
            model=vars(model.card), seed=seed, seconds=time.time() - start
        ),
    )


def kept_items(model: "Model", prompts: Prompts, words: Words, target: str, pivot: str) -> Items:
    """Items whose languages can be told apart by their tokens.

    Raises:
        ConfigError: lists of different length.
        NotEnoughDataError: fewer than two are left.
    """
    rows = prompt_rows(model, prompts)
    for language, given in words.items():
        if len(given) != len(rows):
            raise ConfigError(f"{language!r} has {len(given)} words for {len(rows)} prompts")
    dropped = {"pivot inside the target word": 0, "shared tokens": 0, "no token": 0}
    kept: list[int] = []
    sets = [[_set_of(model, word) for word in given] for given in words.values()]
    for i in range(len(rows)):
        own = [of[i] for of in sets]
        reason = ""
        if not all(own):
            reason = "no token"
        elif _inside(words[pivot][i], words[target][i]):
            reason = "pivot inside the target word"
        elif len(frozenset[int]().union(*own)) < sum(len(s) for s in own):
            reason = "shared tokens"
        if reason:
            dropped[reason] += 1
        else:
            kept.append(i)
    if len(kept) < 2:
        told = ", ".join(f"{reason}: {n}" for reason, n in dropped.items() if n)
        raise NotEnoughDataError(
            f"{len(kept)} of {len(rows)} items are left ({told}); need 2. Give words that this "
            "model's tokenizer knows, and whose first tokens differ between the languages"
        )
    return Items(
        tuple(rows[i] for i in kept),
        tuple(tuple(of[i] for i in kept) for of in sets),
        {reason: n for reason, n in dropped.items() if n},
    )


def _set_of(model: "Model", word: Any) -> frozenset[int]:
    if isinstance(word, str):
        return word_tokens(model.tokenizer, word)
    ids = frozenset(whole_number("each token of a word", i, least=0) for i in word)
    if any(i >= model.card.d_vocab for i in ids):
        raise ConfigError(f"token ids of words must be below {model.card.d_vocab}, got {max(ids)}")
    return ids


def _inside(pivot: Any, target: Any) -> bool:
    both = isinstance(pivot, str) and isinstance(target, str)
    return both and pivot.strip().casefold() in target.casefold()


def _mass(p: Float[Tensor, "items d_vocab"], sets: Sequence[frozenset[int]]) -> list[float]:
    """Probability of each item's tokens; NaN where it has none."""
    return [float(row[sorted(s)].sum()) if s else math.nan for row, s in zip(p, sets, strict=True)]


def _random_sets(
    sets: Sequence[Sequence[frozenset[int]]], model: "Model", seed: int
) -> list[list[frozenset[int]]]:
    """As many tokens, none of them the item's own in any language (5)."""
    rng = np.random.default_rng(seed)
    found: list[list[frozenset[int]]] = []
    for own in sets:
        row: list[frozenset[int]] = []
        for i, one in enumerate(own):
            taken = frozenset[int]().union(*(of[i] for of in sets))
            drawn = rng.permutation(model.card.d_vocab).tolist()
            row.append(frozenset([t for t in drawn if t not in taken][: len(one)]))
        found.append(row)
    return found


def _other_sets(sets: Sequence[Sequence[frozenset[int]]], seed: int) -> list[list[frozenset[int]]]:
    """The tokens of another item in each language, without those of the item itself (5)."""
    n = len(sets[0])
    order = np.random.default_rng(seed + 1).permutation(n)
    after = np.empty(n, dtype=np.int64)
    after[order] = np.roll(order, 1)  # one cycle, so nobody keeps its own
    taken = [frozenset[int]().union(*(of[i] for of in sets)) for i in range(n)]
    return [[own[int(after[i])] - taken[i] for i in range(n)] for own in sets]
