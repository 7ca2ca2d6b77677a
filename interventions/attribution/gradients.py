"""Gradients of a metric at the sites of a run: one pass forward, one back per question.

A question is a metric of some prompts' last logits. Two are asked of each pass: the prompts' own,
and as a control that of other prompts (their answers and foils with these prompts' activations).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lensbench.errors import ConfigError, NonFiniteError
from lensbench.interventions.metrics import Metric, ends_of
from lensbench.models.base import Model
from lensbench.plan import Plan
from lensbench.prompts.pairs import PromptPairs
from lensbench.sites import Site
from lensbench.tokens import Tokens


@dataclass(frozen=True)
class Question:
    """A metric, and the prompts whose answers, foils and clean logits it is about."""

    metric: Metric
    pairs: PromptPairs
    clean: Tensor
    """Clean logits at the last token, ``[pairs, d_vocab]``."""

    def of(self, logits: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """The metric of last logits ``[rows, d_vocab]`` of these prompts, repeats allowed."""
        if rows is None:
            return self.metric(ends_of(self.pairs, logits[:, None], self.clean))
        return self.metric(ends_of(self.pairs.select(rows), logits[:, None], self.clean[rows]))


@dataclass(frozen=True)
class Traced:
    """A run whose activations can be differentiated by."""

    acts: Mapping[Site, Tensor]
    logits: Tensor
    """At the last token, ``[batch, d_vocab]``."""

    def slopes(self, total: Tensor, sites: Sequence[Site]) -> dict[Site, Tensor]:
        """``d total / d acts`` at ``sites``; the graph is kept."""
        return dict(zip(sites, grads(total, [self.acts[s] for s in sites]), strict=True))


def traced(
    model: Model,
    tokens: Tokens,
    sites: Sequence[Site],
    plan: Plan = Plan(),  # noqa: B008
) -> Traced:
    """One pass with gradients, kept at ``sites``.

    Raises:
        ConfigError: whole numbers at a site, which have no gradient.
    """
    wanted = list(dict.fromkeys(sites))
    out = model.run(tokens, plan, capture=wanted, logits="last", grad=True)
    assert out.logits is not None
    acts = {site: out.acts[site] for site in wanted}
    if whole := [s for s, x in acts.items() if not x.is_floating_point()]:
        raise ConfigError(f"{whole[0]} holds whole numbers, which have no gradient; patch it")
    return Traced(acts, out.logits[:, -1])


def grads(total: Tensor, at: Sequence[Tensor], out: Tensor | None = None) -> list[Tensor]:
    """``d total / d at`` (with ``out``: its product with these cotangents); 0 where not reached.

    Raises:
        NonFiniteError: NaN in a gradient.
    """
    # Sites on no path to the metric (a later pattern, an unread head) have no gradient at all.
    found: Any = torch.autograd.grad(total, list(at), out, retain_graph=True, allow_unused=True)
    filled = [torch.zeros_like(x) if g is None else g for x, g in zip(at, found, strict=True)]
    if any(bool(g.isnan().any()) for g in filled):
        raise NonFiniteError("a gradient is NaN; run the model in float32, or try other prompts")
    return filled
