"""Find a latent: a table that is searched, filtered and sorted, or the latents of a text."""

from contextlib import suppress
from pathlib import Path

import pandas as pd
import streamlit as st

from lensbench.app.cache import latent_table, measured, notes_on, strongest
from lensbench.app.state import root
from lensbench.app.widgets.figures import take_away
from lensbench.app.widgets.latent_around import open_row, words_written
from lensbench.app.widgets.latent_lines import text_line
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.note_editor import notes_files
from lensbench.app.widgets.states import guarded, plain
from lensbench.app.widgets.toggle import one_of, pick_of
from lensbench.app.workflows.copying import python_of
from lensbench.app.workflows.latent_code import text_code
from lensbench.app.workflows.latent_page import store_of
from lensbench.app.workflows.latent_related import cosines
from lensbench.app.workflows.latent_rows import MOST_NAMED, in_order, joined, rows_again
from lensbench.app.workflows.notes import found_in
from lensbench.errors import LensbenchError

MOST = 2_000
"""Rows that are sent to the browser; of more, the first ones in the order that is chosen."""
FIND = {"table": "Table of all latents", "text": "What fires on my text"}
TALL, LOW = 420, 250
"""Pixels of the table, while no latent is open and below it."""
NUMBERS = {
    "density": "%.5f", "f1": "%.3f", "f1_low": "%.3f", "f1_high": "%.3f", "control": "%.3f",
    "largest": "%.4g", "cosine": "%.3f", "decoder_norm": "%.4g", "encoder_bias": "%.4g",
}  # fmt: skip
TITLES = {
    "latent": "latent", "density": "density", "label": "label", "f1": "label F1",
    "f1_low": "F1, low", "f1_high": "F1, high", "control": "control F1", "largest": "largest",
    "cosine": "cosine", "writes towards": "writes towards", "decoder_norm": "decoder norm",
    "encoder_bias": "encoder bias", "note": "note",
}  # fmt: skip
ORDERS = {
    "": "As listed: best label first", "density": "Density", "largest": "Largest activation",
    "f1": "F1 of the best label", "cosine": "Cosine with the open latent", "latent": "Number",
    "decoder_norm": "Length of the decoder row",
}  # fmt: skip
STATES = {"all": "All", "alive": "Those that fire", "dead": "Dead ones", "labelled": "With a label"}


def find_latent(run: Path, name: str, opened: int | None) -> pd.DataFrame:
    """Draw the ways to find a latent; what is clicked is opened. Gives the rows that were kept."""
    if one_of("Find by", FIND, key="find") == "text":
        with guarded():
            _on_text(run, name)
        return latent_table(run, name)
    with guarded():
        return filtered(_table(run, name, opened), opened)
    return latent_table(run, name)


def _table(run: Path, name: str, opened: int | None) -> pd.DataFrame:
    """All that is known of every latent without asking for more than is at hand."""
    kept, count = None, 0
    with guarded():  # a damaged file of notes is said, and the table goes on
        noted = notes_on(run, name)
        count, kept = len(noted), noted  # the file is read here
    found, cosine, store = None, None, None
    asked = str(st.session_state.get("by") or st.query_params.get("by", ""))
    if opened is not None or "largest" in (asked, *asked.casefold().split()):
        try:  # the rows are encoded once, when a latent is opened or this order is asked for
            store = store_of(run, name, root())
            found = measured(run, name, store)
        except LensbenchError as error:
            st.caption(plain(f"No largest activations: {error}"))
    if opened is not None:
        with suppress(LensbenchError):  # a crosscoder's rows lie in several spaces
            cosine = cosines(run, name, opened)
    table = joined(latent_table(run, name), kept, found, cosine, words_written(run, name))
    table.attrs |= {"run": str(run), "name": name, "notes": count,
                    "store": str(store) if found is not None else ""}  # fmt: skip
    return table


def filtered(table: pd.DataFrame, opened: int | None = None) -> pd.DataFrame:
    """Draw filters and table; a clicked row is opened. Gives all rows that pass the filters."""
    rows = _narrowed(table)
    shown = rows.head(MOST)
    n = int(table.attrs.get("n_tokens", 0) or table.attrs.get("looked_at", 0))
    of = "evaluation" if table.attrs.get("n_tokens") else "store that were looked at"
    seen = f" Density: share of the {n:,} tokens of the {of}." if n and "density" in rows else ""
    cut = f", of which the first {MOST:,} are shown" if len(rows) > MOST else ""
    st.caption(
        f"{len(rows):,} of {len(table):,} latents{cut}. Click a heading to sort, a row to open."
        f"{seen}"
    )
    empty = [c for c in ("my label", "note") if c in shown and not any(shown[c])]
    empty += ["starred"] if "starred" in shown and not any(shown["starred"]) else []
    picked = show_listing(
        shown, pick="latent-rows", alt="latents of the dictionary",
        height=TALL if opened is None else LOW,
        column_order=[str(c) for c in shown if c not in empty],
        config={
            **{c: st.column_config.Column(TITLES[c]) for c in TITLES},
            **{c: st.column_config.NumberColumn(TITLES[c], format=f) for c, f in NUMBERS.items()},
            "starred": st.column_config.CheckboxColumn("★", width=40),
            "my label": st.column_config.TextColumn(width="medium"),
        },
    )  # fmt: skip
    # Rows move when a filter or a note changes: a place that was clicked before is no new click.
    take_away(rows, key="latent-table", alt="latents of the dictionary",
              code=_code(rows, table, opened))  # fmt: skip
    open_row(shown, () if picked is None else (picked,), key="latents")
    return rows


def _code(rows: pd.DataFrame, table: pd.DataFrame, opened: int | None) -> str:
    """Python that makes the same rows; none where too many would have to be named."""
    of, few = table.attrs, len(rows) < len(table)
    if "name" not in of or (few and len(rows) > MOST_NAMED):
        return ""
    return python_of(
        rows_again, Path(of["run"]), of["name"], tuple(str(c) for c in rows),
        store=Path(of["store"]) if of["store"] else None, opened=opened,
        latents=tuple(int(n) for n in rows["latent"]) if few else None, **rows.attrs["order"],
    )  # fmt: skip


def _narrowed(table: pd.DataFrame) -> pd.DataFrame:
    text_at, label_at, order_at, more_at = st.columns([3, 2, 2, 1], vertical_alignment="bottom")
    text = text_at.text_input("Search", key="said", bind="query-params",
                              placeholder="Label, note, or a token it writes towards")  # fmt: skip
    rows = table
    known = sorted({str(v) for v in table["label"].dropna()}) if "label" in table else []
    label = label_at.selectbox("Label", known, index=None, key="label", bind="query-params",
                               placeholder="Any, or none", disabled=not known)  # fmt: skip
    orders = {k: v for k, v in ORDERS.items() if k in ("", "largest") or k in table}
    if "f1" not in table:
        orders[""] = "As listed: by number"
    with order_at:
        by = pick_of("Order", list(orders), "", key="by", shown=orders)
    with more_at.popover("More", key="more-filters"):
        rows = _more(rows)
        notes_files(str(table.attrs.get("run", "")), int(table.attrs.get("notes", 0)))
    falling = bool(st.session_state.get("falling", True))
    if label is not None:
        rows = rows.loc[rows["label"] == label]
    if text:
        rows = rows.loc[found_in(rows, text)]
        if rows.empty:
            st.info(f"No label, note or written token of this dictionary has “{plain(text)}” "
                    "in it.")  # fmt: skip
    rows = in_order(rows, by, falling)
    rows.attrs["order"] = {"by": by, "falling": falling}
    return rows


def _more(rows: pd.DataFrame) -> pd.DataFrame:
    """Filters that are asked for less often."""
    st.toggle("Largest first", value=True, key="falling", bind="query-params")
    if st.toggle("Starred only", key="starred", bind="query-params") and "starred" in rows:
        rows = rows.loc[rows["starred"]]
    if "density" not in rows:
        st.caption("Densities and labels come with `lensbench eval sae`, or with the order "
                   "“Largest activation”.")  # fmt: skip
        return rows
    which = one_of("Latents", STATES, key="which")
    if which in ("alive", "dead"):
        rows = rows.loc[(rows["density"] > 0) == (which == "alive")]
    if which == "labelled" and "label" in rows:
        rows = rows.loc[rows["label"].notna()]
    low = st.number_input("Density at least", 0.0, 1.0, 0.0, 0.001, format="%g",
                          key="low", bind="query-params")  # fmt: skip
    high = st.number_input("Density at most", 0.0, 1.0, 1.0, 0.001, format="%g",
                           key="high", bind="query-params")  # fmt: skip
    return rows.loc[(rows["density"] >= (low or 0)) & (rows["density"] <= (high or 0))]


def _on_text(run: Path, name: str) -> None:
    """The strongest latents of a typed text; a click opens one."""
    text = st.text_input("Text", key="typed", bind="query-params", max_chars=2000,
                         placeholder="Type a few words; the model is run once on them")  # fmt: skip
    if not text or not text.strip():
        st.info("Type a text to see which latents fire on it.")
        return
    store = store_of(run, name, root())
    found = strongest(run, name, store, text)
    if found.empty:
        st.info("No latent of this dictionary fires on this text.")
        return
    table = latent_table(run, name).set_index("latent")
    shown = found.round(4)
    if "label" in table:
        shown["label"] = table["label"].fillna("").loc[shown["latent"]].to_numpy()
    written = words_written(run, name)
    if any(written):
        shown["writes towards"] = [written[int(n)] for n in shown["latent"]]
    titles = {"token": "strongest at", "tokens": "fires on tokens"}
    picked = show_listing(shown, pick="text-rows", alt="latents that fire on the text", height=LOW,
                          headings=titles)  # fmt: skip
    st.caption(f"The {len(found)} strongest of n = {len(table):,} latents, by largest activation; "
               "special tokens such as BOS left out. Click a row to open it.")  # fmt: skip
    take_away(found, key="on-text", alt="latents that fire on the text", code=text_code(
        run, name, store, text, ".strongest()"))  # fmt: skip
    text_line(run, name, None, text, store)
    open_row(found, () if picked is None else (picked,), key="on-text")
