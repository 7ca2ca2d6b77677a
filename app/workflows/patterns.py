"""Attention patterns of one text: every head's map, and scores of what a head looks like it does.

Scores are plain averages over the queries of this one text; each stands beside what a head that
attends evenly to every key it may see would score on the same queries. A head of a trained model is
named by its score on repeated random tokens, where nothing but the repeat can be predicted.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from lensbench.errors import ConfigError

if TYPE_CHECKING:
    import plotly.graph_objects as go

KINDS = {
    "previous_token": "mean over queries i >= 1 of A[i, i-1]",
    "duplicate_token": "mean over repeated tokens i of the sum of A[i, j] over earlier j with the "
    "same token",
    "induction": "mean over repeated tokens i of the sum of A[i, j+1] over earlier j with the same "
    "token, j+1 < i",
    "first_token": "mean over queries i >= 1 of A[i, 0]",
}
"""Scores of a head on one text, A its pattern (rows: queries, summing to 1). Induction heads:
Olsson et al. 2022, arXiv:2209.11895."""
NAMES = {
    "induction": "Induction",
    "previous_token": "Previous token",
    "duplicate_token": "Duplicate token",
    "first_token": "First token",
}
"""The same, as a page names them."""


@dataclass(frozen=True, eq=False)
class Patterns:
    """Attention probabilities of one text; rows of tokens that were not stored are NaN."""

    weights: Float[np.ndarray, "layers heads query key"]
    value_norms: Float[np.ndarray, "layers heads key"] | None
    """Length of each key's value vector (before the output projection); None where not at hand."""
    ids: Int[np.ndarray, " tokens"]
    words: tuple[str, ...]
    ran_model: bool
    left_out: int = 0

    @property
    def n_layers(self) -> int:
        """Blocks."""
        return self.weights.shape[0]

    @property
    def n_heads(self) -> int:
        """Query heads per block."""
        return self.weights.shape[1]

    def head(self, layer: int, head: int, *, weighted: bool = False) -> pd.DataFrame:
        """One row per query and key that the query may see.

        With ``weighted``: ``A[i, j] |v_j| / sum_j' A[i, j'] |v_j'|``, the share of each key in the
        summed lengths of what the head moves (after Kobayashi et al. 2020, arXiv:2004.10102, who
        take the lengths behind the output projection).

        Raises:
            ConfigError: no such head; or no value vectors for ``weighted``.
        """
        if not (0 <= layer < self.n_layers and 0 <= head < self.n_heads):
            raise ConfigError(f"there is no head {layer}.{head}; the model has {self.n_layers} "
                              f"layers of {self.n_heads} heads, counted from 0")  # fmt: skip
        a = self.weights[layer, head]
        if weighted:
            a = self._by_value(layer, head)
        query, key = (i.ravel() for i in np.indices(a.shape))
        seen = np.isfinite(a).ravel() & ((key <= query) | (not self.causal()))
        column = "value_weighted" if weighted else "attention"
        frame = pd.DataFrame({
            "query": query, "key": key, column: a.ravel(),
            "query_token": [self.words[i] for i in query],
            "key_token": [self.words[i] for i in key],
        }).loc[seen].reset_index(drop=True)  # fmt: skip
        unit = "share of |v|" if weighted else "probability"
        frame.attrs["units"] = {column: unit, "query": "position", "key": "position"}
        return frame

    def plot(self, layer: int, head: int, *, weighted: bool = False) -> "go.Figure":
        """The pattern of one head: queries downwards, keys to the right, range 0 to 1."""
        from lensbench.plots import heatmap, visible
        from lensbench.plots.columns import escape_all

        frame = self.head(layer, head, weighted=weighted)
        value = "value_weighted" if weighted else "attention"
        left = f" · {self.left_out} more tokens not shown" if self.left_out else ""
        names = {i: visible(word) for i, word in enumerate(self.words)}
        figure = heatmap(
            frame, x="key", y="query", value=value, span=(0.0, 1.0), x_labels=names,
            hover_columns=("query_token", "key_token"), title=f"Head {layer}.{head}",
            subtitle=f"{_formula(weighted)} · n = 1 text, {len(self.words)} tokens{left}",
            labels={"key": "key (looked at)", "query": "query (looks)"}, height=520,
        )  # fmt: skip
        figure.update_yaxes(autorange="reversed")
        many = len(self.words) > 24
        figure.update_xaxes(tickfont={"size": 9 if many else 12})
        if len(self.words) <= 40:
            words = escape_all([f"{i} {w}" for i, w in names.items()])
            figure.update_yaxes(tickvals=list(names), ticktext=words,
                                tickfont={"size": 9 if many else 12})  # fmt: skip
        return figure

    def mosaic(self, *, chosen: tuple[int, int] | None = None, kind: str = "previous_token",
               weighted: bool = False) -> "go.Figure":  # fmt: skip
        """Every head as a thumbnail of its first tokens; hover says its scores."""
        from lensbench.plots import mosaic

        value = "value_weighted" if weighted else "attention"
        return mosaic(
            self.shown(weighted=weighted), row="layer", column="head", x="key", y="query",
            value=value, chosen=chosen, hovers=self._hovers(kind), title="All heads",
            subtitle=f"n = 1 text, first {self._small()} of {len(self.words)} tokens"
                     f"<br>{_formula(weighted)}",
        )  # fmt: skip

    def shown(self, *, weighted: bool = False) -> pd.DataFrame:
        """What the thumbnails show: one row per layer, head, query and key."""
        n = self._small()
        parts = [
            one.loc[(one["query"] < n) & (one["key"] < n)].assign(layer=layer, head=head)
            for layer in range(self.n_layers) for head in range(self.n_heads)
            for one in [self.head(layer, head, weighted=weighted)]
        ]  # fmt: skip
        frame = pd.concat(parts, ignore_index=True)
        frame.attrs["units"] = parts[0].attrs["units"]
        return frame

    def _small(self) -> int:
        """Tokens of a thumbnail."""
        return max(2, min(len(self.words), 24, 512 // max(self.n_layers, self.n_heads)))

    def _hovers(self, kind: str) -> dict[tuple[int, int], str]:
        """What each head's thumbnail says: its scores, that of ``kind`` first."""
        hovers = {
            (layer, head): f"<b>head {layer}.{head}</b>"
            for layer in range(self.n_layers) for head in range(self.n_heads)
        }  # fmt: skip
        for name in sorted(KINDS, key=lambda k: k != kind):
            table = self.scores(name)
            for row in table.to_dict("records"):
                told = f"{row['score']:.2f} (even head {row['even']:.2f}, n = {row['n']})"
                hovers[row["layer"], row["head"]] += f"<br>{NAMES[name]}: {told}"
        return hovers

    def n_queries(self, kind: str) -> int:
        """How many queries of this text a score asks about."""
        return int(self._targets(kind)[1].sum())

    def plot_scores(self, kind: str) -> "go.Figure":
        """Heat map of one score over layers and heads."""
        from lensbench.plots import heatmap

        figure = heatmap(
            self.scores(kind), x="head", y="layer", value="score", span=(0.0, 1.0),
            hover_columns=("even", "n"), title=f"{NAMES[kind]} score of every head",
            subtitle=f"{KINDS[kind]} · n = {self.n_queries(kind)} queries of one text",
        )  # fmt: skip
        figure.update_xaxes(tickvals=list(range(self.n_heads)))
        return figure

    def scores(self, only: str | None = None) -> pd.DataFrame:
        """One row per head and kind of score, with its number of queries and the even head's."""
        parts: list[pd.DataFrame] = []
        for kind in KINDS if only is None else (only,):
            mask, queries = self._targets(kind)
            n = int(queries.sum())
            attended = np.nansum(self.weights[:, :, queries] * mask[queries], -1)
            value = attended.mean(-1) if n else np.full(self.weights.shape[:2], np.nan)
            width = np.arange(1, len(mask) + 1) if self.causal() else np.full(len(mask), len(mask))
            even = float((mask.sum(1) / width)[queries].mean()) if n else float("nan")
            layer, head = (i.ravel() for i in np.indices(value.shape))
            parts.append(pd.DataFrame({"kind": kind, "layer": layer, "head": head,
                                       "score": value.ravel(), "even": even, "n": n}))  # fmt: skip
        frame = pd.concat(parts, ignore_index=True)
        frame.attrs["units"] = {"score": "share of attention", "even": "score of an even head",
                                "n": "queries"}  # fmt: skip
        return frame

    def heads(self) -> list[str]:
        """Names of all heads, ``layer.head``."""
        return [f"{a}.{b}" for a in range(self.n_layers) for b in range(self.n_heads)]

    def best_head(self, kind: str) -> str:
        """The head of the largest score, as ``layer.head`` (0.0 where nothing is asked)."""
        scores = self.scores(kind)
        part = scores.loc[scores["n"] > 0]
        if part.empty:
            return "0.0"
        best = part.loc[part["score"].idxmax()]
        return f"{int(best['layer'])}.{int(best['head'])}"

    def causal(self) -> bool:
        """Whether no query looks ahead."""
        ahead = np.triu(np.ones(self.weights.shape[-2:], bool), 1)
        return not bool((np.nan_to_num(self.weights) * ahead > 1e-6).any())

    def _by_value(self, layer: int, head: int) -> np.ndarray:
        if self.value_norms is None:
            raise ConfigError("this store has no value vectors; tick 'run the model' to have them")
        moved = self.weights[layer, head] * self.value_norms[layer, head]
        return moved / np.maximum(moved.sum(-1, keepdims=True), 1e-12)

    def _targets(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Keys that count ``[query, key]``, and which queries are asked."""
        n = len(self.ids)
        stored = np.isfinite(self.weights).all((0, 1, 3))
        earlier = np.tril(np.ones((n, n), bool), -1)
        if kind == "previous_token":
            mask = np.eye(n, k=-1, dtype=bool)
        elif kind == "first_token":
            mask = np.zeros((n, n), bool)
            mask[1:, 0] = True
        else:
            mask = np.asarray((self.ids[:, None] == self.ids[None, :]) & earlier)
            if kind == "induction":
                mask = np.asarray(np.pad(mask, ((0, 0), (1, 0)))[:, :n] & earlier)
        return mask, np.asarray(mask.any(1) & stored)


def _formula(weighted: bool) -> str:
    return "A[i,j] |v_j| / sum_j A[i,j] |v_j|" if weighted else "A[i,j], each row sums to 1"
