"""Continuations one below the other, with what differs from the first marked in shape and words."""

from collections.abc import Mapping, Sequence
from html import escape

import streamlit as st

from lensbench import plots
from lensbench.app.widgets.figures import take_away
from lensbench.app.workflows.latent_steering import changed, tokens_of
from lensbench.plots.tokens import CSS

STYLE = """
.lb-row{display:flex;gap:.8em;align-items:baseline;margin:.15em 0}
.lb-said{flex:0 0 15em;opacity:.78;font-size:13px}
.lb-new .t[title*="not in"]{text-decoration:underline 2px;font-weight:700}
"""
"""A token that differs is bold and underlined beside being shaded."""


def token_diff(
    words: Mapping[str, Sequence[str]],
    ids: Mapping[str, Sequence[int]],
    titles: Mapping[str, str] | None = None,
    *,
    take: str,
    code: str,
    caption: str = "",
) -> None:
    """Draw every continuation; tokens that the first one has not are marked, compared by id.

    Offered under the key ``take`` as a table of tokens, with the ``code`` that makes it.
    """
    first = ids[next(iter(ids))]
    lines = list[str]()
    for name, texts in words.items():
        marks = changed(first, ids[name])
        title = (titles or {}).get(name, name)
        strip = plots.token_strip(
            list(texts), [float(m) for m in marks], largest=2.0, label=f"{title} continuation",
            notes=[" · not in the first text" if m else "" for m in marks],
        )  # fmt: skip
        told = f"{title} ({sum(marks)} of {len(marks)} differ)" if any(marks) else title
        lines.append(f'<div class="lb-row lb-new"><span class="lb-said">{escape(told)}</span>'
                     f"{strip}</div>")  # fmt: skip
    st.html(f"<style>{CSS}{STYLE}</style>{''.join(lines)}")
    if caption:
        st.caption(caption)
    take_away(tokens_of(ids, words), key=take, code=code, alt="continuations, token by token",
              caption=caption)  # fmt: skip
