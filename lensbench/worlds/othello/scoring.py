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


def legality(model: Any, games: Games) -> Legality:
    """Ask ``model`` for the next token at every state of ``games``.

    top1 = mean 1[argmax_v p(v) is legal], mass = mean sum_{v legal} p(v).
    """
    alive, mask = legal_tokens(games)
    logp = _log_probs(model, transcripts(games)[:, :-1], mask.shape[-1])
    p = np.exp(logp)
    game = np.nonzero(alive)[0]
    top = logp.argmax(-1)
    hit = np.take_along_axis(mask, top[..., None], -1)[..., 0]
    played = transcripts(games)[:, 1:]
    cost = -np.take_along_axis(logp, played[..., None], -1)[..., 0]
    over = np.arange(alive.shape[1]) == games.lengths[:, None]
    ended = over & ~alive
    return Legality(
        top1=bootstrap_mean(hit[alive].astype(float), game),
        mass=bootstrap_mean((p * mask).sum(-1)[alive], game),
        loss=float(cost[alive].mean()),
        floor=float(np.log(mask.sum(-1)[alive]).mean()),
        ends=float((top == EOS)[ended].mean()) if ended.any() else float("nan"),
        n_positions=len(game),
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
