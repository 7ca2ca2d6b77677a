"""A heat map whose cells can be clicked."""

from collections.abc import Callable

import plotly.graph_objects as go
import streamlit as st

from lensbench.app.state import mode
from lensbench.plots import CONFIG, clickable, template


def click_map(
    figure: go.Figure,
    pick: Callable[[float, float], None],
    *,
    key: str,
    alt: str,
    chosen: tuple[float, float] | None = None,
) -> None:
    """Draw a heat map; a click on a cell calls ``pick(x, y)`` before the page is drawn again."""
    show_clickable(clickable(figure, chosen), pick, key=key, alt=alt)


def show_clickable(
    figure: go.Figure, pick: Callable[[float, float], None], *, key: str, alt: str
) -> None:
    """Draw a figure whose points can be clicked."""

    def clicked() -> None:
        points = st.session_state[key].selection.points
        if points:
            pick(float(points[-1]["x"]), float(points[-1]["y"]))

    figure.update_layout(template=template(mode()))
    st.plotly_chart(figure, key=key, on_select=clicked, selection_mode="points", config=CONFIG,
                    theme=None, alt=alt)  # fmt: skip
