"""Four stages of inference, told by what each layer does (Lad et al. 2024).

Early layers join tokens into words (attention to the last few positions); middle ones build
features; later ones ensemble the prediction (the lens comes close to the output; neurons that push
single tokens up); the last ones sharpen it (neurons that push tokens down, larger MLP output).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench import provenance
from lensbench.interventions.acceleration.decoding import native
from lensbench.interventions.acceleration.skipping.damage import documents_of
from lensbench.models.base import Model
from lensbench.models.matrices import ends_of, vectors_of
from lensbench.results import Result
from lensbench.tokens import Tokens, TokensLike

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

KURTOSIS = 10.0
"""Of a neuron's weights on tokens, above which it is about few of them."""
BACK = 5
"""Positions before a token that count as its word."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StageReport(Result):
    """One row per layer of what tells the stages apart; means over tokens, first token left out."""

    local_attention: Float[np.ndarray, " layers"]
    """Mean attention to the five positions before a token, the first token of the text apart."""
    lens_kl: Float[np.ndarray, " layers"]
    """KL(final || lens after the layer), nats."""
    lens_entropy: Float[np.ndarray, " layers"]
    """Entropy of the lens after the layer, bits."""
    mlp_norm: Float[np.ndarray, " layers"]
    """Length of what the MLP adds."""
    prediction_neurons: Int[np.ndarray, " layers"]
    """Neurons with kurtosis above 10 and positive skew over tokens; -1 without a plain MLP."""
    suppression_neurons: Int[np.ndarray, " layers"]
    """The same with negative skew."""
    n_tokens: int

    def to_frame(self) -> "pd.DataFrame":
        """One row per layer."""
        import pandas as pd

        names = ("local_attention", "lens_kl", "lens_entropy", "mlp_norm", "prediction_neurons",
                 "suppression_neurons")  # fmt: skip
        frame = pd.DataFrame({name: getattr(self, name) for name in names})
        frame.insert(0, "layer", np.arange(len(frame)))
        frame["n_tokens"] = self.n_tokens
        frame.attrs["units"] = {
            "local_attention": "share of attention",
            "lens_kl": "KL(final ‖ lens) [nats]",
            "lens_entropy": "bits",
            "mlp_norm": "length",
        }
        return frame

    def plot(self) -> "go.Figure":
        """Every measure as a share of its largest value, by layer."""
        from lensbench.plots import lines

        frame = self.to_frame().drop(columns="n_tokens").melt("layer", var_name="measure")
        values = frame["value"].abs()
        largest = values.groupby(frame["measure"]).transform("max").to_numpy()
        frame["share"] = frame["value"] / np.where(largest > 0, largest, np.nan)
        return lines(
            frame, x="layer", y="share", color="measure", title="Stages of inference",
            subtitle=f"n = {self.n_tokens:,} tokens",
            unit="share of the measure's largest value",
        )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """Layers at which the measures peak."""
        return {
            "most_local_layer": float(np.argmax(self.local_attention)),
            "largest_mlp_layer": float(np.argmax(self.mlp_norm)),
            "prediction_neurons": float(self.prediction_neurons.clip(0).sum()),
            "suppression_neurons": float(self.suppression_neurons.clip(0).sum()),
        }


def inference_stages(model: Model, text: "TokensLike | Sequence[str]") -> StageReport:
    """Measure every layer on texts, from one pass per text, and read its neurons off the weights.

    Args:
        model: a decoder-only model.
        text: documents as strings or ids, of at least two tokens.

    Raises:
        ConfigError: no text of two tokens.
        UnknownSiteError: an architecture whose attention patterns are not in the open.

    Example:
        >>> found = acceleration.inference_stages(model, [text])
    """
    runnable = native(model)
    n = runnable.n_layers
    sums, count = np.zeros((4, n)), 0
    names = ("attn.pattern", "resid_post", "mlp_out")
    sites = [f"blocks.{i}.{name}" for name in names for i in range(n)]
    for ids in documents_of(runnable, text):
        every = torch.ones_like(ids[None], dtype=torch.bool)  # a padding token is meant, too
        whole = Tokens(ids[None], every)
        out = runnable.run(whole, capture=sites)
        assert out.logits is not None
        final = out.logits[0, 1:].double().log_softmax(-1)
        for i in range(n):
            lens = runnable.unembed(out.acts[f"blocks.{i}.resid_post"][0, 1:])
            log = lens.double().log_softmax(-1)
            sums[0, i] += _local(out.acts[f"blocks.{i}.attn.pattern"][0])
            sums[1, i] += float((final.exp() * (final - log)).sum())
            sums[2, i] += float(-(log.exp() * log).sum()) / np.log(2)
            sums[3, i] += float(out.acts[f"blocks.{i}.mlp_out"][0, 1:].double().norm(dim=-1).sum())
        count += len(ids) - 1
    up, down = zip(*(_pushing(runnable, i) for i in range(n)), strict=True)
    return StageReport(
        local_attention=sums[0] / count,
        lens_kl=sums[1] / count,
        lens_entropy=sums[2] / count,
        mlp_norm=sums[3] / count,
        prediction_neurons=np.array(up),
        suppression_neurons=np.array(down),
        n_tokens=count,
        provenance=provenance.record(model=vars(runnable.card)),
    )


def _local(pattern: Float[Tensor, "head query key"]) -> float:
    """Attention of all queries but the first to the positions 1..5 before them, key 0 apart."""
    n = pattern.shape[-1]
    distance = torch.arange(n)[:, None] - torch.arange(n)
    near = (distance >= 1) & (distance <= BACK)
    near[:, 0] = False
    return float((pattern.double().mean(0) * near.to(pattern.device)).sum())


def _pushing(model: Model, layer: int, chunk: int = 512) -> tuple[int, int]:
    """Neurons of a layer that push few tokens up, and down; (-1, -1) without a plain MLP."""
    vectors = vectors_of(model, "down", layer)
    if vectors is None:
        return -1, -1
    ends = ends_of(model)
    up = down = 0
    for part in ends.through(vectors, norm=True).split(chunk):
        weights = (part @ ends.table.T).double()
        centred = weights - weights.mean(-1, keepdim=True)
        spread = centred.pow(2).mean(-1)
        skew = centred.pow(3).mean(-1) / spread.pow(1.5)
        peaked = centred.pow(4).mean(-1) / spread.pow(2) > KURTOSIS
        up += int((peaked & (skew > 0)).sum())
        down += int((peaked & (skew < 0)).sum())
    return up, down
