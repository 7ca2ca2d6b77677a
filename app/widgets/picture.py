"""Buttons that save a drawn figure as SVG or PNG, in the reader's own browser."""

from typing import Any

import streamlit as st
from streamlit.components import v2

_CSS = """
.row { display: flex; gap: 16px; }
button { font: inherit; color: var(--st-text-color); background: var(--st-background-color);
  border: 1px solid var(--st-border-color); border-radius: var(--st-button-radius, 8px);
  min-height: 40px; padding: 4px 12px; cursor: pointer; }
button:hover { border-color: var(--st-primary-color); color: var(--st-primary-color); }
button:focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 1px; }
"""
# Plotly's own camera button does the work. The ground, transparent on the page, is filled while the
# picture is taken (plotly copies the layout before it returns), so that it can be read anywhere.
_JS = r"""
// Plotly saves by a click on a link of its own; if the page saw it, it would close this menu.
function unseen(event) {
  if (event.target instanceof HTMLAnchorElement && event.target.hasAttribute('download')) {
    event.stopPropagation();
    window.removeEventListener('click', unseen, true);
  }
}
export default function (component) {
  const { data, parentElement } = component;
  const row = parentElement.querySelector('.row');
  row.replaceChildren();
  for (const format of ['svg', 'png']) {
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = format.toUpperCase();
    button.setAttribute('aria-label', 'Download the figure as ' + button.textContent);
    button.onclick = () => {
      const of = '.st-key-' + data.chart.trim().replace(/[^a-zA-Z0-9_-]/g, '-');
      const drawn = document.querySelector(of + ' .js-plotly-plot');
      const camera = drawn && [...drawn.querySelectorAll('.modebar-btn')].find(
        (one) => one.querySelector('path') && /png|svg|picture/i.test(one.dataset.title || ''));
      if (!camera) { button.textContent += ': no figure'; button.disabled = true; return; }
      const before = [drawn._context.toImageButtonOptions, drawn.layout.paper_bgcolor];
      drawn._context.toImageButtonOptions = { format, filename: data.file, scale: 2 };
      drawn.layout.paper_bgcolor = data.paper;
      window.addEventListener('click', unseen, true);
      try { camera.dispatchEvent(new MouseEvent('click')); } finally {
        [drawn._context.toImageButtonOptions, drawn.layout.paper_bgcolor] = before;
      }
    };
    row.appendChild(button);
  }
}
"""
_BUTTONS = v2.component("lensbench_picture", html='<div class="row"></div>', css=_CSS, js=_JS)


def picture_buttons(chart: str, file: str, paper: str) -> None:
    """Two buttons for the figure whose widget key is ``chart``, on the ground ``paper``."""
    data: dict[str, Any] = {"chart": chart, "file": file, "paper": paper}
    with st.container(key=f"{chart}-picture"):
        _BUTTONS(key=f"{chart}-picture-buttons", data=data, width="content")
