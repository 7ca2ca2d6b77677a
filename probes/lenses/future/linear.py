"""The future lens in closed form: from a state now to the final state, or the logits, N tokens on.

Steps, numbered in the body:

1. Read the rows of the documents once, in order: of every layer h_t, of the last one y_{t+N}.
2. Per (layer, N) the moments of (h_t, y_{t+N}), in float64 about a fixed vector.
3. A = C_hh^+ C_hy, b = mean(y) - mean(h) A. Directions in which the states have no variance
   (below 1e-12 of the largest eigenvalue) get no weight: the solution of least norm.

Deterministic, no learning rate. Source: Pal et al. 2023, "Future Lens: Anticipating Subsequent
Tokens from a Single Hidden State", arXiv:2311.04897, section 3.1 (linear model; linear to
vocabulary).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench import provenance
from lensbench.errors import NotEnoughDataError, UnknownNameError
from lensbench.probes.lenses.future.lens import TARGETS, FutureLens, Target
from lensbench.probes.lenses.future.pairs import (
    as_ahead,
    fit_docs,
    linked,
    states_of,
    stored_choice,
)
from lensbench.results import Controls

if TYPE_CHECKING:
    from lensbench.models import Model
    from lensbench.store import ActivationStore

_FLAT = 1e-12
_NUMBERS = 1 << 22  # of one tensor held at a time
_ROWS = 8192


def fit_future_lens(
    store: "ActivationStore",
    model: "Model",
    *,
    ahead: int | Sequence[int] = (0, 1, 2, 3),
    layers: Sequence[int] | None = None,
    target: Target = "state",
    docs: tuple[int, int] | None = None,
) -> FutureLens:
    """Least squares with bias from h^l_t to what the model has at t + N.

    min_{A, b} sum_t |h^l_t A + b - y_{t+N}|^2 over the stored tokens with N others of their
    document after them. ``target="state"``: y is the state after the last block, *before* the final
    norm, and the prediction is unembed(h A + b); ``"vocabulary"``: y is the logits themselves.
    N = 0 is the ordinary next token. Equivalent to numpy's ``lstsq`` on (h, 1).

    Args:
        store: holds ``resid_post`` of the layers and of the last block.
        model: the model of the store; with ``target="vocabulary"`` it unembeds, no block is run.
        ahead: distances N.
        layers: blocks (default: all stored ones). Memory is d^2 or d * d_vocab doubles per
            (layer, N).
        target: ``state`` or ``vocabulary``.
        docs: documents a .. b - 1 (default: the first four fifths).

    Raises:
        MissingDataError, MismatchError: the store lacks a layer, or is of another model.
        NotEnoughDataError: no more pairs than the state has dimensions.
        UnknownNameError: no such target or stored layer.

    Example:
        >>> lens = probes.fit_future_lens(store, model, ahead=(0, 1), layers=[2])
    """
    start = time.monotonic()
    if target not in TARGETS:
        raise UnknownNameError("target of a future lens", str(target), known=TARGETS)
    chosen = stored_choice(store, model, layers)
    distances = as_ahead(ahead)
    within = fit_docs(store, docs)
    sums = {(n, far): Moments() for n in chosen for far in distances}
    _gather(store, model, sums, target, within)
    solved = {key: moments.solve() for key, moments in sums.items()}
    shape = (len(chosen), len(distances))
    A = torch.stack([solved[n, far][0] for n in chosen for far in distances])
    b = torch.stack([solved[n, far][1] for n in chosen for far in distances])
    fvu = np.array([solved[n, far][2] for n in chosen for far in distances])
    means = [sums[chosen[0], far].mean_y() for far in distances]
    return FutureLens(
        layers=chosen,
        ahead=distances,
        target=target,
        weight=A.float().unflatten(0, shape).numpy(),
        bias=b.float().unflatten(0, shape).numpy(),
        mean_target=torch.stack(means).float().numpy(),
        fvu=fvu.reshape(shape),
        n_pairs=tuple(sums[chosen[0], far].n for far in distances),
        docs=within,
        fingerprint=model.card.fingerprint,
        text=str(store.text.get("fingerprint")),
        config={"target": target, "docs": list(within), "store": store.url},
        controls=Controls(note="fvu is of the fit; see future_scores for held-out documents"),
        provenance=provenance.record(
            model=vars(model.card), seconds=time.monotonic() - start, store=store
        ),
    )


@dataclass
class Moments:
    """Sums over pairs (x, y) about a fixed vector each."""

    n: int = 0
    about: list[Tensor] = field(default_factory=list[Tensor])
    x: Tensor = field(default_factory=lambda: torch.zeros(()))
    y: Tensor = field(default_factory=lambda: torch.zeros(()))
    xx: Tensor = field(default_factory=lambda: torch.zeros(()))
    xy: Tensor = field(default_factory=lambda: torch.zeros(()))
    yy: float = 0.0

    def add(self, x: Float[Tensor, "rows d"], y: Float[Tensor, "rows o"]) -> None:
        """More pairs; taken in float64."""
        if not len(x):
            return
        x, y = x.double(), y.double()
        if not self.about:  # sums about a typical vector lose no digits to a large mean
            self.about = [x.mean(0), y.mean(0)]
        x, y = x - self.about[0], y - self.about[1]
        self.n += len(x)
        self.x, self.y = self.x + x.sum(0), self.y + y.sum(0)
        self.xx, self.xy = self.xx + x.T @ x, self.xy + x.T @ y
        self.yy += float((y * y).sum())

    def mean_y(self) -> Float[Tensor, " o"]:
        """Mean of the targets."""
        return self.about[1] + self.y / self.n

    def solve(self) -> tuple[Float[Tensor, "d o"], Float[Tensor, " o"], float]:
        """A, b and the fraction of the targets' variance that they leave unexplained.

        Raises:
            NotEnoughDataError: no more pairs than dimensions.
        """
        d = self.xx.shape[0] if self.n else 0
        if self.n <= d:
            raise NotEnoughDataError(
                f"a linear map of {d} dimensions with a bias needs more than {d} pairs of tokens, "
                f"got {self.n}; store more text, or ask for fewer ahead"
            )
        mx, my = self.x / self.n, self.y / self.n
        cxx = self.xx - self.n * torch.outer(mx, mx)
        cxy = self.xy - self.n * torch.outer(mx, my)
        size, axes = torch.linalg.eigh(cxx)
        kept = size > size.max() * _FLAT
        axes, size = axes[:, kept], size[kept]
        A = axes @ ((axes.T @ cxy) / size[:, None])  # 3
        total = self.yy - self.n * float(my @ my)
        left = max(total - float((A * cxy).sum()), 0.0)
        b = self.about[1] + my - (self.about[0] + mx) @ A
        return A, b, left / total if total > 0 else float("nan")


def _gather(
    store: "ActivationStore",
    model: "Model",
    sums: dict[tuple[int, int], Moments],
    target: Target,
    docs: tuple[int, int],
) -> None:
    """Fill the moments of every (layer, distance) in one pass."""
    index, (first, end) = store.index(), store.row_range(docs)
    layers = sorted({n for n, _ in sums})
    distances = sorted({far for _, far in sums})
    furthest, last = distances[-1], model.n_layers - 1
    width = model.card.d_model if target == "state" else model.card.d_vocab
    step = max(1, min(_ROWS, _NUMBERS // width))
    for a in range(first, end, step):  # 1
        b = min(a + step, end)
        after = states_of(store, last, np.arange(a, min(b + furthest, end)))
        y = after if target == "state" else model.unembed(after).float().cpu()
        pairs = {far: np.flatnonzero(linked(index, slice(a, b), far)) for far in distances}
        pairs = {far: at[at + far < len(y)] for far, at in pairs.items()}
        for layer in layers:
            x = after[: b - a] if layer == last else states_of(store, layer, np.arange(a, b))
            for far, at in pairs.items():
                sums[layer, far].add(x[at], y[at + far])  # 2
