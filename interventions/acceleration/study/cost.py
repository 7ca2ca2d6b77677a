"""What work costs, in three currencies that must not be mixed: FLOPs, serial layers, seconds.

FLOPs of a token and layer are 2 per weight of its matrices (of a mixture of experts those of the
experts a token has), of a pair of query and key 2 n_heads (d_head + d_head_v), of a head 2 d_model
d_vocab. Serial layers wait for one another whatever number of tokens each takes: what a device pays
that is bound by reading weights (DEL's tokens per layer). Speculation never saves FLOPs, early exit
and skipping do. Seconds are in ``layer_times``.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from lensbench import provenance
from lensbench.interventions.acceleration.decoding import native
from lensbench.interventions.acceleration.study.work import Work
from lensbench.models.base import Model
from lensbench.models.families import blocks_of, part
from lensbench.results import Controls, Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerCosts(Result):
    """Floating point operations of the parts of a model (multiply and add are two), and bytes."""

    attention: Float[np.ndarray, " layers"]
    """Matrices of attention, per token."""
    mlp: Float[np.ndarray, " layers"]
    """Matrices of the rest of the block, per token."""
    pair: float
    """Scores and weighted values, per pair of query and key and layer."""
    head: float
    """Final head, per state."""
    fill: float
    """Keys and values alone, per token and layer."""
    embed: float = 0.0
    """Projection of the embedding, where there is one, per token."""
    kv_bytes: float = 0.0
    """Bytes of keys and values, per token and layer."""

    @classmethod
    def of(cls, model: Model) -> "LayerCosts":
        """Counted off the weights of a model.

        Raises:
            ConfigError: a model of another back end.
        """
        runnable = native(model)
        card, architecture = runnable.card, runnable.layout.architecture
        family = architecture.stacks[architecture.main]
        attention, mlp = list[float](), list[float]()
        for block in blocks_of(runnable.module, family):
            whole = _per_token(block, card.n_experts, card.top_k)
            attn: Any = part(block, family.attn)
            inside = 0.0 if attn is None else _per_token(attn, card.n_experts, card.top_k)
            attention.append(2 * inside)
            mlp.append(2 * (whole - inside))
        width = card.d_head + (card.d_head_v or card.d_head)
        head: Any = runnable.module.get_output_embeddings().weight
        kept = _kept(runnable.module.config, card.n_kv_heads * width)
        return cls(
            attention=np.array(attention),
            mlp=np.array(mlp),
            pair=2.0 * card.n_heads * width,
            head=2.0 * (head.numel() + _projection(runnable.module, "project_out")),
            fill=2.0 * card.d_model * kept,
            embed=2.0 * _projection(runnable.module, "project_in"),
            kv_bytes=float(kept * getattr(torch, card.dtype).itemsize),
            controls=Controls(note="counted, not measured"),
            provenance=provenance.record(model=vars(card)),
        )

    def to_frame(self) -> "pd.DataFrame":
        """One row per layer."""
        import pandas as pd

        layers = np.arange(self.n_layers)
        frame = pd.DataFrame({"layer": layers, "attention": self.attention, "mlp": self.mlp})
        frame.attrs["units"] = dict.fromkeys(("attention", "mlp"), "FLOPs per token")
        return frame

    def plot(self) -> "go.Figure":
        """FLOPs per token of attention and MLP of every layer."""
        from lensbench.plots import bars

        frame = self.to_frame().melt("layer", var_name="part", value_name="flops")
        return bars(frame, x="layer", y="flops", color="part", unit="FLOPs per token",
                    title="What a token costs in each layer")  # fmt: skip

    def summary(self) -> dict[str, float]:
        """A layer, the head in layers, and bytes of keys and values."""
        layer = float((self.attention + self.mlp).mean())
        return {
            "layer_flops_per_token": layer,
            "head_over_layer": self.head / layer,
            "kv_bytes_per_token": self.kv_bytes * self.n_layers,
        }

    @property
    def n_layers(self) -> int:
        """L."""
        return len(self.attention)

    def of_work(self, work: Work) -> float:
        """FLOPs of a run; :meth:`linear` and what attention adds."""
        return self.linear(work) + self.pair * work.counts(self.n_layers)["attended"]

    def linear(self, work: Work) -> float:
        """FLOPs of matrices with weights alone."""
        attention, mlp = work.halves(self.n_layers)
        blocks = float(attention @ self.attention + mlp @ self.mlp)
        entered = int(work.spans[work.spans[:, 0] == 0, 2].sum())
        heads = self.head * sum(work.heads)
        return blocks + heads + self.fill * work.filled + self.embed * entered


def serial_calls(work: Work, n_layers: int) -> int:
    """Layers that ran one after another."""
    return work.counts(n_layers)["calls"]


def _per_token(module: Any, n_experts: int, top_k: int) -> float:
    """Weights that one token is multiplied with; stacked experts count for those it has."""
    found = 0.0
    for name, weight in module.named_parameters():
        if name.endswith("bias"):  # of stacked experts it has two axes
            continue
        if weight.ndim == 2:
            found += weight.numel()
        elif weight.ndim == 3 and n_experts:
            found += weight.numel() * top_k / n_experts
    return found


def _kept(config: Any, width: int) -> int:
    """Numbers kept per token and layer: keys and values, or the latent they are made from (MLA).

    Falcon's heads share one key where ``multi_query`` says so; its newer form keeps one for each.
    """
    rank = getattr(config, "kv_lora_rank", None)
    if rank is not None:
        return int(rank) + int(config.qk_rope_head_dim)
    shared = getattr(config, "multi_query", False)
    newer = getattr(config, "new_decoder_architecture", False)
    return width // int(config.num_attention_heads) if shared and not newer else width


def _projection(module: Any, name: str) -> float:
    """Weights between the embedding and the stream, where there are any (OPT)."""
    decoder = getattr(module.base_model, "decoder", None)
    found = getattr(decoder, name, None)
    return 0.0 if found is None else float(found.weight.numel())
