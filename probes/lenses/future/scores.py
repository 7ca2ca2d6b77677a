"""How well a state tells the tokens to come: any method, beside what it says without the state.

Steps, numbered in the body:

1. Rows t of held-out documents, each with the true tokens after it.
2. The truth at t + N: what the model itself predicts there, reading the true text; and the token
   x_{t+N+1} that came.
3. The method's logits from h^l_t, and the controls: states of other rows (``shuffled``), the same
   without a state (``no_transplant``), and what follows x_t most often in the other documents
   (``bigram``).

Prompts are given the N tokens between (see :mod:`lensbench.probes.lenses.future.readings`), so
their scores rise with N whatever the state says: read them against ``no_transplant`` alone.
Source: Pal et al. 2023, arXiv:2311.04897, section 4.
"""

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.probes.lenses.future.engine import as_batch_size
from lensbench.probes.lenses.future.pairs import (
    Ahead,
    as_ahead,
    draw,
    linked,
    scored_docs,
    states_of,
    stored_choice,
)
from lensbench.probes.lenses.future.readings import Method, Reading, reading
from lensbench.probes.lenses.future.score_result import KINDS, FutureScores
from lensbench.probes.lenses.future.spots import Affine, Mode, Spot, settings_of
from lensbench.probes.lenses.measures import tiles
from lensbench.results import Controls
from lensbench.sites import Site
from lensbench.stats import bounds

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from lensbench.models import Model
    from lensbench.store import ActivationStore

_BOOT = 1000


def future_scores(
    store: "ActivationStore",
    model: "Model",
    method: Method,
    *,
    ahead: int | Sequence[int] = (0, 1, 2, 3),
    layers: Sequence[int] | None = None,
    ks: Sequence[int] = (1, 5, 10),
    docs: tuple[int, int] | None = None,
    max_tokens: int = 2_000,
    f: Affine | None = None,
    mode: Mode = "normalised",
    strength: float = 1.0,
    first_token: bool = False,
    batch_size: int = 64,
    seed: int = 0,
) -> FutureScores:
    """Scores of a method at every layer and distance N, with 95 % intervals over documents.

    ``precision@k``: share of tokens whose k best predictions hold argmax p, p the model's own
    prediction at t + N. ``text_accuracy``: share whose best one is x_{t+N+1}; ``echo``: x_t itself,
    which is what an identity prompt is to say of it. ``surprisal``: -ln p(best one), nats.

    Args:
        store: holds ``resid_post`` of the layers and of the last block.
        model: the model of the store.
        method: a FutureLens, SoftPrompts, or a prompt as ``Spot`` (``identity_prompt``).
        ahead: distances N; 0 is the next token.
        layers: layers of the states (default: all that the store and the method have).
        ks: of precision@k.
        docs: documents a .. b - 1 (default: the last fifth); none that had part in the fit.
        max_tokens: about as many rows, of whole documents.
        f: map of a prompt's states, as in ``transplant``.
        mode: how a prompt takes them, as there.
        strength: of that, as there.
        first_token: allow a prompt to be replaced at position 0.
        batch_size: prompts at a time.
        seed: of the documents drawn, the shuffle and the intervals.

    Raises:
        ConfigError: documents of the fit, a k out of range, what is no method.
        MismatchError: a lens or prompts of another model, a store of another one.
        MissingDataError, UnknownNameError: a layer or distance that is not there.
        NotEnoughDataError: no row with enough tokens after it.

    Example:
        >>> lens = probes.fit_future_lens(store, model, ahead=(0, 1), layers=[2])
        >>> found = probes.future_scores(
        ...     store, model, lens, ahead=(0, 1), layers=[2], max_tokens=200
        ... )
    """
    start = time.monotonic()
    distances, size = as_ahead(ahead), as_batch_size(batch_size)
    found = [whole_number("each of ks", k, least=1) for k in ks]
    chosen = stored_choice(store, model, layers)
    reads = reading(
        model, method, layers=layers or (chosen if isinstance(method, Spot) else None),
        ahead=distances, how=settings_of(f, mode, strength), batch_size=size,
        first_token=first_token,
    )  # fmt: skip
    chosen = tuple(n for n in chosen if n in reads.layers)
    if not chosen:
        store.require([str(Site("resid_post", n)) for n in reads.layers])
    used = None if isinstance(method, Spot) or method.text != _text(store) else method.docs
    within = scored_docs(store, docs, used)
    data = draw(store, distances[-1], within, whole_number("max_tokens", max_tokens), seed)  # 1
    values = np.stack(
        [_at(store, model, reads, data, chosen, far, found, within, seed) for far in distances], -2
    )  # [metrics, kinds, layers, ahead, rows]
    low, high = _intervals(values, data.docs, seed)
    mean = values.mean(-1, dtype=np.float64)
    return FutureScores(
        method=reads.name,
        layers=chosen,
        ahead=distances,
        metrics=(*(f"precision@{k}" for k in found), "text_accuracy", "echo", "surprisal"),
        mean=mean,
        low=low,
        high=high,
        forced=tuple(far if reads.forces else 0 for far in distances),
        n_tokens=len(data.rows),
        n_docs=len(np.unique(data.docs)),
        config={"docs": list(within), "max_tokens": max_tokens, "seed": seed, "ks": found},
        controls=Controls(
            {kind: float(np.nanmax(mean[0, i, :, -1])) if np.isfinite(mean[0, i, :, -1]).any()
             else float("nan") for i, kind in enumerate(KINDS) if i},
            note=f"precision@{found[0]} at N = {distances[-1]}, at the control's best layer",
        ),
        provenance=provenance.record(
            model=vars(model.card), store=store, seed=seed, seconds=time.monotonic() - start
        ),
    )  # fmt: skip


def _at(
    store: "ActivationStore",
    model: "Model",
    reads: Reading,
    data: Ahead,
    layers: Sequence[int],
    far: int,
    ks: Sequence[int],
    within: tuple[int, int],
    seed: int,
) -> Float[np.ndarray, "metrics kinds layers rows"]:
    """Scores of every row at one distance."""
    n = len(data.rows)
    out = np.full((len(ks) + 3, len(KINDS), len(layers), n), np.nan, np.float32)
    shuffle = np.random.default_rng(seed + 1).permutation(n)
    states = {layer: states_of(store, layer, data.rows) for layer in layers}
    follows = _bigrams(store, model.card.d_vocab, far, within)
    phrase = data.phrase(far)
    for part in tiles(n, model.card.d_vocab):
        truth = _Truth.of(store, model, data, far, part)  # 2
        if follows is not None:
            counts = follows[0][data.tokens[part]].toarray() + follows[1]
            out[:, 3, :, part] = truth.score(torch.from_numpy(counts), ks)[:, None]
        silent = np.empty(0)
        for j, layer in enumerate(layers):
            said = reads.logits(states[layer][part], layer, phrase[part])  # 3
            out[:, 0, j, part] = truth.score(said, ks)
            others = states[layer][shuffle[part]]
            out[:, 1, j, part] = truth.score(reads.logits(others, layer, phrase[part]), ks)
            if j == 0 or reads.by_layer:
                silent = truth.score(reads.silent(layer, phrase[part]), ks)
            out[:, 2, j, part] = silent
    return out


class _Truth:
    """What the model predicts at t + N, and the token that came, of one tile of rows."""

    def __init__(
        self,
        logp: Float[Tensor, "rows d_vocab"],
        answers: Int[Tensor, " rows"],
        tokens: Int[Tensor, " rows"],
    ) -> None:
        self.logp, self.best, self.answers, self.tokens = logp, logp.argmax(-1), answers, tokens

    @classmethod
    def of(
        cls, store: "ActivationStore", model: "Model", data: Ahead, far: int, part: slice
    ) -> "_Truth":
        """Read from the stored final states."""
        final = states_of(store, model.n_layers - 1, data.rows[part] + far)
        tokens = torch.from_numpy(data.tokens[part].astype(np.int64))
        logp = model.unembed(final).float().cpu().log_softmax(-1)
        return cls(logp, data.answers(far)[part], tokens)

    def score(
        self, said: Float[Tensor, "rows d_vocab"], ks: Sequence[int]
    ) -> Float[np.ndarray, "metrics rows"]:
        """precision@k, text_accuracy, echo, surprisal of predictions given as logits."""
        said = said.float().cpu()
        mine = said.argmax(-1)
        # Of equal logits the first is the prediction, so an equal one before counts as better.
        aim = said.gather(1, self.best[:, None])
        earlier = torch.arange(said.shape[1]) < self.best[:, None]
        better = ((said > aim) | ((said == aim) & earlier)).sum(-1)
        rows = [(better < k).float() for k in ks]
        rows += [(mine == self.answers).float(), (mine == self.tokens).float()]
        rows.append(-self.logp.gather(1, mine[:, None])[:, 0])
        return torch.stack(rows).numpy()


def _bigrams(
    store: "ActivationStore", d_vocab: int, far: int, without: tuple[int, int]
) -> "tuple[csr_matrix, np.ndarray] | None":
    """Counts of x_{t+N+1} after x_t in the other documents, and a trifle of each token's share."""
    from scipy.sparse import csr_matrix

    index = store.index()
    rows = np.flatnonzero(linked(index, slice(0, len(index.doc_ids)), far + 1))
    docs = index.doc_ids[rows]
    rows = rows[(docs < without[0]) | (docs >= without[1])]
    if not len(rows):
        return None
    now, then = index.token_ids[rows], index.token_ids[rows + far + 1]
    ones = np.ones(len(rows), np.float32)
    share = np.bincount(then, minlength=d_vocab) / len(rows)
    counts = csr_matrix((ones, (now, then)), shape=(d_vocab, d_vocab))
    return counts, (share * 1e-3).astype(np.float32)


def _intervals(
    values: Float[np.ndarray, "metrics kinds layers ahead rows"],
    docs: Int[np.ndarray, " rows"],
    seed: int,
) -> tuple[Any, Any]:
    """95 % bounds of the means, whole documents drawn; one set of draws for all."""
    _, of = np.unique(docs, return_inverse=True)
    n = int(of.max()) + 1
    if n == 1:
        none = np.full(values.shape[:-1], np.nan)
        return none, none
    inside = np.zeros((len(of), n), np.float32)
    inside[np.arange(len(of)), of] = 1.0
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=_BOOT)
    sizes = drawn @ inside.sum(0)
    means = [(row @ inside) @ drawn.T / sizes for row in _rows(values)]
    both = np.array([bounds(m[None], axis=1) for m in means])[..., 0]
    return both[:, 0].reshape(values.shape[:-1]), both[:, 1].reshape(values.shape[:-1])


def _rows(values: Float[np.ndarray, "... rows"]) -> Iterator[Float[np.ndarray, " rows"]]:
    yield from values.reshape(-1, values.shape[-1])


def _text(store: "ActivationStore") -> str:
    return str(store.text.get("fingerprint"))
