"""Parse trees as heads of words: distances, depths, and how well a guess of them does."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from lensbench.errors import ConfigError
from lensbench.stats import spearman

ROOT = -1
"""Head of the root."""


def check_heads(heads: Sequence[Int[np.ndarray, " _words"]]) -> list[Int[np.ndarray, " _words"]]:
    """Heads of sentences: place of each word's head in its sentence, -1 for the one root.

    Raises:
        ConfigError: no whole numbers, a head outside the sentence, not one root, or a circle.
    """
    found: list[np.ndarray] = []
    for i, given in enumerate(heads):
        head = np.asarray(given)
        if head.ndim != 1 or head.dtype.kind not in "iu" or not len(head):
            raise ConfigError(
                f"heads of sentence {i} must be whole numbers [words], got {head.dtype} of shape "
                f"{list(head.shape)}"
            )
        if (head < ROOT).any() or (head >= len(head)).any():
            raise ConfigError(
                f"heads of sentence {i} must be -1 (root) or 0..{len(head) - 1}, got "
                f"{head[(head < ROOT) | (head >= len(head))][0]}; places count from 0"
            )
        if (head == ROOT).sum() != 1:
            raise ConfigError(
                f"sentence {i} has {(head == ROOT).sum()} roots (head -1); a tree has one"
            )
        if (depths(head) < 0).any():
            raise ConfigError(f"heads of sentence {i} go round in a circle: {head.tolist()}")
        found.append(head.astype(np.int64))
    return found


def depths(head: Int[np.ndarray, " words"]) -> Int[np.ndarray, " words"]:
    """Edges from the root to each word; -1 for words that never reach it."""
    found = np.where(head == ROOT, 0, -1)
    for _ in range(len(head)):
        above = np.where(head == ROOT, 0, found[head])
        found = np.where((found < 0) & (above >= 0), above + 1, found)
    return found


def distances(head: Int[np.ndarray, " words"]) -> Int[np.ndarray, "words words"]:
    """Edges on the path between every two words."""
    n = len(head)
    on_path = np.eye(n, dtype=bool)  # word x its ancestors
    at = head.copy()
    while (at != ROOT).any():
        on_path[np.flatnonzero(at != ROOT), at[at != ROOT]] = True
        at = np.where(at == ROOT, ROOT, head[at])
    deep = on_path.sum(1)
    return deep[:, None] + deep - 2 * (on_path[:, None] & on_path).sum(-1)


def edges(head: Int[np.ndarray, " words"]) -> set[tuple[int, int]]:
    """Undirected edges."""
    return {(min(i, int(h)), max(i, int(h))) for i, h in enumerate(head) if h != ROOT}


def spanning_tree(distance: Float[np.ndarray, "words words"]) -> set[tuple[int, int]]:
    """Edges of the minimum spanning tree (Prim)."""
    n = len(distance)
    inside, found = np.arange(n) == 0, set[tuple[int, int]]()
    for _ in range(n - 1):
        cut = np.where(inside[:, None] & ~inside, distance, np.inf)
        i, j = np.unravel_index(int(cut.argmin()), cut.shape)
        inside[j] = True
        found.add((int(min(i, j)), int(max(i, j))))
    return found


def chain(n: int) -> Int[np.ndarray, "n n"]:
    """Distances if every word hung on its neighbour."""
    at = np.arange(n)
    return np.abs(at[:, None] - at)


def uuas(distance: Float[np.ndarray, "words words"], head: Int[np.ndarray, " words"]) -> float:
    """Share of the tree's edges that the minimum spanning tree has (undirected, unlabelled)."""
    gold = edges(head)
    return len(gold & spanning_tree(distance)) / len(gold) if gold else float("nan")


def distance_spearman(
    said: Float[np.ndarray, "words words"], true: Int[np.ndarray, "words words"]
) -> float:
    """Mean over words of the rank correlation of their distances to the others."""
    others: Bool[np.ndarray, "words words"] = ~np.eye(len(true), dtype=bool)
    found = [
        spearman(said[i][others[i]], true[i][others[i]].astype(float)) for i in range(len(true))
    ]
    known = [value for value in found if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")
