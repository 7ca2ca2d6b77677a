"""Causal basis of a lens: the directions of a layer that its prediction depends on most.

Steps, numbered in the body:

1. p = lens(h) on states of one layer. Ablating a unit vector v sets its coordinate to the mean:
   r(h, v) = h + v v^T (mean - h). Its influence is E KL(p(h) || p(r(h, v))), nats.
2. One vector after the other, each orthogonal to those before, by L-BFGS from the best of several
   starts (principal directions of what is left, and random ones); then ordered by influence.
3. Control: the influence of random orthonormal vectors.
4. The check on the model itself: the same subspaces ablated in a run, with the KL of the model's
   own prediction beside the lens', and random ones of the same sizes. Only this step runs blocks.

Where a lens is very sure, a direction tilted out of the space that it reads moves it more than one
inside: what is set to its mean then brings in what is not read, as a wrong reading.

Source: Belrose et al. 2023, arXiv:2303.08112, section 4.1 and algorithm 1 (there from singular
vectors of the unembedding; here from the states, which needs no weights).
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench import provenance
from lensbench.errors import ConfigError
from lensbench.ops import Add, Project
from lensbench.plan import Edit, Plan
from lensbench.probes.lenses.measures import tiles
from lensbench.probes.lenses.tuned.basis_result import BasisCheck, CausalBasis
from lensbench.probes.lenses.tuned.lens import TunedLens
from lensbench.results import Controls
from lensbench.sites import Site
from lensbench.tokens import TokensLike, as_tokens

_STARTS = 4


def causal_basis(
    lens: TunedLens,
    states: Float[Tensor, "tokens d_model"],
    layer: int,
    k: int = 8,
    *,
    max_iter: int = 60,
    seed: int = 0,
) -> CausalBasis:
    """The ``k`` orthonormal directions of ``layer`` whose ablation moves the lens' prediction most.

    v_j = argmax E KL(p(h) || p(h + v v^T (mean - h))) over unit v orthogonal to v_1 .. v_{j-1}.
    ``TunedLens.identity(model)`` gives that of the logit lens.

    Raises:
        ConfigError: fewer than two states, or k outside 1 .. d_model.

    Example:
        >>> states = torch.from_numpy(store.rows("blocks.2.resid_post", slice(0, 200))).float()
        >>> basis = probes.causal_basis(tuned, states, layer=2, k=2, max_iter=5)
    """
    start = time.monotonic()
    d = states.shape[-1]
    if states.ndim != 2 or len(states) < 2 or not 1 <= k <= d:
        raise ConfigError("a causal basis needs states [tokens, d_model] of 2 tokens or more and k "
                          f"in 1..{d}; got {list(states.shape)} and k={k}")  # fmt: skip
    rng = torch.Generator().manual_seed(seed)
    job = _Influence(lens, states.float(), layer)
    found, energies = states.new_zeros(0, d).float(), list[float]()
    for _ in range(k):  # 2
        v, energy = _one(job, found, max_iter, rng)
        found, energies = torch.cat((found, v[None])), [*energies, energy]
    order = np.argsort(energies)[::-1].copy()
    chance = torch.linalg.qr(torch.randn(d, k, generator=rng)).Q.mT
    random = np.array([job.energy(v) for v in chance])  # 3
    return CausalBasis(
        layer=layer,
        vectors=found[torch.from_numpy(order)].numpy(),
        energies=np.array(energies)[order],
        random=random,
        mean=job.mean.numpy(),
        n_tokens=len(states),
        config={"k": k, "max_iter": max_iter, "seed": seed},
        controls=Controls(
            {"random_direction": float(random.mean())}, "mean influence of random directions, nats"
        ),
        provenance=provenance.record(
            model=vars(lens.model.card), seed=seed, seconds=time.monotonic() - start
        ),
    )


def check_basis(
    lens: TunedLens,
    basis: CausalBasis,
    tokens: TokensLike,
    sizes: Sequence[int] = (1, 2, 4, 8),
    *,
    draws: int = 3,
    seed: int = 0,
) -> BasisCheck:
    """Ablate the first n vectors of a basis in the model, and as many random ones.

    KL of the model's prediction after the ablation from that before (nats, mean over tokens),
    beside the same of the lens' prediction, for each n of ``sizes`` that the basis has.

    Raises:
        ConfigError: no size that the basis has, or the embeddings' layer.

    Example:
        >>> states = torch.from_numpy(store.rows("blocks.2.resid_post", slice(0, 200))).float()
        >>> basis = probes.causal_basis(tuned, states, layer=2, k=2, max_iter=5)
        >>> check = probes.check_basis(tuned, basis, model.tokens(text), sizes=(1, 2), draws=1)
    """
    kept = [n for n in sizes if 1 <= n <= len(basis.vectors)]
    if not kept or basis.layer < 0:
        raise ConfigError(f"sizes must be in 1..{len(basis.vectors)} and the layer a block's; got "
                          f"{list(sizes)} at layer {basis.layer}")  # fmt: skip
    model, batch = lens.model, as_tokens(tokens)
    site, rng = Site("resid_post", basis.layer), torch.Generator().manual_seed(seed)
    clean = model.run(batch, capture=site)
    assert clean.logits is not None  # the run was asked for all
    real = batch.real.to(clean.logits.device)
    p, states = clean.logits[real].float(), clean.acts[site][real].float()
    job = _Influence(lens, states.cpu(), basis.layer, torch.from_numpy(basis.mean))
    spaces = [torch.from_numpy(basis.vectors[:n].copy()) for n in kept]
    d = states.shape[-1]
    other = [[torch.linalg.qr(torch.randn(d, n, generator=rng)).Q.mT for n in kept]
             for _ in range(draws)]  # fmt: skip

    def moved(space: Tensor) -> float:  # 4
        out = model.run(batch, _ablation(site, space, job.mean)).logits
        assert out is not None  # the run was asked for all
        logp, logq = p.log_softmax(-1), out[real].float().log_softmax(-1)
        return float((logp.exp() * (logp - logq)).sum(-1).mean())

    return BasisCheck(
        layer=basis.layer,
        sizes=tuple(kept),
        model=np.array([moved(s) for s in spaces]),
        lens=np.array([job.energy(s) for s in spaces]),
        random_model=np.array([[moved(s) for s in row] for row in other]),
        random_lens=np.array([[job.energy(s) for s in row] for row in other]),
        n_tokens=len(states),
        config={"draws": draws, "seed": seed},
        controls=Controls(note="random subspaces of the same sizes, in the frame"),
        provenance=provenance.record(model=vars(model.card), seed=seed),
    )


class _Influence:
    """E KL(p(h) || p(r(h, V))) as a function of orthonormal rows V, and its slope."""

    def __init__(
        self, lens: TunedLens, states: Tensor, layer: int, mean: Tensor | None = None
    ) -> None:
        self.lens, self.layer, self.states = lens, layer, states
        self.mean = states.mean(0) if mean is None else mean
        self.parts = list(tiles(len(states), lens.model.card.d_vocab, 512))
        self.logp = [self._read(states[p]).log_softmax(-1) for p in self.parts]

    def _read(self, states: Tensor, *, grad: bool = False) -> Tensor:
        moved = self.lens.translate(states, self.layer)
        return self.lens.model.unembed(moved, grad=grad).float()

    def energy(self, rows: Tensor) -> float:
        """Nats; ``rows`` is one unit vector or orthonormal ones."""
        return float(self._loss(rows, grad=False))

    def _loss(self, rows: Tensor, *, grad: bool) -> Tensor:
        V, total = torch.atleast_2d(rows), torch.zeros(())
        for part, logp in zip(self.parts, self.logp, strict=True):  # 1
            h = self.states[part]
            with torch.set_grad_enabled(grad):
                moved = h + (self.mean - h) @ V.mT @ V
                logq = self._read(moved, grad=grad).log_softmax(-1)
                total = total + (logp.exp() * (logp - logq)).sum().cpu()
        return total / len(self.states)

    def slope(self, w: Tensor, project: Any) -> Tensor:
        """Minus the influence of the unit vector along ``project(w)``; differentiable."""
        return -self._loss(project(w), grad=True)


def _one(
    job: _Influence, before: Tensor, max_iter: int, rng: torch.Generator
) -> tuple[Tensor, float]:
    """The next direction, orthogonal to the rows of ``before``."""

    def project(w: Tensor) -> Tensor:
        w = w - before.mT @ (before @ w)
        return w / w.norm().clamp_min(1e-12)

    centred = job.states - job.mean
    rest = centred - centred @ before.mT @ before
    axes = torch.linalg.svd(rest, full_matrices=False).Vh[:_STARTS]
    drawn = torch.randn(_STARTS, job.states.shape[1], generator=rng)
    starts = [project(w) for w in (*axes, *drawn)]
    w = max(starts, key=job.energy).clone().requires_grad_()
    search = torch.optim.LBFGS([w], max_iter=max_iter, line_search_fn="strong_wolfe")

    def closure() -> float:
        search.zero_grad()
        loss = job.slope(w, project)
        loss.backward()
        return float(loss.detach())

    search.step(closure)
    v = project(project(w.detach()))  # twice: rounding of the first leaves the span
    return v, job.energy(v)


def _ablation(site: Site, space: Tensor, mean: Tensor) -> Plan:
    """The coordinates in a subspace set to their means."""
    put = (space @ mean) @ space
    return Plan((Edit(site, Project(space)), Edit(site, Add(put))))
