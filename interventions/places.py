"""Where to intervene: a site, and a slice of it (position or role, head, dimension, subspace).

A :class:`Place` says which numbers of the network are changed; what they become is the business of
:mod:`lensbench.interventions.values`. ``places`` lists those of a sweep.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from lensbench.arguments import refuse_no_model, whole
from lensbench.errors import ConfigError, UnknownNameError, UnknownSiteError
from lensbench.interventions.subspace.slices import Subspace, SubspaceLike, subspaces
from lensbench.models.base import Model
from lensbench.ops import Op
from lensbench.plan import Edit
from lensbench.prompts.pairs import PromptPairs
from lensbench.sites import SITES, Site

Each = Literal["each", "together"]
LAST_FORM = "'each', 'together', or a list such as [0, 3]"
_SITES_FORM = "a name such as 'resid_pre', a Site, or a list of these"


@dataclass(frozen=True)
class Place:
    """A site (or its name), and where in it; None is all of that axis.

    Example:
        >>> place = interventions.Place("blocks.1.attn.z", head=2)
    """

    site: Site
    position: int | str | None = None
    """Number of the real token, or a role of the pairs."""
    head: int | None = None
    dim: int | None = None
    """A neuron, latent or channel of the last axis."""
    subspace: Subspace | None = None
    """Directions of the last axis; what is orthogonal to them is left as it is."""

    def __post_init__(self) -> None:
        """Let a name stand for its site."""
        object.__setattr__(self, "site", Site.parse(self.site))

    @property
    def whole(self) -> "Place":
        """The place with all of its vector."""
        return replace(self, dim=None, subspace=None)

    def at(self, pairs: PromptPairs, row: int) -> int | None:
        """Number of the token in this row; None where all are meant; -1 where there is no such."""
        if isinstance(self.position, str):
            return pairs.position(self.position)[row]
        return self.position

    def edit(self, op: Op, position: int | None) -> Edit:
        """``op`` here, at a token of one row (None: at all)."""
        op = op if self.subspace is None else self.subspace.within(op)
        one = lambda i: None if i is None else (i,)  # noqa: E731 - used below
        return Edit(self.site, op, None, one(position), one(self.head), one(self.dim))

    def __str__(self) -> str:
        """``blocks.3.attn.z @subject head 2``."""
        where = [str(self.site)]
        where += [] if self.position is None else [f"@{self.position}"]
        where += [f"{n} {v}" for n, v in (("head", self.head), ("dim", self.dim)) if v is not None]
        where += [] if self.subspace is None else [f"span of {self.subspace.k}"]
        return " ".join(where)


def columns(where: Sequence[Place]) -> dict[str, Any]:
    """The places as columns of a result: ``site``, ``layer``, ``position``, ``head``, ``dim``.

    Numbers are -1, and positions empty, where all of an axis is meant.
    """
    number = lambda v: -1 if v is None else int(v)  # noqa: E731 - used below
    return {
        "site": tuple(str(p.site) for p in where),
        "layer": np.array([number(p.site.layer) for p in where]),
        "position": tuple("" if p.position is None else str(p.position) for p in where),
        "head": np.array([number(p.head) for p in where]),
        "dim": np.array([number(p.dim) for p in where]),
    }


def places(
    model: Model,
    pairs: PromptPairs,
    sites: str | Site | Sequence[str | Site],
    *,
    layers: Sequence[int] | None = None,
    positions: Each | Sequence[int | str] | None = None,
    heads: Each | Sequence[int] = "each",
    dims: Sequence[int] | None = None,
    subspace: SubspaceLike | None = None,
) -> tuple[Place, ...]:
    """Every place of a sweep, in execution order.

    Args:
        model: whose sites are meant.
        pairs: prompts; they say which positions and roles there are.
        sites: names without a layer (``"resid_pre"``: every layer that has it) or whole ones.
        layers: which layers; left out, all.
        positions: ``"each"`` token, all ``"together"``, numbers, or roles; left out, each token
            where all prompts are equally long and else each role.
        heads: of sites that have heads: ``"each"``, all ``"together"``, or numbers.
        dims: neurons, latents or channels, each a place of its own; left out, the whole vector.
        subspace: directions ``[k, d]`` (or one, ``[d]``) whose span is meant instead of the whole
            vector; they are made orthonormal. One array for all sites, or ``{layer: directions}``
            or ``{site: directions}`` with some for each. At heads, d is the width of one.

    Raises:
        UnknownSiteError: a site that this model has not.
        UnknownNameError: a role that the pairs have not.
        ConfigError: a position, head or dimension that does not exist; directions of another
            width, or for other sites; both dims and a subspace.
        NonFiniteError: NaN or infinity in directions.
    """
    if dims is not None and subspace is not None:
        raise ConfigError("dims and subspace both say which part of a vector is meant; give one")
    refuse_no_model(model)
    where, chosen = _positions(pairs, positions), _sites(model, sites, layers)
    found: list[Place] = []
    for site, span in subspaces(model, chosen, subspace).items():
        for head in _heads(model, site, heads):
            for dim in _dims(model, site, dims):
                found += [Place(site, p, head, dim, span) for p in where]
    if not found:
        raise ConfigError("the sweep has no place: no layer, position or head is left")
    return tuple(dict.fromkeys(found))


def check_place(model: Model, pairs: PromptPairs, place: Place) -> None:
    """Refuse a place made by hand that a sweep of its site would not have.

    Raises:
        As :func:`places`.
    """
    one = lambda at: "together" if at is None else [at]  # noqa: E731 - used below
    dims = None if place.dim is None else [place.dim]
    span = None if place.subspace is None else place.subspace.rows
    places(
        model, pairs, place.site, positions=one(place.position), heads=one(place.head), dims=dims,
        subspace=span,
    )  # fmt: skip


def _listed(name: str, values: Any, form: str = "a list such as [0, 3]") -> list[Any]:
    """The values as a list; a bare one is refused."""
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise ConfigError(f"{name} must be {form}, got {values!r}")
    return list(values)


def _sites(
    model: Model, sites: str | Site | Sequence[str | Site], layers: Sequence[int] | None
) -> list[Site]:
    known = model.sites()
    given = [sites] if isinstance(sites, str | Site) else _listed("sites", sites, _SITES_FORM)
    wanted: set[Site] = set()
    for one in given:
        if not isinstance(one, str | Site):
            raise ConfigError(f"sites must be {_SITES_FORM}, got {one!r}")
        every = [s for s in known if s.name == one or _alias(one) == s.name]
        chosen = every or [Site.parse(one)]
        if unknown := [s for s in chosen if s not in known]:
            raise UnknownSiteError(str(unknown[0]), known=tuple(map(str, known)))
        wanted.update(chosen)
    if layers is not None:
        _check_layers(model, layers)
        wanted = {s for s in wanted if s.layer is None or s.layer in set(layers)}
    if dead := [s for s in wanted if not s.spec.writable]:
        raise ConfigError(f"site {str(dead[0])!r} can be read but not written")
    return sorted(wanted)


def _alias(name: str | Site) -> str:
    """``hook_resid_pre`` as ``resid_pre``; nothing for what has a layer already."""
    if isinstance(name, Site) or "blocks." in name:
        return ""
    bare = name.replace("hook_", "")
    return bare if bare in SITES else ""


def _check_layers(model: Model, layers: Sequence[int]) -> None:
    n = model.card.n_layers
    for layer in _listed("layers", layers):
        number = whole(layer)
        if number is None or not 0 <= number < n:
            raise ConfigError(f"layers must be whole numbers of 0..{n - 1}, got {layer!r}")


def _positions(
    pairs: PromptPairs, positions: Each | Sequence[int | str] | None
) -> list[int | str | None]:
    lengths = {len(row) for row in pairs.clean_ids}
    if isinstance(positions, str) and positions not in ("each", "together"):
        raise ConfigError(f"positions must be {LAST_FORM}, or roles in a list; got {positions!r}")
    if positions == "together":
        return [None]
    if positions == "each" and len(lengths) > 1:
        raise ConfigError(
            f"prompts of {min(lengths)} to {max(lengths)} tokens share no positions; name roles, "
            f"positions={_in_reading_order(pairs)}, or select prompts of one length"
        )
    if positions == "each" or (positions is None and len(lengths) == 1):
        return list(range(min(lengths)))
    chosen = (
        _in_reading_order(pairs)
        if positions is None
        else _listed("positions", positions, LAST_FORM)
    )
    return [_position(pairs, p, min(lengths)) for p in chosen]


def _in_reading_order(pairs: PromptPairs) -> list[str]:
    """Roles by their mean place in the prompts."""

    def place(role: str) -> float:
        there = [at for at in pairs.position(role) if at >= 0]
        return sum(there) / max(1, len(there))

    return sorted(pairs.roles, key=lambda role: (place(role), role == "end"))


def _position(pairs: PromptPairs, position: Any, length: int) -> int | str:
    if isinstance(position, str):
        if position not in pairs.roles:
            raise UnknownNameError("role", position, known=tuple(pairs.roles))
        return position
    number = whole(position)
    if number is None or not -length <= number < length:
        raise ConfigError(
            f"positions must be roles or whole numbers of {-length}..{length - 1} (the shortest "
            f"prompt has {length} tokens), got {position!r}"
        )
    return number


def _heads(model: Model, site: Site, heads: Each | Sequence[int]) -> list[int | None]:
    if "head" not in site.spec.axes.split() or heads == "together":
        return [None]
    n = model.heads(site)
    if heads == "each":
        return list(range(n))
    chosen = _listed("heads", heads, LAST_FORM)
    for head in chosen:
        number = whole(head)
        if number is None or not 0 <= number < n:
            raise ConfigError(f"{site} has heads 0..{n - 1}, got {head!r}")
    return chosen


def _dims(model: Model, site: Site, dims: Sequence[int] | None) -> list[int | None]:
    if dims is None:
        return [None]
    width, chosen = model.width(site), _listed("dims", dims)
    for dim in chosen:
        number = whole(dim)
        if number is None or not 0 <= number < width:
            raise ConfigError(f"{site} has dims 0..{width - 1}, got {dim!r}")
    return chosen
