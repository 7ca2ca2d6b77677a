"""Sparsity against fidelity, twice, each with a y axis of the reader's choice."""

from pathlib import Path
from typing import Any

import streamlit as st

from lensbench.app.widgets.figures import show_figure
from lensbench.app.widgets.toggle import pick_of
from lensbench.app.workflows.fronts import (
    drawable,
    front_caption,
    front_code,
    front_figure,
    front_frame,
)


def two_fronts(result: Any, run: Path, name: str) -> None:
    """Two figures side by side; CE recovered and FVU at first."""
    known = drawable(result)
    firsts = [*known][:2]
    for column, first, key in zip(st.columns(2), firsts, ("y", "y2"), strict=False):
        with column:
            metric = pick_of("y axis", list(known), first, key=key, shown=known)
            frame = front_frame(result, metric)
            show_figure(
                front_figure(frame, metric), key=f"front-{key}-{metric}",
                alt=f"{metric} against L0 of {len(frame) - 1} dictionaries of {name}",
                caption=front_caption(frame, metric), frame=frame, code=front_code(run, metric),
                file=f"front-{metric}",
            )  # fmt: skip
