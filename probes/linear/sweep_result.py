"""A grid of probes with their scores, and every control beside its score."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from lensbench.errors import ConfigError, UnknownNameError
from lensbench.probes.linear.labels import Kind
from lensbench.probes.linear.probe import LinearProbe
from lensbench.results import Controls, Result
from lensbench.sites import Site
from lensbench.stats import told

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

BESIDE = ("control_task", "shuffled_labels", "reinitialised_twin", "token_lookup", "majority")
"""Controls, each in the unit of ``score``; NaN where there is none."""
MISSING = {
    "control_task": "its control asks for token ids of the rows: give tokens=, and keep it among "
    "controls=",
    "shuffled_labels": "keep it among controls=",
    "token_lookup": "it asks for token ids of the rows: give tokens=",
    "reinitialised_twin": "give twin=: the same text through random weights, such as "
    "probes.control_stores(store, model, folder, which=['reinitialised_twin'])",
}
"""How to have a baseline that a sweep lacks."""
MEASURED = (
    "score", "low", "high", *BESIDE, "selectivity", "selectivity_low", "selectivity_high",
    "balanced_accuracy", "f1", "auroc", "spearman",
)  # fmt: skip
REACHED = ("loss", "gradient_norm", "converged", "l2", "n_components", "scale")
COUNTED = ("n", "n_train", "n_test")
UNITS = {
    "score": "accuracy, or R^2 of numbers", "selectivity": "score - control task",
    "loss": "nats, or squared units of the target", "auroc": "0 to 1", "f1": "0 to 1",
    "balanced_accuracy": "0 to 1", "spearman": "-1 to 1",
    "n_train": "rows", "n_test": "rows",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class ProbeSweep(Result):
    """Probes of sites x positions x labels x methods x seeds; a row is one probe of one split.

    ``score`` is accuracy (of numbers R^2) on test documents, with a 95 % interval by bootstrap over
    them (over groups where the split went by groups: ``unit``). ``selectivity`` = score -
    ``control_task``, with its own interval (same documents drawn).

    Example:
        >>> found = probes.probe_sweep(data, methods=("mean_difference",))
        >>> figure = found.plot()
    """

    columns_shown = ("site", "position", "label", "method", "metric", "score", "low",
                     "high", "control_task", "shuffled_labels", "reinitialised_twin",
                     "majority", "n")  # fmt: skip

    sites: tuple[str, ...]
    labels: tuple[str, ...]
    label_kinds: tuple[Kind, ...]
    classes: tuple[tuple[str, ...], ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    positions: tuple[str, ...] = ("all",)
    """Each fitted by itself."""
    at: Int[np.ndarray, "rows 5"]
    """Site, label, method, seed and position of each row, by place in the tuples above."""
    columns: Mapping[str, Float[np.ndarray, " rows"]]
    """Measured numbers of every row, see ``to_frame``."""
    weights: Mapping[str, Float[np.ndarray, "outputs width"]]
    """By site; the outputs of its rows one below the other."""
    bias: Mapping[str, Float[np.ndarray, " outputs"]]
    model: Mapping[str, Any] = field(default_factory=dict[str, Any])
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])
    """Labels that could not be fitted, and why."""
    n_documents: int = 0
    documents_at: tuple[int, ...] = ()
    """How many of them have each position."""
    unit: str = "documents"
    """What splits deal out and intervals resample: documents, or documents joined by groups."""
    n_units: int = 0
    metric: str = "accuracy"
    """What ``score`` is of classes."""

    def __post_init__(self) -> None:
        """Results saved before there were positions have four columns: all rows were in one."""
        missing = len(("site", "label", "method", "seed", "position")) - self.at.shape[1]
        if missing:
            object.__setattr__(self, "at", np.pad(self.at, ((0, 0), (0, missing))))

    def __len__(self) -> int:
        """Number of probes."""
        return len(self.at)

    def to_frame(self) -> "pd.DataFrame":
        """One row per probe: where, score with interval, controls, what was chosen, counts."""
        import pandas as pd

        site, label, method, seed, position = self.at.T
        layers = [Site.parse(s).layer for s in self.sites]
        head: dict[str, Any] = {
            "site": [self.sites[i] for i in site],
            "layer": [layers[i] for i in site],
            "position": [self.positions[i] for i in position],
            "label": [self.labels[i] for i in label],
            "kind": [self.label_kinds[i] for i in label],
            "method": [self.methods[i] for i in method],
            "seed": [self.seeds[i] for i in seed],
            "metric": [self.metric if self.classes[i] else "r2" for i in label],
        }
        frame = pd.DataFrame(head | dict(self.columns))
        frame = frame.astype(dict.fromkeys(COUNTED, np.int64))
        frame.attrs["units"] = {**UNITS, "n": f"test {self.unit}"}
        return frame

    def probe(
        self, label: str, site: str | Site, *, method: str | None = None, seed: int | None = None,
        position: int | str | None = None,
    ) -> LinearProbe:  # fmt: skip
        """One of the probes; what is left out is the only one there is, else the first.

        Raises:
            UnknownNameError: no such label, site, method, seed, or position.
        """
        row = self._row(label, str(Site.parse(str(site))), method, seed, position)
        where, what, how, which, place = self.at[row]
        name = self.sites[where]
        mine = slice(*self._span(row))
        reached = {k: float(self.columns[k][row]) for k in REACHED if k in self.columns}
        measured = {k: float(self.columns[k][row]) for k in BESIDE if k in self.columns}
        return LinearProbe(
            method=self.methods[how], site=name, label=self.labels[what],
            label_kind=self.label_kinds[what], classes=self.classes[what],
            weights=self.weights[name][mine].astype(np.float64), bias=self.bias[name][mine],
            scale=reached.pop("scale"),
            settings={k: v for k, v in reached.items() if np.isfinite(v)},
            model=self.model,
            config={**self.config, "seed": self.seeds[which], "positions": self.positions[place]},
            controls=Controls({k: v for k, v in measured.items() if np.isfinite(v)},
                              f"score {self.columns['score'][row]:.3f} on test documents"),
            provenance=self.provenance,
        )  # fmt: skip

    @property
    def missing(self) -> dict[str, str]:
        """Baselines that stand beside no score of this sweep, and how to have them."""
        there = {name for name, values in self.columns.items() if np.isfinite(values).any()}
        return {name: how for name, how in MISSING.items() if name not in there}

    def mean(self, column: str = "score") -> "pd.DataFrame":
        """Means over seeds: a row per site, position, label and method; spread between seeds.

        Raises:
            UnknownNameError: no such column.
        """
        if column not in self.columns:
            raise UnknownNameError("column", column, known=tuple(self.columns))
        keys = ["site", "layer", "position", "label", "kind", "method", "metric"]
        grouped = self.to_frame().groupby(keys, sort=False, dropna=False)[column]
        out = grouped.agg(["mean", "min", "max", "count"]).reset_index()
        return out.rename(columns={"mean": column, "count": "seeds"})

    def summary(self) -> dict[str, float]:
        """Probes, mean score with its controls, and how many are not converged.

        A mean is NaN where a probe has no such figure (a control that its label cannot have); then
        ``_undefined`` counts those and ``_defined`` is the mean of the others.
        """
        found = {"probes": float(len(self)), "labels": float(len(self.labels))}
        for name in ("score", "selectivity", *BESIDE):
            if name in self.columns and np.isfinite(self.columns[name]).any():
                found |= told(f"mean_{name}", self.columns[name])
        if len(self.positions) > 1:
            for i, name in enumerate(self.positions):
                here = self.columns["score"][self.at[:, 4] == i]
                found |= told(f"mean_score @{name}", here)
                found[f"documents @{name}"] = float(self.documents_at[i])
        settled = self.columns["converged"]
        found["not_converged"] = float((settled == 0).sum())
        return found

    def plot(
        self, label: str | None = None, *, column: str = "score", position: int | str | None = None
    ) -> "go.Figure":
        """A label (or the only one): score and controls by site; of several: sites by labels.

        With several positions, and none named: sites by positions, of one label or the mean of all.

        Raises:
            UnknownNameError: no such label, position or column.
        """
        from lensbench.probes.linear.sweep_plots import by_label, by_position, by_site

        for kind, asked, known in (("label", label, self.labels),
                                   ("position", position, self.positions)):  # fmt: skip
            if asked is not None and str(asked) not in known:
                raise UnknownNameError(kind, str(asked), known=known)
        if position is None and len(self.positions) > 1:
            return by_position(self, label, column)
        where = next(iter(self.positions)) if position is None else str(position)
        if label is None and len(self.labels) > 1:
            return by_label(self, column, where)
        return by_site(self, label or next(iter(self.labels)), where)

    def dealt(self) -> str:
        """In words: documents, and what a split deals out where that is something else."""
        how = "" if self.unit == "documents" else f", joined by groups to {self.n_units:,}"
        return f"{self.n_documents:,} documents{how}"

    def _row(
        self, label: str, site: str, method: str | None, seed: int | None,
        position: int | str | None,
    ) -> int:  # fmt: skip
        wanted: list[int] = []
        for kind, asked, known in (
            ("site", site, self.sites), ("label", label, self.labels),
            ("probe", method or self.methods[0], self.methods),
            ("seed", str(self.seeds[0] if seed is None else seed), tuple(map(str, self.seeds))),
            ("position", str(self.positions[0] if position is None else position), self.positions),
        ):  # fmt: skip
            if asked not in known:
                raise UnknownNameError(kind, asked, known=known)
            wanted.append(known.index(asked))
        found = np.flatnonzero((self.at == wanted).all(1))
        if not len(found):
            raise ConfigError(f"{method or self.methods[0]} has no probe of {label!r} at {site} @"
                              f"{position or self.positions[0]}")  # fmt: skip
        return int(found[0])

    def _span(self, row: int) -> tuple[int, int]:
        """Where a row's outputs stand among those of its site."""
        sizes = np.array([max(1, len(c) if len(c) > 2 else 1) for c in self.classes])
        before = (self.at[:row, 0] == self.at[row, 0]).nonzero()[0]
        first = int(sizes[self.at[before, 1]].sum())
        return first, first + int(sizes[self.at[row, 1]])
