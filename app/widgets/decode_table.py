"""The decode table of a hyperdimensional study: by concept or by prompt, beside what is chance."""

from typing import Any

import pandas as pd
import streamlit as st

from lensbench.app.widgets.figures import take_away
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.toggle import one_of, pick_of
from lensbench.app.workflows.hyper import HDAsk, HDStudy, decode_code

TABLES = {"concepts": "By concept", "prompts": "By prompt"}
WHICH = ("All", "Read right", "Read wrong", "Nothing read")
CONCEPTS = {
    "concept": "True value", "n": "n", "accuracy": "Accuracy", "low": "Low", "high": "High",
    "chance": "Chance", "control": "Shuffled", "elsewhere": "Elsewhere", "query": "Query used",
    "decoded": "Decoded", "similarity": "Similarity", "margin": "Margin",
}  # fmt: skip
PROMPTS = {
    "prompt": "Prompt", "query": "Query used", "decoded": "Decoded", "true": "True value",
    "right": "Right", "similarity": "Similarity", "runner_up": "Runner-up", "margin": "Margin",
    "model_says": "Model says", "control_right": "Shuffled right",
}  # fmt: skip
ITSELF, NONE, NOTHING = "the vector itself", "none answers", "nothing"


def decode_table(found: HDStudy, ask: HDAsk) -> None:
    """Draw it with its caption, and offer it as files."""
    st.markdown("**Decode table**")
    kind = one_of("Rows", TABLES, key="rows")
    frame: Any = found.by_concept() if kind == "concepts" else found.decoded()
    if kind == "concepts":
        more = [f" (+{n - 1})" if n > 1 else "" for n in frame["n_queries"]]
        asked = _asked(frame["query"], frame["decoded"])
        shown = frame.assign(query=[a + b for a, b in zip(asked, more, strict=True)])
        told = CONCEPTS
        st.caption(_of_concepts(found, len(frame)))
    else:
        told, which = PROMPTS, pick_of("Show", list(WHICH), WHICH[0], key="which")
        frame = frame[_chosen(frame, which)]
        shown = frame.assign(query=_asked(frame["query"], frame["decoded"]))
        st.caption(_of_prompts(found, len(frame)))
    shown["decoded"] = shown["decoded"].replace("", NOTHING)
    shown = shown[[c for c in told if c in shown and shown[c].notna().any()]]
    show_listing(shown, alt=f"Decode table, {TABLES[kind].lower()}", headings=told, digits=3)
    take_away(frame, key="decode-table", code=decode_code(ask, kind == "concepts"),
              file=f"decode-{kind}")  # fmt: skip


def _chosen(frame: Any, which: str) -> Any:
    return {
        "All": pd.Series(True, frame.index), "Read right": frame["right"],
        "Read wrong": frame["answered"] & ~frame["right"], "Nothing read": ~frame["answered"],
    }[which]  # fmt: skip


def _asked(queries: Any, decoded: Any) -> list[str]:
    """Queries as they are read: what was unbound; nothing unbound; or none that answered."""
    return [(q.replace(" * ", ", ") or (ITSELF if read else NONE))
            for q, read in zip(queries, decoded, strict=True)]  # fmt: skip


def _of_concepts(found: HDStudy, n: int) -> str:
    whole = found.to_frame().iloc[0]
    return (
        f"{n} concepts on n = {int(found.right.sum())} held-out prompts that the model gets right; "
        f"together {whole['value']:.3f} [{whole['low']:.3f}, {whole['high']:.3f}] over facts. "
        "Low to high: Wilson interval at 95 %, prompts taken as independent. Chance: one of "
        f"{found.n_concepts} concepts at random. Controls: shuffled, the accuracy of an encoder "
        "fitted with the codes of other prompts; elsewhere, how often the word is read where "
        "another is right. Query used: the most frequent one (+ others)."
    )


def _of_prompts(found: HDStudy, n: int) -> str:
    return (
        f"{n} of {len(found.right)} held-out prompts. Similarity: cosine of what is left after the "
        "query's concepts are unbound with the nearest concept; margin: less that of the "
        f"runner-up. Below {found.reading.threshold:.3f} (6.4 standard deviations of chance) "
        f"nothing is read. Chance of a right one: {1 / found.n_concepts:.4f}."
    )
