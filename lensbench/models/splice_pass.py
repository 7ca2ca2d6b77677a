"""One pass through a spliced site, written as edits of the site itself.

So every back end can do it. Which column of the batch holds which position is the back end's
knowledge (padding, caches, many plans in one batch), so it is asked: the site's value is put aside,
edits with positions leave marks in a tensor of zeros, and what they marked is read before the value
is put together again.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from lensbench.models.edits import Columns, apply_edits
from lensbench.models.splice import Splice
from lensbench.plan import Call, Edit, Set
from lensbench.sites import HEAD_AXES

Where: TypeAlias = tuple[tuple[int, ...] | None, tuple[int, ...]]
"""Rows and positions that an edit names."""
_BASE = 128  # a mark is two digits, which half precision holds exactly


class SplicePass:
    """One splice in one pass (or in one row of many): the edits to make, and what was found."""

    def __init__(self, splice: Splice, edits: Sequence[Edit], width: int, *, grad: bool) -> None:
        self.splice, self._edits, self._grad = splice, tuple(edits), grad
        self.found: dict[str, Tensor] = {}
        """After the pass: latents, reconstruction and error, as edited."""
        self._x: Tensor | None = None
        self._columns: dict[Where, Tensor] = {}
        places = tuple(dict.fromkeys(w for e in edits if (w := _where(e)) is not None))
        room = max(1, width // 2)
        self._rounds = [places[i : i + room] for i in range(0, len(places), room)]

    def host_edits(self) -> list[Edit]:
        """The pass as edits of the site, in this order and after all others there."""
        site, name = self.splice.site, self.splice.name
        if not self._rounds:
            return [Edit(site, Call(self._through, f"splice {name}"))]
        edits = [Edit(site, Call(self._put_aside, f"open {name}"))]
        for places in self._rounds:
            for i, (rows, positions) in enumerate(places):
                mark = Set(_mark(len(positions), heads=site.spec.axes == HEAD_AXES))
                edits.append(Edit(site, mark, rows, positions, dims=(2 * i, 2 * i + 1)))
            edits.append(Edit(site, Call(self._reader(places), f"look {name}")))
        return [*edits, Edit(site, Call(self._resume, f"splice {name}"))]

    def _put_aside(self, x: Tensor) -> Tensor:
        self._x, self._columns = x, {}
        return torch.zeros_like(x)

    def _reader(self, places: Sequence[Where]) -> Callable[[Tensor], Tensor]:
        def read(marks: Tensor) -> Tensor:
            flat = marks[:, :, 0] if marks.ndim == 4 else marks
            for i, place in enumerate(places):
                low, high = flat[..., 2 * i].long(), flat[..., 2 * i + 1].long()
                self._columns[place] = torch.where(low > 0, low - 1 + _BASE * high, -1)
            return torch.zeros_like(marks)

        return read

    def _resume(self, marks: Tensor) -> Tensor:
        del marks  # all were read
        assert self._x is not None  # put aside by an edit before
        x, self._x = self._x, None
        return self._through(x)

    def _through(self, x: Tensor) -> Tensor:
        """The value that flows on: reconstruction plus error, as edited.

        Under ``keep`` it is made as ``x`` plus what the edits changed, so that a token that none
        touches leaves bit for bit as it came.
        """
        clean = self.splice.parts(x)
        keep = self.splice.error == "keep"
        acts = self._edited("sae.acts", self._node(clean["sae.acts"]))
        recons = self.splice.decode(acts) if self._changes("sae.acts") else clean["sae.recons"]
        recons = self._edited("sae.recons", recons)
        before = clean["sae.error"] if keep else torch.zeros_like(clean["sae.error"])
        error = self._edited("sae.error", self._node(before))
        self.found = {"sae.acts": acts, "sae.recons": recons, "sae.error": error}
        if keep:
            moved = (recons - clean["sae.recons"]) + (error - before)
            out = x.flatten(2).to(moved.dtype) + moved
        else:
            out = recons + error
        return out.reshape(x.shape).to(x.dtype)

    def _node(self, value: Tensor) -> Tensor:
        """With gradients, a node of its own: the error is made of the latents too.

        What the latents do downstream, and what the error would lose if they moved, must not
        cancel; the error is what the *unedited* latents leave.
        """
        return value.clone() if self._grad else value

    def _changes(self, part: str) -> bool:
        return self._grad or any(e.site.part == part for e in self._edits)

    def _edited(self, part: str, value: Tensor) -> Tensor:
        for edit in self._edits:
            if edit.site.part == part:
                where = _where(edit)
                columns = _Marked(self._columns[where]) if where else _ALL
                value = apply_edits(value, [edit], columns, attention=False, grad=self._grad)
        return value


class _Marked(Columns):
    """Columns as the back end marked them; ``[batch, pos]``: place in the list, -1 for none."""

    def __init__(self, places: Tensor) -> None:
        self._places = places

    def find(self, rows: Tensor, wanted: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """See :meth:`Columns.find`; a position that is missing here was allowed to be."""
        order = torch.arange(len(wanted), device=self._places.device)
        match = self._places[rows][:, None, :] == order[:, None]
        present = match.any(-1)
        return match.int().argmax(-1), None if bool(present.all()) else present


_ALL = _Marked(torch.empty(0, 0))  # never asked: the edit names no positions


def _where(edit: Edit) -> Where | None:
    if edit.positions is None:
        return None
    return (None if edit.rows is None else tuple(edit.rows)), tuple(edit.positions)


def _mark(n: int, *, heads: bool) -> Tensor:
    """``[n, 2]``: the place of each position in its list, from 1, as two digits."""
    order = torch.arange(n)
    marks = torch.stack((order % _BASE + 1, order // _BASE), -1).float()
    return marks[:, None] if heads else marks
