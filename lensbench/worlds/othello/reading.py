"""Is the board linearly readable? A ridge regression per layer, beside what needs no model.

1. Fit games: one-hot mine / yours / empty per square from the residual stream, in closed form.
2. Score games: the class of the largest value, per square and state.
3. Baseline: the commonest class of the square after that many moves, counted on the fit games.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from lensbench.models import load_model
from lensbench.sites import Site
from lensbench.stats import Interval, bootstrap_mean
from lensbench.tokens import Tokens
from lensbench.worlds.othello.bitboards import as_squares
from lensbench.worlds.othello.games import Games
from lensbench.worlds.othello.vocabulary import PAD, transcripts

CLASSES = ("mine", "yours", "empty")


@dataclass(frozen=True)
class BoardAccuracy:
    """Share of squares named rightly, 0 to 1; intervals over games."""

    layers: tuple[Interval, ...]
    """From ``blocks.{L}.resid_post``, L = 0, 1, ..."""
    majority: Interval
    """Of the commonest class per square and move number."""


def board_accuracy(module: Any, fit: Games, score: Games, *, ridge: float = 1.0) -> BoardAccuracy:
    """Name every square as mine, yours or empty from the residual stream of ``module``.

    W = (X'X + ridge I)^-1 X'Y with a constant channel, Y one-hot; the class is argmax.
    States count until the game is over. The probe is linear, as in Nanda et al. 2023
    (arXiv:2309.00941); least squares stands in for their logistic loss, so figures are lower
    bounds.
    """
    model = load_model(module, certify=False)
    sites = [Site("resid_post", layer) for layer in range(model.card.n_layers)]
    parts = [(_read(model, x, sites), board_classes(x), x.legal != 0) for x in (fit, score)]
    (x_fit, y_fit, on_fit), (x_score, y_score, on_score) = parts
    game = np.nonzero(on_score)[0]
    layers: list[Interval] = []
    for site in sites:
        weights = _ridge(x_fit[site][on_fit], y_fit[on_fit], ridge)
        said = (_with_constant(x_score[site][on_score]) @ weights).reshape(len(game), -1, 3)
        layers.append(_right(said.argmax(-1), y_score[on_score], game))
    counts = np.stack([(y_fit == c).sum(0, where=on_fit[..., None]) for c in range(3)], -1)
    common = np.broadcast_to(counts.argmax(-1), y_score.shape)
    return BoardAccuracy(tuple(layers), _right(common[on_score], y_score[on_score], game))


def board_classes(games: Games) -> Int[np.ndarray, "games states squares"]:
    """0 mine, 1 yours, 2 empty, for the side to move."""
    mine, yours = (as_squares(words, games.size) for words in (games.mine, games.yours))
    return np.where(mine, 0, np.where(yours, 1, 2))


def _read(model: Any, games: Games, sites: list[Site]) -> dict[Site, np.ndarray]:
    ids = torch.from_numpy(transcripts(games)[:, :-1])
    with torch.no_grad():
        out = model.run(Tokens(ids, ids != PAD), capture=sites)
    return {site: out.acts[site].float().cpu().numpy() for site in sites}


def _ridge(
    x: Float[np.ndarray, "n d_model"], y: Int[np.ndarray, "n squares"], ridge: float
) -> Float[np.ndarray, "d_model+1 outputs"]:
    x = _with_constant(x)
    target = np.eye(3)[y].reshape(len(y), -1)
    return np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ target)


def _with_constant(x: Float[np.ndarray, "n d_model"]) -> Float[np.ndarray, "n d_model+1"]:
    return np.concatenate([x, np.ones((len(x), 1))], 1, dtype=np.float64)


def _right(
    said: Int[np.ndarray, "n squares"],
    true: Int[np.ndarray, "n squares"],
    game: Int[np.ndarray, " n"],
) -> Interval:
    return bootstrap_mean((said == true).mean(-1), game)
