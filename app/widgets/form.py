"""Form fields from a schema: what may be entered, what is taken when nothing is, what it means."""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from lensbench.app.widgets.states import plain
from lensbench.app.workflows.forms import Field, grouped


def fill(fields: Sequence[Field], *, key: str, first: int, grid: bool = False) -> dict[str, Any]:
    """Draw ``fields``, the first few in sight and the others folded away; give what differs.

    With ``grid`` numbers are text, so that ``8, 16`` asks for both. Settings that a search hides
    keep what was entered.
    """
    _columns(fields[:first], key, grid)
    rest = fields[first:]
    if rest:
        with st.expander(f"More settings ({len(rest)})", key=f"{key}-more"):
            sought = st.text_input("Find a setting", key=f"{key}-find", persist_state="page",
                                   placeholder="part of a name or of what it does")  # fmt: skip
            found = grouped(rest, sought)
            if not found:
                st.info("No setting says that; empty the field to see all of them.")
            for group, some in found.items():
                st.markdown(f"**{group}**")
                _columns(some, key, grid)
    values = {f.name: _read(f, st.session_state.get(f"{key}-{f.name}")) for f in fields}
    return {f.name: values[f.name] for f in fields if values[f.name] not in (f.default, None, "")}


def _read(field: Field, value: Any) -> Any:
    """What an entered value means."""
    if isinstance(value, str):
        value = value.strip()
    return {"true": True, "false": False}.get(value, value) if field.kind == "choice" else value


def _columns(fields: Sequence[Field], key: str, grid: bool) -> None:
    columns = st.columns(3)
    for i, field in enumerate(fields):
        with columns[i % 3]:
            _one(field, f"{key}-{field.name}", grid)


def _one(field: Field, key: str, grid: bool) -> None:
    told = f"`{field.name}`: {plain(field.help)}"
    if field.kind == "bool":
        st.checkbox(field.label, bool(field.default), key=key, help=told, persist_state="page")
        return
    if field.kind == "choice":
        at = field.choices.index(field.default) if field.default in field.choices else 0
        st.selectbox(field.label, field.choices, index=at, key=key, help=told,
                     persist_state="page")  # fmt: skip
        return
    if field.kind == "text" or grid:
        usual = "automatic" if field.default is None else f"{field.default:g}"
        st.text_input(field.label, "", key=key, help=told, persist_state="page",
                      placeholder="none" if field.kind == "text" else usual)  # fmt: skip
        return
    kind = int if field.kind == "int" else float
    st.number_input(
        field.label,
        min_value=None if field.low is None else kind(field.low),
        max_value=None if field.high is None else kind(field.high),
        value=None if field.default is None else kind(field.default),
        format=None if kind is int else "%g",
        step=None if kind is int else 0.01,
        key=key,
        help=told,
        persist_state="page",
    )
