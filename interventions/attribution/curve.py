"""Faithfulness and completeness of circuits against their size, with a band of random circuits.

1. For each size the circuit C runs with everything else as it is without any circuit, and the rest
   runs without C.
2. Control: circuits of as many parts at random, of each layer as many as C has there.

Source: Hanna et al. 2024, arXiv:2403.17806; Marks et al. 2024, arXiv:2403.19647.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.results import Controls, Result
from lensbench.stats import bounds

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

N_BOOT = 1000
ENOUGH = 0.8
Mask = Bool[np.ndarray, " parts"]


@dataclass(frozen=True, kw_only=True, eq=False)
class CircuitCurve(Result):
    """Faithfulness of circuits: 0 with no part at all, 1 the clean run; it may pass both.

    ``faithfulness(C) = (mean m(C) - mean m(none)) / (mean m(clean) - mean m(none))`` and
    ``completeness(C) = 1 - faithfulness(all but C)``: 1 where nothing is left without C.
    """

    task: str
    metric: str
    unit: str
    parts: str
    """What circuits are made of: ``edges`` or ``nodes``."""
    sizes: Int[np.ndarray, " sizes"]
    values: Float[np.ndarray, "sizes pairs"]
    """The metric under each circuit, in its unit."""
    rest: Float[np.ndarray, "sizes pairs"]
    """The same of all parts but the circuit's."""
    random: Float[np.ndarray, "sizes draws pairs"]
    """The same of as many parts at random."""
    clean: Float[np.ndarray, " pairs"]
    corrupted: Float[np.ndarray, " pairs"]
    """With no part at all; of edges that is the corrupted run."""
    of: int
    """Parts of the whole graph."""

    @property
    def faithfulness(self) -> Float[np.ndarray, " sizes"]:
        """Of every circuit."""
        return self._faithful(self.values)

    @property
    def completeness(self) -> Float[np.ndarray, " sizes"]:
        """1 less the faithfulness of all but the circuit."""
        return 1 - self._faithful(self.rest)

    @property
    def random_faithfulness(self) -> Float[np.ndarray, "sizes draws"]:
        """Of every random circuit."""
        return self._faithful(self.random)

    def _faithful(self, values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        w = np.ones(len(self.clean)) if weights is None else weights.T
        gap = (self.clean - self.corrupted) @ w
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(np.abs(gap) > 1e-12, (values - self.corrupted) @ w / gap, np.nan)

    def intervals(self, seed: int = 0, *, rest: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper 95 % bound (prompts resampled); NaN with one prompt."""
        n = len(self.clean)
        if n < 2:
            return np.full(len(self.sizes), np.nan), np.full(len(self.sizes), np.nan)
        drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=N_BOOT)
        shares = self._faithful(self.rest if rest else self.values, drawn)
        return bounds(shares, axis=1)

    def to_frame(self) -> "pd.DataFrame":
        """Per size: the circuit and all but it with their intervals, random ones with their range.

        ``completeness`` is of the circuit in that row, NaN in rows of random circuits.
        """
        import pandas as pd

        share, rest = self.faithfulness, 1 - self.completeness
        rows: list[pd.DataFrame] = []
        for name, y, complete, (low, high) in (
            ("attributed", share, self.completeness, self.intervals()),
            ("all but these", rest, 1 - share, self.intervals(rest=True)),
        ):
            rows.append(pd.DataFrame(
                {"circuit": name, self.parts: self.sizes, "faithfulness": y, "low": low,
                 "high": high, "completeness": complete}))  # fmt: skip
        if self.random.shape[1]:
            r = self.random_faithfulness
            rows.append(pd.DataFrame(
                {"circuit": "random", self.parts: self.sizes, "faithfulness": r.mean(1),
                 "low": r.min(1), "high": r.max(1), "completeness": np.nan}))  # fmt: skip
        frame = pd.concat(rows, ignore_index=True).assign(n=len(self.clean))
        frame.attrs["units"] = {"faithfulness": "0 = no part, 1 = clean", "n": "prompts"}
        return frame

    def summary(self) -> dict[str, float]:
        """Fewest parts with faithfulness .8 and more (NaN: none), and what else holds there."""
        enough = np.flatnonzero(self.faithfulness >= ENOUGH)
        found = {f"{self.parts}_for_{ENOUGH}": float("nan")}
        if len(enough):
            first = int(enough[self.sizes[enough].argmin()])
            found[f"{self.parts}_for_{ENOUGH}"] = float(self.sizes[first])
            found["completeness_there"] = float(self.completeness[first])
            if self.random.shape[1]:
                found["random_there"] = float(self.random_faithfulness[first].mean())
                found["random_there_most"] = float(self.random_faithfulness[first].max())
        return {**found, self.parts: float(self.of), "prompts": float(len(self.clean))}

    def plot(self) -> "go.Figure":
        """Faithfulness against size, with the band of random circuits."""
        from lensbench.plots import lines

        return lines(
            self.to_frame(), x=self.parts, y="faithfulness", color="circuit", low="low",
            high="high", hover_columns=("completeness",), log_x=bool(self.sizes.min() > 0),
            title=f"{self.task}: circuits of {self.of} {self.parts}",
            subtitle=f"{self.metric}, {len(self.clean)} prompts; control: {self.controls}",
        )  # fmt: skip


def alike(
    kept: Mask, groups: Int[np.ndarray, " parts"], rng: np.random.Generator,
    free: Mask | None = None,
) -> Mask:  # fmt: skip
    """A random circuit with as many parts of each group (a layer, say) as ``kept`` has.

    Drawn from all parts, or from the ``free`` ones: then of each group as many as there are.
    """
    found = np.zeros(len(kept), dtype=bool)
    for group in np.unique(groups[kept]):
        mine = groups == group
        members = np.flatnonzero(mine if free is None else mine & free)
        found[rng.permutation(members)[: int(kept[mine].sum())]] = True
    return found


def sizes_up_to(sizes: Sequence[int] | None, of: int, parts: str) -> list[int]:
    """Sizes as asked, or about ten up to all, evenly on a log scale.

    Raises:
        ConfigError: none, or more than there are.
    """
    if sizes is None:
        return sorted({int(n) for n in np.geomspace(1, of, 10).round()})
    if isinstance(sizes, str) or not isinstance(sizes, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance] - users
        raise ConfigError(f"sizes must be a list of numbers of {parts}, got {sizes!r}")
    found = [whole_number("sizes", n, least=0) for n in sizes]
    if not found or max(found) > of:
        raise ConfigError(f"sizes must be numbers of {parts} up to {of}, got {list(sizes)}")
    return found


def with_band(curve: CircuitCurve) -> CircuitCurve:
    """The curve with its random circuits named as control."""
    if not curve.random.shape[1]:
        return curve
    score = float(curve.random_faithfulness.mean())  # NaN is told, not averaged away
    note = f"mean faithfulness of circuits of as many random {curve.parts} of the same layers"
    return replace(curve, controls=Controls({f"random_{curve.parts}": score}, note))
