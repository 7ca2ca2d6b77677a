"""Sweep: the dictionaries of a run side by side, sparsity against fidelity, with controls."""

from pathlib import Path

import streamlit as st

from lensbench.app.cache import evaluated
from lensbench.app.state import inside, root, run_names
from lensbench.app.widgets.choose import choose
from lensbench.app.widgets.figures import show_figure, take_away
from lensbench.app.widgets.states import command_line, nothing_yet
from lensbench.app.workflows.fronts import (
    FRONTS,
    front_code,
    front_figure,
    front_frame,
    label_figure,
    note_of,
    score_groups,
    score_table,
)
from lensbench.app.workflows.overview import is_evaluated
from lensbench.app.workflows.sections import interval_note


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
    columns = st.columns(2)
    for column, metric in zip(columns, [m for m in FRONTS if m in result.metrics], strict=False):
        frame = front_frame(result, metric)
        with column:
            show_figure(
                front_figure(frame, metric),
                key=f"front-{metric}",
                alt=f"{metric} against L0 of {len(frame) - 1} dictionaries of {name}",
                caption=f"{FRONTS[metric][1]} Dashed: the mean activation in place of every one "
                f"(L0 = 0). n = {frame['n'].max():,} documents. Bars: {interval_note(frame)}.",
                frame=frame,
                code=front_code(run, metric),
            )
    scores = label_figure(result)
    if scores is not None:
        show_figure(scores[0], key="labels", alt="label F1 of each dictionary beside its controls",
                    caption=scores[1], frame=scores[2])  # fmt: skip
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
