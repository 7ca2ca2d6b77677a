"""The page Geometry: the shape of stored activations from site to site, beside controls."""

import streamlit as st

from lensbench.app.state import inside, root, store_names
from lensbench.app.widgets.figures import show_figure
from lensbench.app.widgets.fit_job import fit_done, fit_job
from lensbench.app.widgets.shape_table import shape_table
from lensbench.app.widgets.states import command_line, guarded, no_store_yet, nothing_yet, plain
from lensbench.app.widgets.toggle import one_of
from lensbench.app.workflows import shapes
from lensbench.app.workflows.shapes import ShapeAsk

MEASURES = {
    "anisotropy": "Anisotropy",
    "dimension": "Intrinsic dimension",
    "neighbours": "Neighbourhoods",
}
SAID = {
    "anisotropy": "Share of the variance along the strongest direction, without the first token, "
    "whose activations are often massive. Control: as many rows with no preferred direction.",
    "dimension": "GRIDE at n1 = 1: dimensions in which the nearest neighbours lie. It depends on "
    "the number of rows and on the scale: compare equal ones.",
    "neighbours": "Imbalance 0: distances there tell those here; 1: they tell nothing.",
}


def show() -> None:
    """Draw the page."""
    st.title("Geometry")
    st.caption("How the states of all tokens lie in space, from site to site.")
    ask = _ask()
    if ask is None:
        return
    with guarded():
        with st.spinner("Measuring distances between the rows of every site"):
            found = shapes.kept(root(), ask)
        settings = shapes.settings_of(ask, shapes.folder_for(root(), ask))
        if found is None:
            fit_job("geometry", settings, "Measure", key="start-geometry", told="More than a few "
                    "seconds of work: in a process of its own; the page can be left.")  # fmt: skip
            return
        for warning in getattr(found, "warnings", ()):
            st.warning(plain(warning))
        for i, (name, figure) in enumerate(shapes.figures(found, ask).items()):
            show_figure(
                figure, key=f"geometry-{i}", frame=found.to_frame(),
                code=shapes.python_of(ask, shapes.DRAWS[ask.measure][i]),
                alt=name, caption=SAID[ask.measure] if i == 0 else "",
            )  # fmt: skip
        shape_table(found, ask.measure, shapes.python_of(ask, "to_frame()"))
        if not ask.controls:
            st.caption("No control is drawn yet: --make-controls on the command line captures the "
                       "text shuffled, and through a re-initialised model.")  # fmt: skip
        fit_done("geometry", settings)
        command_line(shapes.command_of(ask))


def _ask() -> ShapeAsk | None:
    names = store_names()
    if not names:
        no_store_yet(root() / "acts", "atlas:500", "--sites", "all")
        return None
    chosen = st.multiselect("Stores of one text", names, key="stores", bind="query-params",
                            placeholder="A model, or checkpoints of it")  # fmt: skip
    beside = st.multiselect("Controls", [n for n in names if n not in chosen], key="controls",
                            bind="query-params",
                            placeholder="Stores of the text shuffled, or of a twin")  # fmt: skip
    measure = one_of("Measure", MEASURES, key="measure")
    if not chosen:
        nothing_yet("Choose a store; its sites are measured at once.",
                    shapes.command_of(ShapeAsk((str(inside(names[0])),))))  # fmt: skip
        return None
    return ShapeAsk(tuple(str(inside(n)) for n in chosen), measure,
                    controls=tuple(str(inside(n)) for n in beside))  # fmt: skip
