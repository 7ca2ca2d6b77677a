"""The directions of a dictionary as pictures: its map, and how near its rows lie to one another."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from lensbench.app.workflows.directions import Rows, in_table, model_of
from lensbench.app.workflows.latent_page import dictionary_of, latent_table
from lensbench.app.workflows.runs import evaluation_of
from lensbench.errors import LensbenchError
from lensbench.plots.theme import PALETTE
from lensbench.saes import decoder_geometry, decoder_map, notes
from lensbench.saes.latents.dashboard import WRITES, logit_effects
from lensbench.saes.latents.decoder_map import INSTALL, DecoderMap, Method, has_umap
from lensbench.saes.latents.geometry import DecoderGeometry
from lensbench.sites import Site
from lensbench.tokens import token_texts

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from lensbench.saes.latents.notes import LatentNotes

__all__ = [
    "COLOURS",
    "INSTALL",
    "alike",
    "facts_of",
    "geometry_code",
    "geometry_of",
    "has_umap",
    "map_again",
    "map_code",
    "map_figure",
    "map_of",
    "tokens_written",
]
COLOURS = {
    "density": "Density",
    "state": "Dead or not",
    "label": "Label it matches best",
    "my label": "My label",
    "starred": "Stars",
}
"""What a map is coloured by."""
MOST_WORK = 4e11
"""Multiplications above which no top tokens are worked out for a map."""
MOST_POINTS = 15_000
"""Latents drawn on a map: more take seconds to draw and megabytes to send."""
TOP = 3
_BLOCK = 1024


def map_of(run: Path, name: str, method: Method) -> DecoderMap:
    """The places of a dictionary's latents, without what colours them.

    Raises:
        BackendUnavailableError: UMAP without its package.
    """
    return decoder_map(dictionary_of(run, name), method=method)


def geometry_of(run: Path, name: str) -> DecoderGeometry:
    """Nearest cosines and encoder-decoder cosines of a dictionary, beside their controls."""
    result = evaluation_of(run)
    density = None if result is None else result.density.get(name)
    return decoder_geometry(dictionary_of(run, name), density=density)


@torch.no_grad()
def tokens_written(run: Path, name: str) -> tuple[list[str], str]:
    """The tokens each latent writes towards most (direct path), and why there are none.

    The reason is empty where there are some.
    """
    one = Rows.of(run, name)
    d_sae, d_model = one.W_dec.shape
    nothing = [""] * d_sae
    if Site.parse(one.site).name not in WRITES:
        return nothing, f"no tokens: {one.site} is no part of the residual stream"
    try:
        with model_of(run, name) as model:
            work = 2.0 * d_sae * d_model * model.card.d_vocab
            if work > MOST_WORK:
                return nothing, f"no tokens: {d_sae:,} x {model.card.d_vocab:,} are too many"
            rows = one.W_dec.float().cpu()
            parts = [logit_effects(model, b).topk(TOP, -1).indices for b in rows.split(_BLOCK)]
            texts = token_texts(model.tokenizer, list(range(model.card.d_vocab)))
    except LensbenchError as error:
        return nothing, f"no tokens: {error}"
    top = torch.cat(parts).tolist()
    alive = rows.any(1).tolist()
    words = [" ".join(texts[i].strip() or repr(texts[i]) for i in ids) for ids in top]
    return [w if a else "" for w, a in zip(words, alive, strict=True)], ""


def facts_of(run: Path, name: str, kept: "LatentNotes", written: list[str]) -> pd.DataFrame:
    """One row per latent: what is known and said of it, with words where nothing is."""
    table = latent_table(run, name)
    known = {note.latent: note for note in kept}
    said = [known.get(int(n)) for n in table["latent"]]
    frame = pd.DataFrame({"latent": table["latent"]})
    if "density" in table:
        density = table["density"].to_numpy(np.float64)
        frame["density"] = density
        frame["state"] = np.where(density > 0, "fires", "dead")
    if "label" in table:
        frame["label"] = table["label"].fillna("no label").astype(str)
    frame["my label"] = [(n.label if n else "") or "no label" for n in said]
    frame["starred"] = ["starred" if n and n.starred else "not starred" for n in said]
    if any(written):
        frame["writes towards"] = written
    return frame


def thinned(places: DecoderMap, facts: pd.DataFrame, ring: int | None = None) -> DecoderMap:
    """The map with at most about :data:`MOST_POINTS` places; the other latents have none.

    What is labelled or starred stays, and the latent in the ring; of the rest a fixed random
    sample.
    """
    n = len(places.places)
    if n <= MOST_POINTS:
        return places
    keep = np.zeros(n, bool)
    keep[np.random.default_rng(0).choice(n, MOST_POINTS, replace=False)] = True
    for column, plainly in (("label", "no label"), ("my label", "no label"),
                            ("starred", "not starred")):  # fmt: skip
        if column in facts:
            keep |= facts[column].ne(plainly).to_numpy()
    if ring is not None:
        keep[ring] = True
    return replace(places, places=np.where(keep[:, None], places.places, np.nan))


def map_figure(
    places: DecoderMap, facts: pd.DataFrame, color: str, ring: int | None = None
) -> "go.Figure":
    """A map, coloured by a column of :func:`facts_of`, with a ring around one latent."""
    columns: dict[str, Any] = {
        str(c): facts[c].to_numpy() if c == "density" else tuple(facts[c])
        for c in facts if c != "latent"
    }  # fmt: skip
    figure = replace(places, facts=columns).plot(color)
    if ring is not None and np.isfinite(places.places[ring]).all():
        x, y = places.places[ring]
        figure.add_scatter(
            x=[x], y=[y], mode="markers", name=f"latent {ring}", hoverinfo="skip",
            marker={"symbol": "circle-open", "size": 20, "color": PALETTE[1], "line": {"width": 3}},
        )  # fmt: skip
    return figure


def alike(geometry: DecoderGeometry, facts: pd.DataFrame, n: int = 50) -> pd.DataFrame:
    """The latents with the nearest other latent, most alike first; each pair once."""
    frame = geometry.to_frame().dropna(subset=["nearest_cosine"])
    frame = frame.sort_values("nearest_cosine", ascending=False, kind="stable")
    pair = [tuple(sorted(p)) for p in zip(frame["latent"], frame["nearest"], strict=True)]
    frame = frame.loc[~pd.Series(pair, index=frame.index).duplicated()].head(n)
    out = frame[["latent", "nearest", "nearest_cosine", "encoder_cosine"]].reset_index(drop=True)
    by_number = in_table(facts).set_index("latent")
    shown = [c for c in ("label", "my label", "writes towards") if c in by_number]
    for column in shown:
        out[column] = [by_number.loc[n, column] for n in out["latent"]]
        out[f"{column}, nearest"] = [by_number.loc[n, column] for n in out["nearest"]]
    return out


def map_again(run: Path, name: str, method: Method, color: str) -> "go.Figure":
    """The map of a page, made from its names."""
    facts = _facts(run, name)
    return map_figure(thinned(map_of(run, name, method), facts), facts, color)


def most_alike(run: Path, name: str) -> pd.DataFrame:
    """:func:`alike` of a dictionary, made from its names."""
    return alike(geometry_of(run, name), _facts(run, name))


def _facts(run: Path, name: str) -> pd.DataFrame:
    return facts_of(run, name, notes(dictionary_of(run, name)), tokens_written(run, name)[0])


def map_code(run: Path, name: str, method: str, color: str) -> str:
    """Python that draws the same map."""
    return (
        "from pathlib import Path\n\n"
        "from lensbench.app.workflows.geometry import map_again\n\n"
        f"map_again(Path({str(run)!r}), {name!r}, {method!r}, {color!r})\n"
    )


def geometry_code(run: Path, name: str, call: str = "plot()") -> str:
    """Python that draws the same histogram."""
    return (
        "from lensbench import saes\n\n"
        f"run = next(r for r in saes.open_runs({str(run)!r}) if r.name == {name!r})\n"
        f"saes.decoder_geometry(run).{call}\n"
    )
