"""How many components of a site must be given clean values until the prediction is the clean one.

1. Base is the corrupted run. A basis writes a state as ``x = sum_j c_j(x) d_j + rest``: latents of
   a dictionary, principal directions of the states, and as a control a random rotation.
2. Components are ordered by the fall of KL that the gradient at the base foretells,
   ``-sum (c_j(clean) - c_j(base)) d_j . dKL/dx``, over prompts and tokens.
3. The first n are set, at all tokens, ``x + sum (c_j(clean) - c_j(base)) d_j``; the rest stays.

After Cunningham et al. 2023, arXiv:2309.08600, who go from the clean run to the other one and find
the order by eliminating backwards.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.interventions.attribution.gradients import Question, traced
from lensbench.interventions.graphs.coders import read_coders
from lensbench.interventions.metrics import METRICS
from lensbench.interventions.values import groups
from lensbench.models.base import Model
from lensbench.ops import Set
from lensbench.plan import Edit, Plan
from lensbench.prompts.pairs import PromptPairs
from lensbench.prompts.score import check_pairs
from lensbench.results import Controls, Result
from lensbench.sites import Site

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

LATENTS, PCA, RANDOM = BASES = ("latents", "pca", "random rotation")
N_BOOT = 1000
NOTHING = 1e-6
"""A KL below this, in nats, is rounding: both runs say the same."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FeaturePatching(Result):
    """KL to the clean run, in nats, against the number of components that were patched."""

    task: str
    site: str
    n: Int[np.ndarray, "bases sizes"]
    """Components patched, by basis (:data:`BASES`); -1 where a basis has no more."""
    kl: Float[np.ndarray, "bases sizes pairs"]
    edit: Float[np.ndarray, "bases sizes pairs"]
    """Norm of the edit, mean over tokens."""
    base: Float[np.ndarray, " pairs"]
    """KL with nothing patched."""
    whole: Float[np.ndarray, " pairs"]
    """KL with the whole state patched."""

    def to_frame(self) -> "pd.DataFrame":
        """One row per basis and size, with a 95 % interval over prompts."""
        import pandas as pd

        rng = np.random.default_rng(0)
        rows: list[dict[str, Any]] = []
        for b, basis in enumerate(BASES):
            for s in np.flatnonzero(self.n[b] >= 0):
                kl = self.kl[b, s]
                means = kl[rng.integers(0, len(kl), (N_BOOT, len(kl)))].mean(1)
                low, high = np.quantile(means, [0.025, 0.975])
                rows.append({"basis": basis, "patched": int(self.n[b, s]), "kl": kl.mean(),
                             "low": low, "high": high, "edit_norm": self.edit[b, s].mean(),
                             "n": len(kl)})  # fmt: skip
        frame = pd.DataFrame(rows)
        frame.attrs["units"] = {"kl": "KL(clean ‖ patched) [nats]", "n": "prompts"}
        return frame

    @property
    def undefined(self) -> str:
        """Why no number of components halves the KL; empty where one may."""
        kl = float(self.base.mean())
        return "" if kl > NOTHING else f"undefined: both runs say the same (KL {kl:.1e} nats)"

    def needed(self, basis: str, share: float = 0.5) -> float:
        """Fewest components that take the KL to ``share`` of what it was.

        NaN: none tried do, or there was none to take away (:attr:`undefined`).
        """
        if basis not in BASES:
            raise ConfigError(f"basis must be one of {', '.join(BASES)}; got {basis!r}")
        if self.undefined:
            return float("nan")
        b = BASES.index(basis)
        enough = (self.n[b] >= 0) & (self.kl[b].mean(1) <= share * self.base.mean())
        return float(self.n[b][enough].min()) if enough.any() else float("nan")

    def summary(self) -> dict[str, float]:
        """Components that halve the KL, by basis, and the KL without and with the whole state."""
        found = {f"half_{basis.split()[0]}": self.needed(basis) for basis in BASES}
        return {**found, "kl_base": float(self.base.mean()), "kl_whole": float(self.whole.mean()),
                "prompts": float(len(self.base))}  # fmt: skip

    def plot(self) -> "go.Figure":
        """KL against components, a line per basis."""
        from lensbench.plots import lines

        return lines(
            self.to_frame(), x="patched", y="kl", color="basis", low="low", high="high",
            hover_columns=("edit_norm",),
            title=f"{self.task}: components of {self.site} with clean values",
            subtitle=f"{len(self.base)} prompts; control: {self.controls}"
            + f"; components needed: {self.undefined}" * bool(self.undefined),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Basis:
    codes: Callable[[Tensor], Tensor]
    """States ``[tokens d_model]`` to ``[tokens k]``."""
    directions: Float[Tensor, "k d_model"]


@dataclass(frozen=True, eq=False)
class _Part:
    """Some prompts: both runs' states at the site, the slope at the base, and what is asked."""

    pairs: PromptPairs
    base: Float[Tensor, "batch pos d_model"]
    source: Float[Tensor, "batch pos d_model"]
    slope: Float[Tensor, "batch pos d_model"]
    real: Tensor
    asked: Question

    def moved(self, basis: _Basis) -> Float[Tensor, "batch pos k"]:
        """``c(clean) - c(base)``; 0 under padding."""
        a, b = (basis.codes(x.flatten(0, 1)) for x in (self.source, self.base))
        return (a - b).unflatten(0, self.base.shape[:2]) * self.real[..., None]


def feature_patching(
    model: Model, pairs: PromptPairs, codec: Any, sizes: Sequence[int] | None = None, *,
    batch_size: int = 16, seed: int = 0,
) -> FeaturePatching:  # fmt: skip
    """KL to the clean run against components patched: latents, principal and random directions.

    Args:
        model: any back end that gives gradients.
        pairs: aligned prompts.
        codec: an autoencoder that knows its site, or ``{site: autoencoder}``.
        sizes: numbers of components; left out, about ten up to the width of the site.
        batch_size: prompts in one pass.
        seed: of the random rotation.

    Raises:
        ConfigError: a transcoder, several dictionaries, sizes that are no numbers, or all beyond
            every basis.
        MismatchError: pairs or a dictionary of another model.

    Example:
        >>> found = interventions.feature_patching(
        ...     model, pairs, {"blocks.3.resid_post": run}, [0, 2, 8]
        ... )
    """
    began = time.monotonic()
    check_pairs(model, pairs)
    coders = read_coders(model, codec)
    if len(coders) != 1 or not coders[0].same:
        raise ConfigError("feature patching takes one autoencoder; a transcoder does not write "
                          "what it reads")  # fmt: skip
    coder = coders[0]
    seed = whole_number("seed", seed)
    size = whole_number("batch_size", batch_size, least=1)
    parts = [_part(model, pairs.select(rows), coder.read) for rows in groups(len(pairs), size)]
    states = torch.cat([x[p.real] for p in parts for x in (p.base, p.source)])
    width = states.shape[1]
    chosen = _sizes(sizes, width, max(width, len(coder.W_dec)))
    latents = _Basis(lambda x: coder.codec.encode(x.to(coder.W_dec)).to(x), coder.W_dec.to(states))
    bases = [latents, _pca(states), _rotation(states, seed)]
    runs = [[_run(model, coder.read, parts, b, order, n) for n in chosen]
            for b, order in ((b, _order(parts, b)) for b in bases)]  # fmt: skip
    whole = torch.cat([_kl(model, coder.read, p, p.source) for p in parts])
    base = torch.cat([_kl(model, coder.read, p, p.base) for p in parts])
    kl, edit = (np.array([[pair[i] for pair in row] for row in runs]) for i in (0, 1))
    most = np.array([[len(b.directions)] for b in bases])
    n = np.where(np.array(chosen)[None] <= most, np.array(chosen)[None], -1)
    before = float(base.mean())
    control = float(np.mean(kl[BASES.index(RANDOM)])) / before if before > NOTHING else np.nan
    return FeaturePatching(
        task=pairs.task, site=str(coder.read), n=n, kl=kl, edit=edit,
        base=base.double().numpy(), whole=whole.double().numpy(),
        controls=Controls({"random_rotation": control}, "mean share of the KL that is left"),
        config={"pairs": pairs.fingerprint(), "dictionary": coder.name, "seed": seed},
        provenance=provenance.record(model=vars(model.card), seed=seed,
                                     seconds=time.monotonic() - began),
    )  # fmt: skip


def _part(model: Model, pairs: PromptPairs, site: Site) -> _Part:
    clean = model.run(pairs.clean, capture=site, logits="last")
    assert clean.logits is not None
    asked = Question(METRICS["kl"], pairs, clean.logits[:, -1])
    run = traced(model, pairs.corrupted, [site])
    slope = run.slopes(asked.of(run.logits).sum(), [site])[site]
    return _Part(pairs, run.acts[site].detach(), clean.acts[site], slope,
                 pairs.corrupted.real.to(slope.device), asked)  # fmt: skip


def _pca(states: Tensor) -> _Basis:
    vectors = torch.linalg.svd((states - states.mean(0)).double(), full_matrices=True)[2]
    return _Basis(lambda x: x @ vectors.mT.to(x), vectors.to(states))


def _rotation(states: Tensor, seed: int) -> _Basis:
    width = states.shape[1]
    drawn = torch.randn(width, width, generator=torch.Generator().manual_seed(seed)).double()
    vectors = torch.linalg.qr(drawn)[0].to(states)
    return _Basis(lambda x: x @ vectors.mT, vectors)


def _order(parts: Sequence[_Part], basis: _Basis) -> Int[Tensor, " k"]:
    """Components by the fall of KL that the gradient foretells, largest first."""
    told = [-(p.moved(basis) * (p.slope @ basis.directions.mT.to(p.slope))).sum((0, 1))
            for p in parts]  # fmt: skip
    return torch.stack(told).sum(0).argsort(descending=True, stable=True)


def _run(
    model: Model, site: Site, parts: Sequence[_Part], basis: _Basis, order: Tensor, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """KL and norm of the edit of every pair with the first ``n`` components patched."""
    first = order[:n]
    kls: list[Tensor] = []
    norms: list[Tensor] = []
    for part in parts:
        step = part.moved(basis)[..., first] @ basis.directions[first]
        step = step.to(part.base)
        kls.append(_kl(model, site, part, part.base + step))
        norms.append(step.norm(dim=-1).sum(1) / part.real.sum(1))
    return torch.cat(kls).double().cpu().numpy(), torch.cat(norms).double().cpu().numpy()


def _kl(model: Model, site: Site, part: _Part, state: Tensor) -> Float[Tensor, " batch"]:
    plan = Plan((Edit(site, Set(state)),))
    logits = model.run(part.pairs.corrupted, plan, logits="last").logits
    assert logits is not None
    return part.asked.of(logits[:, -1]).detach().cpu()


def _sizes(sizes: Sequence[int] | None, width: int, most: int) -> list[int]:
    if sizes is None:
        return [0, *sorted({int(n) for n in np.geomspace(1, width, 10).round()})]
    if isinstance(sizes, str) or not isinstance(sizes, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance] - users
        raise ConfigError(f"sizes must be a list of numbers of components, got {sizes!r}")
    found = [whole_number("sizes", n, least=0) for n in sizes]
    if not found:
        raise ConfigError("sizes is empty; leave it out for about ten of them")
    if min(found) > most:
        raise ConfigError(f"no basis has {min(found)} components; the largest has {most}")
    return found
