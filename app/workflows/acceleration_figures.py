"""The page Acceleration: its figures, and the code and command that make the same."""

import json
from typing import TYPE_CHECKING

import pandas as pd

from lensbench.app.workflows.acceleration import (
    MAX_ROWS,
    ExitAsk,
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
        title="Where tokens leave", subtitle=f"{ask.measure} at least {ask.threshold:g}",
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
        height=max(300, 130 + 26 * size),
    )  # fmt: skip
    figure.update_xaxes(type="category")
    figure.update_yaxes(type="category")
    return figure


def front_figure(ask: ExitAsk, compute: str) -> "go.Figure":
    """Agreement against compute, with the Pareto front and where the sliders stand."""
    from lensbench.plots import scatter

    here = {"method": "the sliders", "setting": f"threshold {ask.threshold:g}", **left(ask)}
    frame = pd.concat([front(ask.store), pd.DataFrame([here])], ignore_index=True)
    frame.attrs.update(front(ask.store).attrs)
    return scatter(
        frame, x=compute, y="agreement", color="method", text="setting", front="max",
        hover_columns=("layers", "flops_share", "kl"), title="Quality against compute",
        subtitle="tokens that leave early, not checked; dotted: what no other setting beats",
        labels={compute: COMPUTES[compute]},
    )  # fmt: skip


def python_of(ask: ExitAsk, draw: str = "") -> str:
    """Code that reads the same numbers in a notebook."""
    store = hold_store(ask.store)
    name, revision = model_name(store)
    more = f", revision={revision!r}" if revision else ""
    return "\n".join([
        "import lensbench",
        "from lensbench.interventions import acceleration",
        f"store = lensbench.open_store({json.dumps(ask.store)})",
        f"model = lensbench.load_model({name!r}{more})",
        f"table = acceleration.lens_table(store, model, max_tokens={MAX_ROWS})",
        *([draw] if draw else [
            f"drafts = acceleration.sim_fixed(table, {ask.exit_layer}, {ask.draft}, exact=False)",
            "print(acceleration.rates(drafts))",
            f"left = acceleration.sim_calm(table, {ask.threshold}, measure={ask.measure!r}, "
            "exact=False)",
            "print([text.exits for text in left])",
        ]),
    ])  # fmt: skip


def python_of_live(ask: ExitAsk) -> str:
    """Code that runs what the page ran, in a notebook."""
    ours = {"store": ask.store, "threshold": ask.threshold, "measure": ask.measure}
    given = ", ".join(f"{name}={json.dumps(value)}" for name, value in ours.items())
    return "\n".join([
        "from lensbench.app.workflows.acceleration import ExitAsk",
        "from lensbench.app.workflows.acceleration_live import measured",
        f"found = measured(ExitAsk({given}))",
        'found.plot("speedup")',
    ])  # fmt: skip


def command_of(ask: ExitAsk) -> str:
    """The whole study on the command line."""
    name = model_name(hold_store(ask.store))[0]
    how = "--live" if held(ask.store).exact else "--proxy"
    return f"lensbench accelerate --model {name} --store {ask.store} {how}"
