"""Many plans in one batch: what they share once, then every plan's own row from where it differs.

1. Plans are grouped by what they skip and sorted by the first block and token they change.
2. Per prompt, what comes before is run once (:mod:`lensbench.models.prefix`).
3. Each batch of rows starts at its first edited block and token; edits are indexed by row.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.models.base import Acts, Forward
from lensbench.models.chunks import Chunk, call_cost, first_column, make_chunks
from lensbench.models.prefix import Prefix, Wanted, can_cut, pick_rows, run_prefix
from lensbench.models.trunk import Request, Trunk
from lensbench.plan import Plan
from lensbench.sites import Site
from lensbench.tokens import Tokens
from lensbench.types import LogitsMode

_told: "ContextVar[Callable[[int], object] | None]" = ContextVar("told", default=None)


@contextmanager
def rows_told(call: Callable[[int], object], n: int) -> Generator[None]:
    """Tell ``call`` how many of ``n`` rows each batch of :func:`run_many` has done meanwhile.

    What a back end does not tell batch by batch is told at the end.
    """
    seen = 0

    def told(rows: int) -> None:
        nonlocal seen
        seen += rows
        call(rows)

    token = _told.set(told)
    try:
        yield
    finally:
        _told.reset(token)
    call(n - seen)


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
    prompts, prompt_of = _distinct(tokens, len(plans))
    wanted = Wanted(tuple(capture), mode, batch_size)
    cut = trunk.keeps_past and can_cut(trunk.architecture, prompts, plans, wanted)
    columns = [first_column(plan, prompts.n_pos) if cut else 0 for plan in plans]
    # An encoder's blocks come before the decoder's first, so with two stacks nothing is shared.
    depth = 0 if trunk.architecture.two_stacks else n_layers
    call = call_cost(prompts.ids.device, trunk.d_model)
    chunks = make_chunks(depth, prompts, plans, columns, batch_size, call)
    prefix = run_prefix(trunk, prompts, chunks, wanted)
    cost = prefix.layers_run
    logits: list[Tensor | None] = [None] * len(plans)
    acts: dict[Site, list[Tensor]] = {site: [torch.empty(0)] * len(plans) for site in capture}
    tell = _told.get()
    for chunk in chunks:
        out = _run_chunk(trunk, prompts, prompt_of, chunk, prefix, wanted)
        cost += out.layers_run
        if tell is not None:
            tell(len(chunk.members))
        for row, member in enumerate(chunk.members):
            logits[member] = None if out.logits is None else out.logits[row]
            for site in capture:
                acts[site][member] = out.acts[site][row]
    stacked = Acts({site: torch.stack(rows) for site, rows in acts.items()})
    found = [t for t in logits if t is not None]
    return Forward(torch.stack(found) if found else None, stacked, None, cost)


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
    return pick_rows(tokens, first), number


def _run_chunk(
    trunk: Trunk,
    prompts: Tokens,
    prompt_of: Tensor,
    chunk: Chunk,
    prefix: Prefix,
    wanted: Wanted,
) -> Forward:
    pick = prompt_of[list(chunk.members)]
    rows = pick_rows(prompts, pick)
    if chunk.start == 0 and chunk.column == 0:
        whole = Request(batch=rows, plan=chunk.plan, capture=wanted.capture,
                        logits=wanted.logits, narrow=True)  # fmt: skip
        return trunk.forward(whole)[0]
    early = prefix.early(chunk.start, wanted)
    late = [s for s in wanted.capture if s not in early]
    request = Request(
        batch=Tokens(rows.ids[:, chunk.column :]) if chunk.column else rows,
        plan=chunk.plan,
        capture=late,
        logits=wanted.logits,
        start=chunk.start,
        h=prefix.states(chunk.start, pick, chunk.column),
        past=prefix.past(chunk.start, pick, chunk.column) if chunk.column else None,
        narrow=True,
    )
    out, _ = trunk.forward(request)
    acts = {Site.parse(k): v for k, v in out.acts.items()}
    acts |= {s: prefix.acts[s][pick] for s in early}
    return Forward(out.logits, Acts(acts), None, out.layers_run)
