"""SkipDecode (Del Corro et al. 2023): one number of layers per position, falling along the text.

n(t) = max - (max - min) t / T for the new token t. A token with n layers runs the first ``warmup``
blocks and the last n - warmup: the blocks between are bypassed, not cut off at the top. Because n
never grows, every block a token runs already holds keys and values of all tokens before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError


@dataclass(frozen=True)
class Budgets:
    """Layers per new token and the blocks they mean; the prompt has the first budget."""

    n_layers: int
    layers: tuple[int, ...]
    warmup: int = 1

    def __post_init__(self) -> None:
        """Refuse budgets that grow or do not fit the model."""
        grows = any(b > a for a, b in pairwise(self.layers))
        if not self.layers or grows:
            raise ConfigError(
                f"budgets must not grow along the text (keys would be missing), got {self.layers}"
            )
        if not 0 <= self.warmup <= min(self.layers) or max(self.layers) > self.n_layers:
            raise ConfigError(
                f"budgets must lie between the warm-up ({self.warmup}) and the number of layers "
                f"({self.n_layers}), got {min(self.layers)} to {max(self.layers)}"
            )

    def blocks(self, step: int) -> tuple[int, ...]:
        """The blocks that new token ``step`` runs, in order; past the last budget, those of it."""
        n = self.layers[min(step, len(self.layers) - 1)]
        low = min(self.warmup, n)
        return (*range(low), *range(self.n_layers - (n - low), self.n_layers))

    @property
    def mean_layers(self) -> float:
        """Layers per new token."""
        return sum(self.layers) / len(self.layers)


def linear_budgets(
    n_layers: int, length: int, *, least: int, most: int | None = None, warmup: int = 1
) -> Budgets:
    """Budgets that fall in a line from ``most`` (all layers) to ``least`` over ``length`` tokens.

    Raises:
        ConfigError: a range outside the model, or below the warm-up.

    Example:
        >>> budgets = acceleration.linear_budgets(6, length=10, least=2)
    """
    most = n_layers if most is None else whole_number("most", most, least=1)
    whole_number("least", least, least=1)
    whole_number("length", length, least=1)
    last = max(1, length - 1)
    falling = tuple(round(most - (most - least) * t / last) for t in range(length))
    return Budgets(n_layers, falling, warmup)


def step_skips(n_layers: int, length: int, skip: int, *, over: int = 512) -> list[tuple[int, ...]]:
    """The variant that AdaSkip's code compares with: blocks run by each new token.

    Block 0 always runs; new token c skips blocks 1..k, k = ceil(c / over * (skip - 1)) + 1, at most
    ``skip``.

    Raises:
        ConfigError: more layers skipped than there are between.

    Example:
        >>> layers = acceleration.step_skips(6, length=4, skip=2)
    """
    if not 1 <= whole_number("skip", skip, least=1) < n_layers:
        raise ConfigError(f"skip must be 1 to {n_layers - 1}, got {skip}")
    rows: list[tuple[int, ...]] = []
    for c in range(whole_number("length", length, least=1)):
        k = min(skip, -(-c * (skip - 1) // over) + 1)
        rows.append((0, *range(1 + k, n_layers)))
    return rows


def nested(rows: Sequence[Sequence[int]]) -> bool:
    """Does every token run only blocks that all tokens before it ran?

    Example:
        >>> acceleration.nested([[0, 1, 2, 3], [0, 1, 3], [0, 3]])
        True
    """
    return all(set(b) <= set(a) for a, b in pairwise(rows))
