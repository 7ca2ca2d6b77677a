"""The axis of sites of a figure: names instead of places in a list."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lensbench.sites import Site

if TYPE_CHECKING:
    import plotly.graph_objects as go

_MOST = 24
"""More names than this would run into one another."""
_TILTED = 4
"""More full names than this stand aslant."""


def name_sites(figure: "go.Figure", sites: Mapping[int, str]) -> "go.Figure":
    """Name the places on the x axis, in place; of one site in every block, by the block alone."""
    if not sites:
        return figure
    shown = sorted(sites)[:: -(-len(sites) // _MOST)]
    parsed = {i: Site.parse(sites[i]) for i in sites}
    kinds = {(one.name, one.stack) for one in parsed.values()}
    if len(kinds) > 1 or any(one.layer is None for one in parsed.values()):
        tilt = -35 if len(shown) > _TILTED else 0
        return figure.update_xaxes(
            tickvals=shown, ticktext=[sites[i] for i in shown], tickangle=tilt
        )
    [(name, stack)] = kinds
    where = f"{name} of the {stack}" if stack else name
    return figure.update_xaxes(
        tickvals=shown, ticktext=[str(parsed[i].layer) for i in shown],
        title={"text": f"block ({where})"},
    )  # fmt: skip
