"""Interventions as data: a :class:`Plan` of edits, skipped layers and an early stop.

Building a plan touches no model. Plans add up, print, hash by content, go to JSON and come back
equal, and so into the provenance of every result. Only a back end turns them into hooks.

Positions count *real* tokens (padding does not shift them); negative ones count from the last
real token of the row. ``rows`` index the batch. ``heads`` are query heads for ``attn.q``,
``attn.scores``, ``attn.pattern`` and ``attn.z``, key-value heads for ``attn.k`` and ``attn.v``.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lensbench.errors import ConfigError, UnknownNameError
from lensbench.sites import Site

_OPS: "dict[str, type[Op]]" = {}


@dataclass(frozen=True, eq=False)
class Op:
    """What an edit does to the selected activations: a pure function of a tensor."""

    reproducible: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Register the operation under its name, for JSON."""
        super().__init_subclass__(**kwargs)
        _OPS[cls.__name__] = cls

    def apply(self, x: Tensor) -> Tensor:
        """New activations; ``x`` has the axes of the site, restricted to the selection."""
        raise TypeError(f"{type(self).__name__} does not define apply for {type(x).__name__}")

    def to_json(self) -> dict[str, Any]:
        """Name and values; tensors as base64 of their bytes."""
        values = {f.name: _encode(getattr(self, f.name)) for f in dataclass_fields(self)}
        return {"op": type(self).__name__, **values}

    def __eq__(self, other: object) -> bool:
        """Equal content."""
        return isinstance(other, Op) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        """Hash of the content."""
        return hash(json.dumps(self.to_json(), sort_keys=True))

    def __repr__(self) -> str:
        """``Add(float32[64])``: tensors by shape, numbers by value."""
        inner = ", ".join(_short(getattr(self, f.name)) for f in dataclass_fields(self))
        return f"{type(self).__name__}({inner})"


@dataclass(frozen=True, eq=False, repr=False)
class Add(Op):
    """``x + value``; ``value`` broadcasts against the selection (units of the site)."""

    value: Tensor | float

    def apply(self, x: Tensor) -> Tensor:
        """See the class."""
        return x + _like(self.value, x)


@dataclass(frozen=True, eq=False, repr=False)
class Set(Op):
    """Every selected vector becomes ``value`` (broadcast)."""

    value: Tensor | float

    def apply(self, x: Tensor) -> Tensor:
        """See the class."""
        return _like(self.value, x).expand_as(x)


@dataclass(frozen=True, eq=False, repr=False)
class Replace(Op):
    """Selected activations become ``values``, which must have the shape of the selection."""

    values: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """See the class; raises ConfigError when the shapes differ."""
        values = _like(self.values, x)
        if values.shape != x.shape:
            raise ConfigError(
                f"Replace got values of shape {list(values.shape)} for a selection of shape "
                f"{list(x.shape)}; use Set to broadcast one vector"
            )
        return values


@dataclass(frozen=True, eq=False, repr=False)
class Scale(Op):
    """``x * factor``; 1 changes nothing."""

    factor: Tensor | float

    def apply(self, x: Tensor) -> Tensor:
        """See the class."""
        return x * _like(self.factor, x)


@dataclass(frozen=True, eq=False, repr=False)
class Zero(Op):
    """``0``: zero ablation."""

    def apply(self, x: Tensor) -> Tensor:
        """See the class."""
        return torch.zeros_like(x)


@dataclass(frozen=True, eq=False, repr=False)
class Project(Op):
    """Remove (or with ``keep=True`` keep only) the span of ``directions`` ``[n, d]``.

    The rows need not be orthonormal: with Q an orthonormal basis of their span, ``x - x Q^T Q``.
    """

    directions: Tensor
    keep: bool = False

    def apply(self, x: Tensor) -> Tensor:
        """See the class."""
        inside = x @ (self._basis.to(x) @ self._basis.to(x).mT)
        return inside if self.keep else x - inside

    @cached_property
    def _basis(self) -> Tensor:
        rows = self.directions[None] if self.directions.ndim == 1 else self.directions
        u, s, vh = torch.linalg.svd(rows.double(), full_matrices=False)
        del u
        return vh[s > s.max() * 1e-9].mT.float() if s.numel() else rows.mT.float()


@dataclass(frozen=True, eq=False, repr=False)
class Clamp(Op):
    """``min(max(x, low), high)``; ``low == high`` pins a neuron or latent."""

    low: float | None = None
    high: float | None = None

    def apply(self, x: Tensor) -> Tensor:
        """See the class."""
        return x.clamp(self.low, self.high)


@dataclass(frozen=True, eq=False, repr=False)
class Call(Op):
    """Any function of the selection, known by its label only; results are not reproducible."""

    reproducible: ClassVar[bool] = False
    fn: Callable[[Tensor], Tensor]
    label: str

    def apply(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.fn(x)

    def to_json(self) -> dict[str, Any]:
        """Label and identity of the function: enough to compare, not to read back."""
        return {"op": "Call", "label": self.label, "id": id(self.fn)}


@dataclass(frozen=True)
class Edit:
    """``op`` applied at ``site``, for the given rows, positions, heads and dims (None: all)."""

    site: Site
    op: Op
    rows: tuple[int, ...] | None = None
    positions: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    dims: tuple[int, ...] | None = None

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
        if name == "Call":
            raise ConfigError(
                f"edit {data.get('label')!r} is a Python function; it cannot be read back"
            )
        if name not in _OPS:
            raise UnknownNameError("operation", name, known=sorted(_OPS))
        return cls(site, _OPS[name](**{k: _decode(v) for k, v in data.items()}), **where)

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
    return 0 if site.name == "embed" else 1_000_000


def _indices(name: str, value: Sequence[int] | int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(int(v) for v in value)
    if not values:
        raise ConfigError(f"{name} is an empty selection; leave it out to select all")
    if name != "positions" and min(values) < 0:
        raise ConfigError(f"{name} are counted from 0; got {min(values)}")
    return values


def _like(value: Tensor | float, x: Tensor) -> Tensor:
    return value.to(x) if isinstance(value, Tensor) else x.new_tensor(value)


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return repr(value)


def _encode(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    array = value.detach().cpu().contiguous()
    raw = array.view(torch.uint8).numpy().tobytes() if array.numel() else b""
    return {
        "dtype": str(array.dtype).removeprefix("torch."),
        "shape": list(array.shape),
        "data": base64.b64encode(raw).decode(),
    }


def _decode(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    raw = np.frombuffer(base64.b64decode(value["data"]), dtype=np.uint8).copy()
    return torch.from_numpy(raw).view(getattr(torch, value["dtype"])).reshape(value["shape"])
