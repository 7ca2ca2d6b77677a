"""Reading a bundle by taking it apart: every pair it holds, and what its last question asks.

1. Find the bound pairs of the vector that hold a concept of the prompt, strongest first, each in
   what the earlier ones left (:func:`~lensbench.probes.hd.resonator.explain_bundle`).
2. The question is the concept mentioned latest that stands in a pair found: the prompts end on the
   key they ask about. No label is looked at.
3. Take the other pairs out of the vector (least squares) and unbind the question; the similarities
   of what is left with all concepts are the scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lensbench.probes.hd.memory import ItemMemory
from lensbench.probes.hd.resonator import Pair, bipolar, explain_bundle, in_its_numbers

Solver = Literal["threshold", "greedy", "resonator"]
SOLVERS: tuple[Solver, ...] = ("threshold", "greedy", "resonator")


@dataclass(frozen=True, eq=False)
class Solved:
    """Pairs of one vector, and the scores of every concept as the answer."""

    pairs: tuple[tuple[str, str], ...]
    question: str
    scores: Tensor
    """``[concepts]``."""


def solve_bundle(
    memory: ItemMemory,
    x: Tensor,
    mentioned: Sequence[str],
    *,
    max_pairs: int,
    method: Literal["greedy", "resonator"],
    threshold: float,
) -> Solved | None:
    """What ``x`` holds and answers; None where no pair of a mentioned concept is above chance."""
    found = explain_bundle(
        memory, x, keys=mentioned, max_pairs=max_pairs, method=method, threshold=threshold
    )  # 1
    if not found:
        return None
    names = {name for pair in found for name in (pair.key, pair.value)}
    question = next(name for name in reversed(mentioned) if name in names)  # 2
    asked = next(p for p in found if question in (p.key, p.value))
    book, whole = bipolar(memory, x)
    left = _without(book, whole, [p for p in found if p is not asked])  # 3
    unbound = book.space.unbind(in_its_numbers(book.space, left), book.vector(question))
    pairs = tuple((p.key, p.value) for p in found)
    return Solved(pairs, question, book.similarities(unbound))


def _without(memory: ItemMemory, x: Tensor, pairs: Sequence[Pair]) -> Tensor:
    """The real view of ``x`` less its least-squares share of these pairs."""
    space = memory.space
    whole = space.real(x)
    if not pairs:
        return whole
    products = [space.bind(memory.vector(p.key), memory.vector(p.value)) for p in pairs]
    basis = torch.stack([space.real(p) for p in products], 1)
    return whole - basis @ torch.linalg.lstsq(basis, whole[:, None]).solution[:, 0]
