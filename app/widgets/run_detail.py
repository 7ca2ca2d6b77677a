"""One run while it goes and after: state, curves, log; stop it, or go on with it."""

from pathlib import Path

import streamlit as st

from lensbench.app.widgets.choose import several
from lensbench.app.widgets.figures import show_figure
from lensbench.app.widgets.run_state import array_parts
from lensbench.app.widgets.states import command_line, guarded, in_shell, plain
from lensbench.app.widgets.toggle import one_of, pick_of
from lensbench.app.workflows import curves, detached, launching
from lensbench.app.workflows.curve_code import curve_code
from lensbench.app.workflows.run_parts import told_state
from lensbench.app.workflows.runs import LIVE, parts_of, run_row

EVERY = 1.5
"""Seconds between two looks at a run that goes on."""


def run_detail(run: Path) -> bool:
    """Draw a run; while it goes on, look again by itself. True once it has ended."""
    live = run_row(run)["state"] in LIVE
    st.fragment(_look, run_every=EVERY if live else None)(run, live)
    with st.expander("Settings", key="settings"):
        st.json(curves.settings_of(run))
    command_line(in_shell("runs", "show", run))
    return not live


def _look(run: Path, was_live: bool) -> None:
    with guarded():
        row = run_row(run)
        if was_live and row["state"] not in LIVE:
            st.rerun()  # the whole page: there is nothing to look for any more
        _head(run, row)
        _curves(run)
        tail = detached.log_tail(run)
        if tail:
            with st.expander("Log", expanded=row["state"] in ("lost", "failed"), key="log"):
                st.code(tail, language=None)


def _head(run: Path, row: dict[str, object]) -> None:
    step, steps = int(str(row["step"])), int(str(row["steps"]))
    state, alone = told_state(row), parts_of(run) == [run]
    st.progress(min(1.0, step / max(steps, 1)), f"{state}: step {step:,} of {steps:,}")
    facts = {"state": state, "dictionaries": row["dictionaries"], "tokens": row["tokens"]}
    for column, (fact, value) in zip(st.columns(3), facts.items(), strict=True):
        column.metric(fact, f"{value:,}" if isinstance(value, int) else str(value), border=True)
    st.caption(f"Started {str(row['started']).replace('T', ' ').removesuffix('Z')} UTC.")
    if row["state"] == "stopped" and alone:
        st.info("Stopped after a checkpoint, from which it can go on.")
    elif row["message"]:
        st.warning(plain(f"The run says: {row['message']}"))
    (_alone if alone else array_parts)(run, row)


def _alone(run: Path, row: dict[str, object]) -> None:
    """What can be done with a run that is one process."""
    live = row["state"] in LIVE
    if live and detached.job_of(run).get("stopping"):
        st.info("It was asked to stop; it writes a checkpoint and ends.")
    elif live and st.button("Stop after a checkpoint", key="stop"):
        launching.stop_run(run)
        st.rerun(scope="fragment")
    if row["state"] == "lost":
        st.warning("Its process is gone without a last word; going on begins at its last "
                   "checkpoint.")  # fmt: skip
    if not live and row["state"] != "finished" and st.button("Go on", key="resume", type="primary"):
        launching.resume_run(run)
        st.rerun()


def _curves(run: Path) -> None:
    frame = curves.curves_of(run)
    if frame.empty:
        st.info("Nothing is logged yet; curves appear after the first logged steps.")
        return
    over = one_of("Over", curves.AXES, key="over")
    names = curves.names_in(frame)
    chosen: tuple[str, ...] = ()
    if len(names) > curves.COLOURED:
        chosen = several("In colour", names, (), key="coloured",
                         empty=f"the first {curves.COLOURED} of {len(names)}")  # fmt: skip
    known = curves.logged(frame)
    firsts = [m for m in ("fvu", "l0") if m in known] or list(known)[:2]
    for column, first, key in zip(st.columns(2), firsts, ("curve", "curve2"), strict=False):
        with column:
            metric = pick_of("Curve", list(known), first, key=key, shown=known)
            drawn, data = curves.curve_figure(frame, metric, over=over, chosen=chosen)
            show_figure(drawn, key=f"{key}-{metric}", frame=data, caption=curves.caption(frame),
                        alt=f"{metric} over {curves.AXES[over]}, one line per dictionary",
                        code=curve_code(run, metric, over, chosen, frame),
                        file=f"{run.name}-{metric}")  # fmt: skip
