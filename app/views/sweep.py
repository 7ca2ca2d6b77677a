"""Sweep: dictionaries side by side, what was varied first, then sparsity against fidelity."""

from pathlib import Path
from typing import Any

import streamlit as st

from lensbench.app.cache import evaluated
from lensbench.app.state import inside, root, run_names
from lensbench.app.widgets.choose import choose, several
from lensbench.app.widgets.figures import show_figure
from lensbench.app.widgets.fronts import (
    by_training,
    left_out,
    score_tables,
    two_fronts,
    what_was_varied,
)
from lensbench.app.widgets.states import command_line, in_shell, nothing_yet, plain
from lensbench.app.widgets.suite_board import suite_board
from lensbench.app.workflows.densities import (
    density_caption,
    density_curves,
    density_curves_figure,
)
from lensbench.app.workflows.fronts import label_figure, note_of, origin_of
from lensbench.app.workflows.overview import is_evaluated
from lensbench.app.workflows.sweep_code import density_code, labels_code
from lensbench.app.workflows.sweep_page import alike


def show() -> None:
    """Draw the page."""
    st.title("Sweep")
    names = run_names()
    chosen = choose("Run", names, key="run")
    if not names:
        nothing_yet("No runs in this folder yet.", in_shell("demo", "--out", root() / "demo-run"),
                    next_step="Start one on the page Train, or make the demo.")  # fmt: skip
    elif chosen is None:
        nothing_yet("Choose a run to compare its dictionaries.", in_shell("runs", "ls", root()))
    elif not is_evaluated(inside(chosen)):
        what_was_varied({chosen: inside(chosen)})
        by_training(inside(chosen), chosen)
        command_line(in_shell("eval", "sae", inside(chosen), "--store", "DIR", "--model", "M"))
    else:
        _sweep(chosen, [n for n in names if n != chosen and is_evaluated(inside(n))])


def _sweep(name: str, others: list[str]) -> None:
    beside = several("Beside it, in the same figures", others, (), key="with",
                     empty="other evaluated runs") if others else ()  # fmt: skip
    result = evaluated(inside(name))
    more = {other: evaluated(inside(other)) for other in beside}
    left_out(wrong := alike(result, more))
    results = {name: result} | {n: one for n, one in more.items() if n not in wrong}
    runs = {n: inside(n) for n in results}
    what_was_varied(runs)
    st.info(plain(f"{result.disclosure[:1].upper()}{result.disclosure[1:]}."))
    two_fronts(results, runs)
    _alone(result, runs[name])
    score_tables(results, runs)
    st.caption(f"{result.n_tokens:,} stored tokens of {result.n_documents:,} documents; CE and KL "
               f"on {result.n_scored:,} predicted tokens.")  # fmt: skip
    st.text(f"Controls: {result.controls}. {note_of(result)} Origin: {origin_of(result)}.")
    command_line(in_shell("report", inside(name)))


def _alone(result: Any, run: Path) -> None:
    """What is shown of the chosen run alone."""
    scores = label_figure(result)
    if scores is not None:
        show_figure(scores[0], key="labels", alt="label F1 of each dictionary beside its controls",
                    caption=scores[1], frame=scores[2], code=labels_code(run, result))  # fmt: skip
    rows = density_curves(result.density)
    if len(rows):
        show_figure(density_curves_figure(rows), key="densities", frame=rows,
                    code=density_code(run, result), caption=density_caption(result.n_tokens, rows),
                    alt="share of latents by firing frequency, a line per dictionary")  # fmt: skip
    suite_board(result, run)
