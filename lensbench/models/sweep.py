"""Many plans in one batch: the prefix once, then every plan's own row from the first edited block.

1. Plans are grouped by what they skip and sorted by the first block they change.
2. Per prompt, blocks before that are run once, keeping the residual stream at each start.
3. Each batch of rows starts at its first edited block; edits are indexed by row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.models.base import Acts, Forward
from lensbench.models.trunk import Request, Trunk
from lensbench.plan import Plan
from lensbench.sites import Site
from lensbench.tokens import Tokens
from lensbench.types import LogitsMode


@dataclass(frozen=True)
class _Chunk:
    """Plans that run together: their indices, common skips and stop, and first block."""

    members: tuple[int, ...]
    plan: Plan
    start: int


def run_many(
    trunk: Trunk,
    n_layers: int,
    tokens: Tokens,
    plans: Sequence[Plan],
    capture: Sequence[Site],
    mode: LogitsMode,
    batch_size: int,
) -> Forward:
    """See :meth:`lensbench.models.base.Model.run_many`."""
    batch_size = whole_number("batch_size", batch_size, least=1)
    if not plans:
        raise ConfigError("run_many got no plans")
    if tokens.n_rows not in (1, len(plans)):
        raise ConfigError(
            f"got {tokens.n_rows} rows for {len(plans)} plans; give one row, or one per plan"
        )
    if any(edit.rows is not None for plan in plans for edit in plan.edits):
        raise ConfigError("plans of run_many must not name rows: plan i is row i")
    # An encoder's blocks come before the decoder's first, so with two stacks nothing is shared.
    chunks = _chunks(0 if trunk.architecture.two_stacks else n_layers, plans, batch_size)
    prompts, prompt_of = _distinct(tokens, len(plans))
    prefix, cost = _prefix(trunk, prompts, chunks, capture, batch_size)
    logits: list[Tensor | None] = [None] * len(plans)
    acts: dict[Site, list[Tensor]] = {site: [torch.empty(0)] * len(plans) for site in capture}
    for chunk in chunks:
        out = _run_chunk(trunk, prompts, prompt_of, chunk, prefix, capture, mode)
        cost += out.layers_run
        for row, member in enumerate(chunk.members):
            logits[member] = None if out.logits is None else out.logits[row]
            for site in capture:
                acts[site][member] = out.acts[site][row]
    stacked = Acts({site: torch.stack(rows) for site, rows in acts.items()})
    found = [t for t in logits if t is not None]
    return Forward(torch.stack(found) if found else None, stacked, None, cost)


def _chunks(n_layers: int, plans: Sequence[Plan], batch_size: int) -> list[_Chunk]:
    def start(plan: Plan) -> int:
        layers = [n_layers if (f := plan.first_layer()) is None else f, *plan.skips]
        layers.append(n_layers if plan.stop is None else plan.stop)
        return max(min(*layers, n_layers - 1), 0)

    order = sorted(
        range(len(plans)),
        key=lambda i: (sorted(plans[i].skips), plans[i].stop or -1, start(plans[i])),
    )
    chunks: list[_Chunk] = []
    for i in order:
        same = chunks and (chunks[-1].plan.skips, chunks[-1].plan.stop) == (
            plans[i].skips,
            plans[i].stop,
        )
        if same and len(chunks[-1].members) < batch_size:
            last = chunks.pop()
        else:
            last = _Chunk((), Plan(skips=plans[i].skips, stop=plans[i].stop), start(plans[i]))
        row = len(last.members)
        edits = tuple(replace(e, rows=(row,)) for e in plans[i].edits)
        chunks.append(
            _Chunk((*last.members, i), last.plan + Plan(edits), min(last.start, start(plans[i])))
        )
    return chunks


def _distinct(tokens: Tokens, n: int) -> tuple[Tokens, Tensor]:
    """The prompts without repeats, and the prompt of each of ``n`` plans."""
    device = tokens.ids.device
    if tokens.n_rows == 1:
        return tokens, torch.zeros(n, dtype=torch.long, device=device)
    parts = [p for p in (tokens.ids, tokens.mask, tokens.decoder_ids) if p is not None]
    rows = torch.cat([p.long() for p in parts], dim=1)
    _, number = torch.unique(rows, dim=0, return_inverse=True)
    n_prompts = int(number.max()) + 1
    if n_prompts == n:
        return tokens, torch.arange(n, device=device)
    first = torch.full((n_prompts,), n, device=device)
    first = first.scatter_reduce(0, number, torch.arange(n, device=device), "amin")
    return _rows(tokens, first), number


def _prefix(
    trunk: Trunk,
    prompts: Tokens,
    chunks: Sequence[_Chunk],
    capture: Sequence[Site],
    batch_size: int,
) -> tuple[dict[Site, Tensor], int]:
    """Residual stream at every start, and captures before the earliest one, once per prompt."""
    starts = {chunk.start for chunk in chunks} - {0}
    wanted = {Site("resid_pre", s) for s in starts}
    early = {
        s
        for s in capture
        if s.name == "embed" or (s.layer is not None and s.layer < max(starts, default=0))
    }
    if not wanted:
        return {}, 0
    parts: dict[Site, list[Tensor]] = {site: [] for site in sorted(wanted | early)}
    cost = 0
    for index in torch.arange(prompts.n_rows, device=prompts.ids.device).split(batch_size):
        request = Request(batch=_rows(prompts, index), capture=list(parts), logits="none")
        out, _ = trunk.forward(request)
        cost += out.layers_run
        for site, kept in parts.items():
            kept.append(out.acts[site])
    return {site: torch.cat(kept) for site, kept in parts.items()}, cost


def _run_chunk(
    trunk: Trunk,
    prompts: Tokens,
    prompt_of: Tensor,
    chunk: _Chunk,
    prefix: dict[Site, Tensor],
    capture: Sequence[Site],
    mode: LogitsMode,
) -> Forward:
    pick = prompt_of[list(chunk.members)]
    rows = _rows(prompts, pick)
    if chunk.start == 0:
        whole = Request(batch=rows, plan=chunk.plan, capture=capture, logits=mode)
        return trunk.forward(whole)[0]
    early = [
        s for s in capture if s.name == "embed" or (s.layer is not None and s.layer < chunk.start)
    ]
    late = [s for s in capture if s not in early]
    h = prefix[Site("resid_pre", chunk.start)][pick]
    out, _ = trunk.forward(
        Request(batch=rows, plan=chunk.plan, capture=late, logits=mode, start=chunk.start, h=h)
    )
    acts = {Site.parse(k): v for k, v in out.acts.items()}
    acts |= {s: prefix[s][pick] for s in early}
    return Forward(out.logits, Acts(acts), None, out.layers_run)


def _rows(tokens: Tokens, index: Tensor) -> Tokens:
    def pick(x: Tensor | None) -> Tensor | None:
        return None if x is None else x[index]

    return Tokens(tokens.ids[index], pick(tokens.mask), pick(tokens.decoder_ids))
