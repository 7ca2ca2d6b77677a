"""The lens table: what every layer would say at every token, as scalars that fit in memory.

Almost all that exit layers, drafts and thresholds do can be read off these numbers; logits are
never kept. Layers are counted by how many were executed, E = 1 .. L: row ``E - 1`` is exit layer E.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from lensbench.errors import ConfigError, UnknownNameError
from lensbench.results import Result
from lensbench.stats import bootstrap_mean, mean_there

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

CONFIDENCES = ("softmax_max", "softmax_diff", "entropy", "state")
"""Scores of certainty that the table holds (see ``exits.confidence``)."""
_UNITS = {
    "agreement": "share of tokens",
    "kl": "KL(final ‖ exit) [nats]",
    "cross_entropy": "nats",
    "entropy": "nats",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class LensTable(Result):
    """Scalars per layer and token of the texts of one store.

    A column is the prediction made *at* a token, of the token that follows. p_E is the softmax of
    the final norm and head on the stream after E layers, p_L the full model's.

    Example:
        >>> table = acceleration.lens_table(own, early)
        >>> figure = table.plot()
    """

    best: Int[np.ndarray, "layers tokens"]
    """argmax p_E."""
    top1: Float[np.ndarray, "layers tokens"]
    """Largest probability."""
    top2: Float[np.ndarray, "layers tokens"]
    """Second largest."""
    log_target: Float[np.ndarray, "layers tokens"]
    """log p_E of the token that follows in the text, nats."""
    log_final: Float[np.ndarray, "layers tokens"]
    """log p_E of the full model's most probable token, nats."""
    kl: Float[np.ndarray, "layers tokens"]
    """KL(p_L || p_E), nats; 0 at the last layer."""
    entropy: Float[np.ndarray, "layers tokens"]
    """H(p_E), nats."""
    cosine: Float[np.ndarray, "layers tokens"]
    """cos(h_(E-1), h_E)."""
    target: Int[np.ndarray, " tokens"]
    """The token that follows."""
    doc: Int[np.ndarray, " tokens"]
    """Document of each column; columns of a document stand together, in order."""
    step: Int[np.ndarray, " tokens"]
    """Which new token the column predicts, from 0; -1 inside the prompt."""
    prompts: tuple[tuple[int, ...], ...]
    """Ids of each document before its first new token."""
    d_vocab: int
    inexact: str = ""
    """Why this is not the model's own text at its own precision; empty where it is."""
    store: str = ""
    """Fingerprint of the text in the store."""

    @property
    def n_layers(self) -> int:
        """L."""
        return len(self.best)

    @property
    def new(self) -> Bool[np.ndarray, " tokens"]:
        """Columns that predict new tokens."""
        return self.step >= 0

    @property
    def chosen(self) -> Int[np.ndarray, " tokens"]:
        """What the full model writes: the text where it is the model's own, else argmax p_L."""
        return self.best[-1] if self.inexact else self.target

    @property
    def agrees(self) -> Bool[np.ndarray, "layers tokens"]:
        """Does a layer choose what the full model writes?"""
        return self.best == self.chosen

    def confidence(self, measure: str) -> Float[np.ndarray, "layers tokens"]:
        """How sure each layer is, in [0, 1]: the scores of :mod:`exits.confidence`.

        Raises:
            UnknownNameError: a score the table does not hold.
        """
        if measure not in CONFIDENCES:
            hint = "A fitted classifier reads states, which the table does not keep."
            raise UnknownNameError("confidence", measure, known=CONFIDENCES, hint=hint)
        if measure == "softmax_max":
            return self.top1
        if measure == "softmax_diff":
            return self.top1 - self.top2
        if measure == "entropy":
            return 1 - self.entropy / np.float32(np.log(self.d_vocab))
        return np.concatenate([np.zeros_like(self.cosine[:1]), self.cosine[1:]])

    def margin(self) -> Float[np.ndarray, "layers tokens"]:
        """Difference of the two largest logits, nats: below 1e-4 rounding may turn the choice."""
        tiny = np.finfo(np.float32).tiny
        return np.log(np.maximum(self.top1, tiny)) - np.log(np.maximum(self.top2, tiny))

    def ties(self, margin: float = 1e-4) -> int:
        """New tokens at which some layer's two largest logits are closer than ``margin`` nats."""
        return int((self.margin()[:, self.new] < margin).any(0).sum())

    def documents(self) -> Iterator["DocumentLens"]:
        """Each document that has new tokens, in order."""
        for doc in np.unique(self.doc[self.new]):
            yield self.document(int(doc))

    def document(self, number: int) -> "DocumentLens":
        """The columns of one document.

        Raises:
            ConfigError: no such document, or one without a new token.
        """
        rows = np.flatnonzero(self.doc == number)
        if not len(rows) or not self.new[rows].any():
            raise ConfigError(f"the table has no document {number} with new tokens")
        return DocumentLens(self, number, slice(int(rows[0]), int(rows[-1]) + 1))

    def first_correct(self) -> Int[np.ndarray, " new"]:
        """Fewest layers after which the choice is the full model's, per new token."""
        return self.agrees[:, self.new].argmax(0) + 1  # the last layer always agrees

    def stable(self) -> Int[np.ndarray, " new"]:
        """Fewest layers from which on every layer chooses as the full model does, per new token.

        Source: Baldock et al. 2021, arXiv:2106.09647; Schuster et al. 2022 ("saturation").
        """
        differs = ~self.agrees[::-1, self.new]
        last = np.where(differs.any(0), differs.argmax(0), self.n_layers)
        return np.minimum(self.n_layers - last + 1, self.n_layers)

    def to_frame(self) -> "pd.DataFrame":
        """One row per exit layer: means over new tokens, with 95 % intervals over documents."""
        import pandas as pd

        rows = [
            {"metric": name, "exit_layer": e + 1, "value": i.mean, "low": i.low, "high": i.high,
             "n": i.n}
            for name, values in self._measured().items()
            for e, i in enumerate(bootstrap_mean(v, self.doc[self.new]) for v in values)
        ]  # fmt: skip
        frame = pd.DataFrame(rows)
        frame.attrs["units"] = {"value": "see metric", **_UNITS, "n": "documents"}
        return frame

    def _measured(self) -> dict[str, Float[np.ndarray, "layers new"]]:
        new = self.new
        return {
            "agreement": self.agrees[:, new].astype(np.float64),
            "kl": self.kl[:, new],
            "cross_entropy": -self.log_target[:, new],
            "entropy": self.entropy[:, new],
        }

    def summary(self) -> dict[str, float]:
        """Agreement in the middle, the depth an oracle would need, and ties."""
        middle = self.n_layers // 2
        return {
            "new_tokens": float(self.new.sum()),
            "documents": float(len(np.unique(self.doc[self.new]))),
            "agreement_middle": float(self.agrees[middle - 1, self.new].mean()) if middle else 1.0,
            "oracle_depth": float(self.first_correct().mean() / self.n_layers),
            "stable_depth": float(self.stable().mean() / self.n_layers),
            "perplexity": float(np.exp(-mean_there(self.log_target[-1, self.new]))),
            "ties": float(self.ties()),
            "exact": float(not self.inexact),
        }

    def plot(self, metric: str = "agreement") -> "go.Figure":
        """One metric (``agreement``, ``kl``, ``cross_entropy``, ``entropy``) per exit layer."""
        from lensbench.plots import lines

        if metric not in _UNITS:
            raise UnknownNameError("lens metric", metric, known=tuple(_UNITS))
        frame = self.to_frame()
        part = frame.loc[frame["metric"] == metric].assign(**{metric: lambda f: f["value"]})
        part.attrs["units"] = {metric: _UNITS[metric], "n": "documents"}
        return lines(
            part, x="exit_layer", y=metric, low="low", high="high",
            title="What each exit layer says of the full model's next token",
            subtitle=f"{int(self.new.sum())} new tokens"
            + ("" if not self.inexact else " of other text than the model's own"),
            labels={"exit_layer": "layers executed"},
        )  # fmt: skip


@dataclass(frozen=True)
class DocumentLens:
    """One document of a table: views of its columns."""

    table: LensTable
    number: int
    columns: slice

    @property
    def n_prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self.table.prompts[self.number])

    @property
    def first(self) -> int:
        """Column (inside the document) that predicts the first new token."""
        return int((self.table.step[self.columns] >= 0).argmax())

    @property
    def n_new(self) -> int:
        """New tokens."""
        return int((self.table.step[self.columns] >= 0).sum())

    def of(self, values: np.ndarray) -> np.ndarray:
        """The columns of new tokens of an array whose last axis is the table's."""
        return values[..., self.columns][..., self.first :]

    def ties(self, exits: Collection[int], margin: float = 1e-4) -> int:
        """New tokens at which one of these exit layers is undecided within ``margin`` nats."""
        layers = [e - 1 for e in sorted(exits)]
        return int((self.of(self.table.margin())[layers] < margin).any(0).sum())

    @property
    def agrees(self) -> Bool[np.ndarray, "layers new"]:
        """Does a layer choose what the full model writes?"""
        return self.of(self.table.agrees)

    @property
    def text(self) -> tuple[int, ...]:
        """The new tokens."""
        return tuple(int(i) for i in self.of(self.table.chosen))
