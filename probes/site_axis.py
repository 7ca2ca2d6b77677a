"""The axis of sites of a figure: one place for a site whatever its source, and its name there."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from lensbench.errors import LensbenchError
from lensbench.sites import Site, execution_order

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
    parsed = [_site(name) for name in sites.values()]
    known = [site for site in parsed if site is not None and site.layer is not None]
    kinds = {(site.name, site.stack) for site in known}
    if len(known) < len(parsed) or len(kinds) > 1:
        tilt = -35 if len(shown) > _TILTED else 0
        return figure.update_xaxes(
            tickvals=shown, ticktext=[sites[i] for i in shown], tickangle=tilt
        )
    [(name, stack)] = kinds
    where = f"{name} of the {stack}" if stack else name
    return figure.update_xaxes(
        tickvals=shown, ticktext=[str(Site.parse(sites[i]).layer) for i in shown],
        title={"text": f"block ({where})"},
    )  # fmt: skip


def site_places(names: Iterable[str]) -> dict[str, int]:
    """The place of every site on an axis for all: execution order (other names: as they come)."""
    seen = list(dict.fromkeys(names))
    parsed = {name: site for name in seen if (site := _site(name)) is not None}
    if len(parsed) == len(seen):
        seen.sort(key=lambda name: execution_order(parsed[name]))
    return {name: place for place, name in enumerate(seen)}


def _site(name: str) -> Site | None:
    """The site of that name; None of arrays with other names."""
    try:
        return Site.parse(name)
    except LensbenchError:
        return None
