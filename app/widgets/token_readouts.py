"""Two cells of the Token page: what linear probes and a hyperdimensional encoder read there."""

from collections.abc import Callable
from pathlib import Path

import streamlit as st

from lensbench.app.widgets.figures import take_away
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.missing import missing
from lensbench.app.widgets.states import plain
from lensbench.app.widgets.toggle import pick_of
from lensbench.app.widgets.token_cells import cell, verify
from lensbench.app.workflows import token_hyper, token_probes
from lensbench.app.workflows.token_hyper import TASKS
from lensbench.app.workflows.token_probe_check import check_hyper, check_probe
from lensbench.errors import LensbenchError

INTERESTING = {True: "What is said or true here", False: "All labels"}


def probes(root: Path, url: str, row: int) -> None:
    """Linear probes' read-outs, beside the labels of the text and chance."""
    with cell("Probe read-outs"):
        try:
            found = token_probes.probe_cell(root, url, row)
        except LensbenchError as error:
            missing(str(error))
            if token_probes.labelled(url):
                _fit("probes", "Fit probes with their controls",
                     lambda: token_probes.fit_probes(root, url))  # fmt: skip
            return
        table = token_probes.table_of(found)
        few = pick_of("Show", list(INTERESTING), True, key="probes-shown", shown=INTERESTING)
        here = (table["says"] != "no") | table["the text says"].isin(["yes"])
        shown = table.loc[here] if few else table
        if shown.empty:
            st.info(f"None of {len(table)} probes says yes here, and no label of the text is true.")
        else:
            show_listing(shown.round(3), alt="what each probe says of this token")
        known = table.loc[table["right"] != ""]
        right = int((known["right"] == "✓").sum())
        agree = f"{right} of {len(known)} agree with the text's labels here. " if len(known) else ""
        st.caption(
            f"{agree}Each label's best probe by its score on n = {found[0].n_test} test documents; "
            "chance: the strongest of its controls (random labels of the same tokens, what the "
            "token alone tells, the most frequent label). The token may be one it was fitted on."
        )
        take_away(table, key="token-probes")
        names = [one.probe.label for one in found]
        label = pick_of("Probe to verify", names, names[0], key="token-probe")
        verify("probe", (url, row, label), lambda: check_probe(root, url, row, label))


def hyper(root: Path, url: str, row: int) -> None:
    """A hyperdimensional decode: query, concepts, threshold, chance and n."""
    with cell("Hyperdimensional read-outs"):
        kept = token_hyper.tasks_kept(root, url)
        task = pick_of("Encoder fitted on prompts of", list(TASKS), (kept or list(TASKS))[0],
                       key="hyper-task")  # fmt: skip
        try:
            found = token_hyper.hyper_cell(root, url, row, task)
        except LensbenchError as error:
            missing(str(error))
            if task not in kept:
                _fit("hyper", f"Fit an encoder on up to {token_hyper.N_TRAIN:,} prompts",
                     lambda: token_hyper.fit_hyper(root, url, task))  # fmt: skip
                told = "The study with its baselines: `lensbench probe hd`, or its own page."
                st.caption(f"Runs the model on prompts of the atlas once. {told}")
            return
        show_listing(found.found.round(3), alt="concepts nearest to what is read")
        tried = ", ".join(found.words) or "no word of the text before it is a concept"
        query = f"unbound: {found.query}" if found.query else "the hypervector itself"
        query = query if found.answered else f"none answers (tried subsets of: {tried})"
        passed = "" if found.answered else " No concept passes it: the probe reads nothing here."
        about = found.about
        share = f"{about['precision']:.3f} [{about['low']:.3f}, {about['high']:.3f}]"
        st.caption(plain(
            f"Query: {query}. Threshold {found.threshold:.3f}.{passed} On n = {about['n']} "
            f"held-out prompts the first concept is right in {share} of them; chance "
            f"{about['chance']:.4f}."
        ))  # fmt: skip
        st.caption("The encoder learnt the last token of such prompts; at other tokens and texts "
                   "it reads what it was not fitted for.")  # fmt: skip
        take_away(found.found, key="token-hyper")
        names = list(found.found["concept"])
        concept = pick_of("Concept to verify", names, names[0], key="token-concept")
        verify("hyper", (url, row, task, concept),
               lambda: check_hyper(root, url, row, task, concept))  # fmt: skip


def _fit(key: str, label: str, work: Callable[[], Path]) -> None:
    """A button that fits something once and keeps it in the folder."""
    if not st.button(label, key=f"fit-{key}"):
        return
    try:
        with st.spinner("Fitting; it is kept for every token of this store"):
            work()
    except LensbenchError as error:
        st.error(plain(str(error)))
        return
    st.rerun()
