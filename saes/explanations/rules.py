"""Rules about tokens: where does a latent fire, said so that it can be checked without a judge.

A rule is a list of clauses joined by "or": on a token, after a token, two after a token, on a pair
of tokens, at a position, on a token that was there before. Steps, numbered in the body:

1. Two thirds of the contexts grow a rule greedily, each time by the clause that raises its worth
   the most. Worth = (F1 over tokens + Youden's J over contexts) / 2: the two questions that a judge
   is asked, which token and which context. J = TPR + TNR - 1, 0 for a rule that fits everything.
2. The other third cuts it back to the clauses, in their order, that are worth most there.

Source: growing and pruning of rules, Cohen 1995 (RIPPER), here with F1 and J instead of its gain.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from lensbench.saes.explanations.contexts import Context

_PAIR = 1 << 31
MOST, GAIN, SUPPORT = 64, 0.002, 2
"""Clauses at most; worth that each must add; firing tokens that each must hold."""


@dataclass(frozen=True)
class Clause:
    """One way to fire: the value of one kind of key."""

    kind: str
    key: int
    hits: int
    """Firing tokens it held when it was added, and not yet another clause."""
    said: int
    """Tokens it held in all."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """Token ids in the key, in the order of the text."""
        if self.kind == "pair":
            return (self.key // _PAIR, self.key % _PAIR)
        return () if self.kind in ("position", "repeat") else (self.key,)


@dataclass(frozen=True)
class TokenRule:
    """Clauses joined by "or"."""

    clauses: tuple[Clause, ...] = ()
    worth: float = 0.0
    """On the contexts that pruned it; optimistic."""

    def fires(self, context: Context) -> Bool[np.ndarray, " window"]:
        """At which tokens the rule says that the latent fires."""
        keys = _keys(context)
        out = np.zeros(len(context.tokens), bool)
        for kind, values in keys.items():
            wanted = [c.key for c in self.clauses if c.kind == kind]
            out |= np.isin(values, wanted)
        return out

    def to_json(self) -> list[dict[str, Any]]:
        """One mapping per clause; the key of a position is its number."""
        return [{**vars(c), "tokens": list(c.tokens)} for c in self.clauses]

    def words(self, name: Callable[[int], str], most: int = 12) -> str:
        """The rule as a sentence; ``name`` gives the text of a token id."""
        parts = [part for kind, say in _SAY.items() if (part := self._part(kind, say, name, most))]
        return "Fires " + "; ".join(parts) + "." if parts else "No token predicts it."

    def _part(self, kind: str, say: str, name: Callable[[int], str], most: int) -> str:
        mine = [c for c in self.clauses if c.kind == kind]
        if not mine or kind == "repeat":
            return say if mine else ""
        texts = [" ".join(name(t) for t in c.tokens) or str(c.key) for c in mine]
        left = f" and {len(texts) - most} more" if len(texts) > most else ""
        return f"{say} {', '.join(texts[:most])}{left}"


_SAY = {
    "token": "on",
    "pair": "at the second token of",
    "previous": "on the token after",
    "second": "two tokens after",
    "position": "at position",
    "repeat": "on a token that stood in the context before",
}


def grow_rule(contexts: Sequence[Context]) -> TokenRule:
    """The rule that best says where the latent fires; see the module for the steps.

    At most 64 clauses, each of which holds two firing tokens and adds 0.002 of worth while growing.
    An empty rule, worth 0, never fires.
    """
    grown = _grow(_Table.of([c for i, c in enumerate(contexts) if i % 3 != 2]))  # 1
    return _pruned(grown, _Table.of([c for i, c in enumerate(contexts) if i % 3 == 2]))  # 2


@dataclass(frozen=True, eq=False)
class _Table:
    """The tokens of some contexts in a row."""

    keys: dict[str, Int[np.ndarray, " tokens"]]
    fires: Bool[np.ndarray, " tokens"]
    context: Int[np.ndarray, " tokens"]
    holds: Bool[np.ndarray, " contexts"]
    """Which contexts the latent fires in."""

    @classmethod
    def of(cls, contexts: Sequence[Context]) -> "_Table":
        keys, nothing = [_keys(c) for c in contexts], np.zeros(0, np.int64)
        return cls(
            {kind: np.concatenate([nothing, *(k[kind] for k in keys)]) for kind in _SAY},
            np.concatenate([np.zeros(0, bool), *(c.fires for c in contexts)]),
            np.repeat(np.arange(len(contexts)), [len(c.tokens) for c in contexts]),
            np.array([c.fires.any() for c in contexts], bool),
        )

    def worth(self, hits: Any, said: Any, yes: Any, no: Any) -> Any:
        """Of rules that fire on ``said`` tokens, ``hits`` of them right.

        ``yes`` firing and ``no`` silent contexts hold such a token.
        """
        f1 = 2 * hits / np.maximum(said + self.fires.sum(), 1)
        n_yes = max(int(self.holds.sum()), 1)
        return (f1 + yes / n_yes - no / max(len(self.holds) - n_yes, 1)) / 2


def _grow(table: _Table) -> list[Clause]:
    free, fresh = np.ones(len(table.fires), bool), np.ones(len(table.holds), bool)
    clauses: list[Clause] = []
    worth = 0.0
    while len(clauses) < MOST and table.fires.any():
        tries = [_best(kind, table, free, fresh) for kind in _SAY]
        better, clause = max(tries, key=lambda t: t[0])  # ties: the simplest kind, which is first
        if clause is None or better < worth + GAIN:
            break
        clauses.append(clause)
        held = table.keys[clause.kind] == clause.key
        free &= ~held
        fresh[table.context[held]] = False
        worth = better
    return clauses


def _best(
    kind: str,
    table: _Table,
    free: Bool[np.ndarray, " tokens"],
    fresh: Bool[np.ndarray, " contexts"],
) -> tuple[float, Clause | None]:
    """The clause of one kind whose rule, with those there are, is worth most."""
    keys = table.keys[kind]
    open_ = free & (keys >= 0)
    if not open_.any():
        return -1.0, None
    values, index = np.unique(keys[open_], return_inverse=True)
    n, inside = len(values), table.context[open_]
    hits, said = np.bincount(index, weights=table.fires[open_]), np.bincount(index)
    pairs = np.unique(index[fresh[inside]] * len(fresh) + inside[fresh[inside]])
    which, holds = pairs // len(fresh), table.holds[pairs % len(fresh)]
    yes, no = np.bincount(which[holds], minlength=n), np.bincount(which[~holds], minlength=n)
    before = [table.fires & ~free, ~free, table.holds & ~fresh, ~table.holds & ~fresh]
    sums = [int(b.sum()) for b in before]
    worth = table.worth(hits + sums[0], said + sums[1], yes + sums[2], no + sums[3])
    worth[hits < SUPPORT] = -1.0
    at = int(worth.argmax())
    if worth[at] < 0:
        return -1.0, None
    return float(worth[at]), Clause(kind, int(values[at]), int(hits[at]), int(said[at]))


def _pruned(clauses: list[Clause], table: _Table) -> TokenRule:
    """The first clauses, as many as are worth most on contexts that did not grow them."""
    said, best = np.zeros(len(table.fires), bool), (0.0, 0)
    for n, clause in enumerate(clauses, 1):
        said |= table.keys[clause.kind] == clause.key
        in_ = np.zeros(len(table.holds), bool)
        in_[table.context[said]] = True
        counts = ((table.fires & said), said, (table.holds & in_), (~table.holds & in_))
        worth = float(table.worth(*(int(c.sum()) for c in counts)))
        if worth > best[0]:
            best = worth, n
    return TokenRule(tuple(clauses[: best[1]]), best[0])


def _keys(context: Context) -> dict[str, Int[np.ndarray, " window"]]:
    """What each kind of clause looks at, per token; -1 where there is nothing."""
    now, n = context.tokens, len(context.tokens)
    before, second = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
    before[1:], second[2:] = now[:-1], now[:-2]
    seen = np.full(n, -1, np.int64)
    first = np.unique(now, return_index=True)[1]
    seen[np.setdiff1d(np.arange(n), first)] = 1
    pair = np.where(before >= 0, before * _PAIR + now, -1)
    return {"token": now, "previous": before, "second": second, "pair": pair,
            "position": context.positions, "repeat": seen}  # fmt: skip
