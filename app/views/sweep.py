"""Sweep: the dictionaries of a run side by side, sparsity against fidelity, with controls."""

from pathlib import Path

import streamlit as st

from lensbench.app.cache import evaluated
from lensbench.app.state import inside, root, run_names
from lensbench.app.widgets.choose import choose
from lensbench.app.widgets.figures import show_figure, take_away
from lensbench.app.widgets.fronts import two_fronts
from lensbench.app.widgets.states import command_line, nothing_yet
from lensbench.app.widgets.suite_board import suite_board
from lensbench.app.workflows.densities import (
    density_caption,
    density_curves,
    density_curves_figure,
)
from lensbench.app.workflows.fronts import (
    label_figure,
    note_of,
    score_groups,
    score_table,
    sweep_code,
)
from lensbench.app.workflows.overview import is_evaluated


def show() -> None:
    """Draw the page."""
    st.title("Sweep")
    names = run_names()
    chosen = choose("Run", names, key="run")
    if not names:
        nothing_yet("No runs in this folder yet.", f"lensbench demo --out {root()}/demo-run",
                    next_step="Start one on the page Runs, or make the demo.")  # fmt: skip
    elif chosen is None:
        st.info("Choose a run to compare its dictionaries.")
    elif not is_evaluated(inside(chosen)):
        command = f"lensbench eval sae {inside(chosen)} --store DIR --model M"
        nothing_yet("This run was not evaluated yet.", command)
    else:
        _sweep(inside(chosen), chosen)


def _sweep(run: Path, name: str) -> None:
    result = evaluated(run)
    st.info(f"{result.disclosure[:1].upper()}{result.disclosure[1:]}.")
    two_fronts(result, run, name)
    scores = label_figure(result)
    if scores is not None:
        show_figure(scores[0], key="labels", alt="label F1 of each dictionary beside its controls",
                    caption=scores[1], frame=scores[2], code=sweep_code(run, "labels"))  # fmt: skip
    densities = density_curves(result.density)
    if len(densities):
        show_figure(density_curves_figure(densities), key="densities", frame=densities,
                    code=sweep_code(run, "densities"),
                    alt="share of latents by firing frequency, one line per dictionary",
                    caption=density_caption(result.n_tokens, densities))  # fmt: skip
    suite_board(result)
    st.subheader("Every metric")
    table = score_table(result)
    for title, part in score_groups(table).items():
        st.caption(title)
        st.dataframe(part, hide_index=True, alt=f"{title} of every dictionary")
    st.caption(
        f"{result.n_tokens:,} stored tokens of {result.n_documents:,} documents; CE and KL on "
        f"{result.n_scored:,} predicted tokens. Units: "
        + "; ".join(f"{k}: {v}" for k, v in table.attrs["units"].items())
    )
    st.text(f"Controls: {result.controls}. {note_of(result)}")
    take_away(table, key="scores")
    command_line(f"lensbench report {run}")
