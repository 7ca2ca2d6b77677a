"""What a decoding run has to compute, call by call, told from its trace.

The same calls that the engines make of a :class:`~lensbench.models.ranges.LayerRunner`: ranges of
layers over runs of tokens, heads, keys stored without their block. Their sums are the runner's own
counters, number for number, and every cost is a function of them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Int

from lensbench.interventions.acceleration.skipping.route import Route
from lensbench.interventions.acceleration.speculative.del_rule import WARM_UP
from lensbench.interventions.acceleration.study.trace import ExitTrace, Trace
from lensbench.models.ranges import Sublayer

Span = tuple[int, int, int, int]
"""First layer, one past the last, tokens, and the column of the first token."""


@dataclass(frozen=True, eq=False)
class Work:
    """Calls of one run, in any order."""

    spans: Int[np.ndarray, "calls 4"]
    heads: tuple[int, ...]
    """States unembedded, per call of the head."""
    filled: int = 0
    """Keys and values stored without their block, tokens times layers."""
    rounds: int = 0
    """Rounds of drafting and checking; new tokens of a run without."""
    reads: int = 0
    """Times that somebody asks how sure logits are."""
    omit: frozenset[Sublayer] = field(default=frozenset())

    @property
    def layers(self) -> Int[np.ndarray, " calls"]:
        """Layers of each call."""
        return self.spans[:, 1] - self.spans[:, 0]

    @property
    def cold(self) -> Bool[np.ndarray, " calls"]:
        """Calls of upper layers since whose last one lower layers ran twice or more."""
        upper = self.spans[:, 0] > 0
        lower = np.concatenate([[0], (~upper).cumsum()])[:-1]
        before = np.maximum.accumulate(np.where(upper, lower, 0))
        last = np.concatenate([[0], before[:-1]])
        return upper & (lower - last >= 2)

    def halves(self, n_layers: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens that pass attention and MLP of each layer, ``[n_layers]`` each."""
        through = np.zeros(n_layers + 1, dtype=np.int64)
        np.add.at(through, self.spans[:, 0], self.spans[:, 2])
        np.subtract.at(through, self.spans[:, 1], self.spans[:, 2])
        tokens = through.cumsum()[:-1]
        keep = np.ones((2, n_layers), dtype=np.int64)
        for half, layer in self.omit:
            keep[int(half == "mlp"), layer] = 0
        return tokens * keep[0], tokens * keep[1]

    def counts(self, n_layers: int) -> dict[str, int]:
        """What the counters of a live run would read."""
        attention, mlp = self.halves(n_layers)
        keep = np.ones((2, n_layers), dtype=np.int64)
        for half, layer in self.omit:
            keep[int(half == "mlp"), layer] = 0
        runs = np.concatenate([[0], keep.any(0).cumsum()])
        pairs = np.concatenate([[0], keep[0].cumsum()])
        first, last, tokens, at = self.spans.T
        attended = tokens * at + tokens * (tokens + 1) // 2
        return {
            "attention": int(attention.sum()),
            "mlp": int(mlp.sum()),
            "heads": sum(self.heads),
            "filled": self.filled,
            "calls": int((runs[last] - runs[first]).sum()),
            "attended": int(((pairs[last] - pairs[first]) * attended).sum()),
        }


def work_plain(n_layers: int, n_prompt: int, n_new: int) -> Work:
    """Token by token through all layers."""
    spans = [(0, n_layers, n_prompt, 0)]
    spans += [(0, n_layers, 1, n_prompt + t) for t in range(n_new - 1)]
    return _work(spans, [1] * n_new, rounds=n_new)


def work_rounds(n_layers: int, trace: Trace, *, unsure: bool = False) -> Work:
    """Rounds of a draft that is a prefix of the layers, which the check goes on from.

    ``unsure``: after each draft it is asked how sure it was.
    """
    spans, heads = list[Span](), list[int]()
    start, text = 0, trace.n_prompt
    for entry in trace.rounds:
        e = entry.exit_layer or n_layers  # without a draft it does not matter
        spans.append((0, e, text - start, start))
        spans += [(0, e, 1, text + i) for i in range(entry.drafted)]
        spans.append((e, n_layers, text - start + entry.drafted, start))
        heads += [*([1] * entry.drafted), entry.drafted + 1]
        start, text = text + entry.accepted, text + entry.accepted + 1
    reads = sum(r.drafted for r in trace.rounds) if unsure else 0
    return _work(spans, heads, rounds=len(trace.rounds), reads=reads)


def work_del(n_layers: int, trace: Trace) -> Work:
    """Rounds of DEL: those of a prefix, and the readings of every layer after each but the last."""
    plain = work_rounds(n_layers, trace, unsure=True)
    reads = plain.reads + (len(trace.rounds) - 1) * (n_layers - 1)
    heads = list(plain.heads)
    for number, entry in enumerate(trace.rounds[:-1]):
        before = min(WARM_UP, trace.n_prompt) - 1 if number == 0 else 0
        heads += [before] if before else []
        heads += [before + entry.accepted + 1] * (n_layers - 1)
    return _work(plain.spans, heads, rounds=plain.rounds, reads=reads)


def work_exits(
    n_layers: int,
    trace: ExitTrace,
    exits: Sequence[int],
    *,
    copied: bool = False,
    reads_logits: bool = True,
    oracle: bool = False,
) -> Work:
    """Tokens that leave early: waiting states go along with the next token that goes further.

    ``copied``: their states are handed to the layers above instead. ``reads_logits``: confidence
    needs a head at every exit that is passed, and not only where the token leaves. ``oracle``:
    every layer runs and is read, only to know where a token might have left.
    """
    spans, heads, filled = list[Span](), list[int](), 0
    waiting = [0] * (n_layers + 1)
    read = 0
    if copied and trace.n_prompt > 1:
        read = trace.n_prompt - 1
        spans.append((0, n_layers, read, 0))
    for t, left in enumerate(trace.exits):
        waiting[0] += trace.n_prompt + t - read
        read = trace.n_prompt + t
        for layer in range(n_layers if oracle else left):
            tokens, waiting[layer] = waiting[layer], 0
            spans.append((layer, layer + 1, tokens, read - tokens))
            waiting[layer + 1] += tokens
        waiting[n_layers] = 0
        passed = sum(e <= left for e in exits) + (left == n_layers)
        heads += [n_layers] if oracle else [1] * (passed if reads_logits else 1)
        if copied and left < n_layers:
            filled += n_layers - left
            waiting[left] = 0
    reads = len(heads) if reads_logits and not oracle else 0
    return _work(spans, heads, filled=filled, rounds=len(trace.exits), reads=reads)


def work_free(n_layers: int, trace: ExitTrace, exit_layer: int) -> Work:
    """One shallow exit; the next token that does not leave takes all that wait through the rest."""
    spans, heads, deep = list[Span](), list[int](), 0
    for t, left in enumerate(trace.exits):
        end = trace.n_prompt + t
        start = 0 if t == 0 else end - 1
        spans.append((0, exit_layer, end - start, start))
        heads.append(1)
        if left > exit_layer:
            spans.append((exit_layer, n_layers, end - deep, deep))
            heads.append(1)
            deep = end
    return _work(spans, heads, rounds=len(trace.exits), reads=len(trace.exits))


def work_route(route: Route, n_prompt: int, n_new: int) -> Work:
    """Token by token along a route."""
    spans: list[Span] = []
    for t in range(n_new):
        tokens, at = (n_prompt, 0) if t == 0 else (1, n_prompt + t - 1)
        spans += [(first, last, tokens, at) for first, last in _stretches(route.order)]
    return _work(spans, [1] * n_new, rounds=n_new, omit=route.omit)


def work_budgets(rows: Iterable[Sequence[int]], n_prompt: int) -> Work:
    """Token by token, each through its own blocks; the prompt passes those of the first."""
    spans: list[Span] = []
    n_new = 0
    for t, row in enumerate(rows):
        tokens, at = (n_prompt, 0) if t == 0 else (1, n_prompt + t - 1)
        spans += [(first, last, tokens, at) for first, last in _stretches(row)]
        n_new += 1
    return _work(spans, [1] * n_new, rounds=n_new)


def _stretches(order: Sequence[int]) -> list[tuple[int, int]]:
    """Layers that follow one another, as (first, one past the last)."""
    cuts = [i for i in range(1, len(order)) if order[i] != order[i - 1] + 1]
    pairs = zip([0, *cuts], [*cuts, len(order)], strict=True)
    return [(order[a], order[b - 1] + 1) for a, b in pairs if b > a]


def _work(
    spans: Sequence[Span] | np.ndarray,
    heads: Sequence[int],
    *,
    filled: int = 0,
    rounds: int,
    reads: int = 0,
    omit: frozenset[Sublayer] = frozenset(),
) -> Work:
    rows = np.asarray(spans, dtype=np.int64).reshape(-1, 4)
    keep = (rows[:, 1] > rows[:, 0]) & (rows[:, 2] > 0)
    return Work(rows[keep], tuple(heads), filled, rounds, reads, omit)
