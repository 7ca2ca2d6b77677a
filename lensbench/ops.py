"""Operations of edits: small pure functions of the selected activations, as data.

They compare and hash by content and go to JSON and back, tensors as base64 of their bytes.
"""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lensbench.arguments import refuse_no_numbers
from lensbench.errors import ConfigError, UnknownNameError


@dataclass(frozen=True, eq=False)
class Op:
    """What an edit does to the selected activations: a pure function of a tensor."""

    reproducible: ClassVar[bool] = True
    numbers: ClassVar[tuple[str, ...]] = ()
    """Fields that must hold numbers."""

    def __post_init__(self) -> None:
        """Refuse values that can never be added, set or scaled by."""
        for name in self.numbers:
            refuse_no_numbers(type(self).__name__, name, getattr(self, name))

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

    numbers: ClassVar[tuple[str, ...]] = ("value",)
    value: Tensor | float

    def apply(self, x: Tensor) -> Tensor:
        """See the class."""
        return x + _like(self.value, x)


@dataclass(frozen=True, eq=False, repr=False)
class Set(Op):
    """Every selected vector becomes ``value`` (broadcast)."""

    numbers: ClassVar[tuple[str, ...]] = ("value",)
    value: Tensor | float

    def apply(self, x: Tensor) -> Tensor:
        """See the class."""
        return _like(self.value, x).expand_as(x)


@dataclass(frozen=True, eq=False, repr=False)
class Replace(Op):
    """Selected activations become ``values``, which must have the shape of the selection."""

    numbers: ClassVar[tuple[str, ...]] = ("values",)
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
    """``x * factor``; 1 changes nothing.

    Example:
        >>> site = lensbench.Site.parse("blocks.1.mlp_out")
        >>> half = lensbench.Plan((lensbench.Edit(site, lensbench.Scale(0.5)),))
    """

    numbers: ClassVar[tuple[str, ...]] = ("factor",)
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

    numbers: ClassVar[tuple[str, ...]] = ("directions",)
    directions: Tensor
    keep: bool = False

    def __post_init__(self) -> None:
        """Arrays and lists as a tensor."""
        super().__post_init__()
        object.__setattr__(self, "directions", torch.as_tensor(self.directions))

    def apply(self, x: Tensor) -> Tensor:
        """See the class."""
        inside = x @ (self._basis.to(x) @ self._basis.to(x).mT)
        return inside if self.keep else x - inside

    @property
    def _basis(self) -> Tensor:
        return _kept_basis(self, self.directions)


@dataclass(frozen=True, eq=False, repr=False)
class SetInSpan(Op):
    """Set what lies in the span of ``directions`` ``[n, d]``; what is orthogonal to it stays.

    ``x + (value - x) Q Q^T`` with Q ``[d, rank]`` an orthonormal basis of the span: the rows need
    not be orthonormal. ``value`` broadcasts; 0 takes the span out.
    """

    numbers: ClassVar[tuple[str, ...]] = ("directions", "value")
    directions: Tensor
    value: Tensor | float

    def __post_init__(self) -> None:
        """Arrays and lists as a tensor."""
        super().__post_init__()
        object.__setattr__(self, "directions", torch.as_tensor(self.directions))

    def apply(self, x: Tensor) -> Tensor:
        """See the class."""
        wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
        basis = _kept_basis(self, self.directions).to(wide)
        return (wide + (_like(self.value, wide) - wide) @ basis @ basis.mT).to(x.dtype)

    def set_to(self, value: Tensor | float) -> "SetInSpan":
        """The same span, set to another value; its basis is not computed again."""
        found = SetInSpan(self.directions, value)
        found.__dict__["kept"] = _kept_basis(self, self.directions)
        return found


@dataclass(frozen=True, eq=False, repr=False)
class RankOne(Op):
    """``x + (x . read) write``: a step along ``write``, as long as ``x`` reads; both ``[d]``."""

    numbers: ClassVar[tuple[str, ...]] = ("read", "write")
    read: Tensor
    write: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """See the class."""
        return x + (x @ _like(self.read, x))[..., None] * _like(self.write, x)


@dataclass(frozen=True, eq=False, repr=False)
class Clamp(Op):
    """``min(max(x, low), high)``; ``low == high`` pins a neuron or latent."""

    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        """Refuse a clamp that clamps nothing, or the wrong way round."""
        if self.low is None and self.high is None:
            raise ConfigError("Clamp needs low, high, or both")
        for name, bound in (("low", self.low), ("high", self.high)):
            if bound is not None:
                refuse_no_numbers("Clamp", name, bound)
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ConfigError(f"Clamp needs low <= high, got {self.low} and {self.high}")

    def apply(self, x: Tensor) -> Tensor:
        """See the class."""
        return x.clamp(self.low, self.high)


@dataclass(frozen=True, eq=False, repr=False)
class Call(Op):
    """Any function of the selection, known by its label only; results are not reproducible."""

    reproducible: ClassVar[bool] = False
    fn: Callable[[Tensor], Tensor]
    label: str

    def __post_init__(self) -> None:
        """Refuse what cannot be called."""
        if not callable(self.fn):
            raise ConfigError(f"Call needs a function of a tensor as fn, got {self.fn!r}")

    def apply(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.fn(x.clone())  # it may write in place; what was captured must not move

    def __repr__(self) -> str:
        """By its label: addresses differ from run to run."""
        return f"Call({self.label!r})"

    def to_json(self) -> dict[str, Any]:
        """Label and identity of the function: enough to compare, not to read back."""
        return {"op": "Call", "label": self.label, "id": id(self.fn)}


def op_from_json(name: str, values: dict[str, Any]) -> Op:
    """The operation of that name; inverse of :meth:`Op.to_json`."""
    if name == "Call":
        raise ConfigError(
            f"edit {values.get('label')!r} is a Python function; it cannot be read back"
        )
    known = {cls.__name__: cls for cls in _operations(Op)}
    if name not in known:
        raise UnknownNameError("operation", name, known=sorted(known))
    return known[name](**{k: _decode(v) for k, v in values.items()})


def _operations(base: type[Op]) -> list[type[Op]]:
    """Every kind of operation, whatever it derives from."""
    own = base.__subclasses__()
    return own + [deeper for cls in own for deeper in _operations(cls)]


def _kept_basis(op: Op, directions: Tensor) -> Tensor:
    """Orthonormal basis ``[d, rank]`` of rows; computed once per operation."""
    # Kept by hand: cached_property holds a lock (Python 3.11), and a plan is shipped to NDIF.
    if "kept" not in op.__dict__:
        rows = directions[None] if directions.ndim == 1 else directions
        _, s, vh = torch.linalg.svd(rows.double(), full_matrices=False)
        basis = vh[s > s.max() * 1e-9].mT.float() if s.numel() else rows.mT.float()
        op.__dict__["kept"] = basis
    return op.__dict__["kept"]


def _like(value: Tensor | float, x: Tensor) -> Tensor:
    return torch.as_tensor(value).to(x)


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return repr(value)


def _encode(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        value = torch.as_tensor(value)
    if not isinstance(value, Tensor):
        return float(value) if type(value) is int else value
    array = value.detach().cpu().contiguous()
    raw = array.reshape(-1).view(torch.uint8).numpy().tobytes() if array.numel() else b""
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
