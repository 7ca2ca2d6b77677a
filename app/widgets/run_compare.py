"""Two runs, or two dictionaries, side by side: settings first, then what they reach and on what."""

import streamlit as st

from lensbench.app.cache import comparison, match_of
from lensbench.app.widgets.figures import show_figure
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.states import guarded, plain
from lensbench.app.widgets.toggle import pick_of
from lensbench.app.workflows.compare_figures import (
    both_curves,
    both_densities,
    compare_code,
    curve_note,
    density_overlay,
    is_quick,
    match_figure,
    match_note,
    nearest_frame,
    numbers_table,
    overlay,
)
from lensbench.app.workflows.curves import logged
from lensbench.app.workflows.run_compare import Side

SHOWN = 500
"""Rows of the table of matched latents, at most; the rest is in the data to take away."""


def settings_and_verdict(left: Side, right: Side) -> None:
    """In which settings the two differ, and whether their numbers may be compared."""
    held = comparison(left, right)
    names = {"one": left.name, "other": right.name}
    st.header("Settings that differ")
    if held.settings.empty:
        st.success("The two have the same settings.")
    else:
        show_listing(held.settings.rename(columns=names), take="differences", data=held.settings,
                     code=compare_code(left, right, "compared(left, right).settings"),
                     alt=f"settings in which {left.name} and {right.name} differ")  # fmt: skip
    if held.reasons:
        told = "\n".join(f"- {plain(reason)}" for reason in held.reasons)
        st.warning(f"These numbers do not compare directly:\n{told}")
    else:
        st.success("Same model, site, text and evaluation: a difference of two numbers is one of "
                   "the dictionaries.")  # fmt: skip
    if told := held.trained_on:
        one = set(told.values())
        words = "Both: " + one.pop() if len(told) == 2 and len(one) == 1 else "; ".join(
            f"{name}: {words}" for name, words in told.items())  # fmt: skip
        st.caption(plain(f"{words}."))


def numbers(left: Side, right: Side) -> None:
    """What both reach, with intervals and controls."""
    st.header("What they reach")
    held = comparison(left, right)
    show_listing(
        numbers_table(left, right, held.numbers), alt=f"scores of {left.name} and {right.name}",
        caption="In brackets: 95 % bootstrap over documents. L0: active latents per token. FVU: "
        "share of variance that is lost, lower is better. CE and KL recovered: share of the "
        "zero-ablation loss, higher is better. Numbers of training are means over its last steps.",
        take="measured", data=held.numbers, code=compare_code(left, right, "reached(left, right)"),
    )  # fmt: skip


def curves(left: Side, right: Side) -> None:
    """The course of both trainings in one picture."""
    frame = both_curves(left, right)
    st.header("Training")
    if frame.empty:
        st.info("Nothing was logged in training by either of the two.")
        return
    known = logged(frame)
    metric = pick_of("Curve", list(known), next(iter(known)), key="curve", shown=known)
    drawn, data = overlay(frame, left, right, metric)
    draw = f"overlay(both_curves(left, right), left, right, {metric!r})[0]"
    show_figure(drawn, key=f"curve-{metric}", frame=data,
                caption=plain(curve_note(frame, left, right)),
                alt=f"{metric} of {left.name} and {right.name} over training tokens",
                code=compare_code(left, right, draw))  # fmt: skip


def densities(left: Side, right: Side) -> None:
    """How often latents fire on either side."""
    st.header("How often latents fire")
    frame = both_densities(left, right)
    if frame.empty:
        st.info("Densities come with an evaluation; neither of the two was evaluated.")
        return
    draw = "density_overlay(both_densities(left, right), left, right)"
    missing = [
        s.name for s in (left, right) if not frame["dictionary"].str.startswith(s.name).any()
    ]
    note = f" {', '.join(missing)}: not evaluated." if missing else ""
    show_figure(density_overlay(frame, left, right), key="densities", frame=frame,
                alt="share of latents by firing frequency, one line per dictionary",
                caption="Each line is one dictionary; its bins add to the share of latents that "
                        f"fire on the tokens of its evaluation.{plain(note)}",
                code=compare_code(left, right, draw))  # fmt: skip


def matches(left: Side, right: Side) -> None:
    """Which latents of two dictionaries point the same way."""
    st.header("Matched latents")
    if not (left.dictionary and right.dictionary):
        st.info("Choose a dictionary on both sides to see which of their latents are alike.")
        return
    with guarded():
        pair = (left, right)
        if not is_quick(left, right) and st.session_state.get("matched-pair") != pair:
            st.caption("Two wide dictionaries: this takes up to a minute or two.")
            if not st.button("Match the latents", key="match"):
                return
            st.session_state["matched-pair"] = pair
        found = match_of(left, right)
        drawn, data = match_figure(found, left, right)
        draw = ("found = matched(left, right)\n"
                "match_figure(found, left, right)[0]")  # fmt: skip
        show_figure(drawn, key="matched", frame=data, caption=plain(match_note(found, left, right)),
                    alt="share of latents by cosine with the nearest latent of the other",
                    code=compare_code(left, right, draw))  # fmt: skip
        table = nearest_frame(found, left, right)
        cut = f"The {SHOWN} nearest of {len(table):,}; all are in the data."
        show_listing(
            table.head(SHOWN), alt="latents and their nearest", digits=3, height=280,
            caption=cut if len(table) > SHOWN else "", take="nearest", data=table,
            code=compare_code(left, right, "nearest_frame(matched(left, right), left, right)"),
        )  # fmt: skip


def origins(left: Side, right: Side) -> None:
    """Where both come from; what differs stands first."""
    st.header("Provenance")
    frame = comparison(left, right).provenance
    n = sum(same == "no" for same in frame["same"])
    st.caption(f"{n} of {len(frame)} facts differ; they stand first.")
    names = {"one": left.name, "other": right.name}
    show_listing(frame.sort_values("same", kind="stable").rename(columns=names), take="provenance",
                 data=frame, code=compare_code(left, right, "compared(left, right).provenance"),
                 alt=f"provenance of {left.name} and {right.name}")  # fmt: skip
