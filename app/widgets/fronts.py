"""Sparsity against fidelity of one run or several, twice, each with a y axis of one's choice."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import streamlit as st

from lensbench.app.widgets.figures import show_figure, take_away
from lensbench.app.widgets.links import go_to
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.run_state import say_unfinished
from lensbench.app.widgets.states import plain
from lensbench.app.widgets.toggle import pick_of
from lensbench.app.workflows.copying import python_of
from lensbench.app.workflows.fronts import front_caption, front_figure, score_groups
from lensbench.app.workflows.sections import short_names
from lensbench.app.workflows.sweep_code import fronts_code, scores_code
from lensbench.app.workflows.sweep_page import (
    fronts_frame,
    heading,
    metrics_of,
    scores,
    training_code,
    training_figure,
    training_frame,
    varied,
)


def what_was_varied(runs: Mapping[str, Path]) -> None:
    """Runs that are not finished, and the settings in which dictionaries differ; then numbers."""
    say_unfinished(runs, key="unfinished")
    st.header("What was varied")
    frame = varied(runs)
    own = [c for c in frame if c not in ("run", "dictionary")]
    if not own:
        st.caption("The dictionaries differ in no setting.")
        return
    show_listing(frame, alt="settings in which the dictionaries differ", take="varied",
                 code=python_of(varied, dict(runs)))  # fmt: skip


def two_fronts(results: Mapping[str, Any], runs: Mapping[str, Path]) -> None:
    """Two figures side by side; CE recovered and FVU at first."""
    known = metrics_of(results)
    firsts = [*known][:2]
    for column, first, key in zip(st.columns(2), firsts, ("y", "y2"), strict=False):
        with column:
            metric = pick_of("y axis", list(known), first, key=key, shown=known)
            frame = fronts_frame(results, metric)
            drawn = front_figure(frame, metric)
            show_figure(
                drawn, key=f"front-{key}-{metric}",
                alt=f"{metric} against L0 of {len(frame) - 1} dictionaries of {', '.join(runs)}",
                caption=front_caption(frame, metric), frame=frame,
                code=fronts_code(runs, metric, frame, drawn), file=f"front-{metric}",
            )  # fmt: skip


def score_tables(results: Mapping[str, Any], runs: Mapping[str, Path]) -> None:
    """Every metric as narrow tables; a ticked row of the first opens its dictionary."""
    st.header("Every metric")
    table = scores(results)
    several = "run" in table
    groups = score_groups(table.drop(columns="run") if several else table)
    for part in groups.values():
        if several:
            part.insert(0, "run", table["run"])
    (title, first), *others = groups.items()
    st.caption(f"{title}. Tick a row to open its latents.")
    picked = show_listing(first, alt=f"{title} of every dictionary", pick="scores-rows",
                          headings={c: heading(c) for c in first})  # fmt: skip
    if picked is not None:
        row = table.iloc[picked]
        run = str(row["run"]) if several else next(iter(results))
        go_to("latent", run=run, dictionary=str(row["name"]))
    with st.expander("The other metrics", key="other-metrics"):
        for title, part in others:
            st.caption(title)
            show_listing(part, alt=f"{title} of every dictionary",
                         headings={c: heading(c) for c in part})  # fmt: skip
    units = "; ".join(f"{heading(k)}: {v}" for k, v in table.attrs["units"].items())
    st.caption(plain(f"Units: {units}"))
    labelled = [name for name, result in results.items() if result.labels]
    take_away(table, key="scores", code=scores_code(runs, labelled), alt="every metric")


def by_training(run: Path, name: str) -> None:
    """The front of a run that was not evaluated, and what to do about that."""
    st.warning("This run was not evaluated: these are the means of its last training steps, "
               "without intervals or controls. An evaluation measures the final weights.",
               )  # fmt: skip
    if st.button("Evaluate it on its page", key="to-evaluate", type="primary"):
        go_to("runs", run=name)
    frame = training_frame(run)
    if frame.empty:
        st.info("Nothing is logged yet; come back after the first logged steps.")
        return
    show_figure(
        training_figure(frame), key="training-front", frame=frame, code=training_code(run),
        alt=f"FVU against L0 of {len(frame)} dictionaries of {name}, by training alone",
        caption=f"n = {len(frame)} dictionaries; each point is a mean over its last "
                f"{max(map(int, frame['n']))} steps. FVU: lower is better.",
    )  # fmt: skip
    short = short_names([str(n) for n in frame["name"]])
    shown = frame.drop(columns=["low", "high"])
    picked = show_listing(shown.assign(name=shown["name"].replace(short)), pick="training-rows",
                          alt="last logged numbers of every dictionary", take="training",
                          data=frame, code=python_of(training_frame, run),
                          headings={c: heading(c) for c in shown})  # fmt: skip
    if picked is not None:
        go_to("latent", run=name, dictionary=str(frame["name"].iloc[picked]))


def left_out(reasons: Mapping[str, str]) -> None:
    """Runs that were chosen and do not belong in the figure, and why."""
    if reasons:
        told = "\n".join(f"- {plain(f'{name}: {why}')}" for name, why in reasons.items())
        st.warning(f"Left out, because their numbers do not compare:\n{told}")
