"""The figures of one latent, and of all latents of a dictionary."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lensbench import plots
from lensbench.plots.theme import PALETTE

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from lensbench.saes.latents.result import LatentDashboard

MOST_NAMED = 500
"""Latents that a piece of code names one by one."""


def histogram_figure(board: "LatentDashboard", latent: int) -> "tuple[go.Figure, pd.DataFrame]":
    """Tokens per bin of non-zero activation, and the bins."""
    frame = board.histogram_frame()
    units = frame.attrs["units"]
    frame = frame.loc[frame["latent"] == latent].reset_index(drop=True)
    frame.attrs["units"] = units
    figure = plots.histogram(
        frame, value="activation", weight="tokens", bins=len(frame), log_y=True, height=380,
        title="Activations",
        subtitle=f"{int(frame['tokens'].sum()):,} of {board.n_tokens:,} tokens; log counts",
    )  # fmt: skip
    figure.update_yaxes(title={"text": "stored tokens"}, dtick=1)
    return figure, frame


def effects_frame(board: "LatentDashboard", latent: int, words: dict[int, str]) -> pd.DataFrame:
    """Tokens at both ends of a latent's logit effects, strongest first."""
    frame = board.effects_frame()
    units = frame.attrs["units"]
    frame = frame.loc[frame["latent"] == latent].drop_duplicates("token_id")
    frame = frame.drop(columns="token", errors="ignore")  # told below by those of the page
    frame.insert(2, "token", [words.get(int(i), f"#{i}") for i in frame["token_id"]])
    frame = frame.sort_values("effect", ascending=False, ignore_index=True)
    frame.attrs["units"] = units
    return frame


def random_effect(board: "LatentDashboard") -> float:
    """The largest logit effect of a random direction, the control; NaN where it is not known."""
    known = [v for k, v in board.controls.values.items() if "random direction" in k]
    return float(known[0]) if known else float("nan")


def effects_figure(frame: pd.DataFrame, control: float = float("nan")) -> "go.Figure":
    """Bars of an :func:`effects_frame`: what the latent promotes, and what it suppresses.

    Dashed lines at plus and minus ``control``, what a random direction reaches.
    """
    import plotly.graph_objects as go

    from lensbench.plots.columns import escape_all
    from lensbench.plots.theme import dress

    figure = go.Figure()
    words = escape_all([plots.visible(str(word)) for word in frame["token"]])
    effects = np.asarray(frame["effect"], np.float64)
    places = np.arange(len(frame))
    for name, chosen, paint in (
        ("promotes", effects >= 0, PALETTE[1]),
        ("suppresses", effects < 0, PALETTE[0]),
    ):
        figure.add_bar(
            x=effects[chosen], y=places[chosen], orientation="h", name=name, marker_color=paint,
            customdata=[words[i] for i in places[chosen]],
            hovertemplate="%{customdata}: %{x:.3g}<extra></extra>",
        )  # fmt: skip
    if np.isfinite(control):
        ends = [-0.5, len(frame) - 0.5]
        figure.add_scatter(
            x=[control, control, None, -control, -control], y=[*ends, None, *ends], mode="lines",
            name="random direction, its largest", hoverinfo="skip",
            line={"color": "#8C8C8C", "dash": "dash", "width": 1.5},
        )  # fmt: skip
    dress(
        figure, title="What it writes towards", subtitle="direct path to the logits", height=480,
        x_title="logit effect [logits, direction at rms 1]", y_title="token",
    )  # fmt: skip
    # Numbers with texts: two tokens that look alike stay two bars.
    figure.update_yaxes(tickvals=places, ticktext=words, autorange="reversed", tickfont_size=10)
    figure.update_layout(showlegend=True, legend={"orientation": "h", "y": -0.22}, bargap=0.15)
    return figure


def density_figure(table: pd.DataFrame) -> "go.Figure":
    """How often latents fire: a histogram over the latents of a table."""
    table.attrs["units"] = {"density": "share of tokens"}
    return plots.histogram(table, value="density", log_x=True, height=300,
                           title="How often latents fire")  # fmt: skip
