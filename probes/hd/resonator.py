"""Taking hypervectors apart: a product into its factors, a bundle into its bound pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, MismatchError
from lensbench.probes.hd.memory import ItemMemory
from lensbench.probes.hd.spaces import BSC, MAP, Space

_STARTS = 8  # of a bundle every pair is a fixed point, and some starts end between them


@dataclass(frozen=True)
class Factors:
    """What a resonator network settled on."""

    names: tuple[str, ...]
    """One per codebook."""
    similarity: float
    """Of their product with what was factorised; near 0 where the network found nothing."""
    steps: int
    converged: bool


@dataclass(frozen=True)
class Pair:
    """A bound pair found in a bundle."""

    key: str
    value: str
    similarity: float
    """Of the pair with what earlier pairs left unexplained."""


def factorise(
    x: Tensor, codebooks: Sequence[ItemMemory], *, max_steps: int = 200, seed: int = 0
) -> Factors:
    """Find one item per codebook whose product is ``x``, by a resonator network.

    1. every estimate starts as a random mixture of its codebook, drawn under ``seed``;
    2. in turn, estimate_f = snap(sum_i <x unbound by the other estimates, item_i> item_i), with
       complex inner products in FHRR, where factors are found up to phases that cancel;
    3. until no estimate changes. The answer is the nearest item of each estimate.

    In MAP and BSC two factors may come out negated, which is the same product. Capacity grows with
    the square of the dimension, far beyond a search of all products, but a run may settle on
    nothing: look at ``similarity``, and try another seed.
    Source: Frady, Kent, Olshausen and Sommer 2020, Neural Computation 32:2311.

    Raises:
        ConfigError: fewer than two codebooks, or HRR, whose inverse is only approximate.
        MismatchError: codebooks of different spaces or dimensions.

    Example:
        >>> one = probes.ItemMemory.random(["red", "green"], dim=1024, seed=1)
        >>> other = probes.ItemMemory.random(["left", "right"], dim=1024, seed=2)
        >>> bound = one.space.bind(one.vector("red"), other.vector("left"))
        >>> found = probes.factorise(bound, [one, other])
    """
    space = _common(codebooks)
    if isinstance(space, BSC):
        books = [bipolar(c, x) for c in codebooks]
        return factorise(books[0][1], [b for b, _ in books], max_steps=max_steps, seed=seed)
    max_steps = whole_number("max_steps", max_steps, least=1)
    rng = torch.Generator().manual_seed(seed)
    tables = [_table(c) for c in codebooks]
    estimates = [_mixture(space, table, rng) for table in tables]  # 1
    steps, settled = 0, False
    while steps < max_steps and not settled:  # 3
        steps += 1
        before = [e.clone() for e in estimates]
        for f, table in enumerate(tables):
            rest = _unbind_all(space, x, [e for g, e in enumerate(estimates) if g != f])
            mixed = (_numbers(rest) @ table.mH) @ table  # 2
            estimates[f] = space.snap(space.real(mixed) if mixed.is_complex() else mixed)
        settled = all(
            float(space.similarity(a, b)) > 1 - 1e-6 for a, b in zip(before, estimates, strict=True)
        )
    best = [
        int((_numbers(e) @ t.mH).abs().argmax()) for t, e in zip(tables, estimates, strict=True)
    ]
    product = codebooks[0].vectors[best[0]]
    for book, i in zip(codebooks[1:], best[1:], strict=True):
        product = space.bind(product, book.vectors[i])
    names = tuple(c.names[i] for c, i in zip(codebooks, best, strict=True))
    return Factors(names, float(space.similarity(x, product)), steps, settled)


def explain_bundle(
    memory: ItemMemory,
    x: Tensor,
    *,
    keys: Sequence[str] | None = None,
    max_pairs: int = 4,
    method: Literal["greedy", "resonator"] = "greedy",
    threshold: float | None = None,
    seed: int = 0,
) -> list[Pair]:
    """Bound pairs that make up the bundle ``x``, strongest first.

    ``greedy`` looks at every key (of ``keys``, or all) with every concept, takes the pair most
    similar to what is left, fits the pairs found so far to ``x`` by least squares, and goes on with
    the residual: orthogonal matching pursuit over products. ``resonator`` finds each pair by
    :func:`factorise` instead. Both stop at ``max_pairs``, or where the best pair is below
    ``threshold`` (default: that of the space at this dimension, 6.4 / sqrt(dim) for MAP).

    Raises:
        UnknownNameError: a key that is not in the codebook.
        ConfigError: an unknown method.

    Example:
        >>> pair = torch.tensor([[memory.indices(["France", "Paris"])]])
        >>> bundle = memory.encode(pair)[0]
        >>> found = probes.explain_bundle(memory, bundle)
    """
    if method not in ("greedy", "resonator"):
        raise ConfigError(f"method must be 'greedy' or 'resonator', got {method!r}")
    most = whole_number("max_pairs", max_pairs, least=1)
    memory, x = bipolar(memory, x)
    space = memory.space
    floor = space.threshold(memory.dim) if threshold is None else threshold
    rows = list(range(len(memory))) if keys is None else memory.indices(keys)
    whole = space.real(x)
    left, taken = whole, list[Tensor]()
    found = list[Pair]()
    for _ in range(most):
        state = in_its_numbers(space, left)
        i, j = (_resonate(memory, state, rows, seed) if method == "resonator"
                else _best_pair(memory, state, rows))  # fmt: skip
        product = space.real(space.bind(memory.vectors[i], memory.vectors[j]))
        strength = float(torch.cosine_similarity(left, product, dim=-1))
        if strength <= floor:
            break
        found.append(Pair(memory.names[i], memory.names[j], strength))
        taken.append(product)
        basis = torch.stack(taken, 1)
        left = whole - basis @ torch.linalg.lstsq(basis, whole[:, None]).solution[:, 0]
        if float(left.norm()) < 1e-5 * float(whole.norm()):
            break
    return found


def _best_pair(memory: ItemMemory, x: Tensor, rows: list[int]) -> tuple[int, int]:
    unbound = memory.space.unbind(x, memory.vectors[torch.tensor(rows)])
    scores = memory.similarities(unbound)
    best = int(scores.argmax())
    return rows[best // len(memory)], best % len(memory)


def _resonate(memory: ItemMemory, x: Tensor, rows: list[int], seed: int) -> tuple[int, int]:
    keys = ItemMemory(
        memory.space, tuple(memory.names[i] for i in rows), memory.vectors[torch.tensor(rows)], 0
    )
    runs = (factorise(x, (keys, memory), max_steps=50, seed=seed + i) for i in range(_STARTS))
    found = max(runs, key=lambda run: run.similarity)
    return memory.index(found.names[0]), memory.index(found.names[1])


def bipolar(memory: ItemMemory, x: Tensor) -> tuple[ItemMemory, Tensor]:
    """BSC as MAP, which has residuals: 0 as 1 and 1 as -1 turns exclusive or into a product."""
    if not isinstance(memory.space, BSC):
        return memory, x
    space = MAP()
    signs = space.snap(1 - 2 * memory.vectors.float())
    return ItemMemory(space, memory.names, signs, 0), 1 - 2 * x.float()


def _mixture(space: Space, table: Tensor, rng: torch.Generator) -> Tensor:
    weights = torch.randn(len(table), generator=rng).to(table.dtype)
    mixed = weights @ table
    return space.snap(space.real(mixed) if mixed.is_complex() else mixed)


def _numbers(x: Tensor) -> Tensor:
    return x if x.is_complex() else x.float()


def _table(memory: ItemMemory) -> Tensor:
    return _numbers(memory.vectors)


def in_its_numbers(space: Space, real: Tensor) -> Tensor:
    """A residual in the numbers of its space, not snapped onto it."""
    return torch.complex(*real.chunk(2, -1)) if space.name == "FHRR" else real


def _unbind_all(space: Space, x: Tensor, others: Sequence[Tensor]) -> Tensor:
    for other in others:
        x = space.unbind(x, other)
    return x


def _common(codebooks: Sequence[ItemMemory]) -> Space:
    if len(codebooks) < 2:
        raise ConfigError(f"a product has at least two factors, got {len(codebooks)} codebook(s)")
    kinds = {(c.space.name, c.dim) for c in codebooks}
    if len(kinds) > 1:
        listed = ", ".join(f"{name} of {dim}" for name, dim in sorted(kinds))
        raise MismatchError(f"codebooks of one space and dimension belong together, got {listed}")
    space = codebooks[0].space
    if not space.exact:
        raise ConfigError(
            f"a resonator needs an exact inverse, which {space} has not; use FHRR, MAP or BSC"
        )
    return space
