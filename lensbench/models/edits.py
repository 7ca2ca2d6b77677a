"""Applying edits to a tensor: from rows, positions, heads and dims to indices, then the operation.

All tensors here are in site layout: ``batch pos ...``, or ``batch head query key`` for scores and
patterns, where positions select queries.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lensbench.errors import ConfigError
from lensbench.plan import Edit


class Columns:
    """Which column of the batch holds which position of a row; padding takes no position."""

    def __init__(self, positions: Tensor, real: Tensor, *, lenient: bool) -> None:
        self.positions, self.real, self.lenient = positions, real, lenient
        self._plain = bool(real.all()) and bool((positions[:, 0] == 0).all())

    def find(self, rows: Tensor, wanted: Sequence[int]) -> Tensor | None:
        """Column indices ``[rows, wanted]``.

        None when ``lenient`` (a decoding step) and a position is not among these columns.

        Raises:
            ConfigError: a position that a row does not have.
        """
        width = self.positions.shape[1]
        if self._plain and all(-width <= p < width for p in wanted):
            columns = torch.tensor([p % width for p in wanted], device=rows.device)
            return columns.expand(len(rows), -1)
        target = torch.tensor(list(wanted), device=rows.device).expand(len(rows), -1)
        last = torch.where(self.real[rows], self.positions[rows], -1).amax(1, keepdim=True)
        target = torch.where(target < 0, target + last + 1, target)
        match = (self.positions[rows][:, None, :] == target[..., None]) & self.real[rows][
            :, None, :
        ]
        if not bool(match.any(-1).all()):
            if self.lenient:
                return None
            row, which = (~match.any(-1)).nonzero()[0].tolist()
            raise ConfigError(
                f"position {wanted[which]} does not exist in row {int(rows[row])}, "
                f"which has {int(last[row]) + 1} tokens"
            )
        return match.int().argmax(-1)


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
            x, copied = edit.op.apply(x), False
            continue
        index = _index(x, edit, columns, attention=attention)
        if index is None:
            continue
        if grad:
            x = x.index_put(index, _operate(edit, x[index]))
            continue
        x, copied = (x, True) if copied else (x.clone(), True)
        x[index] = _operate(edit, x[index])
    return x


def _operate(edit: Edit, selected: Tensor) -> Tensor:
    if edit.dims is None:
        return edit.op.apply(selected).expand_as(selected).to(selected.dtype)
    if max(edit.dims) >= selected.shape[-1]:
        raise ConfigError(f"{edit.site} has {selected.shape[-1]} dims; got dim {max(edit.dims)}")
    dims = torch.tensor(edit.dims, device=selected.device)
    inner = selected.index_select(-1, dims)
    return selected.index_copy(-1, dims, edit.op.apply(inner).expand_as(inner).to(selected.dtype))


def _index(
    x: Tensor, edit: Edit, columns: Columns, *, attention: bool
) -> tuple[Tensor, ...] | None:
    n_rows = x.shape[0]
    rows = torch.tensor(edit.rows if edit.rows is not None else range(n_rows), device=x.device)
    if edit.rows is not None and max(edit.rows) >= n_rows:
        raise ConfigError(f"edit names row {max(edit.rows)}, but the batch has {n_rows} rows")
    if edit.positions is None:
        cols = torch.arange(x.shape[2 if attention else 1], device=x.device).expand(len(rows), -1)
    else:
        found = columns.find(rows, edit.positions)
        if found is None:
            return None
        cols = found
    if edit.heads is None and not attention:
        return (rows[:, None], cols)
    n_heads = x.shape[1 if attention else 2]
    if edit.heads is not None and max(edit.heads) >= n_heads:
        raise ConfigError(f"{edit.site} has {n_heads} heads; got head {max(edit.heads)}")
    heads = torch.tensor(edit.heads if edit.heads is not None else range(n_heads), device=x.device)
    if attention:
        return (rows[:, None, None], heads[None, :, None], cols[:, None, :])
    return (rows[:, None, None], cols[:, :, None], heads[None, None, :])
