"""One step of a dictionary whose latents lie on several ranks, all of which have the whole batch.

Each rank encodes into its own latents; what must be exchanged is, per token, ``k`` candidates of
each rank (TopK) or those above a common guess (BatchTopK), and the partial reconstructions, which
are added up. Every gradient and every moment of Adam then belongs to one rank alone, except those
of ``b_dec``, which all ranks keep alike.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lensbench.saes.architectures import DictionaryConfig, TopKConfig
from lensbench.saes.distributed.job import Job
from lensbench.saes.distributed.share import SMALLEST, ManyRanks
from lensbench.saes.step.encode import top_k_codes
from lensbench.saes.step.group import Group, aux_width
from lensbench.saes.step.kernels import Codes
from lensbench.saes.step.layouts import Dense, Listed
from lensbench.saes.step.looped import Looped
from lensbench.saes.step.precision import addmm, mm
from lensbench.saes.step.rules.base import Batch, Found, Gradients, Now, Objective, Step, gradients
from lensbench.saes.step.selection import top_k


class SharedLatents(ManyRanks):
    """Every rank has all tokens and some latents."""

    def engines(self, config: DictionaryConfig) -> tuple[str, ...]:
        """Those that step dictionaries one by one."""
        del config
        return ("dense", "screened")

    def norm(self, squares: dict[str, Tensor]) -> Tensor:
        """``b_dec`` is the same on every rank and counts once."""
        own = torch.stack([value for name, value in squares.items() if name != "b_dec"]).sum()
        return (self.job.sum_(own) + squares["b_dec"]).sqrt()

    def firings(self, own: Tensor) -> Tensor:
        """Over all latents."""
        return self.job.sum_(own.clone())


@dataclass
class ShardListed(Listed):
    """Entries of this rank's latents; a product that sums over latents sums over all ranks."""

    job: Job = field(kw_only=True)

    def decode(self, values: Tensor, weight: Tensor, name: str = "error") -> Tensor:
        """Partial reconstructions, added up."""
        return self.job.sum_(super().decode(values, weight, name))

    def total(self, values: Tensor) -> Tensor:
        """Over the entries of all ranks."""
        return self.job.sum_(super().total(values))


@dataclass
class ShardDense(Dense):
    """The same with every entry of one dictionary."""

    job: Job = field(kw_only=True)

    def decode(self, values: Tensor, weight: Tensor, name: str = "error") -> Tensor:
        """Partial reconstructions, added up."""
        return self.job.sum_(super().decode(values, weight, name))

    def total(self, values: Tensor) -> Tensor:
        """Over the entries of all ranks."""
        return self.job.sum_(super().total(values))


@dataclass
class ShardLooped(Looped):
    """Steps dictionaries one by one, each with the latents that are here."""

    job: Job = field(kw_only=True)

    def one(
        self,
        group: Group,
        i: int,
        x: Float[Tensor, "tokens d_in"],
        now: Now,
        y: Float[Tensor, "tokens d_out"] | None = None,
        objective: Objective | None = None,
    ) -> Gradients | None:
        """Gradients of this rank's latents and, the same everywhere, of ``b_dec``."""
        assert y is None  # transcoders are refused
        assert objective is None
        config, own, rule = group.configs[i], group.own(i), group.rule
        centred = torch.sub(x, own["b_dec"], out=self.space.get("centred", tuple(x.shape), x))
        layout = self._layout(Batch(config, centred, own, self.space, self.screened), group)
        if layout is None:
            found = self._dense(group, i, x, now)
        else:
            found = gradients(rule, Step(config, layout, centred, centred, own, now))
        one = self._summed(found)
        self._add_dead(group, i, centred, found.flow.error.view(x.shape), one)
        return one

    def _layout(self, b: Batch, group: Group) -> ShardListed | None:
        if isinstance(b.config, TopKConfig):
            return ShardListed(self._top_k(b, b.config.k), self.space, job=self.job)
        found = group.rule.listed(b)  # a selection from the batch asks ``space.whole``
        return None if found is None else ShardListed(found.codes, self.space, job=self.job)

    def _top_k(self, b: Batch, k: int) -> Codes:
        weight, n = b.own["W_enc"], len(b.x)
        own = min(k, len(weight))
        codes = top_k_codes(b.x, weight, b.own["b_enc"], own, b.space, screened=b.screened)
        values, columns = codes.values.view(n, own), codes.columns.view(n, own)
        kept = largest_of_rows(self.job, values, k) & (values > 0)
        rows = kept.nonzero()[:, 0]
        return Codes.listed(values[kept], rows, columns[kept], n, len(weight))

    def _dense(self, group: Group, i: int, x: Tensor, now: Now) -> Found:
        own = group.own(slice(i, i + 1))
        centred = x - own["b_dec"][:, None]
        pre = addmm(own["b_enc"][:, None], centred, own["W_enc"].transpose(1, 2))
        layout = ShardDense(pre, job=self.job)
        return gradients(
            group.rule, Step(group.configs[i], layout, centred, centred, own, now)
        )  # fmt: skip

    def _summed(self, found: Found) -> Gradients:
        """``b_dec`` takes what came through the latents of all ranks."""
        flow, of = found.flow, dict(found.of)
        direct = flow.out.sum(-2)
        of["b_dec"] = direct - self.job.sum_(direct - of["b_dec"])
        state = {
            name: self.job.min_(value.clone()) if name in SMALLEST else value
            for name, value in flow.state.items()
        }
        one = Gradients(of, found.along, found.fired, flow.loss, flow.sse, state)
        return _single(one) if flow.loss.ndim else one

    def _add_dead(self, group: Group, i: int, x: Tensor, error: Tensor, one: Gradients) -> None:
        """The auxiliary loss of :mod:`~lensbench.saes.step.aux_loss`, over dead latents of all."""
        config, dead, job = group.configs[i], group.dead_lists[i], self.job
        if not config.aux_coefficient:
            return
        n_dead = self.space.whole.count(len(dead))
        if not n_dead:
            return
        W_enc, W_dec = group.W_enc[i][dead], group.W_dec[i][dead]
        acts = addmm(group.b_enc[i][dead], x, W_enc.t())
        width = aux_width(config, group.d_out)
        if n_dead > width:
            values, indices = top_k(acts, min(width, len(dead)))
            values = torch.where(largest_of_rows(job, values, width), values, 0.0)
            acts = torch.zeros_like(acts).scatter_(1, indices, values)
        acts = acts.relu_()
        residual = error + job.sum_(mm(acts, W_dec))
        weight = config.aux_coefficient / len(x)
        one.loss = one.loss + torch.dot(residual.view(-1), residual.view(-1)) * weight
        grad = residual.mul_(2 * weight)
        into = mm(grad, W_dec.t()).mul_(acts > 0)
        one.of["W_dec"][dead] += mm(acts.t(), grad)
        one.of["W_enc"][dead] += mm(into.t(), x)
        one.of["b_enc"][dead] += into.sum(0)
        one.of["b_dec"] -= job.sum_(into.sum(0) @ W_enc)
        one.along[dead] += (into * acts).sum(0)


def largest_of_rows(
    job: Job, values: Float[Tensor, "rows own"], k: int
) -> Bool[Tensor, "rows own"]:
    """Which of ``values`` are among the ``k`` largest of their row over all ranks.

    All ranks see the same candidates and choose alike, so exactly ``k`` are kept, ties or not.
    """
    parts = job.ragged(values, -torch.inf, dim=1)
    size = parts[0].shape[1]
    if size * job.world <= k:
        return torch.ones_like(values, dtype=torch.bool)
    whole = torch.cat(parts, 1)
    best = torch.topk(whole, k, dim=1, sorted=False)[1]
    kept = torch.zeros_like(whole, dtype=torch.bool).scatter_(1, best, True)
    return kept[:, job.rank * size : job.rank * size + values.shape[1]]


def _single(one: Gradients) -> Gradients:
    """Of arrays with one dictionary in front, that dictionary."""
    of = {name: value[0] for name, value in one.of.items()}
    state = {name: value[0] for name, value in one.state.items()}
    return Gradients(of, one.along[0], one.fired[0], one.loss[0], one.sse[0], state)
