"""Two cells of the Token page: what linear probes and a hyperdimensional encoder read there."""

from pathlib import Path

import streamlit as st

from lensbench.app.widgets.figures import take_away
from lensbench.app.widgets.fit_job import fit_job
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.missing import missing
from lensbench.app.widgets.states import plain
from lensbench.app.widgets.toggle import pick_of
from lensbench.app.widgets.token_cells import cell, verify
from lensbench.app.workflows import hyper as hyper_pages
from lensbench.app.workflows import token_hyper, token_probes
from lensbench.app.workflows.copying import Call, python_of
from lensbench.app.workflows.probe_page import in_words
from lensbench.app.workflows.token_hyper import TASKS
from lensbench.app.workflows.token_probe_check import check_hyper, check_probe
from lensbench.errors import LensbenchError

FIT = "Fit probes with their controls"
INTERESTING = {True: "What is said or true here", False: "All labels"}


def probes(root: Path, url: str, row: int) -> None:
    """Linear probes' read-outs, beside the labels of the text and chance."""
    with cell("Probe read-outs"):
        try:
            found = token_probes.probe_cell(root, url, row)
        except LensbenchError as error:
            offered = token_probes.labelled(url)  # the job below shows its command
            missing(str(error).partition(" Add with: ")[0] if offered else str(error))
            if offered:
                fit_job("probes", token_probes.settings_for(root, url), FIT, key="fit-probes")
            return
        table, said = token_probes.table_of(found), in_words(one.probe.label for one in found)
        few = pick_of("Show", list(INTERESTING), True, key="probes-shown", shown=INTERESTING)
        here = (table["says"] != "no") | table["the text says"].isin(["yes"])
        shown = table.loc[here] if few else table
        if shown.empty:
            st.info(f"None of {len(table)} probes says yes here, and no label of the text is true.")
        else:
            shown = shown.assign(label=[said[name] for name in shown["label"]])
            show_listing(shown, alt="what each probe says of this token", digits=3)
        known = table.loc[table["right"] != ""]
        right = int((known["right"] == "✓").sum())
        agree = f"{right} of {len(known)} agree with the text's labels here. " if len(known) else ""
        st.caption(
            f"{agree}Each label's best probe by its score on n = {found[0].n_test} test documents; "
            "chance: the strongest of its controls (random labels of the same tokens, what the "
            "token alone tells, the most frequent label). The token may be one it was fitted on."
        )
        take_away(table, key="token-probes", alt="what each probe says of this token",
                  code=python_of(token_probes.table_of, Call(token_probes.probe_cell, root, url,
                                                             row)))  # fmt: skip
        names = [one.probe.label for one in found]
        label = pick_of("Probe to verify", names, names[0], key="token-probe", shown=said)
        verify("probe", check_probe, root, url, row, label)
        if not token_probes.fitted(root, url) and token_probes.labelled(url):
            with st.expander(f"Only {len(found)} labels have a probe here: fit all of the text's"):
                fit_job("probes", token_probes.settings_for(root, url), FIT, key="fit-probes")


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
                _study(root, url, task)
            return
        show_listing(found.found, alt="concepts nearest to what is read", digits=3)
        tried = f"tried subsets of: {', '.join(found.words)}"
        tried = tried if found.words else "no word of the text before it is a concept"
        query = f"unbound: {found.query}" if found.query else "the hypervector itself"
        query = query if found.answered else f"none answers ({tried})"
        passed = "" if found.answered else " No concept passes it: the probe reads nothing here."
        st.caption(plain(
            f"Query: {query}. Threshold {found.threshold:.3f}.{passed} "
            f"{hyper_pages.scored(found.study)}."
        ))  # fmt: skip
        st.caption("The encoder learnt the last token of such prompts; at other tokens and texts "
                   "it reads what it was not fitted for.")  # fmt: skip
        take_away(
            found.found,
            key="token-hyper",
            alt="concepts nearest to what is read",
            code=python_of(token_hyper.hyper_cell, root, url, row, task, then=".found"),
        )
        names = list(found.found["concept"])
        concept = pick_of("Concept to verify", names, names[0], key="token-concept")
        verify("hyper", check_hyper, root, url, row, task, concept)


def _study(root: Path, url: str, task: str) -> None:
    """The study that fits the encoder, as a job; nothing where its model cannot be opened."""
    try:
        ask = token_hyper.ask_for(url, task)
    except LensbenchError as error:
        st.error(plain(str(error)))
        return
    settings = hyper_pages.settings_of(ask, hyper_pages.folder_for(root, ask))
    fit_job("hd", settings, f"Fit an encoder on up to {ask.n_train:,} prompts", key="fit-hyper",
            told="Runs the model on prompts of the atlas, and fits the controls beside it; the "
            "page Hyperdimensional then has the whole study.")  # fmt: skip
