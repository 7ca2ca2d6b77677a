"""Do the neurons of two models decode to the same tokens?

The share of neurons (same layer, same number) with the same first token, beside two chance levels:
1 / d_vocab, and sum_t p_a(t) p_b(t), with p(t) the share of a model's neurons whose first token is
t. The second is the one to beat: where a few tokens are first for many neurons, two unrelated
models agree often. Source: arXiv:2501.02688 (base against instruct models).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from lensbench import provenance
from lensbench.errors import MismatchError
from lensbench.probes.lenses.neurons.decode import NeuronTable
from lensbench.results import Controls, Result
from lensbench.stats import wilson

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, kw_only=True, eq=False)
class NeuronAgreement(Result):
    """Neurons of two models with the same first token, by layer."""

    layers: tuple[int, ...]
    same: Int[np.ndarray, " layers"]
    n: Int[np.ndarray, " layers"]
    chance: Float[np.ndarray, " layers"]
    """sum_t p_a(t) p_b(t) within the layer."""
    uniform: float
    """1 over the number of tokens."""

    def to_frame(self) -> "pd.DataFrame":
        """One row per layer: share, 95 % interval, chance, neurons."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for layer, same, n, chance in zip(self.layers, self.same, self.n, self.chance, strict=True):
            share = wilson(int(same), int(n))
            where = {"layer": layer, "n": int(n)}
            rows.append({**where, "neurons": "same", "share": share.mean, "low": share.low,
                         "high": share.high})  # fmt: skip
            rows.append({**where, "neurons": "shuffled (chance)", "share": float(chance),
                         "low": np.nan, "high": np.nan})  # fmt: skip
        frame = pd.DataFrame(rows)
        frame.attrs["units"] = {"share": "share of neurons with one first token"}
        return frame

    def plot(self) -> "go.Figure":
        """Share by layer beside chance."""
        from lensbench.plots import bars

        return bars(
            self.to_frame(), x="layer", y="share", color="neurons", low="low", high="high",
            title="Neurons that decode to the same token in both models",
            subtitle=f"n = {int(self.n.sum()):,} neurons · bars: 95 % intervals",
            labels={"share": "share of neurons"}, hover_columns=("n",),
        )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """Share over all layers, chance, and 1 / d_vocab."""
        return {
            "same": float(self.same.sum() / self.n.sum()),
            "chance": float((self.chance * self.n).sum() / self.n.sum()),
            "uniform": self.uniform,
        }


def neuron_agreement(a: NeuronTable, b: NeuronTable) -> NeuronAgreement:
    """Share of neurons whose first token is the same in two models of one shape.

    Raises:
        MismatchError: tables of other sides, settings or neurons, or other words behind an id.

    Example:
        >>> one = probes.decode_neurons(model, layers=[2])
        >>> other = probes.decode_neurons(early, layers=[2])
        >>> found = probes.neuron_agreement(one, other)
    """
    same = ("side", "norm", "table")
    if [a.config.get(n) for n in same] != [b.config.get(n) for n in same]:
        raise MismatchError(
            f"the tables were made differently ({ {n: a.config.get(n) for n in same} } and "
            f"{ {n: b.config.get(n) for n in same} }); decode both models in the same way"
        )
    if not (np.array_equal(a.layer, b.layer) and np.array_equal(a.neuron, b.neuron)):
        raise MismatchError(
            f"the tables hold {len(a.layer)} and {len(b.layer)} neurons, not the same ones; models "
            "must have the same layers and widths"
        )
    other = sorted(t for t in a.words.keys() & b.words.keys() if a.words[t] != b.words[t])
    if other:
        raise MismatchError(f"token {other[0]} is {a.words[other[0]]!r} in one model and "
                            f"{b.words[other[0]]!r} in the other; tokenizers differ")  # fmt: skip
    layers = tuple(int(layer) for layer in np.unique(a.layer))
    first = [(a.top_ids[a.layer == n, 0], b.top_ids[b.layer == n, 0]) for n in layers]
    chance = np.array([_chance(x, y) for x, y in first])
    uniform = 1 / float(a.provenance.model.get("d_vocab", np.nan))
    n = np.array([len(x) for x, _ in first])
    return NeuronAgreement(
        layers=layers, same=np.array([int((x == y).sum()) for x, y in first]), n=n, chance=chance,
        uniform=uniform,
        config={n: a.config.get(n) for n in same},
        controls=Controls({"shuffled_neurons": float((chance * n).sum() / n.sum())},
                          note="agreement with the neurons of each layer shuffled, expected"),
        provenance=provenance.record(model=a.provenance.model),
    )  # fmt: skip


def _chance(x: Int[np.ndarray, " neurons"], y: Int[np.ndarray, " neurons"]) -> float:
    """Expected share of equal first tokens when one side is shuffled."""
    ids, counts = np.unique(x, return_counts=True)
    other = {int(t): int(c) for t, c in zip(*np.unique(y, return_counts=True), strict=True)}
    met = sum(int(c) * other.get(int(t), 0) for t, c in zip(ids, counts, strict=True))
    return met / (len(x) * len(y))
