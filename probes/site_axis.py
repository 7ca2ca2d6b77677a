"""The axis of sites of a figure: one place for a site whatever its source, and its name there."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from lensbench.errors import LensbenchError
from lensbench.sites import Site, execution_order

if TYPE_CHECKING:
    import plotly.graph_objects as go

_MOST = 24
"""More names than this would run into one another."""
_TILTED = 4
"""More full names than this stand aslant."""


def short_sites(sites: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Names for an axis and what they are: blocks where it is one site of each, else full names."""
    parsed = [_site(name) for name in sites]
    known = [site for site in parsed if site is not None and site.layer is not None]
    kinds = {(site.name, site.stack) for site in known}
    if len(known) < len(parsed) or len(kinds) != 1:
        return tuple(sites), ""
    [(name, stack)] = kinds
    where = f"{name} of the {stack}" if stack else name
    return tuple(str(site.layer) for site in known), f"block ({where})"


def name_sites(figure: "go.Figure", sites: Mapping[int, str]) -> "go.Figure":
    """Name the places on the x axis, in place; of one site in every block, by the block alone."""
    places = sorted(sites)
    names, title = short_sites([sites[i] for i in places])
    step = max(1, -(-len(places) // _MOST))
    tilt = -35 if not title and len(places) > _TILTED else 0
    figure.update_xaxes(tickvals=places[::step], ticktext=names[::step], tickangle=tilt)
    return figure.update_xaxes(title={"text": title}) if title else figure


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
