"""AtP*: attribution patching whose two known ways to miss a node are mended.

1. QK fix: a saturated softmax has no slope. For queries and keys the pattern is computed exactly
   with the patched q or k, and only what follows it is linear: ``sum dP . d m / d P``. For a query
   that is its own row; for a key one column of every later row (in closed form, ``one_key``).
2. GradDrop: two paths whose slopes cancel hide a node. L times back, each with the gradient
   through the outputs of one layer dropped; the mean size of what is found (``atp_star`` only).

Source: Kramar et al. 2024, arXiv:2403.00745 (eqs 4-11).
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.errors import ConfigError
from lensbench.interventions.attribution.gradients import Traced, traced
from lensbench.interventions.attribution.methods import Batch, Estimate
from lensbench.interventions.attribution.tables import summed
from lensbench.interventions.places import Place
from lensbench.models.base import Acts, Model
from lensbench.ops import Set
from lensbench.plan import Edit, Plan
from lensbench.sites import Site

_QK = ("attn.q", "attn.k")
_ROUNDING = 1e-4
_OUTPUTS = ("attn_out", "mlp_out", "ssm_out")


def atp_star(batch: Batch, *, drop: bool) -> Estimate:
    """The QK fix, and with ``drop`` GradDrop, whose estimates are sizes (never below 0).

    Raises:
        ConfigError: single dimensions of queries or keys; GradDrop in a model of one layer.
    """
    _check(batch, drop=drop)
    layers = sorted({s.layer for s in batch.read if s.name in _QK and s.layer is not None})
    patterns = [Site("attn.pattern", layer) for layer in layers]
    open_sites = [Site(name, layer) for name in ("attn.scores", "attn.z") for layer in layers]
    outs = _outputs(batch.model) if drop else {}
    flat = [site for sites in outs.values() for site in sites]
    run = traced(batch.model, batch.base, [*batch.read, *patterns, *open_sites, *flat])
    fix = QKFix.of(batch, run, layers)
    steps = {s: batch.to[s].float() - run.acts[s].float() for s in batch.read}
    read = [*batch.read, *patterns]
    values: list[np.ndarray] = []
    for question in batch.asked:
        total = question.of(run.logits).sum()
        if not drop:
            values.append(_estimate(batch, fix, steps, run.slopes(total, read)))
            continue
        sizes = np.zeros((len(batch.where), len(batch.pairs)))
        for _ in _each_dropped(run, outs):
            sizes += np.abs(_estimate(batch, fix, steps, run.slopes(total, read)))
        values.append(sizes / _terms(batch.where, len(outs))[:, None])
    return Estimate(values)


class QKFix:
    """Patterns of the base run, and what they become with queries or keys of the source."""

    def __init__(self, base: Mapping[Site, Tensor], by_q: Acts, by_k: Acts, kv_heads: int) -> None:
        self._base, self._by_q, self._by_k, self._kv = base, by_q, by_k, kv_heads

    @classmethod
    def of(cls, batch: Batch, run: Traced, layers: Sequence[int]) -> "QKFix":
        """Two more passes: all queries, then all keys, set at once.

        Every layer's ``z`` is set back to the base run's, so no layer sees what an earlier one's
        pattern has become.
        """
        found: list[Acts] = []
        base = {s: x.detach() for s, x in run.acts.items()}
        for part in ("attn.q", "attn.k"):
            moved = [Site(part, n) for n in layers if Site(part, n) in batch.read]
            back = [Edit(s, Set(base[s])) for s in base if s.name == "attn.z" and moved]
            plan = Plan((*(Edit(s, Set(batch.to[s])) for s in moved), *back))
            read = [Site(name, s.layer) for s in moved for name in ("attn.scores", "attn.pattern")]
            run_ = batch.model.run(batch.base, plan, capture=read, logits="none")
            found.append(run_.acts)
        return cls(base, found[0], found[1], batch.model.card.n_kv_heads)

    def product(self, place: Place, slopes: Mapping[Site, Tensor]) -> Tensor:
        """``dP . d m / d P`` as ``batch pos head 1`` (all tokens: ``batch 1 head 1``)."""
        pattern, scores = (Site(f"attn.{n}", place.site.layer) for n in ("pattern", "scores"))
        slope, before = slopes[pattern].double(), self._base[pattern].double()
        if place.site.name == "attn.q":
            change = ((self._by_q[pattern].double() - before) * slope).sum(-1)
            return change.transpose(1, 2)[..., None]
        if place.position is None:
            change = ((self._by_k[pattern].double() - before) * slope).sum((-1, -2))[..., None]
        else:
            change = one_key(self._base[scores], before, self._by_k[scores], slope).sum(-2)
        heads = change.unflatten(1, (self._kv, -1)).sum(2)  # queries that share a key
        return heads.transpose(1, 2)[..., None]


def one_key(
    scores: Float[Tensor, "batch head query key"],
    pattern: Float[Tensor, "batch head query key"],
    moved: Float[Tensor, "batch head query key"],
    slope: Float[Tensor, "batch head query key"],
) -> Float[Tensor, "batch head query key"]:
    """``sum_j (P'_j - P_j) slope_j`` of every row when the score of one key alone moves.

    With ``t = P e^d`` and ``rest`` the probability of all other keys, ``P' = t / (rest + t)`` and
    the others are divided by ``rest + t``. Sums over the others are added up, not subtracted from
    the whole: where one key has it all, a difference would be rounding.
    Source: Kramar et al. 2024, arXiv:2403.00745, K fix, in closed form.
    """
    s = scores.double()
    hidden = s <= torch.finfo(scores.dtype).min / 2
    shift = torch.where(hidden, 0.0, moved.double() - s)
    sink = 1 - pattern.sum(-1, keepdim=True)  # rows of attention sinks sum to less than 1
    sink = torch.where(sink > _ROUNDING, sink, 0.0)
    log_p = s - s.logsumexp(-1, keepdim=True) + (1 - sink).log()
    p = torch.where(hidden, 0.0, log_p.exp())
    t, rest = (log_p + shift).exp(), _others(p) + sink
    own = slope * (1 / (1 + rest / t) - p)
    found = own + _others(p * slope) * (1 / (rest + t) - 1)
    return torch.where(hidden, 0.0, found)


def _others(x: Tensor) -> Tensor:
    """The sum over all other keys, for each key."""
    before = x.cumsum(-1).roll(1, -1)
    after = x.flip(-1).cumsum(-1).flip(-1).roll(-1, -1)
    before[..., 0], after[..., -1] = 0.0, 0.0
    return before + after


def _estimate(
    batch: Batch, fix: QKFix, steps: Mapping[Site, Tensor], slopes: Mapping[Site, Tensor]
) -> np.ndarray:
    def product(place: Place) -> Tensor:
        if place.site.name in _QK:
            return fix.product(place, slopes)
        return steps[place.site] * slopes[place.site].float()

    return summed(product, batch.where, batch.pairs)


def _outputs(model: Model) -> dict[int, list[Site]]:
    """What each layer adds to the stream."""
    found: dict[int, list[Site]] = {}
    for site in model.sites():
        if site.name in _OUTPUTS and site.layer is not None:
            found.setdefault(site.layer, []).append(site)
    return found


def _each_dropped(run: Traced, outs: Mapping[int, Sequence[Site]]) -> Iterator[int]:
    """One layer after the other, with the gradient through its outputs held at zero meanwhile."""
    for layer, sites in outs.items():
        with _dropped([run.acts[s] for s in sites]):
            yield layer


@contextmanager
def _dropped(tensors: Sequence[Tensor]) -> Generator[None]:
    hooks = [x.register_hook(torch.zeros_like) for x in tensors]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _terms(where: Sequence[Place], n_layers: int) -> np.ndarray:
    """Layers that can be dropped without cutting a node off: not the one it lies in."""
    outside = [p.site.layer is None or p.site.name.startswith("resid") for p in where]
    return np.where(outside, n_layers, n_layers - 1).astype(float)


def _check(batch: Batch, *, drop: bool) -> None:
    if any(p.dim is not None and p.site.name in _QK for p in batch.where):
        raise ConfigError(
            "the QK fix takes whole queries and keys; leave dims out, or use method='atp'"
        )
    if drop and batch.model.n_layers < 2:
        raise ConfigError("GradDrop needs two layers: it drops others than a node's own; 'atp_qk'")
