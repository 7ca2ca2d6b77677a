"""Which text a page looks at: a sequence of a store, a typed text, or random tokens repeated."""

from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st

from lensbench.app.state import inside, root, store_names
from lensbench.app.widgets.choose import choose
from lensbench.app.widgets.model_choice import choose_model
from lensbench.app.widgets.states import guarded, no_store_yet, nothing_yet, plain
from lensbench.app.widgets.toggle import one_of
from lensbench.app.workflows.lenses import MAX_TEXT
from lensbench.app.workflows.sequences import first_row_of, n_rows

STORED, TYPED, REPEATED = "Stored sequence", "My own text", "Repeated random tokens"
MODEL, TEXT = "atlas-dense", "The capital of Peru is"
"""Of commands that are shown before anything is chosen."""


@dataclass(frozen=True)
class Source:
    """A store and a row of it, or a model and a text (or a number of random tokens)."""

    store: str = ""
    row: int = 0
    model: str = ""
    text: str = ""
    repeats: int = 0


def choose_source(*kinds: str, command: Callable[[Source], str]) -> Source | None:
    """Widgets for the text; None until enough is chosen. All of it is part of the address.

    Until then the reader is told what to choose, and the ``command`` for an example.
    """
    stores = store_names()
    kind = one_of("Text", {k: k for k in kinds}, key="from")
    if kind == STORED:
        return choose_row(command, stores)
    # The store in the address stays named there, so that coming back finds it again.
    name = choose_model()
    if kind == REPEATED:
        size = st.slider("Tokens before the repeat", 4, 32, 16, key="repeats", bind="query-params")
        if name is None:
            nothing_yet("Choose a model; it is run once on random tokens said twice.",
                        command(Source(model=MODEL, repeats=size)))  # fmt: skip
            return None
        return Source(model=name, repeats=size)
    if name:
        offer(name, "text")
    text = st.text_area("Text", key="text", max_chars=MAX_TEXT, bind="query-params",
                        placeholder="Type a few words; the model is run once on them")  # fmt: skip
    if name and text and text.strip():
        return Source(model=name, text=text)
    lacking = "Type a text, or take the example above." if name else "Choose a model for this text."
    nothing_yet(lacking, command(Source(model=name or MODEL, text=(text or "").strip() or TEXT)))
    return None


def offer(model: str, *keys: str) -> None:
    """A button that fills text fields with an example that suits the model."""
    from lensbench.app.workflows.samples import example_of

    def fill() -> None:
        for key, text in zip(keys, example_of(model), strict=False):
            st.session_state[key] = text

    st.button("Take an example text" if len(keys) == 1 else "Take an example pair", key="example",
              on_click=fill)  # fmt: skip


def choose_row(command: Callable[[Source], str], stores: list[str] | None = None) -> Source | None:
    """A store and one of its rows; None, with what to do and the ``command``, until both are."""
    stores = store_names() if stores is None else stores
    if not stores:
        no_store_yet(root() / "acts", "atlas:1000", "--profile", "resid")
        return None
    columns = st.columns([3, 1, 1])
    with columns[0]:
        name = choose("Store", stores, key="store")
    if name is None:
        nothing_yet("Choose a store; its first row is shown at once.",
                    command(Source(store=str(inside(stores[0])))))  # fmt: skip
        return None
    url = str(inside(name))
    last = n_rows(url) - 1
    if last < 0:
        st.info("This store holds no rows yet; open it again when its capture has begun.")
        return None

    if _beyond(last):
        return None

    def to_document() -> None:
        with guarded():
            if (document := st.session_state["document"]) is not None:
                st.session_state["row"] = first_row_of(url, int(document))

    if (st.session_state.get("row") or 0) > last:
        st.session_state["row"] = last
    row = columns[1].number_input("Row", 0, last, 0, key="row", bind="query-params",
                                  help="One row per stored token")  # fmt: skip
    columns[2].number_input("Go to document", 0, None, None, key="document",
                            on_change=to_document, placeholder="number")  # fmt: skip
    return Source(store=url, row=int(row))


def _beyond(last: int) -> bool:
    """Say that the address names a row that is not there; it stays in the address."""
    asked = st.query_params.get("row", "0")
    if "row" in st.session_state or (asked.isdecimal() and int(asked) <= last):
        return False
    shown = f"{int(asked):,}" if asked.isdecimal() else repr(asked)
    st.warning(f"Row {plain(shown)} is out of range: this store has rows 0 to {last:,}.")
    if st.button(f"Show row {last:,}", key="last-row"):
        st.session_state["row"] = last
        st.rerun()
    return True
