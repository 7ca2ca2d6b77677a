"""Which plans of ``run_many`` run together: batches that start at their first changed place.

A batch starts at the block and token where its earliest member changes something, so members that
start later run blocks and tokens that they share with the unedited prompt. Plans are sorted by
where they start; a batch is closed when it is full, or when that waste has grown to what a further
call would cost.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lensbench.plan import Edit, Plan
from lensbench.tokens import Tokens

CALL_ON_CPU, CALL_ON_DEVICE = 192, 8192
"""What calling a block costs beside its arithmetic, in tokens: measured at d_model 64 on one CPU
thread (benchmarks/patching.py); a device is idle until it gets thousands."""


@dataclass(frozen=True)
class Chunk:
    """Plans that run together: their indices, common skips and stop, first block and column."""

    members: tuple[int, ...]
    plan: Plan
    start: int
    column: int


def make_chunks(
    n_layers: int,
    prompts: Tokens,
    plans: Sequence[Plan],
    columns: Sequence[int],
    batch_size: int,
) -> list[Chunk]:
    """All plans in batches of at most ``batch_size``; ``columns``: where each begins to differ."""
    call = CALL_ON_CPU if prompts.ids.device.type == "cpu" else CALL_ON_DEVICE
    width = prompts.n_pos
    starts = [_start(plan, n_layers) for plan in plans]
    order = sorted(
        range(len(plans)),
        key=lambda i: (sorted(plans[i].skips), plans[i].stop or -1, starts[i], columns[i]),
    )
    groups: list[list[int]] = []
    for i in order:
        if (
            groups
            and _joins(groups[-1], i, plans, batch_size)
            and not _too_far(
                [(starts[m], columns[m]) for m in (*groups[-1], i)], n_layers, width, call
            )
        ):
            groups[-1].append(i)
        else:
            groups.append([i])
    return [_chunk(group, plans, starts, columns) for group in groups]


def _joins(group: list[int], i: int, plans: Sequence[Plan], batch_size: int) -> bool:
    first = plans[group[0]]
    same = (first.skips, first.stop) == (plans[i].skips, plans[i].stop)
    return same and len(group) < batch_size


def _too_far(where: list[tuple[int, int]], n_layers: int, width: int, call: int) -> bool:
    """Would a call of its own have cost less than what the members run in vain?"""
    start, column = min(s for s, _ in where), min(c for _, c in where)
    each = (n_layers - start) * (width - column)
    wasted = sum(each - (n_layers - s) * (width - c) for s, c in where)
    return wasted > call * (n_layers - where[-1][0])


def _chunk(
    group: list[int], plans: Sequence[Plan], starts: Sequence[int], columns: Sequence[int]
) -> Chunk:
    edits = tuple(_in_row(edit, row) for row, i in enumerate(group) for edit in plans[i].edits)
    first = plans[group[0]]
    plan = Plan(edits, first.skips, first.stop)
    return Chunk(tuple(group), plan, min(starts[i] for i in group), min(columns[i] for i in group))


def _in_row(edit: Edit, row: int) -> Edit:
    """The edit in one row; it has been checked, so this is a plain copy."""
    copy = object.__new__(Edit)
    copy.__dict__.update(edit.__dict__, rows=(row,))
    return copy


def _start(plan: Plan, n_layers: int) -> int:
    layers = [n_layers if (f := plan.first_layer()) is None else f, *plan.skips]
    layers.append(n_layers if plan.stop is None else plan.stop)
    return max(min(*layers, n_layers - 1), 0)


def first_column(plan: Plan, width: int) -> int:
    """First token whose states the plan can change, in a prompt of ``width`` tokens; else 0."""
    if plan.skips or plan.stop is not None or not plan.edits:
        return 0
    found = width
    for edit in plan.edits:
        if edit.positions is None or any(not -width <= p < width for p in edit.positions):
            return 0
        found = min(found, *(p % width for p in edit.positions))
    return found
