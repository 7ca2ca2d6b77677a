"""What edge attribution estimates, and the circuits that follow from it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, UnknownNameError
from lensbench.interventions.attribution.result import normalised
from lensbench.results import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.interventions.attribution.check import AttributionCheck
    from lensbench.interventions.metrics import MetricLike
    from lensbench.models.base import Model
    from lensbench.prompts.pairs import PromptPairs

How = Literal["top", "greedy"]


@dataclass(frozen=True, kw_only=True, eq=False)
class EdgeResult(Result):
    """Estimated change of the metric by every edge; 1 is all the way to the source run.

    An estimate is no measurement: :func:`lensbench.interventions.faithfulness` runs circuits.
    """

    task: str
    method: str
    direction: str
    metric: str
    unit: str
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    edges: Int[np.ndarray, "edges 2"]
    """Numbers of writer and reader."""
    values: Float[np.ndarray, "edges pairs"]
    """Estimated change of the metric, in its unit."""
    other: Float[np.ndarray, "some pairs"]
    """The control: the same towards another pair's answer and foil. Empty where there is none."""
    clean: Float[np.ndarray, " pairs"]
    corrupted: Float[np.ndarray, " pairs"]

    @property
    def n(self) -> int:
        """Number of prompts."""
        return len(self.clean)

    @property
    def gap(self) -> Float[np.ndarray, " pairs"]:
        """``m(source) - m(base)``."""
        return (1 if self.direction == "denoise" else -1) * (self.clean - self.corrupted)

    @property
    def change(self) -> Float[np.ndarray, " edges"]:
        """Mean estimate, as a share of the way to the source run."""
        return normalised(self.values, self.gap, signed=True)[0]

    @property
    def names(self) -> tuple[str, ...]:
        """``L0H1 -> L2H0.k`` for every edge."""
        return tuple(f"{self.writers[w]} -> {self.readers[r]}" for w, r in self.edges)

    def of(self, end: str) -> Float[np.ndarray, " pairs"]:
        """Sum over the edges of one end: out of a writer, or into a reader.

        ``L2 MLP`` is both; the sum is that out of it, as for all writers.

        Raises:
            UnknownNameError: no such end.
        """
        for column, known in enumerate((self.writers, self.readers)):
            if end in known:
                return self.values[self.edges[:, column] == known.index(end)].sum(0)
        raise UnknownNameError("end", end, known=(*self.writers, *self.readers))

    def circuit(self, n: int, how: How = "top") -> Bool[np.ndarray, " edges"]:
        """The ``n`` edges of largest size: of all, or (``greedy``) joined to the logits one by one.

        ``greedy`` starts at the logits and takes the largest edge into what is joined already, so
        that no edge hangs in the air. Source: Hanna et al. 2024, arXiv:2403.17806.

        Raises:
            ConfigError: more edges than there are.
        """
        if whole_number("n", n, least=0) > len(self.edges):
            raise ConfigError(f"the graph has {len(self.edges)} edges, asked for {n}")
        if how not in ("top", "greedy"):
            raise UnknownNameError("how", str(how), known=("top", "greedy"))
        size = np.abs(self.values.mean(1))
        kept = np.zeros(len(size), dtype=bool)
        if how == "top":
            kept[np.argsort(-size, kind="stable")[:n]] = True
            return kept
        open_ = np.array([self.readers[r] == "logits" for r in self.edges[:, 1]], dtype=bool)
        for _ in range(n):
            free = np.where(open_ & ~kept, size, -1.0)
            if free.max() < 0:
                break
            best = int(free.argmax())
            kept[best] = True
            open_ |= self._joined(self.writers[self.edges[best, 0]])
        return kept

    def _joined(self, writer: str) -> np.ndarray:
        """Edges into the readers of a writer; a key or value is of all heads that share it."""
        head = writer.rpartition("H")
        share = self._share(writer.partition("H")[0])
        own = {writer, f"{writer}.q"}
        if head[1] and head[0]:
            own |= {f"{head[0]}H{int(head[2]) // share}.{part}" for part in "kv"}
        return np.array([self.readers[r] in own for r in self.edges[:, 1]], dtype=bool)

    def _share(self, layer: str) -> int:
        queries, keys = (sum(r.startswith(f"{layer}H") and r.endswith(f".{p}")
                             for r in self.readers) for p in "qk")  # fmt: skip
        return max(1, queries // max(1, keys))

    def strongest(self) -> Int[np.ndarray, " edges"]:
        """Numbers of the edges, largest estimate first."""
        return np.argsort(-np.abs(self.values.mean(1)), kind="stable")

    def verify(
        self,
        model: "Model",
        pairs: "PromptPairs",
        *,
        top: int = 10,
        random: int = 20,
        large: float = 0.1,
        metric: "MetricLike | None" = None,
        batch_size: int = 16,
        seed: int = 0,
    ) -> "AttributionCheck":
        """Exchange the ``top`` edges and ``random`` others, one at a time, and compare.

        Arguments as in :meth:`AttributionResult.verify`. One edge may need others: a circuit says
        more (:func:`lensbench.interventions.faithfulness`).

        Raises:
            MismatchError: another model, or other pairs.
            ConfigError: numbers that do not fit; a metric of your own that is not given again.
        """
        from lensbench.interventions.attribution.edge_check import check_edges

        return check_edges(
            self, model, pairs, top=top, random=random, large=large, metric=metric,
            batch_size=batch_size, seed=seed,
        )  # fmt: skip

    def to_frame(self) -> "pd.DataFrame":
        """One row per edge: ``change`` and the estimate in its unit."""
        import pandas as pd

        frame = pd.DataFrame(
            {"writer": [self.writers[w] for w in self.edges[:, 0]],
             "reader": [self.readers[r] for r in self.edges[:, 1]],
             "change": self.change, "value": self.values.mean(1), "n": self.n}
        )  # fmt: skip
        frame.attrs["units"] = {
            "change": "0 = as it is, 1 = the other run", "value": self.unit, "n": "prompts"
        }  # fmt: skip
        return frame

    def top(self, k: int = 10) -> "pd.DataFrame":
        """The ``k`` edges of largest size."""
        return self.to_frame().take(self.strongest()[:k]).reset_index(drop=True)

    def summary(self) -> dict[str, float]:
        """The largest edge, edges, prompts."""
        best = int(self.strongest()[0])
        return {"strongest": float(self.change[best]), "edges": float(len(self.edges)),
                "prompts": float(self.n)}  # fmt: skip

    def plot(self) -> "go.Figure":
        """Writers by readers."""
        from lensbench.interventions.metrics import said
        from lensbench.plots import heatmap

        reach = float(np.nanmax(np.abs(self.change), initial=1e-6))
        return heatmap(
            self.to_frame(), x="reader", y="writer", value="change", span=(-reach, reach),
            diverging=True, unit="0 = as it is, 1 = the other run", hover_columns=("value", "n"),
            title=f"{self.task}: edges by {self.method} of {self.direction}",
            subtitle=f"estimated, {said(self.metric)}, {self.n} prompts; control: {self.controls}",
        )  # fmt: skip
