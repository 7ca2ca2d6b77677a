"""How often the latents of every dictionary of a run fire, in one picture."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lensbench import plots
from lensbench.app.workflows.sections import short_names

if TYPE_CHECKING:
    import plotly.graph_objects as go

BINS = 30


def density_curves(densities: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """One row per dictionary and bin of log10 density: its middle, share of latents, latents.

    ``densities`` holds the firing frequency of every latent, by dictionary.

    Latents that never fire have no place on a logarithmic axis; they are one row more, at NaN.
    """
    short = short_names(list(densities))
    alive = [d[d > 0] for d in densities.values()]
    every = np.concatenate(alive) if alive else np.zeros(0)
    if not len(every):
        return pd.DataFrame(columns=["dictionary", "density", "share", "latents"])
    edges = np.histogram_bin_edges(np.log10(every), bins=BINS)
    parts: list[pd.DataFrame] = []
    for name, density in densities.items():
        counts, _ = np.histogram(np.log10(density[density > 0]), edges)
        middle = 10 ** ((edges[1:] + edges[:-1]) / 2)
        dead = int((density == 0).sum())
        parts.append(
            pd.DataFrame(
                {
                    "dictionary": short[name],
                    "density": [*middle, np.nan],
                    "share": [*(counts / len(density)), dead / len(density)],
                    "latents": [*counts, dead],
                }
            )
        )
    frame = pd.concat(parts, ignore_index=True)
    frame.attrs["units"] = {"density": "share of tokens", "share": "share of its latents"}
    return frame


def density_curves_figure(frame: pd.DataFrame) -> "go.Figure":
    """Share of latents by firing frequency, one line per dictionary."""
    placed = frame.dropna(subset=["density"])
    placed.attrs["units"] = frame.attrs["units"]
    figure = plots.lines(
        placed, x="density", y="share", color="dictionary", log_x=True, markers=False, height=420,
        hover_columns=["latents"], labels={"share": "latents"}, title="How often latents fire",
        subtitle=f"n = {int(np.asarray(frame['latents']).sum()):,} latents · {BINS} bins of equal "
        "width in log10 density",
    )  # fmt: skip
    known = np.log10(placed["density"].to_numpy(float))
    decades = np.arange(np.floor(known.min()), np.ceil(known.max()) + 1)
    figure.update_xaxes(tickvals=10.0**decades, ticktext=[f"{10.0**d:g}" for d in decades])
    figure.update_layout(legend={"orientation": "h", "y": -0.24, "title": {"text": ""}})
    return figure


def density_caption(n_tokens: int, frame: pd.DataFrame) -> str:
    """On how many tokens, and how many latents never fired."""
    dead = frame.loc[frame["density"].isna()]
    told = ", ".join(
        f"{n} of {name}"
        for name, n in zip(dead["dictionary"], dead["latents"], strict=True)
        if n > 0
    )
    return (
        f"n = {n_tokens:,} tokens; each line is one dictionary, its bins add to the share "
        f"of latents that fire. Latents that never fired: {told or 'none'}."
    )
