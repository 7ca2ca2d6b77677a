"""What each block is called with: made once by transformers for the whole text, then sliced.

Masks and rotary angles stay the module's own, so that every architecture is right without a line of
its code here. They are asked for with all the tokens there will be (prompt and what is generated)
and with one padded row beside, which makes every mask explicit. Which axes of an argument count
rows, queries and keys is read off a second recording of another size: the axes that changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from lensbench.errors import ConfigError

Axis = Literal["rows", "queries", "keys"]
_Arguments: TypeAlias = "tuple[tuple[Any, ...], dict[str, Any]]"


@dataclass
class Recording:
    """A session in which no block runs: each notes what it was called with."""

    owner: object
    rows: int
    tokens: int
    entry: Tensor | None = None
    """The stream that enters block 0."""
    calls: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = field(
        default_factory=dict[int, tuple[tuple[Any, ...], dict[str, Any]]]
    )
    keys: frozenset[Any] = frozenset()
    grad: bool = False

    def note(self, layer: int, hidden: Tensor, args: tuple[Any, ...], kwargs: Any) -> None:
        """Keep what a block was called with."""
        self.entry = hidden if self.entry is None else self.entry
        self.calls[layer] = (args, dict(kwargs))

    def narrows(self, layer: int | None, stack: str) -> bool:
        """Nothing is narrowed (the hooks ask every session)."""
        del layer, stack
        return False


@dataclass(frozen=True)
class _Slot:
    """Where a tensor stands among a block's arguments."""

    index: int


@dataclass(frozen=True)
class _Part:
    """One tensor among the arguments: its value for the whole text, and what its axes count."""

    whole: Tensor
    axes: tuple[Axis | None, ...]
    open_from: int
    """A mask hides nothing but the future from this query on; past the end where it does."""

    @property
    def is_mask(self) -> bool:
        return "queries" in self.axes and "keys" in self.axes

    def cut(self, start: int, end: int) -> Tensor:
        x = self.whole
        for axis, kind in enumerate(self.axes):
            if kind == "queries":
                x = x.narrow(axis, start, end - start)
            elif kind == "keys":
                x = x.narrow(axis, 0, end)
        return x


class Calls:
    """Arguments of every block for any run of tokens, with ``cache`` in the place of the cache."""

    def __init__(self, whole: Recording, other: Recording, rows: int, cache: Any, fused: bool):
        self._whole, self._other, self._rows = whole, other, rows
        self._cache, self._fused = cache, fused
        self._parts: list[_Part] = []
        self._known: dict[int, int] = {}
        self._templates: list[_Arguments] = []
        self._template_of: list[int] = []
        for layer, (args, kwargs) in sorted(whole.calls.items()):
            less, fewer = other.calls[layer]
            first = tuple(self._leaf("", a, b) for a, b in zip(args, less, strict=True))
            named = {name: self._leaf(name, a, fewer[name]) for name, a in kwargs.items()}
            if (first, named) not in self._templates:  # most blocks are called alike
                self._templates.append((first, named))
            self._template_of.append(self._templates.index((first, named)))
        self._place = (-1, -1)
        self._filled: list[_Arguments] = []

    def of(self, layer: int, start: int, end: int) -> _Arguments:
        """What block ``layer`` is called with, the stream apart, for ``start .. end - 1``."""
        if self._place != (start, end):
            values = [self._value(part, start, end) for part in self._parts]
            self._filled = [
                (
                    tuple(_fill(a, values) for a in args),
                    {k: _fill(v, values) for k, v in named.items()},
                )
                for args, named in self._templates
            ]
            self._place = (start, end)
        return self._filled[self._template_of[layer]]

    def _value(self, part: _Part, start: int, end: int) -> Tensor | None:
        plain = part.is_mask and start >= part.open_from
        # Without a mask a kernel that knows causality hides the future of queries from token 0 on.
        if plain and (end - start == 1 or (start == 0 and self._fused)):
            return None
        return part.cut(start, end)

    def _leaf(self, name: str, big: Any, small: Any) -> Any:
        if hasattr(big, "get_query_offset"):
            return self._cache
        if isinstance(big, (tuple, list)):
            pairs: Any = zip(big, small, strict=True)  # pyright: ignore[reportUnknownArgumentType]
            return tuple(self._leaf(name, a, b) for a, b in pairs)
        if not isinstance(big, Tensor):
            return big
        if id(big) not in self._known:
            self._known[id(big)] = len(self._parts)
            self._parts.append(self._part(name, big, small))
        return _Slot(self._known[id(big)])

    def _part(self, name: str, big: Tensor, small: Tensor) -> _Part:
        axes: list[Axis | None] = []
        rows = self._whole.rows, self._other.rows
        for axis, (a, b) in enumerate(zip(big.shape, small.shape, strict=True)):
            if a == b:
                axes.append(None)
            elif (a, b) == (self._whole.tokens, self._other.tokens):
                axes.append("keys" if "queries" in axes or name == "alibi" else "queries")
            elif a * rows[1] == b * rows[0]:
                axes.append("rows")
                big = big.narrow(axis, 0, a // rows[0] * self._rows)
            else:
                raise ConfigError(
                    f"argument {name!r} of a block has shape {list(big.shape)}, of which axis "
                    f"{axis} counts neither rows nor tokens; ranges of layers cannot be run"
                )
        return _Part(big, tuple(axes), _open_from(big, axes))


def _open_from(x: Tensor, axes: Sequence[Axis | None]) -> int:
    """First query from which a mask hides only what comes later; one past the last: never."""
    if not ("queries" in axes and "keys" in axes):
        return 0
    allowed = x if x.dtype == torch.bool else x == 0
    seen = allowed | ~torch.ones_like(allowed).tril()
    open_ = seen.movedim(axes.index("queries"), 0).flatten(1).all(1)
    closed = (~open_).nonzero()
    return int(closed[-1]) + 1 if len(closed) else 0


def _fill(template: Any, values: Sequence[Any]) -> Any:
    if isinstance(template, _Slot):
        return values[template.index]
    if isinstance(template, tuple):
        return tuple(_fill(one, values) for one in template)  # pyright: ignore[reportUnknownVariableType,reportUnknownArgumentType]
    return template
