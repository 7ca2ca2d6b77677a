"""Values of a subspace patch: the base state with its part in a subspace from another run."""

from dataclasses import dataclass

from torch import Tensor

from lensbench.interventions.places import Place
from lensbench.interventions.values import FromRun
from lensbench.ops import Op, Set


@dataclass(frozen=True)
class InSpan:
    """``h + (h' - h) B B^T`` with B an orthonormal basis, h the base state and h' the source's."""

    source: FromRun
    base: FromRun
    basis: Tensor
    """``[d, k]``, of the place's last axis."""

    def op(self, place: Place, row: int) -> Op | None:
        """Set the place to its state with the subspace exchanged."""
        to, at = self.source.at(place, row), self.base.at(place, row)
        if to is None or at is None:
            return None
        return Set(exchanged(at, to, self.basis)[0])


def exchanged(at: Tensor, to: Tensor, basis: Tensor) -> Tensor:
    """``at`` with its part in the span of ``basis`` taken from ``to``; computed in float64."""
    step = (to.double() - at.double()) @ basis.to(at.device)
    return (at.double() + step @ basis.to(at.device).T).to(at.dtype)


def steps(source: FromRun, base: FromRun, place: Place) -> list[Tensor]:
    """``source - base`` at a place, ``[d]`` each, of the prompts that have it."""
    found: list[Tensor] = []
    for row in range(len(base.pairs)):
        to, at = source.at(place, row), base.at(place, row)
        if to is not None and at is not None:
            found.append((to - at).reshape(-1).double().cpu())
    return found
