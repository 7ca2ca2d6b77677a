"""Rows for board probes: the residual stream of games, with every square's state twice over.

``relative c4`` is ``empty``, ``mine`` or ``yours`` for the side to move next; ``absolute c4`` is
``empty``, ``black`` or ``white``. Every position of every game counts until the game is over: moves
of one colour alone would make the two the same thing.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Shaped

from lensbench.arguments import whole_number
from lensbench.errors import MismatchError
from lensbench.probes.linear.data import ProbeData
from lensbench.sites import Site
from lensbench.tokens import Tokens
from lensbench.worlds.othello.bitboards import as_squares
from lensbench.worlds.othello.games import Games, random_games
from lensbench.worlds.othello.vocabulary import PAD, square_name, transcripts, vocabulary

if TYPE_CHECKING:
    from lensbench.models.base import Model

KINDS = ("relative", "absolute")
CLASSES = {"relative": ("empty", "mine", "yours"), "absolute": ("empty", "black", "white")}
SIZES = (4, 6, 8)
_BATCH = 128


def board_data(
    model: "Model",
    games: Games | None = None,
    *,
    sites: Sequence[str] | str | None = None,
    n_games: int = 400,
    seed: int = 0,
    min_per_class: int = 10,
) -> ProbeData:
    """Residual stream of a model on games, labelled with the board after each token.

    Without ``games`` it plays ``n_games`` of openings held out of training. ``sites`` default to
    ``resid_post`` of every layer. A document is a game.

    Raises:
        MismatchError: a model whose vocabulary is not that of a board.
        UnknownSiteError: a site that the model has not.
        NotEnoughDataError: a square that hardly ever is in one of its states; give more games.

    Example:
        >>> data = probes.board_data(othello, n_games=20)
    """
    size = board_size(model)
    if games is None:
        count = whole_number("n_games", n_games, least=1)
        games = random_games(count, size=size, seed=seed, split="heldout")
    if games.size != size:
        raise MismatchError(f"games of a {games.size}x{games.size} board, a model of {size}x{size}")
    default = [f"blocks.{i}.resid_post" for i in range(model.card.n_layers)]
    names = default if sites is None else [sites] if isinstance(sites, str) else list(sites)
    alive = games.legal != 0
    return ProbeData.from_arrays(
        _read(model, games, [str(Site.parse(s)) for s in names], alive), board_labels(games, alive),
        docs=np.nonzero(alive)[0], tokens=transcripts(games)[:, :-1][alive],
        model={"name": model.card.name, "fingerprint": model.card.fingerprint},
        min_per_class=min_per_class,
    )  # fmt: skip


def board_labels(
    games: Games, alive: Bool[np.ndarray, "games states"]
) -> dict[str, Shaped[np.ndarray, " rows"]]:
    """State of every square in both senses, one word per row where ``alive``."""
    mine, yours = (as_squares(words, games.size)[alive] for words in (games.mine, games.yours))
    black = games.black[alive][:, None]
    names = [square_name(s, games.size) for s in range(games.size**2)]
    first, second = np.where(black, mine, yours), np.where(black, yours, mine)
    found: dict[str, np.ndarray] = {}
    for kind, (a, b) in {"relative": (mine, yours), "absolute": (first, second)}.items():
        empty, one, other = CLASSES[kind]
        words = np.where(a, one, np.where(b, other, empty))
        found |= {f"{kind} {name}": words[:, s] for s, name in enumerate(names)}
    return found


def board_size(model: "Model") -> int:
    """Side of the board that a model's vocabulary is of.

    Raises:
        MismatchError: no board has that many tokens.
    """
    for size in SIZES:
        if model.card.d_vocab == len(vocabulary(size)):
            return size
    known = {size: len(vocabulary(size)) for size in SIZES}
    raise MismatchError(
        f"{model.card.name!r} has {model.card.d_vocab} tokens; boards of side {SIZES} have "
        f"{list(known.values())}. Board probes read models of lensbench.worlds.othello"
    )


def _read(
    model: "Model", games: Games, sites: list[str], alive: Bool[np.ndarray, "games states"]
) -> dict[str, np.ndarray]:
    ids = torch.from_numpy(transcripts(games)[:, :-1])
    found: dict[str, list[np.ndarray]] = {site: [] for site in sites}
    for rows in torch.arange(len(ids)).split(_BATCH):
        tokens = Tokens(ids[rows], ids[rows] != PAD)
        acts = model.run(tokens, capture=sites, logits="none").acts
        there = alive[rows.numpy()]
        for site in sites:
            found[site].append(acts[Site.parse(site)].float().cpu().numpy()[there])
    return {site: np.concatenate(parts) for site, parts in found.items()}
