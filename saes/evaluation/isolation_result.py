"""Cause and isolation of attributes, by basis and number of coordinates, as a value."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from lensbench.errors import UnknownNameError
from lensbench.results import Result
from lensbench.stats import Interval

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, kw_only=True, eq=False)
class AttributeIsolation(Result):
    """What exchanging the coordinates of one attribute changes: it, and nothing else?"""

    name: str
    site: str
    methods: tuple[str, ...]
    attributes: tuple[str, ...]
    """Those scored."""
    beside: tuple[str, ...]
    """All that were asked, to see whether they stay."""
    missing: dict[str, str]
    """Attributes without scores, and why."""
    ks: tuple[int, ...]
    cause: Float[np.ndarray, "methods attributes ks"]
    isolation: Float[np.ndarray, "methods attributes ks"]
    bounds: Float[np.ndarray, "methods attributes ks 2"]
    """95 % bootstrap over base entities of the disentangle score."""
    selected: Float[np.ndarray, "methods attributes ks"]
    """Disentangle score on the entities that chose the coordinates: what chooses k; optimistic."""
    chosen: Int[np.ndarray, "attributes most"]
    """Latents in their order; -1 where there are no more."""
    score: Float[np.ndarray, "methods 3"]
    """Mean over attributes at the chosen k, with its bootstrap over base entities."""
    means: Float[np.ndarray, "methods ks 3"]
    """Mean over attributes at every k, with its bootstrap."""
    n_pairs: Int[np.ndarray, "attributes 2"]
    """Held-out pairs behind cause and isolation."""
    known: Float[np.ndarray, " beside"]
    """Share of the prompts that the model answers rightly; the others are left out."""
    n_entities: tuple[int, int]
    """That chose, and that were scored."""

    @property
    def disentangle(self) -> Float[np.ndarray, "methods attributes ks"]:
        """(cause + isolation) / 2."""
        return (self.cause + self.isolation) / 2

    @property
    def best_k(self) -> Int[np.ndarray, "methods attributes"]:
        """Place in ``ks`` of the best score on the entities that chose; the smallest of equals."""
        return np.argmax(self.selected, 2)

    def at_best(self, what: str, method: str) -> Float[np.ndarray, " attributes"]:
        """``cause``, ``isolation`` or ``disentangle`` of every attribute at the chosen k.

        Raises:
            UnknownNameError: no such measure or method.
        """
        measures = ("cause", "isolation", "disentangle")
        for kind, name, known in (("measure", what, measures), ("method", method, self.methods)):
            if name not in known:
                raise UnknownNameError(kind, name, known=known)
        m = self.methods.index(method)
        return np.take_along_axis(getattr(self, what)[m], self.best_k[m][:, None], 1)[:, 0]

    def mean(self, method: str) -> Interval:
        """Mean disentangle score over the attributes at the chosen k; n counts base entities."""
        value, low, high = self.score[self.methods.index(method)].tolist()
        return Interval(value, low, high, self.n_entities[1])

    def to_frame(self) -> "pd.DataFrame":
        """One row per method, attribute and k."""
        import pandas as pd

        table: list[dict[str, Any]] = []
        for m, method in enumerate(self.methods):
            for a, attribute in enumerate(self.attributes):
                for j, k in enumerate(self.ks):
                    table.append(
                        {"method": method, "attribute": attribute, "k": k,
                         "cause": self.cause[m, a, j], "isolation": self.isolation[m, a, j],
                         "disentangle": self.disentangle[m, a, j], "low": self.bounds[m, a, j, 0],
                         "high": self.bounds[m, a, j, 1], "selected": self.selected[m, a, j],
                         "chosen": bool(self.best_k[m, a] == j), "n": int(self.n_pairs[a].sum())}
                    )  # fmt: skip
        frame = pd.DataFrame(table)
        shares = ("cause", "isolation", "disentangle", "selected")
        frame.attrs["units"] = {**dict.fromkeys(shares, "share"), "k": "coordinates", "n": "pairs"}
        return frame

    def summary(self) -> dict[str, float]:
        """Mean disentangle score of every method at its chosen k."""
        return {method: self.mean(method).mean for method in self.methods}

    def plot(self) -> "go.Figure":
        """Mean disentangle score over the number of coordinates, a line per method."""
        import pandas as pd

        from lensbench.plots import lines

        rows = [
            {"method": method.replace("_", " "), "k": k, "disentangle": self.means[m, j, 0],
             "low": self.means[m, j, 1], "high": self.means[m, j, 2], "n": self.n_entities[1]}
            for m, method in enumerate(self.methods)
            for j, k in enumerate(self.ks)
        ]  # fmt: skip
        return lines(
            pd.DataFrame(rows), x="k", y="disentangle", color="method", low="low", high="high",
            log_x=True, title=f"Attributes isolated at {self.site}",
            subtitle=f"mean over {', '.join(self.attributes)}; {self.n_entities[1]} held-out "
            "entities; 0.5: all moves, or nothing",
        )  # fmt: skip

    def plot_trade(self) -> "go.Figure":
        """Isolation against cause at the chosen k, a point per attribute."""
        import pandas as pd

        from lensbench.plots import scatter

        rows = [
            {"method": method.replace("_", " "), "attribute": attribute, "k": self.ks[k],
             "cause": self.cause[m, a, k], "isolation": self.isolation[m, a, k],
             "n": int(self.n_pairs[a].sum())}
            for m, method in enumerate(self.methods)
            for a, attribute in enumerate(self.attributes)
            for k in [int(self.best_k[m, a])]
        ]  # fmt: skip
        return scatter(
            pd.DataFrame(rows), x="cause", y="isolation", color="method",
            title=f"Cause and isolation at {self.site}", subtitle="k chosen on other entities",
            hover_columns=("attribute", "k"),
        )  # fmt: skip
