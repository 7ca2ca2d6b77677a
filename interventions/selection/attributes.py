"""Attribute heads: which heads carry what they read at an entity straight into the answer?

1. What head h brings from the entity to the last token is ``sum over its tokens s of
   pattern[last, s] v[s]``; without it, its layer's ``attn_out`` at the last token is another one.
2. That difference is taken out of the last residual stream: the answer's logit falls by the direct
   effect, whatever later layers would have made of it.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.interventions.patching.engine import pick_rows
from lensbench.interventions.selection.entities import EntityPrompts
from lensbench.interventions.steering.rows import batch_of
from lensbench.interventions.values import groups
from lensbench.models.base import Forward, Model
from lensbench.ops import Add
from lensbench.plan import Edit, Plan
from lensbench.sites import Site
from lensbench.tokens import Tokens


def attribute_effects(
    model: Model, prompts: EntityPrompts, *, after: str | Site | None = None, batch_size: int = 64
) -> Float[np.ndarray, "layers heads"]:
    """Direct effect on the answer of what each head brings from the entity to the last token.

    ``E[(l_a - mean l)(clean) - (l_a - mean l)(last state less the head's part)]``, l the logits and
    a the answer, nats; over prompts of the first class. Heads before ``after`` are NaN. After
    Ferrando et al. 2024, arXiv:2411.14257, and Nanda et al. 2023, Fact Finding.

    Raises:
        ConfigError: prompts without answers, or none of the first class.

    Example:
        >>> known = interventions.entities_of_pairs(model, pairs, "subject")
        >>> effects = interventions.attribute_effects(model, known)
    """
    if prompts.answer is None:
        raise ConfigError("attribute heads are those that write the answer: prompts need answer=")
    if not prompts.first.any():
        raise ConfigError(f"no prompt is about a {prompts.classes[0]} entity")
    mine = prompts.select(prompts.first)
    behind = None if after is None else Site.parse(after)
    layers = [n for n in range(model.card.n_layers)
              if behind is None or Site("attn.pattern", n) > behind]  # fmt: skip
    found = np.full((model.card.n_layers, model.card.n_heads), np.nan)
    if not layers:
        return found
    found[layers] = 0.0
    for part in groups(len(mine), whole_number("batch_size", batch_size, least=1)):
        some = mine.select(part)
        tokens = batch_of(model, [list(row) for row in some.rows])
        for layer in layers:
            for head in range(model.card.n_heads):
                found[layer, head] += _effect(model, some, tokens, layer, head)
    return found / len(mine)


def _effect(model: Model, some: EntityPrompts, tokens: Tokens, layer: int, head: int) -> float:
    """Sum over some prompts."""
    out_site, end = Site("attn_out", layer), Site("resid_post", model.card.n_layers - 1)
    sites = [Site("attn.pattern", layer), Site("attn.v", layer), out_site]
    clean = model.run(tokens, capture=sites, logits="last")
    brought = _brought(some, clean, sites[0], sites[1], head)
    alike = {"positions": (-1,)}
    plans = [Plan((Edit(Site("attn.z", layer), Add(-x), heads=(head,), **alike),)) for x in brought]
    every = pick_rows(tokens, list(range(len(some))))
    without = model.run_many(every, plans, [out_site], logits="none")
    parts = (clean.acts[out_site] - without.acts[out_site])[:, -1].float().cpu()
    steps = [Plan((Edit(end, Add(-part), **alike),)) for part in parts]
    stepped = model.run_many(every, steps, logits="last")
    return float((_stands_out(some, clean) - _stands_out(some, stepped)).sum())


def _brought(some: EntityPrompts, out: Forward, pattern: Site, v: Site, head: int) -> list[Tensor]:
    """``sum_s pattern[last, s] v[s]`` over the entity's tokens, of each prompt."""
    weights, values = out.acts[pattern].float().cpu(), out.acts[v].float().cpu()
    shared = weights.shape[1] // values.shape[2]  # query heads of one key-value head
    found: list[Tensor] = []
    for row, (ids, own) in enumerate(zip(some.rows, some.tokens, strict=True)):
        at = [weights.shape[-1] - len(ids) + i for i in own]
        found.append(weights[row, head, -1, at] @ values[row, at, head // shared])
    return found


def _stands_out(some: EntityPrompts, out: Forward) -> Tensor:
    """Logit of the answer less the mean logit."""
    assert out.logits is not None
    assert some.answer is not None
    last = out.logits[:, -1].double().cpu()
    rows: Any = torch.arange(len(last))
    return last[rows, torch.tensor(some.answer)] - last.mean(-1)


def best_heads(effects: Float[np.ndarray, "layers heads"], n: int) -> list[tuple[int, int]]:
    """The ``n`` heads of greatest direct effect, as (layer, head).

    Raises:
        ConfigError: fewer heads stand behind the site.
    """
    known = int(np.isfinite(effects).sum())
    if n > known:
        raise ConfigError(f"{n} heads are asked for and {known} stand behind the site")
    order = np.argsort(-np.where(np.isfinite(effects), effects, -np.inf), axis=None, kind="stable")
    return [(int(i) // effects.shape[1], int(i) % effects.shape[1]) for i in order[:n]]
