"""Reading concepts off a hypervector: queries, and which of them to believe.

1. v: the encoded state. For every subset S of the concepts that stand in the prompt, q_S is v
   unbound by all of S, and its scores are the similarities of q_S with every concept.
2. A query is discarded if one of S is itself above the threshold there: the vector then still holds
   what was to be taken out. Threshold: 6.4 standard deviations of chance, 6.4 / sqrt(dim) in MAP
   (the published 0.1 at 4,096 dimensions).
3. *Label-free rule*: larger subsets first, and among equally large ones those whose concepts stand
   later in the prompt; the first query kept whose best score is above the threshold answers. If
   none is, there is no answer, which counts as wrong.
   With a *solver* the vector is taken apart instead: the bound pairs it holds are found one after
   the other, and the pair of the concept mentioned latest answers
   (:mod:`~lensbench.probes.hd.solving`). Below the threshold there is no answer here either.
4. *Gold-target rule*, as the released code has it: of all queries kept, the one that ranks the
   right word best. It needs the answer it is to find, so it is an upper bound and no reading.

Source: arXiv:2509.25045; the label-free rule's order among equal subsets is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, MismatchError, UnknownNameError
from lensbench.probes.hd.ingest import LayerStates
from lensbench.probes.hd.memory import ItemMemory
from lensbench.probes.hd.prompts import ConceptPrompts
from lensbench.probes.hd.solving import SOLVERS, Solver, solve_bundle
from lensbench.results import Controls, Result
from lensbench.stats import Interval, bootstrap_mean

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SOLVER: Solver = "greedy"
"""Never worse than the others on planted bundles (tests/ground_truth/test_hd_solvers.py)."""
KEPT = 5
"""How many concepts of the answering query are kept."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HDReading(Result):
    """What was read from each prompt."""

    texts: tuple[str, ...]
    targets: tuple[str, ...]
    groups: tuple[str, ...]
    query: tuple[str, ...]
    """Concepts unbound by the query that answered, joined by `` * ``; "" where none did."""
    answered: Bool[np.ndarray, " prompts"]
    found: tuple[tuple[str, ...], ...]
    """The concepts most similar to the answering query, best first."""
    similarity: Float[np.ndarray, "prompts kept"]
    kinds: tuple[str, ...]
    """What the first of them is: target, key, value or context of the prompt, other, or none."""
    rank: Float[np.ndarray, " prompts"]
    """Rank of the target under the label-free rule, 1 best; infinite without an answer."""
    gold_rank: Float[np.ndarray, " prompts"]
    """Rank under the gold-target rule."""
    support: Float[np.ndarray, " prompts"]
    """Similarity of the model's own answer under the answering query; NaN where it is unknown."""
    threshold: float
    pairs: tuple[tuple[tuple[str, str], ...], ...] = ()
    """Bound pairs found in each vector by a solver, strongest first."""

    def precision(self, k: int = 1, *, rule: str = "label-free") -> Interval:
        """probing@k: share of prompts whose target is among the first k; 95 % over groups."""
        if rule not in ("label-free", "gold"):
            raise ConfigError(f"rule must be 'label-free' or 'gold', got {rule!r}")
        ranks = self.rank if rule == "label-free" else self.gold_rank
        _, groups = np.unique(np.asarray(self.groups), return_inverse=True)
        return bootstrap_mean((ranks <= k).astype(float), groups)

    def select(self, rows: Sequence[int] | np.ndarray) -> "HDReading":
        """Some of the prompts, such as those that the model gets right."""
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        names = ("texts", "targets", "groups", "query", "found", "kinds")
        names = (*names, "pairs") if self.pairs else names
        columns: dict[str, Any] = {n: tuple(getattr(self, n)[i] for i in rows) for n in names}
        arrays = {
            n: getattr(self, n)[rows]
            for n in ("answered", "similarity", "rank", "gold_rank", "support")
        }
        return HDReading(**columns, **arrays, threshold=self.threshold, config=self.config,
                         controls=self.controls, provenance=self.provenance)  # fmt: skip

    def to_frame(self) -> "pd.DataFrame":
        """One row per prompt and concept above the threshold (one without any: an empty one)."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for i, text in enumerate(self.texts):
            about = {"prompt": text, "target": self.targets[i], "query": self.query[i],
                     "kind": self.kinds[i], "target_rank": self.rank[i]}  # fmt: skip
            above = [j for j in range(len(self.found[i])) if self.similarity[i, j] > self.threshold]
            for j in above if self.answered[i] else []:
                rows.append({**about, "place": j + 1, "concept": self.found[i][j],
                             "similarity": float(self.similarity[i, j])})  # fmt: skip
            if not self.answered[i]:
                rows.append({**about, "place": 0, "concept": "", "similarity": np.nan})
        frame = pd.DataFrame(rows)
        frame.attrs["units"] = {"similarity": "cosine", "target_rank": "rank (1 is best)"}
        return frame

    def plot(self) -> "go.Figure":
        """What kind of concept came out first, as shares of the prompts."""
        import pandas as pd

        from lensbench.plots import bars

        names, counts = np.unique(np.asarray(self.kinds), return_counts=True)
        frame = pd.DataFrame({"kind": names, "share": counts / len(self.kinds),
                              "n": len(self.kinds)})  # fmt: skip
        frame.attrs["units"] = {"share": "share of prompts", "n": "prompts"}
        return bars(frame, x="kind", y="share", title="What the probe read first",
                    subtitle=f"n = {len(self.kinds):,} prompts · threshold {self.threshold:.3f}"
                    )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """Label-free probing@1 and @5, the gold figure, and the share answered."""
        return {
            "probing@1": self.precision(1).mean,
            "probing@5": self.precision(KEPT).mean,
            "gold_probing@1": self.precision(1, rule="gold").mean,
            "answered": float(self.answered.mean()),
            "prompts": float(len(self.texts)),
        }


def read_concepts(
    memory: ItemMemory,
    vectors: Tensor,
    prompts: ConceptPrompts,
    *,
    answers: Sequence[str] | None = None,
    solver: Solver = SOLVER,
    threshold: float | None = None,
    max_query: int = 3,
    states: LayerStates | None = None,
) -> HDReading:
    """Read every prompt's concepts off its hypervector ``vectors[i]``.

    ``answers`` are the words that the model itself says; with them the reading has ``support``.
    ``solver``: ``threshold`` asks queries as published; ``greedy`` and ``resonator`` find the pairs
    of the bundle and explain them away (the reading then has ``pairs``). ``max_query`` is the
    largest number of concepts that a query unbinds at once. ``states``: those that the vectors were
    encoded from; the reading's provenance then names the store they were read from.

    Raises:
        UnknownNameError: no such solver, or a concept of a prompt that is not in the codebook.
        MismatchError: not one vector per prompt.
        ConfigError: a threshold that the answer itself could not reach; says which dimension could.

    Example:
        >>> asked = probes.from_analogies(["France : Paris = Peru : Lima"])
        >>> vectors = memory.encode(torch.tensor([[memory.indices(["France", "Paris"])]]))
        >>> found = probes.read_concepts(memory, vectors, asked)
    """
    if len(vectors) != len(prompts):
        raise MismatchError(f"{len(vectors)} vectors for {len(prompts)} prompts")
    floor = memory.space.threshold(memory.dim) if threshold is None else float(threshold)
    _reachable(memory, len(prompts.pairs[0]), floor)
    if solver not in SOLVERS:
        raise UnknownNameError("solver", str(solver), known=SOLVERS)
    most = whole_number("max_query", max_query, least=0)
    said = [None] * len(prompts) if answers is None else list(answers)
    rows = [_read(memory, v, prompts, i, floor, most, said[i], solver)
            for i, v in enumerate(vectors)]  # fmt: skip
    return HDReading(
        texts=prompts.texts, targets=prompts.targets, groups=prompts.groups,
        query=tuple(r.query for r in rows), answered=np.array([r.answered for r in rows]),
        found=tuple(tuple(memory.names[j] for j in r.top) for r in rows),
        similarity=np.array([r.values for r in rows]), kinds=tuple(r.kind for r in rows),
        rank=np.array([r.rank for r in rows], float),
        gold_rank=np.array([r.gold for r in rows], float),
        support=np.array([r.support for r in rows], float), threshold=floor,
        pairs=() if solver == "threshold" else tuple(r.pairs for r in rows),
        config={"space": memory.space.name, "dim": memory.dim, "max_query": most,
                "solver": solver},
        controls=Controls({"chance@1": 1 / len(memory)}, "one concept drawn at random"),
        provenance=provenance.record(store="" if states is None else states.store),
    )  # fmt: skip


@dataclass(frozen=True)
class _Row:
    query: str
    answered: bool
    top: list[int]
    values: list[float]
    kind: str
    rank: float
    gold: float
    support: float
    pairs: tuple[tuple[str, str], ...] = ()


def queries_of(n: int, most: int) -> list[tuple[int, ...]]:
    """Subsets of n concepts in the order of step 3: larger first, later concepts first."""
    found: list[tuple[int, ...]] = []
    for size in range(min(n, most), -1, -1):
        found += sorted(
            combinations(range(n), size), key=lambda s: tuple(reversed(s)), reverse=True
        )
    return found


def _read(
    memory: ItemMemory,
    v: Tensor,
    prompts: ConceptPrompts,
    row: int,
    floor: float,
    most: int,
    said: str | None,
    solver: Solver,
) -> _Row:
    there = prompts.mentioned[row]
    numbers = memory.indices(there)
    target = memory.index(prompts.targets[row])
    subsets = queries_of(len(numbers), most)
    unbound = [_unbind(memory, v, [numbers[j] for j in s]) for s in subsets]
    scores = memory.similarities(torch.stack(unbound))  # 1
    ranks = 1 + (scores > scores[:, target : target + 1]).sum(1)
    kept = [i for i, s in enumerate(subsets)
            if not any(float(scores[i, numbers[j]]) > floor for j in s)]  # 2  # fmt: skip
    gold = min((float(ranks[i]) for i in kept), default=float("inf"))  # 4
    shown = scores[kept[0] if kept else 0]
    used, answer, pairs = "", None, ()
    if solver == "threshold":
        chosen = next((i for i in kept if float(scores[i].max()) > floor), None)  # 3
        if chosen is not None:
            answer, used = scores[chosen], " * ".join(there[j] for j in subsets[chosen])
    elif solved := solve_bundle(
        memory, v, there, max_pairs=len(prompts.pairs[row]), method=solver, threshold=floor
    ):
        answer = solved.scores if float(solved.scores.max()) > floor else None
        used, pairs = solved.question if answer is not None else "", solved.pairs
    shown = shown if answer is None else answer
    support = float(shown[memory.index(said)]) if said in memory.names else float("nan")
    best = shown.topk(min(KEPT, len(memory)))
    top: Int[Any, " kept"] = best.indices.tolist()
    values = best.values.tolist()
    if answer is None:
        return _Row("", False, top, values, "none", float("inf"), gold, support, pairs)
    kind, rank = _kind(prompts, row, memory.names[top[0]]), 1 + (answer > answer[target]).sum()
    return _Row(used, True, top, values, kind, float(rank), gold, support, pairs)


def _unbind(memory: ItemMemory, v: Tensor, rows: Sequence[int]) -> Tensor:
    for row in rows:
        v = memory.space.unbind(v, memory.vectors[row])
    return v


def _kind(prompts: ConceptPrompts, row: int, name: str) -> str:
    pairs = prompts.pairs[row]
    if name == pairs[-1][1]:
        return "target"
    if name == pairs[-1][0]:
        return "key"
    if any(name == a for a, _ in pairs[:-1]):
        return "example key"
    if any(name == b for _, b in pairs[:-1]):
        return "example value"
    return "context" if name in prompts.mentioned[row] else "other"


def _reachable(memory: ItemMemory, pairs: int, floor: float) -> None:
    best = memory.space.unbound_similarity(pairs)
    if floor >= best:
        need = 1
        while memory.space.threshold(need) >= best:
            need *= 2
        raise ConfigError(
            f"with {memory.dim} dimensions the threshold is {floor:.3f}, and one of {pairs} pairs "
            f"has a similarity of {best:.3f} even without noise; use dim={need} or more, or give a "
            "lower threshold"
        )
