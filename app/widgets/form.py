"""Form fields from a schema: what may be entered, what is taken when nothing is, what it means."""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from lensbench.app.widgets.states import plain
from lensbench.app.workflows.forms import Field


def fill(fields: Sequence[Field], *, key: str, first: int, grid: bool = False) -> dict[str, Any]:
    """Draw ``fields``, the first few in sight and the others folded away; give what differs.

    With ``grid`` numbers are text, so that ``8, 16`` asks for both.
    """
    values = _columns(fields[:first], key, grid)
    if fields[first:]:
        with st.expander("More settings"):
            values |= _columns(fields[first:], key, grid)
    return {f.name: values[f.name] for f in fields if values[f.name] not in (f.default, None, "")}


def _columns(fields: Sequence[Field], key: str, grid: bool) -> dict[str, Any]:
    columns = st.columns(3)
    values: dict[str, Any] = {}
    for i, field in enumerate(fields):
        with columns[i % 3]:
            values[field.name] = _one(field, f"{key}-{field.name}", grid)
    return values


def _one(field: Field, key: str, grid: bool) -> Any:
    told = plain(field.help)
    if field.kind == "bool":
        return st.checkbox(field.name, bool(field.default), key=key, help=told)
    if field.kind == "choice":
        at = field.choices.index(field.default) if field.default in field.choices else 0
        return st.selectbox(field.name, field.choices, index=at, key=key, help=told)
    if field.kind == "text":
        return st.text_input(field.name, "", key=key, help=told, placeholder="none").strip()
    if grid:
        shown = "" if field.default is None else f"{field.default:g}"
        empty = shown or "automatic"
        return st.text_input(field.name, "", key=key, help=told, placeholder=empty).strip()
    kind = int if field.kind == "int" else float
    return st.number_input(
        field.name,
        min_value=None if field.low is None else kind(field.low),
        max_value=None if field.high is None else kind(field.high),
        value=None if field.default is None else kind(field.default),
        format=None if kind is int else "%g",
        step=None if kind is int else 0.01,
        key=key,
        help=told,
    )
