"""Interventions as data: a :class:`Plan` of edits, skipped layers and an early stop.

Building a plan touches no model. Plans add up, print, hash by content, go to JSON and come back
equal, and so into the provenance of every result. Only a back end turns them into hooks.

Positions count *real* tokens (padding does not shift them); negative ones count from the last
real token of the row. ``rows`` index the batch. ``heads`` are query heads for ``attn.q``,
``attn.scores``, ``attn.pattern`` and ``attn.z``, key-value heads for ``attn.k`` and ``attn.v``.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lensbench.errors import ConfigError
from lensbench.ops import (
    Add,
    Call,
    Clamp,
    Op,
    Project,
    Replace,
    Scale,
    Set,
    Zero,
    op_from_json,
)
from lensbench.sites import Site

__all__ = [
    "Add",
    "Call",
    "Clamp",
    "Edit",
    "Op",
    "Plan",
    "Project",
    "Replace",
    "Scale",
    "Set",
    "Zero",
    "edit",
    "skip_layers",
]


@dataclass(frozen=True)
class Edit:
    """``op`` applied at ``site``, for the given rows, positions, heads and dims (None: all)."""

    site: Site
    op: Op
    rows: Sequence[int] | None = None
    positions: Sequence[int] | None = None
    heads: Sequence[int] | None = None
    dims: Sequence[int] | None = None

    def __post_init__(self) -> None:
        """Normalise, and refuse what can never be done."""
        object.__setattr__(self, "site", Site.parse(self.site))
        for name in ("rows", "positions", "heads", "dims"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _indices(name, value))
        if not self.site.spec.writable:
            raise ConfigError(f"site {str(self.site)!r} can be read but not written")
        if self.heads is not None and "head" not in self.site.spec.axes.split():
            raise ConfigError(f"site {str(self.site)!r} has axes {self.site.spec.axes!r}: no heads")

    def to_json(self) -> dict[str, Any]:
        """JSON-able form."""
        chosen = {
            n: list(v)
            for n in ("rows", "positions", "heads", "dims")
            if (v := getattr(self, n)) is not None
        }
        return {"site": str(self.site), **self.op.to_json(), **chosen}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Edit":
        """Inverse of :meth:`to_json`."""
        data = dict(data)
        where = {n: tuple(data.pop(n)) for n in ("rows", "positions", "heads", "dims") if n in data}
        site, name = Site.parse(data.pop("site")), data.pop("op")
        return cls(site, op_from_json(name, data), **where)

    def __str__(self) -> str:
        """``blocks.3.attn.z heads=(1,) <- Zero()``."""
        chosen = "".join(
            f" {n}={v}"
            for n in ("rows", "positions", "heads", "dims")
            if (v := getattr(self, n)) is not None
        )
        return f"{self.site}{chosen} <- {self.op!r}"


@dataclass(frozen=True)
class Plan:
    """Edits, layers to skip, and the layer to stop before (early exit); empty changes nothing."""

    edits: tuple[Edit, ...] = ()
    skips: frozenset[int] = field(default_factory=frozenset[int])
    stop: int | None = None

    def __post_init__(self) -> None:
        """Normalise containers; refuse negative layers."""
        object.__setattr__(self, "edits", tuple(self.edits))
        object.__setattr__(self, "skips", frozenset(int(s) for s in self.skips))
        if any(s < 0 for s in self.skips) or (self.stop is not None and self.stop < 0):
            raise ConfigError(
                f"layers are counted from 0; got skips {sorted(self.skips)}, stop {self.stop}"
            )

    def __add__(self, other: "Plan") -> "Plan":
        """Both plans: this one's edits first; skips united; the earlier stop."""
        stops = [s for s in (self.stop, other.stop) if s is not None]
        return Plan(
            self.edits + other.edits, self.skips | other.skips, min(stops) if stops else None
        )

    def __bool__(self) -> bool:
        """Whether the plan changes anything."""
        return bool(self.edits or self.skips or self.stop is not None)

    @property
    def reproducible(self) -> bool:
        """False when an edit is a bare Python function."""
        return all(edit.op.reproducible for edit in self.edits)

    def first_layer(self) -> int | None:
        """First block whose computation an edit can change; None when there is no edit."""
        layers = [_first_changed(edit.site) for edit in self.edits]
        return min(layers) if layers else None

    def to_json(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "edits": [e.to_json() for e in self.edits],
            "skips": sorted(self.skips),
            "stop": self.stop,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Plan":
        """Inverse of :meth:`to_json`."""
        return cls(
            tuple(Edit.from_json(e) for e in data["edits"]), frozenset(data["skips"]), data["stop"]
        )

    def fingerprint(self) -> str:
        """16 hex digits of the content."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        """One line per edit, then skips and stop; ``empty plan`` when there is nothing."""
        lines = [str(e) for e in self.edits]
        if self.skips:
            lines.append(f"skip layers {sorted(self.skips)}")
        if self.stop is not None:
            lines.append(f"stop before layer {self.stop}")
        return "\n".join(lines) or "empty plan"


def edit(site: Site | str, op: Op, **where: Any) -> Plan:
    """A plan of one edit: ``edit("blocks.3.attn.z", Zero(), heads=[1])``."""
    return Plan((Edit(Site.parse(site), op, **where),))


def skip_layers(layers: Iterable[int]) -> Plan:
    """A plan that does not run these blocks (the residual stream passes through)."""
    return Plan(skips=frozenset(layers))


def _first_changed(site: Site) -> int:
    if site.layer is not None:
        return site.layer
    return 0 if (site.host or site).name == "embed" else 1_000_000


def _indices(name: str, value: Sequence[int]) -> tuple[int, ...]:
    values = tuple(int(v) for v in value)
    if not values:
        raise ConfigError(f"{name} is an empty selection; leave it out to select all")
    if name != "positions" and min(values) < 0:
        raise ConfigError(f"{name} are counted from 0; got {min(values)}")
    return values
