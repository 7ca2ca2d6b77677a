"""A heat map whose cells can be clicked."""

from collections.abc import Callable

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from lensbench.app.state import mode
from lensbench.app.widgets.figures import take_away
from lensbench.plots import CONFIG, clickable, template


def click_map(
    figure: go.Figure,
    pick: Callable[[float, float], None],
    *,
    key: str,
    alt: str,
    chosen: tuple[float, float] | None = None,
    caption: str = "",
    frame: pd.DataFrame | None = None,
    code: str = "",
    file: str = "",
    provenance: str = "",
) -> None:
    """Draw a heat map; a click on a cell calls ``pick(x, y)`` before the page is drawn again."""
    show_clickable(clickable(figure, chosen), pick, key=key, alt=alt, caption=caption, frame=frame,
                   code=code, file=file, provenance=provenance)  # fmt: skip


def show_clickable(
    figure: go.Figure,
    pick: Callable[[float, float], None],
    *,
    key: str,
    alt: str,
    caption: str = "",
    frame: pd.DataFrame | None = None,
    code: str = "",
    file: str = "",
    provenance: str = "",
) -> None:
    """Draw a figure whose points can be clicked, and what ``take_away`` offers of it."""

    def clicked() -> None:
        points = st.session_state[key].selection.points
        if points:
            pick(float(points[-1]["x"]), float(points[-1]["y"]))

    figure.update_layout(template=template(mode()))
    st.plotly_chart(figure, key=key, on_select=clicked, selection_mode="points", config=CONFIG,
                    theme=None, alt=alt)  # fmt: skip
    if caption:
        st.caption(caption)
    take_away(frame, key=key, code=code, file=file, figure=figure, alt=alt, caption=caption,
              provenance=provenance)  # fmt: skip
