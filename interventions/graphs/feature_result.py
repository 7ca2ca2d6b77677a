"""A latent's pre-activation as a tree of shares: frames, pictures, sums, and its check."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.interventions.graphs.feature_parts import BIAS, HEAD, LATENT
from lensbench.results import Result
from lensbench.sites import Site

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.interventions.graphs.feature_check import FeatureCheck
    from lensbench.models.base import Model

SHOWN = 15
"""Bars of a picture."""
MOST_NAMES = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureAttribution(Result):
    """Shares of ``value = x[position] . encoder + offset``, in its unit.

    Nodes are parts; those of level 1 sum to ``value``, those of level k + 1 to the parts of level k
    that they split (``parent``). Kinds are ``head``, ``mlp``, ``embedding``, ``latent``, ``error``,
    ``skip`` (a transcoder's linear path) and ``bias``.
    """

    columns_shown = ("node", "part", "layer", "head", "position", "token", "latent",
                     "share", "through", "of_total")  # fmt: skip

    prompt: tuple[str, ...]
    ids: Int[np.ndarray, " pos"]
    read: str
    """Site of the latent's dictionary."""
    latent: int
    position: int
    value: float
    """Pre-activation in the model's own run."""
    activation: float
    """0 where the latent is silent."""
    encoder: Float[np.ndarray, " width"]
    offset: float
    node_kind: tuple[str, ...]
    site: tuple[str, ...]
    """Where a part is written."""
    at: Int[np.ndarray, " nodes"]
    """Position where it is written."""
    head: Int[np.ndarray, " nodes"]
    """-1 for all but heads, as in ``source``."""
    source: Int[np.ndarray, " nodes"]
    number: Int[np.ndarray, " nodes"]
    """Of an upstream latent; -1 elsewhere."""
    share: Float[np.ndarray, " nodes"]
    level: Int[np.ndarray, " nodes"]
    parent: Int[np.ndarray, " nodes"]
    """Node that it is a part of; -1 at level 1."""
    written: Float[np.ndarray, "some d_model"]
    """What the nodes ``written_by`` add to the stream."""
    written_by: Int[np.ndarray, " some"]

    @property
    def depth(self) -> int:
        """Deepest level."""
        return int(self.level.max(initial=1))

    def are(self, *kinds: str) -> Bool[np.ndarray, " nodes"]:
        """Which nodes are of these kinds."""
        return np.isin(np.array(self.node_kind), kinds)

    def frontier(self, level: int | None = None) -> Bool[np.ndarray, " nodes"]:
        """Nodes that sum to the pre-activation: those of a level, and earlier ones not split by it.

        Raises:
            ConfigError: a level that is not there.
        """
        deepest = self.depth if level is None else whole_number("level", level, least=1)
        if deepest > self.depth:
            raise ConfigError(f"the shares go to level {self.depth}, asked for {deepest}")
        inside = self.level <= deepest
        split = np.zeros(len(inside), dtype=bool)
        split[self.parent[inside & (self.parent >= 0)]] = True
        return inside & ~split

    def gap(self, level: int | None = None) -> float:
        """``|sum of the frontier - value|``; rounding, unless the model is not linear when held."""
        return abs(float(self.share[self.frontier(level)].sum()) - self.value)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """``L1H3 @5<-2``, ``L0 mlp_out @2 #17``, ``L0 mlp_out @2``, ``embedding @2``."""
        return tuple(self._name(i) for i in range(len(self.node_kind)))

    def _name(self, node: int) -> str:
        kind, site, at = self.node_kind[node], Site.parse(self.site[node]), int(self.at[node])
        if kind == HEAD:
            return f"L{site.layer}H{self.head[node]} @{at}<-{self.source[node]}"
        place = f"L{site.layer} {site.name} @{at}"
        if kind == LATENT:
            return f"{place} #{self.number[node]}"
        return {"mlp": place, "embedding": f"embedding @{at}"}.get(kind, f"{place} {kind}")

    @property
    def reads_at(self) -> Int[np.ndarray, " nodes"]:
        """Source position of heads, position of all others."""
        return np.where(self.source >= 0, self.source, self.at)

    def path(self, node: int) -> tuple[int, ...]:
        """The node, what it is a part of, and so on up to level 1.

        Raises:
            ConfigError: no such node.
        """
        if not 0 <= node < len(self.share):
            raise ConfigError(f"nodes are 0..{len(self.share) - 1}, got {node!r}")
        found = [node]
        while self.parent[found[-1]] >= 0:
            found.append(int(self.parent[found[-1]]))
        return tuple(found)

    def to_frame(self, level: int | None = None) -> "pd.DataFrame":
        """One row per node, or per node of the frontier of a level; largest share first."""
        import pandas as pd

        keep = np.arange(len(self.share)) if level is None else np.flatnonzero(self.frontier(level))
        keep = keep[np.argsort(-np.abs(self.share[keep]), kind="stable")]
        sites = [Site.parse(s) for s in self.site]
        frame = pd.DataFrame({
            "node": keep, "level": self.level[keep], "part": [self.names[i] for i in keep],
            "kind": [self.node_kind[i] for i in keep],
            "layer": [-1 if sites[i].layer is None else sites[i].layer for i in keep],
            "head": self.head[keep], "position": self.at[keep], "source": self.source[keep],
            "token": [self.prompt[self.reads_at[i]] for i in keep],
            "latent": self.number[keep], "share": self.share[keep],
            "through": [" > ".join(self.names[p] for p in self.path(int(i))[1:]) for i in keep],
            "of_total": self.share[keep] / self.value if self.value else np.nan,
            "parent": self.parent[keep],
        })  # fmt: skip
        frame.attrs["units"] = {"share": "pre-activation", "of_total": "share of the whole"}
        return frame

    def by(self, *columns: str, level: int = 1) -> "pd.DataFrame":
        """Shares of a level's frontier summed over all but these columns of :meth:`to_frame`."""
        frame = self.to_frame(level)
        if not columns or any(c not in frame.columns for c in columns):
            raise ConfigError(f"columns are of {', '.join(frame.columns)}; got {columns}")
        totals: Any = frame.groupby(list(columns), sort=True)["share"].sum()
        found: pd.DataFrame = totals.reset_index()
        found.attrs["units"] = frame.attrs["units"]
        return found

    def summary(self) -> dict[str, float]:
        """Pre-activation, largest gap of a level, and how much the largest parts are of it."""
        first = self.share[self.frontier(1)]
        return {
            "pre_activation": self.value, "activation": self.activation,
            "gap": max(self.gap(k) for k in range(1, self.depth + 1)),
            "parts": float(self.frontier().sum()), "levels": float(self.depth),
            "largest": float(first[np.abs(first).argmax()]) if len(first) else 0.0,
            "heads": float(self.share[self.frontier(1) & self.are(HEAD)].sum()),
            "bias": float(self.share[self.frontier(1) & self.are(BIAS)].sum()),
        }  # fmt: skip

    def plot(self, kind: Literal["top", "heads"] = "top", *, level: int | None = None,
             top: int = SHOWN) -> "go.Figure":  # fmt: skip
        """The largest parts of a level's frontier, or heads of level 1 by source position.

        Raises:
            ConfigError: neither of the two.
        """
        if kind == "heads":
            return self._heads()
        if kind != "top":
            raise ConfigError(f"plot is 'top' or 'heads', got {kind!r}")
        return self._top(self.depth if level is None else level, whole_number("top", top, least=1))

    def _top(self, level: int, top: int) -> "go.Figure":
        from lensbench.plots import bars

        frame = self.by("part", "kind", level=level)  # several heads may lead to one part
        order = np.argsort(-np.abs(frame["share"].to_numpy()), kind="stable")
        shown, rest = frame.iloc[order[:top]].copy(), frame.iloc[order[top:]]
        if len(rest):
            shown.loc[len(frame)] = [f"{len(rest)} others", "others", rest["share"].sum()]
        shown["of_total"] = shown["share"] / self.value if self.value else np.nan
        shown.attrs["units"] = frame.attrs["units"]
        figure = bars(
            shown, x="part", y="share", color="kind", hover_columns=("of_total",),
            title=self._title(),
            subtitle=f"n = 1 prompt · level {level}; all bars sum to {self.value:.3g}",
        )  # fmt: skip
        figure.update_layout(barmode="relative")  # one bar a part, its kind as colour
        figure.update_xaxes(categoryorder="array", categoryarray=shown["part"].tolist())
        return figure

    def _heads(self) -> "go.Figure":
        import pandas as pd

        from lensbench.plots import heatmap

        mine = np.flatnonzero(self.frontier(1) & self.are(HEAD))
        layer = np.array([Site.parse(self.site[i]).layer for i in mine], dtype=np.int64)
        n_heads = int(self.head[mine].max(initial=0)) + 1
        row = (layer - layer.min(initial=0)) * n_heads + self.head[mine]
        frame = pd.DataFrame({
            "row": row, "source": self.source[mine], "share": self.share[mine],
            "part": [self.names[i] for i in mine],
        })  # fmt: skip
        frame.attrs["units"] = {"share": "pre-activation"}
        labels = {int(s): f"{s} {self.prompt[s]}" for s in self.source[mine]}
        figure = heatmap(
            frame, x="source", y="row", value="share", diverging=True, x_labels=labels,
            hover_columns=("part",), title=self._title(), labels={"row": "head"},
            subtitle=f"n = 1 prompt · heads give {self.share[mine].sum():.3g} of {self.value:.3g}",
        )  # fmt: skip
        names = {int(r): f"L{i}H{self.head[n]}" for r, i, n in zip(row, layer, mine, strict=True)}
        if len(names) <= MOST_NAMES:
            figure.update_yaxes(tickvals=list(names), ticktext=list(names.values()))
        return figure

    def _title(self) -> str:
        return f"What latent {self.latent} of {self.read} reads at position {self.position}"

    def verify(
        self, model: "Model", top: int = 20, random: int = 20, *, large: float = 0.1, seed: int = 0
    ) -> "FeatureCheck":
        """Take parts out of the model, once with everything else held and once without.

        A removal counts as ``large`` from this share of the pre-activation on.
        """
        from lensbench.interventions.graphs.feature_check import check_features

        return check_features(model, self, top, random, large=large, seed=seed)
