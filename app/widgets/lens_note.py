"""What a lens over an incomplete store can show, and room for one of few layers."""

import plotly.graph_objects as go

from lensbench.app.widgets.missing import missing
from lensbench.app.workflows import lenses
from lensbench.app.workflows.lenses import LensAsk
from lensbench.app.workflows.sequences import name_of_model

FEW = 4
"""Layers below which the map is too flat for its colour bar."""


def lens_note(ask: LensAsk) -> bool:
    """Say which layers a store lacks and how to add them; whether any is left to draw."""
    told = lenses.lacking(ask)
    if not told:
        return True
    drawn = lenses.has_layers(ask)
    more = "Drawn are the layers it has; nothing can be compared with the final one."
    what, mark, command = told.partition(" Add with: ")
    text = f"{what[:1].upper()}{what[1:]} {more * drawn}{mark}{command}"
    missing(text, model=name_of_model(ask.store))
    return drawn


def tall_enough(figure: go.Figure, layers: int) -> go.Figure:
    """The map with room for the words of its colour bar."""
    return figure.update_layout(height=380) if layers < FEW else figure
