"""TopK, BatchTopK and Matryoshka: the entries are selected before anything is learnt from them."""

# ruff: noqa: ARG002 - a rule is given whatever any rule may need

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lensbench.saes.architectures import (
    DictionaryConfig,
    FixedK,
    FromBatch,
    MatryoshkaConfig,
    TopKConfig,
)
from lensbench.saes.step.encode import batch_top_k_codes, top_k_codes
from lensbench.saes.step.layouts import Dense, Layout, Listed
from lensbench.saes.step.rules.base import Batch, Done, Flow, Rule, Step, plain, squares

WINDOWS = 20
"""BatchTopK's threshold averages over about the last 1/20 of the steps so far."""


class TopK(Rule):
    """The k largest of every token; negative ones count as zero."""

    def first_acts(self, config: DictionaryConfig, pre: Tensor) -> Tensor:
        """The k largest of every token."""
        acts = pre.relu()
        values, indices = torch.topk(acts, _k(config), dim=1)
        return torch.zeros_like(acts).scatter_(1, indices, values)

    def export(self, config: DictionaryConfig, own: Mapping[str, Tensor]) -> dict[str, Any]:
        """The same k."""
        return {"activation": "topk", "k": _k(config)}

    def listed(self, b: Batch) -> Listed | None:
        """The k largest of every token."""
        weights, k = (b.own["W_enc"], b.own["b_enc"]), _widest(b.config)
        return Listed(top_k_codes(b.x, *weights, k, b.space, screened=b.screened), b.space)

    def dense(self, configs: list[DictionaryConfig], pre: Tensor) -> Dense:
        """All others are zero; the largest k of the group sets the width of the search."""
        return Dense(largest(pre, [_widest(c) for c in configs]).relu_())

    def flow(self, s: Step) -> Flow:
        """One reconstruction from what was selected; of Multi-TopK, two."""
        if isinstance(s.config, TopKConfig) and s.config.multi_topk:
            return _two(s, s.config)
        acts = s.layout.pre
        active = acts > 0
        return plain(s, acts, lambda into: (into * active, {}))


def _two(s: Step, config: TopKConfig) -> Flow:
    """Multi-TopK: the loss with k latents, and a share of that with all that are listed."""
    layout, W_dec, n = s.layout, s.own["W_dec"], s.layout.n_tokens
    every = layout.pre
    main = every * first_of_each(layout, config.k)
    error = layout.decode(main, W_dec).sub_(s.target)
    wide = layout.decode(every, W_dec, "wide").sub_(s.target)
    grads = error * (2 / n), wide * (2 * config.multi_topk / n)
    into, more = (layout.against(g, W_dec) for g in grads)
    sse = squares(error)
    return Flow(
        acts=main,
        error=error,
        sse=sse,
        loss=(sse + config.multi_topk * squares(wide)) / n,
        out=grads[0] + grads[1],
        into=into,
        inner=into * (main > 0) + more * (every > 0),
        W_dec=layout.outer(main, grads[0], "W_dec") + layout.outer(every, grads[1], "W_dec.wide"),
        along=layout.sums(more * every)[0],
    )


def first_of_each(layout: Layout, k: int) -> Tensor:
    """1 at the k largest entries of every token, 0 at the others; equal ones by their place."""
    values = layout.pre
    rows = values if isinstance(layout, Dense) else values.view(layout.n_tokens, -1)
    top = torch.topk(rows, k, dim=-1).indices
    return torch.zeros_like(rows).scatter_(-1, top, 1.0).view(values.shape)


class BatchTopK(TopK):
    """The k * batch largest of a batch, and a threshold that follows the smallest of them."""

    def start(self, config: DictionaryConfig, d_model: int) -> dict[str, Tensor]:
        """``cut``: moving average of the smallest kept value; NaN before the first step."""
        return {"cut": torch.tensor(float("nan"))}

    def export(self, config: DictionaryConfig, own: Mapping[str, Tensor]) -> dict[str, Any]:
        """A threshold for every latent."""
        cut = own["cut"].nan_to_num(0.0)
        return {"activation": "threshold", "threshold": cut.expand(config.d_sae).clone()}

    def listed(self, b: Batch) -> Listed | None:
        """The k * batch largest of the batch."""
        weights, k, name = (b.own["W_enc"], b.own["b_enc"]), _k(b.config), str(b.config.name)
        codes = batch_top_k_codes(b.x, *weights, k, b.space, name, screened=b.screened)
        return Listed(codes, b.space)

    def dense(self, configs: list[DictionaryConfig], pre: Tensor) -> Dense:
        """All others are zero."""
        n, tokens, d_sae = pre.shape
        flat = pre.relu().view(n, 1, tokens * d_sae)
        return Dense(largest(flat, [_k(c) * tokens for c in configs]).view(n, tokens, d_sae))

    def flow(self, s: Step) -> Flow:
        """One reconstruction from what was selected."""
        flow = super().flow(s)
        flow.state["smallest"] = smallest(s.layout, flow.acts)
        return flow

    def after(self, d: Done) -> None:
        """Move the threshold; one of fixed window would lag behind a short run."""
        assert isinstance(d.config, FromBatch)
        old, new = d.own["cut"], d.found.state["smallest"]
        rate = (WINDOWS / d.own["steps"]).clamp(min=d.config.threshold_rate, max=1.0)
        moved = torch.where(old.isnan(), new, old + rate * (new - old))
        old.copy_(torch.where(new.isfinite() & d.updated, moved, old))


class Matryoshka(BatchTopK):
    """BatchTopK with a reconstruction from every prefix of the latents.

    With errors ``e_m`` of the M prefixes, the gradient that reaches a latent is the sum of
    ``2 e_m / (B M)`` over the prefixes that hold it: computed block by block between prefixes, so
    that all reconstructions together cost what one does.
    """

    def flow(self, s: Step) -> Flow:
        """All reconstructions, and what each block of latents gets from them."""
        assert isinstance(s.config, MatryoshkaConfig)
        layout, W_dec, acts = s.layout, s.own["W_dec"], s.layout.pre
        edges = [0, *s.config.widths()]
        parts = [layout.part(a, b) for a, b in pairwise(edges)]
        rows = [W_dec[..., a:b, :] for a, b in pairwise(edges)]
        own = [layout.pick(acts, part) for part in parts]
        errors, error = list[Tensor](), -s.target
        for j, (part, values, weight) in enumerate(zip(parts, own, rows, strict=True)):
            error = error + part.decode(values, weight, f"part{j}")
            errors.append(error)
        share = 1 / (layout.n_tokens * len(parts))
        grads = [errors[-1] * (2 * share)]
        for error in reversed(errors[:-1]):
            grads.insert(0, grads[0] + error * (2 * share))
        into = layout.join(
            [(p, p.against(g, w)) for p, g, w in zip(parts, grads, rows, strict=True)]
        )
        blocks = [
            part.outer(values, grad, f"W_dec{j}")
            for j, (part, values, grad) in enumerate(zip(parts, own, grads, strict=True))
        ]
        return Flow(
            acts=acts,
            error=errors[-1],
            sse=squares(errors[-1]),
            loss=torch.stack([squares(e) for e in errors]).sum(0) * share,
            out=grads[0],
            into=into,
            inner=into * (acts > 0),
            W_dec=torch.cat(blocks, dim=-2),
            state={"smallest": smallest(layout, acts)},
        )


def smallest(layout: Layout, acts: Tensor) -> Tensor:
    """Smallest positive activation ``[..]``; infinity where none fired."""
    positive = torch.where(acts > 0, acts, torch.inf)
    if isinstance(layout, Dense):
        return positive.amin((1, 2))
    # A batch may have no entry at all.
    return torch.cat([positive, acts.new_full((1,), torch.inf)]).min()


def largest(x: Tensor, ks: list[int]) -> Tensor:
    """``x [n, rows, columns]`` with all but the ``ks[i]`` largest of each row set to zero."""
    values, indices = torch.topk(x, max(ks), dim=2, sorted=min(ks) != max(ks))
    if min(ks) != max(ks):
        rank = torch.arange(max(ks), device=x.device)
        limit = torch.tensor(ks, device=x.device)
        values = values * (rank < limit[:, None, None])
    return torch.zeros_like(x).scatter_(2, indices, values)


def _widest(config: DictionaryConfig) -> int:
    return config.widest if isinstance(config, TopKConfig) else _k(config)


def _k(config: DictionaryConfig) -> int:
    assert isinstance(config, FixedK)
    return config.k
