"""What a model of the words language has learnt, beside what there is to learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lensbench.stats import Interval, bootstrap_mean
from lensbench.worlds.exits import mean_agreement
from lensbench.worlds.scoring import next_log_probs
from lensbench.worlds.words.language import Words


def texts(
    world: Words, n: int, *, width: int = 96, seed: int = 0
) -> list[Int[np.ndarray, " tokens"]]:
    """``n`` documents of ``width`` tokens, BOS included."""
    rng = Random(f"words|text|{seed}")
    return [np.array(world.document(width, rng), np.int64) for _ in range(n)]


@dataclass(frozen=True)
class WordsLoss:
    """Mean loss per symbol beside the exact floor, nats."""

    loss: float
    floor: float
    gap: Interval
    """Loss minus the world's own surprise at the same symbols, documents resampled."""
    best: Interval
    """Share of symbols where the model's first choice is a most probable symbol of the world."""
    n_symbols: int


def words_loss(world: Words, module: Any, documents: Sequence[np.ndarray]) -> WordsLoss:
    """Loss on the symbols of the documents, BOS given, beside the exact floor."""
    loss: list[np.ndarray] = []
    floor: list[np.ndarray] = []
    best: list[np.ndarray] = []
    for ids, logp in zip(documents, next_log_probs(module, documents), strict=True):
        at, following = np.arange(len(ids) - 1), ids[1:]
        probs = world.next_symbol(ids).probs[:-1]
        loss.append(-logp[at, following])
        floor.append(-np.log(probs[at, following]))
        best.append(probs[at, logp[:-1].argmax(-1)] >= probs.max(-1) - 1e-9)
    of = np.repeat(np.arange(len(loss)), [len(part) for part in loss])
    model, exact = np.concatenate(loss), np.concatenate(floor)
    return WordsLoss(
        loss=float(model.mean()),
        floor=float(exact.mean()),
        gap=bootstrap_mean(model - exact, of),
        best=bootstrap_mean(np.concatenate(best).astype(float), of),
        n_symbols=len(model),
    )


def quick_scores(
    world: Words, module: Any, *, width: int = 96, n: int = 20, seed: int = 1
) -> dict[str, float]:
    """Loss above the floor, and agreement of every exit with the last layer, on few texts."""
    was_training = module.training
    module.eval()
    documents = texts(world, n, width=width, seed=seed)
    found = words_loss(world, module, documents)
    shares: Float[np.ndarray, " layers"] = mean_agreement(module, documents)
    module.train(was_training)
    agree = {f"agreement_{exit_layer}": float(x) for exit_layer, x in enumerate(shares, 1)}
    return {"excess": found.gap.mean, "best": found.best.mean, **agree}
