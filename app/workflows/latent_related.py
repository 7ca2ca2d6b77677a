"""What goes with a latent: what else fires where it does, which rows point its way, all it writes.

Firing together is measured on the rows that dashboards look at (encoded once for all latents).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from lensbench import plots
from lensbench.app.workflows.directions import Rows, model_of
from lensbench.app.workflows.latent_page import BOARD, MOST_ACTIVE, dictionary_of
from lensbench.app.workflows.live import hold_latents, hold_store
from lensbench.errors import ConfigError, NotEnoughDataError
from lensbench.saes.latents.dashboard import WRITES, encode_store_rows, logit_effects
from lensbench.sites import Site

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from lensbench.saes.latents.contexts import Encoded

SHOWN = 12
"""Latents that are listed."""
SHIFTS = 16
"""Random turns of the text by which chance is told."""
RANDOM = 16
"""Random directions whose logit effects are drawn."""


def encoded(run: Path, name: str, store: Path) -> "Encoded":
    """All latents on the rows that dashboards look at.

    Raises:
        NotEnoughDataError: more of them are active than are kept in memory.
    """
    one, held = dictionary_of(run, name), hold_store(str(store))
    found = hold_latents(run, name, str(store), lambda: encode_store_rows(
        one, held, config=BOARD, max_active=MOST_ACTIVE))  # fmt: skip
    if found is None:
        raise NotEnoughDataError(
            f"more than {MOST_ACTIVE:,} latents are active on the first {BOARD.max_tokens:,} "
            "tokens, too many to keep; encode the store: lensbench encode"
        )
    return found


def measured(run: Path, name: str, store: Path) -> pd.DataFrame:
    """One row per latent: share of the tokens looked at on which it fires, largest activation."""
    held = encoded(run, name, store)
    ptr = held.acts.indptr
    largest = np.zeros(len(ptr) - 1, np.float32)
    alive = np.flatnonzero(np.diff(ptr))
    if len(alive):
        largest[alive] = np.maximum.reduceat(held.acts.data, ptr[alive])
    frame = pd.DataFrame({"latent": held.latents, "largest": largest,
                          "fires": np.diff(ptr) / max(1, len(held.rows))})  # fmt: skip
    frame.attrs["n"] = len(held.rows)
    return frame


def cosines(run: Path, name: str, latent: int) -> np.ndarray:
    """Cosine of every decoder row with that of one latent; NaN for rows of zeros.

    Raises:
        MismatchError: a crosscoder.
        ConfigError: no such latent.
    """
    rows = Rows.of(run, name).W_dec.detach().float().cpu()
    if not 0 <= latent < len(rows):
        raise ConfigError(f"latents run from 0 to {len(rows) - 1}; got {latent}")
    lengths = rows.norm(dim=1)
    return ((rows @ rows[latent]) / (lengths * lengths[latent])).numpy()


def together(
    run: Path, name: str, latent: int, store: Path, seed: int = 0
) -> tuple[pd.DataFrame, float]:
    """Latents whose activations correlate most with one's, and what chance gives.

    ``correlation``: Pearson over all tokens looked at, zeros included. ``of its firings``: share of
    the tokens it fires on where the other one fires too. Chance: the largest correlation after the
    latent's activations are turned round the text by a random number of tokens, mean of 16.

    Raises:
        NotEnoughDataError: a latent that never fires here.
    """
    held = encoded(run, name, store)
    acts, n = held.acts, len(held.rows)
    span = slice(acts.indptr[latent], acts.indptr[latent + 1])
    at, values = acts.indices[span], acts.data[span].astype(np.float64)
    if not len(at):
        raise NotEnoughDataError(f"latent {latent} never fires on the {n:,} tokens looked at")
    mean = np.asarray(acts.sum(0)).ravel() / n
    square = np.asarray(acts.power(2).sum(0)).ravel() / n
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    rows = acts.tocsr()
    firing = (rows[at] > 0).sum(0)

    def correlation(places: np.ndarray) -> np.ndarray:
        products = np.asarray(rows[places].T @ values).ravel() / n
        with np.errstate(divide="ignore", invalid="ignore"):
            r = (products - mean * mean[latent]) / (spread * spread[latent])
        r[latent] = np.nan
        return np.where(spread > 0, r, np.nan)

    own = correlation(at)
    rng = np.random.default_rng([seed, latent])
    turned = [np.nanmax(correlation((at + rng.integers(1, n)) % n)) for _ in range(SHIFTS)]
    order = np.argsort(-np.nan_to_num(own, nan=-2))[:SHOWN]
    order = order[np.isfinite(own[order])]
    share = np.asarray(firing).ravel()[order] / len(at)
    frame = pd.DataFrame({"latent": order, "correlation": own[order], "of its firings": share})
    frame.attrs["units"] = {"correlation": "-1 to 1", "of its firings": "share"}
    frame.attrs["n"] = n
    return frame, float(np.mean(turned))


@torch.no_grad()
def all_effects(run: Path, name: str, latent: int, seed: int = 0) -> pd.DataFrame:
    """Logit effect of a latent on every token of the vocabulary, and those of random directions.

    Raises:
        ConfigError: its site is no part of the residual stream, or no such latent.
        MissingDataError, MismatchError: the model is not to be found, or is another.
    """
    one = Rows.of(run, name)
    if Site.parse(one.site).name not in WRITES:
        raise ConfigError(f"{one.site} is no part of the residual stream: no logit effects")
    row = one.W_dec[latent : latent + 1].detach().float().cpu()
    gen = torch.Generator().manual_seed(seed)
    with model_of(run, name) as model:
        own = logit_effects(model, row)[0].numpy()
        random = logit_effects(model, torch.randn(RANDOM, row.shape[1], generator=gen)).numpy()
    weights = np.r_[np.ones(len(own)), np.full(random.size, 1 / RANDOM)]
    named = np.repeat([f"latent {latent}", f"{RANDOM} random directions, mean count"],
                      [len(own), random.size])  # fmt: skip
    frame = pd.DataFrame({"of": named, "effect": np.r_[own, random.ravel()], "tokens": weights})
    frame.attrs["units"] = {"effect": "logits, direction at rms 1", "tokens": "tokens"}
    return frame


def all_effects_figure(frame: pd.DataFrame) -> "go.Figure":
    """Both as histograms."""
    figure: Any = plots.histogram(
        frame, value="effect", color="of", weight="tokens", bins=60, height=480,
        title="On every token", subtitle="direct path to the logits",
    )  # fmt: skip
    figure.update_yaxes(title={"text": "tokens of the vocabulary"})
    figure.update_layout(legend={"orientation": "h", "y": -0.22, "x": 0})
    return figure
