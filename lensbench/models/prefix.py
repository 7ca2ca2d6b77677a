"""What the plans of ``run_many`` share: the prompts' own run, once each.

Blocks before a plan's first edit give the same residual stream, and, in a causal model, tokens
before its first edited one give the same keys and values in every block. Both are kept from one run
per prompt and handed to the batches that start from there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lensbench.models.base import Past
from lensbench.models.chunks import Chunk
from lensbench.models.families import Architecture
from lensbench.models.past import Kept, cache_of, keys_and_values
from lensbench.models.trunk import Request, Trunk
from lensbench.plan import Plan
from lensbench.sites import Site
from lensbench.tokens import Tokens
from lensbench.types import LogitsMode

PLANS_PER_PROMPT = 8
"""Least plans per prompt for which keeping keys and values of all blocks is worth a whole run."""


@dataclass(frozen=True)
class Wanted:
    """What a call of ``run_many`` asked for."""

    capture: tuple[Site, ...]
    logits: LogitsMode
    batch_size: int


@dataclass
class Prefix:
    """States of the prompts' own run."""

    acts: dict[Site, Tensor] = field(default_factory=dict[Site, Tensor])
    cache: dict[int, tuple[Tensor, Tensor]] = field(
        default_factory=dict[int, tuple[Tensor, Tensor]]
    )
    """Keys and values by block, where batches start at a later token."""
    layers_run: int = 0

    def states(self, start: int, pick: Tensor, column: int) -> Tensor | None:
        """Residual stream entering block ``start`` of some prompts, from a column on."""
        return None if start == 0 else self.acts[Site("resid_pre", start)][pick, column:]

    def past(self, start: int, pick: Tensor, column: int) -> Past:
        """Keys and values of the tokens before ``column``, of blocks from ``start`` on."""
        kept = {i: (k[pick, :, :column], v[pick, :, :column])
                for i, (k, v) in self.cache.items() if i >= start}  # fmt: skip
        real = torch.ones(len(pick), column, dtype=torch.bool, device=pick.device)
        return Past(Kept(own := cache_of(kept, column), own), real)

    def early(self, start: int, wanted: Wanted) -> list[Site]:
        """Captures that lie before block ``start``."""
        return [s for s in wanted.capture if _before(s, start)] if start else []


def _before(site: Site, start: int) -> bool:
    return site.name == "embed" or (site.layer is not None and site.layer < start)


def can_cut(
    architecture: Architecture, prompts: Tokens, plans: Sequence[Plan], wanted: Wanted
) -> bool:
    """Whether tokens before a plan's first edited one need not be run again."""
    causal = architecture.causal and not (architecture.two_stacks or architecture.recurrent)
    plain = prompts.mask is None or bool(prompts.mask.all())
    asked = wanted.logits == "last" and not wanted.capture
    return causal and plain and asked and len(plans) >= PLANS_PER_PROMPT * prompts.n_rows


def run_prefix(trunk: Trunk, prompts: Tokens, chunks: Sequence[Chunk], wanted: Wanted) -> Prefix:
    """Everything that the chunks take from the prompts' own run."""
    starts = {chunk.start for chunk in chunks} - {0}
    sites = {Site("resid_pre", s) for s in starts}
    sites |= {s for s in wanted.capture if _before(s, max(starts, default=0))}
    cut = any(chunk.column for chunk in chunks)
    if not (sites or cut):
        return Prefix()
    acts: dict[Site, list[Tensor]] = {site: [] for site in sorted(sites)}
    caches: list[dict[int, tuple[Tensor, Tensor]]] = []
    layers_run = 0
    for index in torch.arange(prompts.n_rows, device=prompts.ids.device).split(wanted.batch_size):
        past = Past() if cut else None
        out, _ = trunk.forward(
            Request(batch=pick_rows(prompts, index), capture=list(acts), logits="none", past=past)
        )
        layers_run += out.layers_run
        for site, kept in acts.items():
            kept.append(out.acts[site])
        if out.past is not None:
            caches.append(keys_and_values(out.past))
    cache = {
        layer: (torch.cat([c[layer][0] for c in caches]), torch.cat([c[layer][1] for c in caches]))
        for layer in (caches[0] if caches else ())
    }
    return Prefix({site: torch.cat(kept) for site, kept in acts.items()}, cache, layers_run)


def pick_rows(tokens: Tokens, index: Tensor) -> Tokens:
    """Some rows of a batch."""

    def pick(x: Tensor | None) -> Tensor | None:
        return None if x is None else x[index]

    return Tokens(tokens.ids[index], pick(tokens.mask), pick(tokens.decoder_ids))
