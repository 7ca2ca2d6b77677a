"""What a step must know of the whole where its process holds a part: a share of batch or latents.

A process alone holds everything; :mod:`lensbench.saes.distributed` puts other answers in.
"""

import torch
from torch import Tensor


class Whole:
    """Answers of a process that holds all tokens and all latents."""

    shared = False
    """Whether a selection from the batch must look beyond this process."""

    def tokens(self, own: int) -> int:
        """Tokens of the batch, of which ``own`` are here."""
        return own

    # --- the largest entries of a batch

    def guess(self, value: float) -> float:
        """Where the search for a cut begins, from where it would begin here."""
        return value

    def count(self, own: int) -> int:
        """Sum of a number of entries."""
        return own

    def cut(self, values: Tensor, wanted: int) -> Tensor:
        """The ``wanted``-th largest of ``values``; 0 where there are not more than that."""
        if len(values) <= wanted:
            return values.new_tensor(0.0)
        return torch.topk(values, wanted, sorted=False)[0].min()

    # --- an update

    def norm(self, squares: dict[str, Tensor]) -> Tensor:
        """Norm of a gradient, from the sums of squares of its parts by parameter."""
        return torch.stack(list(squares.values())).sum().sqrt()

    def firings(self, own: Tensor) -> Tensor:
        """Firings in the batch, from those of the latents that are here."""
        return own


ALONE = Whole()
