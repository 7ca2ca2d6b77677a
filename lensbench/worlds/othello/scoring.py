"""How often a model's next move is legal, beside what knowing nothing of the board scores.

Only positions with a move to make count; that the end of a game is named is a figure of its own.
Every interval resamples games, never moves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from lensbench.errors import ConfigError
from lensbench.stats import Interval, bootstrap_mean
from lensbench.worlds.othello.bitboards import as_squares
from lensbench.worlds.othello.games import Games, random_games
from lensbench.worlds.othello.vocabulary import EOS, playable, token_of_square, transcripts

_BATCH = 256


@dataclass(frozen=True)
class Legality:
    """Share of legal predictions, 0 to 1, over positions with a move to make."""

    top1: Interval
    """The most probable token is a legal move."""
    mass: Interval
    """Probability on legal moves."""
    loss: float
    """-log p of the move played, nats; the EOS tokens left out."""
    floor: float
    """Mean log of the number of legal moves: the loss of the generator itself, nats."""
    ends: float
    """Share of finished games whose end is the most probable token; NaN where none is."""
    n_positions: int
    by_move: tuple[float, ...]
    """``top1`` after 0, 1, ... moves; NaN where no position counts."""


def legality(model: Any, games: Games, *, from_move: int = 0) -> Legality:
    """Ask ``model`` for the next token at every state of ``games``.

    top1 = mean 1[argmax_v p(v) is legal], mass = mean sum_{v legal} p(v).
    ``from_move`` leaves out the states after fewer moves.

    Raises:
        ConfigError: no state with a move to make is left.
    """
    alive, mask = legal_tokens(games)
    alive = alive & (np.arange(alive.shape[1]) >= from_move)
    if not alive.any():
        raise ConfigError(f"no game has a move to make after {from_move} moves; give a smaller one")
    tokens = transcripts(games)
    logp = _log_probs(model, tokens[:, :-1], mask.shape[-1])
    game, top = np.nonzero(alive)[0], logp.argmax(-1)
    hit = np.take_along_axis(mask, top[..., None], -1)[..., 0]
    cost = -np.take_along_axis(logp, tokens[:, 1:, None], -1)[..., 0]
    ended = (np.arange(alive.shape[1]) == games.lengths[:, None]) & (games.legal == 0)
    return Legality(
        top1=bootstrap_mean(hit[alive].astype(float), game),
        mass=bootstrap_mean((np.exp(logp) * mask).sum(-1)[alive], game),
        loss=float(cost[alive].mean()),
        floor=float(np.log(mask.sum(-1)[alive]).mean()),
        ends=float((top == EOS)[ended].mean()) if ended.any() else float("nan"),
        n_positions=len(game),
        by_move=tuple(
            float(hit[:, t][alive[:, t]].mean()) if alive[:, t].any() else float("nan")
            for t in range(alive.shape[1])
        ),
    )


def legal_tokens(
    games: Games,
) -> tuple[Bool[np.ndarray, "games states"], Bool[np.ndarray, "games states d_vocab"]]:
    """States with a move to make, and the tokens of the legal moves there."""
    legal = as_squares(games.legal, games.size)
    squares = list(playable(games.size))
    ids = token_of_square(games.size)[squares]
    mask = np.zeros((*games.legal.shape, int(ids.max()) + 1), bool)
    mask[..., ids] = legal[..., squares]
    return games.legal != 0, mask


@torch.no_grad()
def _log_probs(
    model: Any, tokens: Int[np.ndarray, "games pos"], d_vocab: int
) -> Float[np.ndarray, "games pos d_vocab"]:
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    out: list[np.ndarray] = []
    for at in range(0, len(tokens), _BATCH):
        ids = torch.from_numpy(tokens[at : at + _BATCH]).to(device)
        every = torch.ones_like(ids)  # padding comes last: no state that counts can see it
        logits = model(input_ids=ids, attention_mask=every, use_cache=False).logits.float()
        out.append(logits.log_softmax(-1)[..., :d_vocab].cpu().numpy())
    model.train(was_training)
    return np.concatenate(out)


def chance_levels(games: Games, *, seed: int = 0) -> Mapping[str, Interval]:
    """Share of legal moves among predictors that never see the board.

    ``square``: a uniformly random square that can be played at all. ``unplayed square``: one that
    the transcript has not named yet, which is how often a random *empty* square is legal.
    ``move number``: the unplayed square that is most often legal at this move number, counted on
    other games.
    """
    alive, mask = legal_tokens(games)
    squares = token_of_square(games.size)[list(playable(games.size))]
    mask, game = mask[..., squares], np.nonzero(alive)[0]
    unplayed = _unplayed(games)
    fit_alive, fit = legal_tokens(random_games(4096, size=games.size, seed=seed, split="train"))
    often = fit[..., squares].sum(0) / np.maximum(fit_alive.sum(0), 1)[:, None]
    best = np.where(unplayed, often, -1).argmax(-1)
    hits = {
        "square": mask.mean(-1),
        "unplayed square": mask.sum(-1) / np.maximum(unplayed.sum(-1), 1),
        "move number": np.take_along_axis(mask, best[..., None], -1)[..., 0].astype(float),
    }
    return {name: bootstrap_mean(x[alive], game) for name, x in hits.items()}


def _unplayed(games: Games) -> Bool[np.ndarray, "games states squares"]:
    taken = as_squares(games.mine | games.yours, games.size)
    return ~taken[..., list(playable(games.size))]
