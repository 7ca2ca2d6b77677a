"""Applying edits to a tensor: from rows, positions, heads and dims to indices, then the operation.

All tensors here are in site layout: ``batch pos ...``, or ``batch head query key`` for scores and
patterns, where positions select queries.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lensbench.errors import ConfigError
from lensbench.plan import Edit


class Columns:
    """Which column of the batch holds which position of a row; padding takes no position."""

    def __init__(self, positions: Tensor, real: Tensor, *, lenient: bool) -> None:
        self.positions, self.real, self.lenient = positions, real, lenient
        self._in_order: bool | None = None

    @property
    def _plain(self) -> bool:
        """Position p is column p in every row; looked up once, where somebody asks."""
        if self._in_order is None:
            self._in_order = bool(self.real.all()) and bool((self.positions[:, 0] == 0).all())
        return self._in_order

    def find(self, rows: Tensor, wanted: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Column indices ``[rows, wanted]``, and which of them exist (None: all do).

        Only a ``lenient`` look (a decoding step) may miss some: there a position may lie in the
        past, or not be written yet.

        Raises:
            ConfigError: a position that a row does not have.
        """
        width = self.positions.shape[1]
        if self._plain and all(-width <= p < width for p in wanted):
            columns = torch.tensor([p % width for p in wanted], device=rows.device)
            return columns.expand(len(rows), -1), None
        target = torch.tensor(list(wanted), device=rows.device).expand(len(rows), -1)
        last = torch.where(self.real[rows], self.positions[rows], -1).amax(1, keepdim=True)
        target = torch.where(target < 0, target + last + 1, target)
        match = (self.positions[rows][:, None, :] == target[..., None]) & self.real[rows][
            :, None, :
        ]
        present = match.any(-1)
        columns = match.int().argmax(-1)
        if bool(present.all()):
            return columns, None
        if not self.lenient:
            row, which = (~present).nonzero()[0].tolist()
            raise ConfigError(
                f"position {wanted[which]} does not exist in row {int(rows[row])}, "
                f"which has {int(last[row]) + 1} tokens"
            )
        return columns, present


def apply_edits(
    x: Tensor, edits: Sequence[Edit], columns: Columns, *, attention: bool, grad: bool
) -> Tensor:
    """``x`` (site layout) after ``edits``, in order; ``x`` itself is left untouched.

    ``attention`` marks the layout ``batch head query key``.
    """
    copied = False
    for edit in edits:
        if (
            edit.rows is None
            and edit.positions is None
            and edit.heads is None
            and edit.dims is None
        ):
            x, copied = _apply(edit, x), False
            continue
        index, present = _index(x, edit, columns, attention=attention)
        if present is not None and not bool(present.any()):
            continue
        new = _operate(edit, x[index])
        if present is not None:
            index, new = _only(present, index, new, attention=attention)
        if grad:
            x = x.index_put(index, new)
            continue
        x, copied = (x, True) if copied else (x.clone(), True)
        x[index] = new
    return x


def _apply(edit: Edit, x: Tensor) -> Tensor:
    """The operation on ``x``; what it gives must fit where ``x`` stood.

    Raises:
        ConfigError: a value of another shape, or no tensor at all.
    """
    try:
        whole = not x.is_floating_point()
        new: Any = edit.op.apply(x.double() if whole else x)
        if isinstance(new, Tensor):
            if whole and bool((new != new.round()).any()):
                raise ConfigError(f"{edit.op!r} at {edit.site} gives numbers that are not whole")
            return new.expand_as(x).to(x.dtype)
        what = f"gave a {type(new).__name__}"
    except RuntimeError as error:  # what torch says of shapes that do not broadcast
        what = f"does not fit ({str(error).splitlines()[0]})"
    raise ConfigError(f"{edit.op!r} at {edit.site}: a selection of shape {list(x.shape)} {what}")


def _only(
    present: Tensor, index: tuple[Tensor, ...], new: Tensor, *, attention: bool
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Index and values of the (row, position) pairs that exist, as one list of pairs."""
    if len(index) == 2:
        rows, cols = index
        return (rows.expand_as(present)[present], cols[present]), new[present]
    rows, second, third = index
    heads, cols = (second, third[:, 0]) if attention else (third, second[:, :, 0])
    new = new.transpose(1, 2) if attention else new
    row, col = rows[:, 0].expand_as(present)[present][:, None], cols[present][:, None]
    head = heads.reshape(1, -1)
    return ((row, head, col) if attention else (row, col, head)), new[present]


def _operate(edit: Edit, selected: Tensor) -> Tensor:
    if edit.dims is None:
        return _apply(edit, selected)
    if max(edit.dims) >= selected.shape[-1]:
        raise ConfigError(f"{edit.site} has {selected.shape[-1]} dims; got dim {max(edit.dims)}")
    dims = torch.tensor(edit.dims, device=selected.device)
    inner = selected.index_select(-1, dims)
    return selected.index_copy(-1, dims, _apply(edit, inner))


def _index(
    x: Tensor, edit: Edit, columns: Columns, *, attention: bool
) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """Index of the selection, and which (row, position) pairs of it exist (None: all)."""
    present = None
    n_rows = x.shape[0]
    rows = torch.tensor(edit.rows if edit.rows is not None else range(n_rows), device=x.device)
    if edit.rows is not None and max(edit.rows) >= n_rows:
        raise ConfigError(f"edit names row {max(edit.rows)}, but the batch has {n_rows} rows")
    if edit.positions is None:
        cols = torch.arange(x.shape[2 if attention else 1], device=x.device).expand(len(rows), -1)
    else:
        cols, present = columns.find(rows, edit.positions)
    if edit.heads is None and not attention:
        return (rows[:, None], cols), present
    n_heads = x.shape[1 if attention else 2]
    if edit.heads is not None and max(edit.heads) >= n_heads:
        raise ConfigError(f"{edit.site} has {n_heads} heads; got head {max(edit.heads)}")
    heads = torch.tensor(edit.heads if edit.heads is not None else range(n_heads), device=x.device)
    if attention:
        return (rows[:, None, None], heads[None, :, None], cols[:, None, :]), present
    return (rows[:, None, None], cols[:, :, None], heads[None, None, :]), present
