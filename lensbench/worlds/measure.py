"""Measure a model of the atlas: loss beside the floor, accuracy, induction heads, IO patching."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from lensbench.models import load_model
from lensbench.models.base import Model
from lensbench.plan import Edit, Plan, Set
from lensbench.sites import Site
from lensbench.stats import Interval, bootstrap_mean
from lensbench.worlds.atlas import Atlas, Corpus
from lensbench.worlds.atlas.world import Split
from lensbench.worlds.scoring import QUESTIONED, answer_hits, token_losses


@dataclass(frozen=True)
class FloorGap:
    """Mean loss per predicted token beside the exact floor, nats."""

    loss: float
    floor: float
    gap: Interval
    """loss - floor, documents resampled."""
    n_tokens: int


def floor_gap(module: Any, corpus: Corpus, keep: np.ndarray | None = None) -> FloorGap:
    """Loss of ``module`` and floor of the world on the tokens ``keep`` (all but EOS by default)."""
    predicted = np.ones(len(corpus.tokens), dtype=bool)
    predicted[corpus.offsets[1:] - 1] = False  # EOS predicts nothing
    keep = predicted if keep is None else predicted & keep
    losses = token_losses(module, corpus)[keep]
    floor = corpus.nll[keep]
    gap = bootstrap_mean(losses - floor, corpus.doc_ids[keep])
    return FloorGap(float(losses.mean()), float(floor.mean()), gap, int(keep.sum()))


def accuracy(
    world: Atlas, module: Any, *, split: Split = "heldout", n: int = 500, seed: int = 0
) -> dict[str, Interval]:
    """Top-1 accuracy per family with its interval over prompts."""
    return {
        family: bootstrap_mean(
            answer_hits(module, world.questions(family, n, split, seed)).astype(float)
        )
        for family in QUESTIONED
    }


def accuracy_by_wording(
    world: Atlas, module: Any, family: str, *, split: Split = "heldout", n: int = 500, seed: int = 0
) -> dict[str, Interval]:
    """Top-1 accuracy on one family's questions, per wording (template without its variant)."""
    asked = world.questions(family, n, split, seed)
    hits = answer_hits(module, asked).astype(float)
    surface = {t.name: t.surface for t in world.templates}
    wordings = np.array([surface[name] for name in asked.templates])
    return {w: bootstrap_mean(hits[wordings == w]) for w in sorted(set(wordings.tolist()))}


def before_key(world: Atlas, corpus: Corpus) -> np.ndarray:
    """Tokens whose next word completes a held-out key: there, training never saw what comes."""
    flags = np.zeros(len(corpus.tokens), dtype=bool)
    steps = np.array([t.key_step for t in world.templates])
    flags[corpus.offsets[:-1] + steps[corpus.template]] = True
    return flags


def induction_scores(
    module: Any, world: Atlas, *, n: int = 64, length: int = 8, seed: int = 0
) -> Float[np.ndarray, "layer head"]:
    """Mean attention of a repeated name to the token after its first occurrence, 0 to 1.

    Sequences are BOS and ``length`` distinct random names said twice; the mean runs over the second
    saying. Source: Olsson et al. 2022 (prefix matching score).
    """
    rng = np.random.default_rng(seed)
    names = np.array([world.index[w] for w in world.people.firsts])
    once = np.stack([rng.permutation(names)[:length] for _ in range(n)])
    bos = np.full((n, 1), world.index["[BOS]"])
    tokens = torch.from_numpy(np.concatenate([bos, once, once], axis=1))
    sites = [f"blocks.{layer}.attn.pattern" for layer in range(module.config.num_hidden_layers)]
    out = _as_model(module).run(tokens, capture=sites, logits="none")
    query = torch.arange(length + 1, 2 * length + 1)
    scores = [out.acts[site][:, :, query, query - length + 1].mean((0, 2)) for site in sites]
    return torch.stack(scores).float().numpy()


@dataclass(frozen=True)
class PatchMap:
    """Normalised effect of patching the residual stream, averaged over prompts."""

    effect: Float[np.ndarray, "layer pos"]
    """0 = corrupted, 1 = clean."""
    words: tuple[str, ...]
    """One prompt, to read the positions."""
    n_prompts: int

    def share(self, threshold: float = 0.1) -> float:
        """Share of (layer, position) cells whose effect reaches ``threshold`` in size."""
        return float((np.abs(self.effect) >= threshold).mean())


def io_patching(module: Any, world: Atlas, *, n: int = 24, seed: int = 0) -> PatchMap:
    """Where the residual stream carries who receives: denoising, one cell at a time.

    Clean: ``When A and B went to the P , A gave a G to`` -> B. Corrupted: the actor is B, so the
    answer flips. Cell (l, p) puts the clean ``blocks.l.resid_post`` at p into the corrupted run;
    effect = (m - m_corrupted) / (m_clean - m_corrupted) with m = logit(B) - logit(A).
    Source: Wang et al. 2022 (IOI); Zhang & Nanda 2023 (metric).
    """
    model = _as_model(module)
    cleans, flipped, answers, foils = _io_pairs(world, n, seed)
    sites = [Site("resid_post", layer) for layer in range(model.n_layers)]
    clean = model.run(cleans, capture=sites, logits="last")
    corrupted = model.run(flipped, logits="last")
    rows = torch.arange(len(cleans))

    def metric(logits: torch.Tensor | None) -> torch.Tensor:
        last = torch.zeros(0) if logits is None else logits[:, -1]
        return last[rows, answers] - last[rows, foils]

    high, low = metric(clean.logits), metric(corrupted.logits)
    effect = np.zeros((model.n_layers, cleans.shape[1]))
    for layer, site in enumerate(sites):
        for pos in range(cleans.shape[1]):
            plan = Plan((Edit(site, Set(clean.acts[site][:, [pos]]), positions=(pos,)),))
            patched = metric(model.run(flipped, plan, logits="last").logits)
            effect[layer, pos] = float(((patched - low) / (high - low)).mean())
    return PatchMap(effect, tuple(world.vocab[int(t)] for t in cleans[0]), len(cleans))


def _io_pairs(
    world: Atlas, n: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """``n`` held-out prompts of one wording, the same with the other actor, answers and foils."""
    spoken = world.documents("heldout", seed, family="ioi")
    chosen = [(t, w) for t, w in islice(spoken, 20 * n) if t.surface == "ioi/when"][:n]
    slots = chosen[0][0].slots
    clean = torch.tensor(
        [[world.index[w] for w in ("[BOS]", *words[: slots["io"]])] for _, words in chosen]
    )
    answers, foils = (
        torch.tensor([world.index[words[slots[name]]] for _, words in chosen])
        for name in ("io", "s")
    )
    flipped = clean.clone()
    flipped[:, slots["s"] + 1] = answers
    return clean, flipped, answers, foils


def _as_model(module: Any) -> Model:
    return load_model(module, certify=False)


@dataclass(frozen=True)
class Surprise:
    """Mean surprise in nats of the model and of the world at the same tokens."""

    model: float
    world: float
    n: int


def surprise_before(module: Any, corpus: Corpus, label: str) -> Surprise:
    """Surprise at the tokens that carry ``label`` (predicted from the token before)."""
    at = np.flatnonzero(corpus.labels[label]) - 1
    return Surprise(
        float(token_losses(module, corpus)[at].mean()), float(corpus.nll[at].mean()), len(at)
    )
