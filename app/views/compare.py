"""Compare: two runs, or two dictionaries of one run, side by side; settings first."""

from pathlib import Path

import streamlit as st

from lensbench.app.state import inside, root, run_names
from lensbench.app.widgets import run_compare
from lensbench.app.widgets.choose import choose
from lensbench.app.widgets.run_state import say_unfinished
from lensbench.app.widgets.states import command_line, guarded, in_shell, nothing_yet
from lensbench.app.workflows.run_compare import dictionaries, sides


def show() -> None:
    """Draw the page."""
    st.title("Compare")
    st.caption("Two runs, or two dictionaries of one run: why do their numbers differ?")
    names = run_names()
    if not names:
        nothing_yet("No runs in this folder yet.", in_shell("demo", "--out", root() / "demo-run"),
                    next_step="Start one on the page Train, or make the demo.")  # fmt: skip
        return
    left, right = st.columns(2)
    with left:
        one, first = _side("One run", names, "one")
    with right:
        other, second = _side("Another run", names, "other")
    if one is None or other is None:
        nothing_yet("Choose two runs to see in which settings they differ, and what they reach.",
                    in_shell("runs", "ls", root()))  # fmt: skip
    elif (one, first) == (other, second):
        nothing_yet("That is the same twice: choose another run, or a dictionary on each side.",
                    in_shell("runs", "show", inside(one)))  # fmt: skip
    else:
        with guarded():
            _both(inside(one), inside(other), first, second)


def _side(label: str, names: list[str], key: str) -> tuple[str | None, str]:
    """A run and, if one is chosen, one of its dictionaries."""
    run = choose(label, names, key=key, placeholder="Choose a run")
    if run is None:
        return None, ""
    with guarded():
        known = dictionaries(inside(run))
        chosen = choose("Dictionary", known, key=f"{key}-dictionary", placeholder="All of them")
        return run, chosen or ""
    return None, ""


def _both(one: Path, other: Path, first: str, second: str) -> None:
    left, right = sides(one, other, first, second)
    say_unfinished({run.relative_to(root()).as_posix(): run for run in (one, other)},
                   key="unfinished")  # fmt: skip
    for draw in (run_compare.settings_and_verdict, run_compare.numbers, run_compare.curves,
                 run_compare.densities, run_compare.matches, run_compare.origins):  # fmt: skip
        with guarded():
            draw(left, right)
    places = [run / name if name else run for run, name in ((one, first), (other, second))]
    command_line(in_shell("runs", "diff", *places))
