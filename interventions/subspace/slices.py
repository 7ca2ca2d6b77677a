"""A subspace as a slice of a place: what a sweep changes of a vector, the rest of it left alone.

Not for the test whether a subspace is used (:func:`subspace_patch` has its parts and verdict).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float
from torch import Tensor

from lensbench.arguments import whole
from lensbench.errors import ConfigError
from lensbench.interventions.subspace.spans import basis_of
from lensbench.models.base import Model
from lensbench.ops import Op, Set, SetInSpan, Zero
from lensbench.sites import Site

Directions: TypeAlias = Tensor | np.ndarray | Sequence[Any]
SubspaceLike: TypeAlias = Directions | Mapping[int, Directions] | Mapping[str, Directions]
"""Directions ``[k, d]`` or one ``[d]``, for every site; or some for each layer or site by name."""
_NO_VECTORS = ("key", "1", "slot")
"""Last axes that are no vectors of a fixed width."""


@dataclass(frozen=True, eq=False)
class Subspace:
    """The span of some directions of a place's last axis; compared by content."""

    rows: Float[Tensor, "k d"]
    """Orthonormal."""
    fingerprint: str = field(init=False)
    """16 hex digits of the rows."""
    _op: SetInSpan = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """What is the same for all operations on the span."""
        rows = self.rows.detach().cpu().contiguous()
        digest = sha256(str(list(rows.shape)).encode() + rows.numpy().tobytes()).hexdigest()
        object.__setattr__(self, "fingerprint", digest[:16])
        object.__setattr__(self, "_op", SetInSpan(rows, 0.0))

    @property
    def k(self) -> int:
        """Its dimensions."""
        return len(self.rows)

    def within(self, op: Op) -> Op:
        """What ``op`` does to a whole vector, to the part of it in the span only.

        Raises:
            ConfigError: an operation that sets no value.
        """
        if isinstance(op, Set):
            return self._op.set_to(op.value)
        if isinstance(op, Zero):
            return self._op
        raise ConfigError(f"a subspace can be set or zeroed; {op!r} does neither")

    def part(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... k"]:
        """Coordinates of vectors in the span."""
        return x @ self.rows.to(x).mT

    def __eq__(self, other: object) -> bool:
        """The same rows."""
        return isinstance(other, Subspace) and other.fingerprint == self.fingerprint

    def __hash__(self) -> int:
        """Of the rows."""
        return hash(self.fingerprint)


def subspaces(
    model: Model, sites: Sequence[Site], given: SubspaceLike | None
) -> dict[Site, Subspace | None]:
    """The subspace of every site; None where the whole vector is meant.

    Raises:
        ConfigError: directions of another width; none for a site, or some for a site that is not
            swept; a site whose numbers are no vectors.
        NonFiniteError: NaN or infinity.
    """
    if given is None:
        return dict.fromkeys(sites)
    if flat := [s for s in sites if s.spec.axes.split()[-1] in _NO_VECTORS]:
        raise ConfigError(f"{flat[0]} has no vectors ({flat[0].spec.axes}), so no subspaces")
    if not isinstance(given, Mapping):
        return {site: _subspace(model, site, given) for site in sites}
    named: dict[int | Site, Any] = {_key(k): v for k, v in given.items()}
    if idle := [k for k in named if not any(k in (s, s.layer) for s in sites)]:
        raise ConfigError(
            f"subspace has directions for {_told(idle[0])}, which is not swept; swept are "
            f"{_some(sites)}"
        )
    found: dict[Site, Subspace | None] = {}
    for site in sites:
        own = named.get(site, named.get(site.layer) if site.layer is not None else None)
        if own is None:
            raise ConfigError(
                f"subspace has no directions for {site}, only for {_some(list(named))}; give some, "
                "or sweep fewer layers"
            )
        found[site] = _subspace(model, site, own)
    return found


def _subspace(model: Model, site: Site, directions: Any) -> Subspace:
    try:
        basis = basis_of(directions, model.width(site))
    except ConfigError as error:
        raise ConfigError(f"subspace at {site}: {error}") from error
    return Subspace(basis.mT.float().contiguous())


def _key(key: Any) -> int | Site:
    """A layer or a site.

    Raises:
        ConfigError: neither.
    """
    number = whole(key)
    if number is not None:
        return number
    if isinstance(key, str | Site):
        return Site.parse(key)
    raise ConfigError(f"subspace is named by layer (3) or site ('blocks.3.resid_pre'), got {key!r}")


def _told(key: int | Site) -> str:
    return str(key) if isinstance(key, Site) else f"layer {key}"


def _some(keys: Sequence[int | Site] | Sequence[Site]) -> str:
    first = ", ".join(_told(k) for k in keys[:4])
    return f"{first}, ..." if len(keys) > 4 else first or "no layer"
