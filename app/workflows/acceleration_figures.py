"""The page Acceleration: its figures, and the code and command that make the same."""

from shlex import quote
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lensbench.app.workflows.acceleration import (
    ExitAsk,
    draft_grid,
    drafted,
    exit_counts,
    front,
    held,
    layer_frame,
    left,
)
from lensbench.app.workflows.live import hold_store
from lensbench.app.workflows.sequences import model_name

if TYPE_CHECKING:
    import plotly.graph_objects as go

COMPUTES = {
    "flops_share": "FLOPs, share of plain decoding",
    "layers": "Layers that a token waits for",
}
"""What a Pareto front may be drawn against."""


def agreement_figure(url: str) -> "go.Figure":
    """Agreement of every exit layer with the full model."""
    from lensbench.plots import lines

    frame = layer_frame(url)
    part = frame.loc[frame["metric"] == "agreement"].rename(columns={"value": "agreement"})
    return lines(
        part, x="exit_layer", y="agreement", low="low", high="high", unit="share of tokens",
        title="Agreement by layer", subtitle=f"{int(held(url).table.new.sum()):,} new tokens",
        labels={"exit_layer": "layers executed"}, hover_columns=("n",), height=360,
    )  # fmt: skip


def counts_figure(ask: ExitAsk) -> "go.Figure":
    """Where tokens leave."""
    from lensbench.plots import bars

    return bars(
        exit_counts(ask), x="exit_layer", y="share", hover_columns=("tokens",),
        title="Where tokens leave",
        subtitle=f"{ask.measure} at least {ask.threshold:g} · "
        f"n = {n_new(ask.store):,} new tokens",
        labels={"exit_layer": "layers executed"}, height=360,
    )  # fmt: skip


def grid_figure(frame: pd.DataFrame, value: str, title: str) -> "go.Figure":
    """One number for every exit layer and draft length."""
    from lensbench.plots import heatmap

    shown = frame.assign(cell=[f"{v:.2f}" if v == v else "" for v in frame[value]])
    shown.attrs.update(frame.attrs)
    size = len(set(frame["exit_layer"]))
    figure = heatmap(
        shown, x="draft", y="exit_layer", value=value, text="cell", span=(0.0, 1.0), title=title,
        labels={"exit_layer": "layers of the draft", "draft": "drafted tokens"},
        subtitle=f"accepted / drafted · n = {int(np.asarray(frame['n']).max()):,} new tokens"
        if "n" in frame else "accepted / drafted",
        height=max(300, 130 + 26 * size),
    )  # fmt: skip
    figure.update_xaxes(type="category")
    figure.update_yaxes(type="category")
    return figure


def front_figure(ask: ExitAsk, compute: str) -> "go.Figure":
    """Agreement against compute, with the Pareto front and where the sliders stand."""
    from lensbench.plots import scatter

    return scatter(
        front_drawn(ask), x=compute, y="agreement", color="method", text="setting", front="max",
        hover_columns=("layers", "flops_share", "kl"), title="Quality against compute",
        subtitle=f"n = {n_new(ask.store):,} new tokens that leave early, not checked; dotted: "
        "what no other setting beats",
        labels={compute: COMPUTES[compute]},
    )  # fmt: skip


def draft_figure(ask: ExitAsk) -> "go.Figure":
    """Drafts kept by every exit layer and draft length."""
    return grid_figure(draft_grid(ask.store), "acceptance", "Drafts kept, predicted")


def front_drawn(ask: ExitAsk) -> pd.DataFrame:
    """What a front shows: every setting, and where the sliders stand."""
    known = front(ask.store)
    here = {"method": "the sliders", "setting": f"threshold {ask.threshold:g}", **left(ask)}
    frame = pd.concat([known, pd.DataFrame([here])], ignore_index=True)
    frame.attrs.update(known.attrs)
    return frame


def headlines(ask: ExitAsk) -> dict[str, dict[str, str]]:
    """The numbers of the sliders with their units, for drafting and for leaving early."""
    drafts, exits, n_layers = drafted(ask), left(ask), held(ask.store).table.n_layers
    return {
        "Drafting": {
            "Drafts kept, of drafted": f"{100 * drafts['acceptance']:.0f} %",
            "Tokens per round": f"{drafts['tokens_per_round']:.2f}",
            "Serial speed-up": f"{drafts['serial_speedup']:.2f}x",
            "FLOPs, of plain decoding": f"{drafts['flops_share']:.2f}x",
        },
        "Leaving early": {
            "Agreement, of tokens": f"{100 * exits['agreement']:.0f} %",
            "KL(full ‖ early exit) [nats]": f"{exits['kl']:.2f}",
            f"Layers per token, of {n_layers}": f"{exits['layers']:.2f}",
            "FLOPs, of plain decoding": f"{exits['flops_share']:.2f}x",
        },
    }


def python_of(ask: ExitAsk, draw: str) -> str:
    """Code that draws the same figure in a notebook; ``draw`` is a call of one of these."""
    name = draw.partition("(")[0]
    return "\n".join([
        "from lensbench.app.workflows.acceleration import ExitAsk",
        f"from lensbench.app.workflows.acceleration_figures import {name}",
        f"ask = ExitAsk({_given(ask)})",
        draw,
    ])  # fmt: skip


def _given(ask: ExitAsk) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in vars(ask).items())


def n_new(url: str) -> int:
    """New tokens that predictions are about."""
    return int(held(url).table.new.sum())


def command_of(ask: ExitAsk) -> str:
    """The whole study on the command line."""
    name = model_name(hold_store(ask.store))[0]
    how = "--live" if held(ask.store).exact else "--proxy"
    return f"lensbench accelerate --model {quote(name)} --store {quote(ask.store)} {how}"
