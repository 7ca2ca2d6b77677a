"""One cell of a lens: its best tokens, and tokens followed over the layers."""

import streamlit as st

from lensbench.app.widgets.figures import show_figure
from lensbench.app.widgets.links import go_to
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.states import plain
from lensbench.app.widgets.text_source import TYPED
from lensbench.app.workflows import lens_ask, lenses
from lensbench.app.workflows.lenses import LensAsk
from lensbench.plots import visible

LEAVING = "asked-cell"
"""Key under which a click says where to go."""


def show_cell(ask: LensAsk, position: int, layer: int) -> None:
    """Draw the course of the cell's tokens, and of those that the reader pinned."""
    pins = st.text_input(
        "Follow more tokens", key="pins", bind="query-params",
        placeholder="type tokens with spaces between them, such as wooden round",
        help="Each is one token; write ␣ for a space that belongs to it",
    )  # fmt: skip
    cell = lenses.cell_for(ask, position, layer, pins)
    left, right = st.columns([3, 2])
    follows = f"The text goes on with “{plain(visible(cell.target))}”." if cell.target else ""
    with left:
        show_figure(cell.plot(), key="lens-course", frame=cell.course, caption=follows,
                    code=lenses.python_of_cell(ask, position, layer, pins),
                    alt="Probability of the followed tokens over the layers")  # fmt: skip
    with right:
        st.markdown(f"**Best tokens after block {cell.layer}**")
        show_listing(
            cell.top, take="lens-best", alt="Best tokens of this cell",
            code=lenses.python_of_cell(ask, position, layer, pins, then=".top"),
        )  # fmt: skip
        told = "Put it into another prompt, and read what the prompt says"
        if st.button("Ask this state", key="ask-state", help=told):
            st.session_state[LEAVING] = _way(ask, position, layer)
            st.rerun()


def leave() -> None:
    """Open the page Ask a state where a cell was asked for.

    From within the map's fragment, the address of that page would lack what both pages choose.
    """
    if way := st.session_state.pop(LEAVING, None):
        go_to("ask", **way)


def _way(ask: LensAsk, position: int, layer: int) -> dict[str, str]:
    """A cell as that page's address, with a ready prompt where the model has one."""
    named = {"store": str(st.session_state["store"]), "row": str(ask.row)} if ask.store else {
        "from": TYPED, "model": str(st.session_state["model"]), "text": ask.text}  # fmt: skip
    target, slot = next(iter(lens_ask.offers(ask).values()), ("", ""))
    named |= {"target": target, "slot": slot} if target else {}
    return {k: v for k, v in named.items() if v} | {"pos": str(position), "layer": str(layer)}
