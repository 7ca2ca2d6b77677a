"""A text as a row of tokens, one of which is chosen by a click, or by arrow keys and Enter."""

from collections.abc import Callable, Sequence

import streamlit as st
from streamlit.components import v2

from lensbench.plots import visible

_CSS = """
.strip { font-family: ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace;
  font-size: 14px; line-height: 2.1; display: flex; flex-wrap: wrap; gap: 3px; }
button { font: inherit; line-height: 1.5; min-width: 24px; min-height: 24px;
  color: var(--st-text-color); cursor: pointer;
  background: var(--st-secondary-background-color); padding: 1px 5px;
  border: 1px solid transparent; border-radius: 4px; white-space: pre; }
button:hover { border-color: var(--st-primary-color); }
button:focus-visible { outline: 2px solid var(--st-primary-color); }
button[aria-selected="true"] { background: var(--st-primary-color);
  color: var(--st-background-color); }
button:disabled { opacity: .45; cursor: not-allowed; }
"""
# Tokens are set as textContent: whatever a text holds stays text.
_JS = """
export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  const strip = parentElement.querySelector('.strip');
  const active = () => strip.getRootNode().activeElement || document.activeElement;
  const held = strip.contains(active());
  const first = data.usable[data.focus] ? data.focus : data.usable.indexOf(true);
  strip.replaceChildren();
  strip.setAttribute('aria-label', data.label);
  data.tokens.forEach((token, i) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = token;
    button.setAttribute('role', 'option');
    button.setAttribute('aria-selected', i === data.focus ? 'true' : 'false');
    button.title = data.titles[i];
    button.disabled = !data.usable[i];
    button.tabIndex = i === first ? 0 : -1;  // one stop of Tab, however long the text
    button.onclick = () => setTriggerValue('picked', i);
    strip.appendChild(button);
  });
  if (held && strip.children[first]) strip.children[first].focus();
  strip.onkeydown = (event) => {
    const all = [...strip.children].filter(one => !one.disabled), last = all.length - 1;
    const i = all.indexOf(active());
    const next = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: last }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    const one = all[Math.max(0, Math.min(last, next))];
    all.forEach(other => { other.tabIndex = other === one ? 0 : -1; });
    one.focus();
  };
}
"""
_STRIP = v2.component(
    "lensbench_token_strip",
    html='<div class="strip" role="listbox"></div>',
    css=_CSS,
    js=_JS,
)


def token_strip(
    tokens: Sequence[str],
    usable: Sequence[bool],
    focus: int,
    pick: Callable[[int], None],
    *,
    key: str,
    label: str,
) -> None:
    """Draw the tokens; a click on token ``i`` calls ``pick(i)`` before the page is drawn again.

    Tokens that are not ``usable`` are pale and cannot be clicked.
    """

    def clicked() -> None:
        picked = st.session_state[key].picked
        if picked is not None:
            pick(int(picked))

    _STRIP(
        key=key,
        data={
            "tokens": [visible(t) for t in tokens],
            "titles": [f"token {i}" + ("" if u else ": not stored") for i, u in enumerate(usable)],
            "usable": list(usable),
            "focus": focus,
            "label": label,
        },
        on_picked_change=clicked,
    )
