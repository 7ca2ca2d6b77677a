"""Structural and depth probes: one linear map under which lengths are those of a parse tree.

Steps, numbered in the body:

1. Sentences are dealt to train, validation and test; states are divided by one number, their scale.
2. B is fitted by Adam, batches of sentences; the epoch of least validation loss is kept.
3. Test sentences are scored: the minimum spanning tree against the tree (UUAS), rank correlations
   by sentence length.
4. Beside: B drawn at random, B fitted on the trees of other sentences of the same length, and the
   tree in which every word hangs on its neighbour.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lensbench import provenance
from lensbench.arguments import positive_number, whole_number
from lensbench.errors import ConfigError, MismatchError, UnknownNameError
from lensbench.probes.linear.data import SHARES
from lensbench.probes.linear.splits import Split, deal
from lensbench.probes.structure import trees
from lensbench.probes.structure.result import TASKS, StructuralProbes
from lensbench.probes.structure.words import WordStates
from lensbench.results import Controls
from lensbench.sites import Site
from lensbench.stats import bootstrap_mean, spearman

BATCH = 20


def structural_probe(
    words: "WordStates | Sequence[Any]",
    heads: Sequence[Any],
    *,
    task: str = "distance",
    sites: Sequence[str] | str | None = None,
    rank: int | None = None,
    epochs: int = 100,
    lr: float = 1e-2,
    seed: int = 0,
    shares: tuple[float, float, float] = SHARES,
) -> StructuralProbes:
    """Fit |B(h_i - h_j)|^2 to distances in the tree, or |B h_i|^2 to depths.

    Loss of a sentence of s words: sum |d_tree - d_B| / s^2 over pairs (depth: / s over words).
    Source: Hewitt & Manning 2019, N19-1419 (Adam 1e-3 there, with decay; here 1e-2, the best epoch
    on validation sentences).

    Args:
        words: states of words (:func:`~lensbench.probes.structure.words.word_states`), or one array
            ``[words, width]`` per sentence. Leave punctuation out, as they do.
        heads: per sentence, the place of each word's head, -1 for the root.
        task: ``distance`` or ``depth``.
        sites: which; default: all. Give layer 0 too: it knows words, and no sentence.
        rank: rows of B; default: the width.
        epochs: all are run, since the loss rests on a plateau before it falls; the best is kept.
        lr: step size.
        seed: of the split, of B and of the controls.
        shares: of sentences: train, validation, test.

    Raises:
        ConfigError: heads that are no tree; settings.
        MismatchError: heads of other sentences than the states.
        UnknownNameError, UnknownSiteError: no such task or site.
        NotEnoughDataError: too few sentences.

    Example:
        >>> sentences = [t.split()[:4] for t in documents.texts() if len(t.split()) >= 4]
        >>> words = probes.word_states(model, sentences, sites=["blocks.2.resid_post"])
        >>> heads = [[-1, 0, 1, 2] for _ in sentences]  # the word that each hangs on; -1: the root
        >>> found = probes.structural_probe(words, heads, epochs=2)
    """
    start = time.monotonic()
    if task not in TASKS:
        raise UnknownNameError("structural task", task, known=TASKS)
    given = words if isinstance(words, WordStates) else WordStates.from_arrays(words)
    gold = trees.check_heads(heads)
    lengths = [len(head) for head in gold]
    if lengths != given.lengths:
        raise MismatchError(
            f"{len(gold)} trees of {sum(lengths)} words for {len(given.lengths)} sentences of "
            f"{sum(given.lengths)} words; give one head per word of each sentence, in order"
        )
    if min(lengths) < 2:
        raise ConfigError(f"sentence {lengths.index(min(lengths))} has one word: it has no tree")
    names = [sites] if isinstance(sites, str) else list(given.sites if sites is None else sites)
    settings = whole_number("epochs", epochs, least=1), positive_number("lr", lr)
    split = deal(np.arange(len(gold)), shares, seed, "sentences")  # 1
    swapped = _exchanged(gold, seed)
    rows: list[dict[str, Any]] = []
    maps: dict[str, np.ndarray] = {}
    for site in (str(Site.parse(s)) for s in names):
        batch = Batch.of(given.at(site), split)
        k = batch.x.shape[-1] if rank is None else whole_number("rank", rank, least=1)
        draw = torch.Generator().manual_seed(seed)
        random = torch.randn(k, batch.x.shape[-1], generator=draw) / k**0.5
        own = _fit(batch, _targets(gold, task), k, split, *settings, seed)  # 2
        wrong = _fit(batch, _targets(swapped, task), k, split, *settings, seed)  # 4
        score = {"probe": _scores(batch, own, gold, task, split),
                 "random_map": _scores(batch, random, gold, task, split),
                 "exchanged_trees": _scores(batch, wrong, swapped, task, split)}  # fmt: skip
        rows.append({"site": site, **score})
        maps[site] = (own / batch.scale).double().numpy()
    flat = _chain(gold, task, split)
    test = np.flatnonzero(split.test)
    return StructuralProbes(
        task=task, sites=tuple(maps), maps=maps,
        scores={name: np.array([_intervals(row[name], test) for row in rows])
                for name in ("probe", "random_map", "exchanged_trees")},
        chain=_intervals(flat, test),
        lengths=np.array([lengths[i] for i in test]),
        each=np.array([row["probe"] for row in rows]), n_sentences=len(gold), n_test=len(test),
        model=dict(given.model), config={"rank": rank, "epochs": epochs, "lr": lr, "seed": seed},
        controls=Controls({
            "random_map": float(np.nanmax([np.nanmean(r["random_map"][:, 0]) for r in rows])),
            "exchanged_trees": float(np.nanmax([np.nanmean(r["exchanged_trees"][:, 0])
                                                for r in rows])),
            "chain": float(np.nanmean(flat[:, 0])),
        }, "uuas, or share of roots"),
        provenance=provenance.record(
            model=dict(given.model), seed=seed, seconds=time.monotonic() - start
        ),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Batch:
    """Sentences side by side, padded."""

    x: Float[Tensor, "sentences words width"]
    real: Bool[Tensor, "sentences words"]
    scale: float

    @classmethod
    def of(cls, sentences: Sequence[Float[np.ndarray, "_words _width"]], split: Split) -> "Batch":
        """States over the mean deviation of a dimension of the training words."""
        train = np.concatenate([sentences[i] for i in np.flatnonzero(split.train).tolist()])
        scale = max(float(train.std(0).mean()), 1e-12)
        x = torch.nn.utils.rnn.pad_sequence(
            [torch.from_numpy(one / np.float32(scale)) for one in sentences], batch_first=True
        )
        lengths = torch.tensor([len(one) for one in sentences])
        return cls(x, torch.arange(x.shape[1]) < lengths[:, None], scale)

    def said(
        self, b: Float[Tensor, "k width"], task: str, rows: Tensor | slice = slice(None)
    ) -> Tensor:
        """Squared distances ``[sentences, words, words]``, or squared lengths."""
        turned = self.x[rows] @ b.T
        if task == "depth":
            return turned.square().sum(-1)
        return (turned[:, :, None] - turned[:, None]).square().sum(-1)


def _targets(gold: Sequence[Int[np.ndarray, " _words"]], task: str) -> tuple[str, list[np.ndarray]]:
    return task, [(trees.depths if task == "depth" else trees.distances)(head) for head in gold]


def _fit(
    batch: Batch,
    target: tuple[str, list[np.ndarray]],
    rank: int,
    split: Split,
    epochs: int,
    lr: float,
    seed: int,
) -> Float[Tensor, "k width"]:
    """B of the epoch with the least validation loss (training loss where nothing validates)."""
    task, truth = target
    padded = _padded(truth, batch)
    draw = torch.Generator().manual_seed(seed)
    b = (0.1 * torch.rand(rank, batch.x.shape[-1], generator=draw) - 0.05).requires_grad_()
    adam, train = torch.optim.Adam([b], lr=lr), torch.from_numpy(np.flatnonzero(split.train))
    held = np.flatnonzero(split.validation if split.validation.any() else split.train)
    best, least = b.detach().clone(), np.inf
    for _ in range(epochs):
        for rows in train[torch.randperm(len(train), generator=draw)].split(BATCH):
            adam.zero_grad()
            _loss(batch, b, padded, task, rows).backward()
            adam.step()
        with torch.no_grad():
            now = float(_loss(batch, b, padded, task, torch.from_numpy(held)))
        if now < least:
            best, least = b.detach().clone(), now
    return best


def _padded(truth: Sequence[np.ndarray], batch: Batch) -> Tensor:
    n, words = batch.real.shape
    found = torch.zeros((n, words, *([words] if truth[0].ndim == 2 else [])))
    for i, one in enumerate(truth):
        found[(i, *(slice(side) for side in one.shape))] = torch.from_numpy(one).float()
    return found


def _loss(batch: Batch, b: Tensor, truth: Tensor, task: str, rows: Tensor) -> Tensor:
    real = batch.real[rows].float()
    apart = (batch.said(b, task, rows) - truth[rows]).abs()
    if task == "depth":
        return ((apart * real).sum(1) / real.sum(1)).mean()
    pairs = real[:, :, None] * real[:, None]
    return ((apart * pairs).sum((1, 2)) / real.sum(1).square()).mean()


def _scores(
    batch: Batch, b: Tensor, gold: Sequence[np.ndarray], task: str, split: Split
) -> Float[np.ndarray, "test 2"]:
    """UUAS and Spearman (or root found, and Spearman) of every test sentence (3)."""
    test = np.flatnonzero(split.test)
    with torch.no_grad():
        said = batch.said(b, task, torch.from_numpy(test)).double().numpy()
    return np.array([_score(said[j], gold[i], task) for j, i in enumerate(test.tolist())])


def _score(said: np.ndarray, head: np.ndarray, task: str) -> tuple[float, float]:
    n = len(head)
    if task == "depth":
        root = float(head[int(said[:n].argmin())] == trees.ROOT)
        return root, spearman(said[:n], trees.depths(head).astype(float))
    own = said[:n, :n]
    return trees.uuas(own, head), trees.distance_spearman(own, trees.distances(head))


def _chain(gold: Sequence[np.ndarray], task: str, split: Split) -> Float[np.ndarray, "test 2"]:
    """Every word hangs on the one before (depth: on the one after the first)."""
    found = []
    for i in np.flatnonzero(split.test).tolist():
        n = len(gold[i])
        said = np.arange(n) if task == "depth" else trees.chain(n)
        found.append(_score(said.astype(float), gold[i], task))
    return np.array(found)


def _exchanged(gold: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
    """Trees of other sentences of the same length (of its own where there is no other)."""
    rng, found = np.random.default_rng(seed), list(gold)
    lengths = np.array([len(head) for head in gold])
    for n in np.unique(lengths):
        at = np.flatnonzero(lengths == n)
        turned = np.roll(at[order := rng.permutation(len(at))], 1)
        for i, j in zip(at[order], turned, strict=True):
            found[i] = gold[j]
    return found


def _intervals(
    values: Float[np.ndarray, "test 2"], test: Int[np.ndarray, " test"]
) -> Float[np.ndarray, "2 3"]:
    """Mean over sentences with a 95 % interval, of both scores; NaN sentences are left out."""
    out = np.full((2, 3), np.nan)
    for j in range(2):
        there = np.isfinite(values[:, j])
        if there.any():
            mean = bootstrap_mean(values[there, j], test[there])
            out[j] = mean.mean, mean.low, mean.high
    return out
