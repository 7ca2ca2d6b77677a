"""Two readings of one sentence, token by token: distance, centred cosine, surprisal.

Steps, numbered in the body:

1. Align the ambiguous sentence with its disambiguated variant: tokens that the variant inserts
   (a comma, ``that``, ``who was``) are skipped; a token in place of another stays opposite to it.
2. Run both; take the states of one site and each token's surprisal in bits.
3. Per aligned token: Manhattan distance, cosine after subtracting the mean over the tokens of both
   sentences, and the ambiguous sentence's surprisal minus the variant's.
4. Of all sentences of a kind: the distances at the token before the one that disambiguates, and the
   surprisal at it.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from lensbench import provenance
from lensbench.arguments import whole
from lensbench.errors import ConfigError, NotEnoughDataError
from lensbench.probes.geometry.aligned_result import MEASURES, MODEL, TWIN, AlignedDistances
from lensbench.probes.geometry.tables import columns
from lensbench.results import Controls
from lensbench.tokens import token_texts

if TYPE_CHECKING:
    from lensbench.models import Model


@dataclass(frozen=True)
class SentencePair:
    """An ambiguous sentence, its variant, and the word of the first that settles the reading."""

    ambiguous: str
    variant: str
    disambiguating: str | int | None = None
    """The word (its last occurrence), or its token's number, BOS counted; None: no cut."""
    kind: str = "pair"


def align(a: Sequence[Any], b: Sequence[Any]) -> tuple[tuple[int, int], ...]:
    """Pairs (place in a, place in b) of two token sequences, tokens of one side alone skipped.

    The alignment of least cost (an inserted or left-out token costs 1, as does one in place of
    another); among equals what ``b`` inserts is skipped first, so that in ``raced`` beside
    ``who was ridden`` the verbs are opposite.
    Source: Needleman & Wunsch 1970; Jurayj et al. 2022, arXiv:2205.12302 skip listed tokens.

    Example:
        >>> probes.align(["the", "cat", "sat"], ["the", "big", "cat", "sat"])
        ((0, 0), (1, 2), (2, 3))
    """
    cost = np.zeros((len(a) + 1, len(b) + 1), np.int64)
    cost[:, -1], cost[-1] = np.arange(len(a), -1, -1), np.arange(len(b), -1, -1)
    for i in range(len(a) - 1, -1, -1):
        for j in range(len(b) - 1, -1, -1):
            across = cost[i + 1, j + 1] + (a[i] != b[j])
            cost[i, j] = min(across, cost[i + 1, j] + 1, cost[i, j + 1] + 1)
    i = j = 0
    found: list[tuple[int, int]] = []
    while i < len(a) and j < len(b):
        if a[i] != b[j] and cost[i, j] == cost[i, j + 1] + 1:
            j += 1
        elif cost[i, j] == cost[i + 1, j + 1] + (a[i] != b[j]):
            found.append((i, j))
            i, j = i + 1, j + 1
        elif cost[i, j] == cost[i, j + 1] + 1:
            j += 1
        else:
            i += 1
    return tuple(found)


def manhattan(a: Float[np.ndarray, "rows width"], b: Float[np.ndarray, "rows width"]) -> np.ndarray:
    """Sum |a - b| per row; 0 of equal states."""
    return np.abs(a - b).sum(-1)


def centred_cosine(
    a: Float[np.ndarray, "rows width"],
    b: Float[np.ndarray, "rows width"],
    mean: Float[np.ndarray, " width"],
) -> Float[np.ndarray, " rows"]:
    """Cosine of a - mean and b - mean per row; NaN where either equals the mean.

    Source: Jurayj et al. 2022, arXiv:2205.12302 (mean over the tokens of both sentences).
    """
    x, y = a - mean, b - mean
    lengths = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    return (x * y).sum(-1) / np.where(lengths > 0, lengths, np.nan)


def aligned_distances(
    model: "Model",
    pairs: Sequence[SentencePair | tuple[str, str]],
    *,
    site: str = "ln_final",
    twin: bool = True,
    seed: int = 0,
) -> AlignedDistances:
    """Distances between ambiguous sentences and their variants, token by token.

    Identical sentences give distance 0, cosine 1 and 0 bits. BOS and other special tokens are left
    out of the alignment and of the mean. Surprisals of two different tokens are not compared (NaN).
    Control: a re-initialised twin, which knows the words but not the grammar.
    Source: Jurayj et al. 2022, arXiv:2205.12302 (GPT-2, states after ``ln_f``).

    Raises:
        ConfigError: no pairs of texts, a disambiguating word that is not there, no tokenizer.
        NotEnoughDataError: no pair, or a sentence without a token.
        UnknownSiteError: a site this model has not.

    Example:
        >>> found = probes.aligned_distances(model, [("the king is nice", "the kings are nice")])
    """
    start = time.monotonic()
    given = [_pair(pair) for pair in pairs]
    if not given:
        raise NotEnoughDataError("no pair of sentences given")
    if model.tokenizer is None:
        raise ConfigError(f"{model.card.name} has no tokenizer, and sentences are texts")
    model.require_next_token("aligned distances")
    sources = {MODEL: model}
    if twin:
        from lensbench.worlds.controls import reinitialised_twin

        sources[TWIN] = reinitialised_twin(model, seed)
    rows = [
        {"source": name, "kind": pair.kind, "pair": number, **row}
        for name, one in sources.items()
        for number, pair in enumerate(given)
        for row in _distances(one, pair, site)
    ]
    return AlignedDistances(
        **columns(rows), controls=_controls(rows), config={"site": site, "seed": seed},
        provenance=provenance.record(model=vars(model.card), seed=seed,
                                     seconds=time.monotonic() - start),
    )  # fmt: skip


def _pair(given: Any) -> SentencePair:
    if isinstance(given, SentencePair):
        return given
    if (
        isinstance(given, tuple | list)
        and len(given) == 2
        and all(isinstance(t, str) for t in given)
    ):
        return SentencePair(given[0], given[1])
    raise ConfigError(f"a pair is a SentencePair or two texts, got {given!r}")


@dataclass(frozen=True, eq=False)
class _Sentence:
    ids: Int[np.ndarray, " tokens"]
    places: Int[np.ndarray, " tokens"]
    """Places in what the model read."""
    words: list[str]
    states: Float[np.ndarray, "tokens width"]
    bits: Float[np.ndarray, " tokens"]


def _distances(model: "Model", pair: SentencePair, site: str) -> list[dict[str, Any]]:
    a, b = (_read(model, text, site) for text in (pair.ambiguous, pair.variant))  # 2
    both = align(a.ids.tolist(), b.ids.tolist())  # 1
    i, j = np.array(both, np.int64).reshape(-1, 2).T
    mean = np.concatenate([a.states, b.states]).mean(0)
    far = manhattan(a.states[i], b.states[j])  # 3
    near = centred_cosine(a.states[i], b.states[j], mean)
    same = a.ids[i] == b.ids[j]
    bits = np.where(same, a.bits[i] - b.bits[j], np.nan)
    cut = _cut(model, pair, a)
    return [
        {
            "token": a.words[i[n]], "token_variant": b.words[j[n]], "place": n,
            "position": int(a.places[i[n]]), "to_cut": np.nan if cut is None else float(i[n] - cut),
            "manhattan": float(far[n]), "cosine": float(near[n]),
            "surprisal_difference": float(bits[n]), "same_token": float(same[n]),
        }
        for n in range(len(both))
    ]  # fmt: skip


def _read(model: "Model", text: str, site: str) -> _Sentence:
    tokens = model.tokens(text)
    out = model.run(tokens, capture=[site])
    ids = tokens.ids[0].cpu().numpy()
    special = [int(i) for i in getattr(model.tokenizer, "all_special_ids", None) or []]
    places = np.flatnonzero(~np.isin(ids, special))
    if not len(places) or out.logits is None:
        raise NotEnoughDataError(f"{text!r} has no token")
    logits = out.logits[0].double()
    bits = np.full(len(ids), np.nan)  # nothing predicts the first token
    told = -logits.log_softmax(-1).cpu().numpy() / np.log(2)
    bits[1:] = told[np.arange(len(ids) - 1), ids[1:]]
    states = out.acts[site][0].double().cpu().numpy().reshape(len(ids), -1)
    words = token_texts(model.tokenizer, ids[places].tolist())
    return _Sentence(ids[places], places, words, states[places], bits[places])


def _cut(model: "Model", pair: SentencePair, a: _Sentence) -> int | None:
    """Number, among the sentence's own tokens, of the one that settles the reading."""
    asked = pair.disambiguating
    if asked is None:
        return None
    if isinstance(asked, str):
        before, found, _ = pair.ambiguous.rpartition(asked)
        if not found or not asked:
            raise ConfigError(f"{asked!r} is not in {pair.ambiguous!r}")
        at = len(model.tokens(before.rstrip()).ids[0]) if before.strip() else int(a.places[0])
    else:
        at = whole(asked)
    where = np.flatnonzero(a.places == at) if at is not None else np.empty(0)
    if not len(where):
        raise ConfigError(
            f"the disambiguating token is a word of the sentence or its token's number (among "
            f"{a.places.tolist()}), got {asked!r}"
        )
    return int(where[0])


def _controls(rows: Sequence[Mapping[str, Any]]) -> Controls:
    twin = [row for row in rows if row["source"] == TWIN]
    if not twin:
        return Controls()
    mean = lambda name: float(np.nanmean([row[name] for row in twin]))  # noqa: E731
    names = [n for n in MEASURES if any(np.isfinite(row[n]) for row in twin)]
    return Controls({f"{name}_{TWIN}": mean(name) for name in names}, "means over aligned tokens")
