"""Neurons decoded by their weights: which token a neuron writes, or reads, and how clearly.

1. Take the vector w of every neuron: a column of the output matrix (``down``: what it writes) or a
   row of the input matrices (``up``, ``gate``: what it reads).
2. Give it the final norm's gain (``norm=True``): w' = w * g, after centring where the norm centres.
3. p = softmax(U w'), U the unembedding: raw, with rows of one length, or of one length about their
   mean. Keep the k most probable tokens.
4. Control: vectors of the same lengths in random directions.

The scale of w decides how peaked p is: a neuron that fires at a writes softmax(a U w'), so read p
as a ranking of neurons, not as what the model will say. Source: arXiv:2501.02688 (input matrices
read with the output head); the norm is not settled there, so it is an option.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench import provenance
from lensbench.arguments import whole, whole_number
from lensbench.errors import ConfigError, UnknownNameError
from lensbench.models.matrices import SIDES, TABLES, Side, Table, ends_of, vectors_of
from lensbench.results import Controls, Result
from lensbench.stats import bootstrap_mean, wilson
from lensbench.tokens import token_texts

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.models import Model

_NUMBERS = 1 << 24
"""Logits held at once."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NeuronTable(Result):
    """The tokens that the weights of every neuron point to, most probable first."""

    columns_shown = ("layer", "neuron", "side", "top", "top_prob", "top2", "top3",
                     "top4", "top5", "random_prob")  # fmt: skip

    side: str
    layer: Int[np.ndarray, " neurons"]
    neuron: Int[np.ndarray, " neurons"]
    top_ids: Int[np.ndarray, "neurons k"]
    top_prob: Float[np.ndarray, "neurons k"]
    length: Float[np.ndarray, " neurons"]
    """Norm of the vector that is decoded."""
    random_prob: Float[np.ndarray, " neurons"]
    """Largest probability of a random vector of the same length: the control."""
    words: dict[str, str]
    """Text of every id that occurs."""
    left_out: tuple[int, ...] = ()
    """Layers without such a matrix (mixtures of experts)."""

    def to_frame(self) -> "pd.DataFrame":
        """One row per neuron: its tokens, their probabilities, how many neurons share the first."""
        import pandas as pd

        first = self.top_ids[:, 0]
        _, number, count = np.unique(first, return_inverse=True, return_counts=True)
        columns: dict[str, Any] = {"layer": self.layer, "neuron": self.neuron, "side": self.side}
        for i in range(self.top_ids.shape[1]):
            suffix = "" if i == 0 else str(i + 1)
            columns[f"top{suffix}"] = [self.words[str(t)] for t in self.top_ids[:, i]]
            columns[f"top{suffix}_prob"] = self.top_prob[:, i]
        columns |= {"shared_by": count[number], "length": self.length,
                    "random_prob": self.random_prob}  # fmt: skip
        frame = pd.DataFrame(columns)
        frame.attrs["units"] = {"top_prob": "probability", "random_prob": "probability",
                                "shared_by": "neurons with this first token"}  # fmt: skip
        return frame

    def specialised(self, least: float = 0.5) -> "pd.DataFrame":
        """Neurons whose first token has at least this probability, clearest first."""
        frame = self.to_frame()
        kept = frame.take(np.flatnonzero(self.top_prob[:, 0] >= least))
        return kept.sort_values(["top_prob", "layer", "neuron"], ascending=[False, True, True])

    def writes(self, token: str) -> "pd.DataFrame":
        """Neurons whose first token is ``token``, clearest first.

        Raises:
            UnknownNameError: no neuron has it.
        """
        frame = self.to_frame()
        known = sorted(set(frame["top"]))
        if token not in known:
            raise UnknownNameError("first token of a neuron", token, known=known)
        return frame.loc[frame["top"] == token].sort_values("top_prob", ascending=False)

    def by_layer(self, least: float | None = None) -> "pd.DataFrame":
        """Per layer, neurons beside random vectors: mean first probability, with 95 % intervals.

        With ``least``, the share of neurons whose first probability is at least that.
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for layer in np.unique(self.layer):
            here = self.layer == layer
            for name, prob in (("neurons", self.top_prob[here, 0]),
                               ("random", self.random_prob[here])):  # fmt: skip
                found = (bootstrap_mean(prob) if least is None
                         else wilson(int((prob >= least).sum()), len(prob)))  # fmt: skip
                rows.append({"layer": int(layer), "vectors": name, "value": found.mean,
                             "low": found.low, "high": found.high, "n": found.n})  # fmt: skip
        frame = pd.DataFrame(rows)
        unit = "probability" if least is None else f"share of neurons at {least:g} or more"
        frame.attrs["units"] = {"value": unit}
        return frame

    def plot(self, least: float | None = None) -> "go.Figure":
        """First probabilities by layer, beside random vectors of the same lengths."""
        from lensbench.plots import bars

        reads = "write" if self.side == "down" else "read"
        what = "mean probability of the first token"
        if least is not None:
            what = f"share of neurons whose first token has {least:g} or more"
        return bars(
            self.by_layer(least), x="layer", y="value", color="vectors", low="low", high="high",
            title=f"How clearly neurons {reads} one token", labels={"value": what},
            subtitle=f"{self.side} weights · n = {len(self.layer):,} neurons · "
            "bars: 95 % intervals over neurons",
            hover_columns=("n",),
        )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """Neurons, first probabilities and specialised share (0.5) beside random, first tokens."""
        return {
            "neurons": float(len(self.layer)),
            "first_prob_mean": float(self.top_prob[:, 0].mean()),
            "first_prob_random": float(self.random_prob.mean()),
            "specialised": float((self.top_prob[:, 0] >= 0.5).mean()),
            "specialised_random": float((self.random_prob >= 0.5).mean()),
            "distinct_tokens": float(len(np.unique(self.top_ids[:, 0]))),
        }


def decode_neurons(
    model: "Model",
    side: Side = "down",
    *,
    layers: Sequence[int] | None = None,
    norm: bool = True,
    table: Table = "raw",
    k: int = 5,
    seed: int = 0,
) -> NeuronTable:
    """Decode every MLP neuron by its weights.

    ``p = softmax(U (g * w))``, w ``[d_model]`` the neuron's vector, U ``[d_vocab, d_model]``, g the
    final norm's gain; probabilities in 0..1.

    Args:
        model: a decoder on the native back end.
        side: ``"down"`` what it writes; ``"up"``, ``"gate"`` what it reads.
        layers: left out, all that have such a matrix.
        norm: with the final norm's gain (and its centring).
        table: ``"raw"``, ``"rows"`` (rows of U of one length) or ``"centred"`` (about their mean).
        k: tokens kept per neuron.
        seed: of the random vectors.

    Raises:
        UnknownNameError: another side or table.
        ConfigError: layers that are not there or have no such matrix, k outside the vocabulary.

    Example:
        >>> table = probes.decode_neurons(model, layers=[2])
        >>> table.specialised(0.0).head(3)
    """
    began = time.monotonic()
    if table not in TABLES:
        raise UnknownNameError("table", table, known=TABLES)
    if side not in SIDES:
        raise UnknownNameError("side of a neuron", side, known=SIDES)
    k = whole_number("k", k, least=1)
    if k > model.card.d_vocab:
        raise ConfigError(f"k must be in 1..{model.card.d_vocab}, got {k}")
    ends = ends_of(model)
    rows, made = ends.of(table), torch.Generator().manual_seed(seed)
    found: list[dict[str, np.ndarray]] = []
    empty: list[int] = []
    for layer in _layers(model, layers):
        vectors = vectors_of(model, side, layer)  # 1
        if vectors is None:
            empty.append(layer)
            continue
        vectors = ends.through(vectors.to(rows.device), norm=norm)  # 2
        ids, prob = _tokens(vectors, rows, k)  # 3
        length = vectors.norm(dim=-1)
        noise = torch.nn.functional.normalize(torch.randn(vectors.shape, generator=made), dim=-1)
        by_chance = _tokens(noise.to(rows.device) * length[:, None], rows, 1)[1][:, 0]  # 4
        found.append({"layer": np.full(len(ids), layer), "neuron": np.arange(len(ids)), "ids": ids,
                      "prob": prob, "length": length.cpu().numpy(),
                      "random": by_chance})  # fmt: skip
    if not found:
        raise ConfigError(
            f"no layer of {model.card.name!r} has a matrix {side!r}; use another side, or "
            "interventions.experts where the MLPs are mixtures of experts"
        )
    joined = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
    used = np.unique(joined["ids"]).tolist()
    return NeuronTable(
        side=side, layer=joined["layer"], neuron=joined["neuron"], top_ids=joined["ids"],
        top_prob=joined["prob"], length=joined["length"], random_prob=joined["random"],
        words=dict(zip(map(str, used), token_texts(model.tokenizer, used), strict=True)),
        left_out=tuple(empty),
        config={"side": side, "norm": norm, "table": table, "k": k, "seed": seed},
        controls=Controls({"random_directions": float(joined["random"].mean())},
                          note="mean first probability of random vectors of the same lengths"),
        provenance=provenance.record(model=vars(model.card), seed=seed,
                                     seconds=time.monotonic() - began),
    )  # fmt: skip


def _layers(model: "Model", layers: Sequence[int] | None) -> list[int]:
    if layers is None:
        return list(range(model.n_layers))
    if whole(layers) is not None:
        raise ConfigError(f"layers must be a list of layers, got {layers!r}")
    wanted = [whole_number("layer", layer) for layer in layers]
    if len(set(wanted)) < len(wanted):
        raise ConfigError(f"layers must be different ones, got {wanted}")
    if not wanted or not all(0 <= layer < model.n_layers for layer in wanted):
        raise ConfigError(f"layers must be in 0..{model.n_layers - 1}, got {list(layers)}")
    return wanted


def _tokens(
    vectors: Float[Tensor, "neurons d_model"], rows: Float[Tensor, "d_vocab d_model"], k: int
) -> tuple[Int[np.ndarray, "neurons k"], Float[np.ndarray, "neurons k"]]:
    """The k most probable tokens of every vector; a part of the vectors at a time."""
    ids, prob = [], []
    for part in vectors.split(max(1, _NUMBERS // len(rows))):
        logits = part @ rows.T
        best = logits.topk(k, -1)
        prob.append((best.values - logits.logsumexp(-1, keepdim=True)).exp().cpu())
        ids.append(best.indices.cpu())
    return torch.cat(ids).numpy(), torch.cat(prob).numpy()
