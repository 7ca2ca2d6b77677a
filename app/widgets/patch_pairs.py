"""Which prompt pairs are patched: a built-in task, a table to type into, or a file."""

from dataclasses import dataclass

import pandas as pd
import streamlit as st

from lensbench.app.state import below, root
from lensbench.app.widgets.choose import choose, not_here
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.model_choice import opened
from lensbench.app.widgets.states import guarded, in_shell, nothing_yet, plain
from lensbench.app.widgets.toggle import one_of, pick_of
from lensbench.app.workflows import patching
from lensbench.app.workflows.copying import python_of
from lensbench.app.workflows.own_pairs import (
    COLUMNS,
    Rows,
    json_of,
    rows_of,
    rows_of_csv,
    rows_of_json,
)
from lensbench.app.workflows.patch_pairs import (
    alignment_of,
    csv_files,
    pairs_file,
    sample_rows,
    task_rows,
)

KINDS = {"task": "A built-in task", "own": "My own pairs", "file": "A CSV file"}
NAMES = {"clean": "Clean prompt", "corrupted": "Corrupted prompt", "answer": "Answer",
         "foil": "Wrong answer"}  # fmt: skip
TASKS_SHOWN = {
    "agreement": "The verb agrees with the subject, not with the noun beside it.",
    "first_letter": "The first letter of a word that stands in the prompt.",
    "greater_than": "Which of two numbers is greater.",
    "ioi": "Indirect objects: the name of the two that is not named again.",
    "recall": "What a list said of the thing asked for.",
    "refusal": "Whether a question is answered or refused.",
}
FEW, SHOWN = 3, 8
"""Pairs whose tokens are shown, of a task and of typed ones."""
IN_ADDRESS = 4_000
"""Letters of pairs that an address may hold."""


@dataclass(frozen=True)
class Pairs:
    """What was chosen."""

    task: str
    n: int
    rows: Rows = ()


def choose_pairs(model: str) -> Pairs | None:
    """Widgets for the pairs; None until there are some."""
    opened(model)
    kind = one_of("Prompt pairs", KINDS, key="of")
    if kind == "task":
        left, right = st.columns(2)
        with left:
            task = pick_of("Task", list(patching.TASKS), patching.TASKS[0], key="task")
        n = right.slider("Pairs", 4, 128, 32, 4, key="n", bind="query-params")
        st.caption(TASKS_SHOWN.get(task, ""))
        _tokens(model, task_rows(model, task, n, FEW), of=n)
        return Pairs(task, n)
    rows: Rows = ()
    with guarded():
        rows = _typed(model) if kind == "own" else _filed()
    if not rows:
        return None
    _tokens(model, rows, of=len(rows))
    st.download_button(
        "Keep for the command line", lambda: pairs_file(model, rows), "pairs.json",
        "application/json", key="pairs-json", on_click="ignore",
        help="The aligned pairs as lensbench patch --pairs pairs.json reads them",
    )  # fmt: skip
    return Pairs(patching.TASKS[0], len(rows), rows)


def _typed(model: str) -> Rows:
    """The table editor; what it holds is part of the address."""
    key = f"pairs-start-{model}"
    if key not in st.session_state:
        given = st.query_params.get("pairs")
        st.session_state[key] = rows_of_json(given) if given else sample_rows(model)
    start = pd.DataFrame(st.session_state[key], columns=list(COLUMNS), dtype=str)
    edited = st.data_editor(
        start, num_rows="dynamic", hide_index=True, key=f"editor-{model}", width="stretch",
        column_config={c: st.column_config.TextColumn(name) for c, name in NAMES.items()},
    )  # fmt: skip
    st.caption(
        "Type, paste cells from a spreadsheet, or add rows below. The corrupted prompt needs as "
        "many tokens as the clean one; the answer follows the clean prompt, the wrong answer the "
        "corrupted one."
    )
    rows = rows_of(edited.to_dict("records"))
    text = json_of(rows)
    if len(text) <= IN_ADDRESS:
        st.query_params["pairs"] = text
    else:
        st.caption("These pairs are too long for the address; keep them as a CSV file.")
    st.download_button("Keep as CSV", edited.to_csv(index=False), "pairs.csv", "text/csv",
                       key="pairs-csv", on_click="ignore")  # fmt: skip
    if not rows:
        st.info("The table is empty; type a pair into its first row.")
    return rows


def _filed() -> Rows:
    files, line = csv_files(root()), in_shell("patch", "--pairs", "pairs.json")
    if not files:
        if "file" in st.query_params:
            not_here("File", st.query_params["file"])
        nothing_yet(
            f"There is no CSV file of pairs below {plain(str(root()))}. Save one there whose "
            f"first line is {','.join(COLUMNS)}.", line,
        )  # fmt: skip
        return ()
    name = choose("File", files, key="file")
    if name is None:
        nothing_yet("Choose a file of pairs.", line)
        return ()
    return rows_of_csv(below(name).read_text(encoding="utf-8"))


def _tokens(model: str, rows: Rows, *, of: int) -> None:
    """Tokens of every pair, what differs marked, and why pairs are left out."""
    with guarded():
        table = alignment_of(model, rows[:SHOWN])
        every = alignment_of(model, rows if of == len(rows) else ())  # those of tasks are aligned
        notes = {row["pair"]: str(row["note"]) for row in every.to_dict("records") if row["note"]}
        shown = len(set(table["pair"]))
        more = f"; the first {shown} of {of}" if of > shown else ""
        st.caption(f"Alignment, token by token: a word in brackets differs{more}.")
        show_listing(table.drop(columns="note"), alt="Tokens of the pairs", take="pair-tokens",
                     data=table, code=python_of(alignment_of, model, rows[:SHOWN]))  # fmt: skip
        for number, note in notes.items():
            st.warning(f"Pair {number}: {plain(note)}.")
