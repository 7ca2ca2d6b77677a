"""Who is routed where: selection counts and gate weights of every expert, prompt by prompt.

1. Prompts are run once; ``router.weights`` and ``router.indices`` of every layer are captured.
2. Per prompt, layer and expert: in how many slots it was chosen, and the sum of its weights.
3. Per layer: how many tokens two experts shared.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench import provenance
from lensbench.arguments import refuse_no_model, whole_number
from lensbench.errors import ConfigError, UnknownNameError
from lensbench.interventions.experts.rows import Prompts, batch_of, batches, moe_layers, rows_of
from lensbench.models.base import Model
from lensbench.plan import Plan, as_plan
from lensbench.results import Result
from lensbench.sites import Site

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Activation = Literal["weight", "count"]
Normalise = Literal["none", "per_token"]
ACTIVATIONS: tuple[Activation, ...] = ("weight", "count")
NORMALISE: tuple[Normalise, ...] = ("none", "per_token")


@dataclass(frozen=True, kw_only=True, eq=False)
class RoutingMaps(Result):
    """Selection counts and summed gate weights ``[prompts, layers, experts]`` of some prompts.

    Example:
        >>> found = experts.routing(moe, desk_ids)
        >>> busiest = found.load.argmax(axis=1)
    """

    layers: Int[np.ndarray, " layers"]
    """Which blocks have a router."""
    counts: Int[np.ndarray, "prompts layers experts"]
    """Tokens that chose the expert with a weight other than 0."""
    weights: Float[np.ndarray, "prompts layers experts"]
    """Sum over tokens of the expert's weight; unitless, in the router's own normalisation."""
    n_tokens: Int[np.ndarray, " prompts"]
    """Tokens counted."""
    lengths: Int[np.ndarray, " prompts"]
    """Tokens of the whole prompt."""
    together: Int[np.ndarray, "layers experts experts"]
    """Tokens that chose both experts; on the diagonal, either."""
    top_k: int

    def maps(
        self, activation: Activation = "weight", normalise: Normalise = "none"
    ) -> Float[np.ndarray, "prompts layers experts"]:
        """The map of every prompt: ``M[p, l, e] = sum over its tokens of the activation``.

        ``activation`` is the gate weight or the selection (1 where chosen); ``per_token`` divides
        by the prompt's number of tokens, which takes its length out.

        Raises:
            UnknownNameError: another activation or normalisation.
        """
        if activation not in ACTIVATIONS:
            raise UnknownNameError("activation", str(activation), known=ACTIVATIONS)
        if normalise not in NORMALISE:
            raise UnknownNameError("normalisation", str(normalise), known=NORMALISE)
        found = self.weights if activation == "weight" else self.counts.astype(np.float64)
        return found / self.n_tokens[:, None, None] if normalise == "per_token" else found

    @property
    def load(self) -> Float[np.ndarray, "layers experts"]:
        """Share of a layer's slots that each expert took, 0 to 1; ``1 / n_experts`` is even."""
        total = self.counts.sum(0)
        return total / np.maximum(total.sum(-1, keepdims=True), 1)

    @property
    def coactivation(self) -> Float[np.ndarray, "layers experts experts"]:
        """Of the tokens that chose the row's expert, the share that chose the column's too.

        NaN for an expert that none chose.
        """
        own = np.diagonal(self.together, axis1=1, axis2=2)[..., None]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(own > 0, self.together / own, np.nan)

    def select(self, prompts: Sequence[int] | np.ndarray) -> "RoutingMaps":
        """The maps of some prompts; co-activation stays that of all."""
        rows = np.asarray(prompts)
        fields = ("counts", "weights", "n_tokens", "lengths")
        return replace(self, **{name: getattr(self, name)[rows] for name in fields})

    def to_frame(self) -> "pd.DataFrame":
        """One row per expert: load, mean weight per token, prompts that use it, tokens."""
        import pandas as pd

        n_layers, n_experts = self.load.shape
        total = int(self.n_tokens.sum())
        layer, expert = np.indices((n_layers, n_experts))
        frame = pd.DataFrame({
            "layer": self.layers[layer.ravel()],
            "expert": expert.ravel(),
            "load": self.load.ravel(),
            "weight": (self.weights.sum(0) / max(total, 1)).ravel(),
            "prompts": (self.counts > 0).sum(0).ravel(),
            "n": total,
        })  # fmt: skip
        frame.attrs["units"] = {
            "load": "share of slots", "weight": "per token", "prompts": "that use it", "n": "tokens"
        }  # fmt: skip
        return frame

    def summary(self) -> dict[str, float]:
        """Sizes, unused experts, the largest load, and how even the load is (1: perfectly)."""
        load = self.load
        with np.errstate(divide="ignore", invalid="ignore"):
            bits = -np.where(load > 0, load * np.log(load), 0).sum(-1)
        return {
            "layers": float(len(self.layers)),
            "experts": float(load.shape[1]),
            "prompts": float(len(self.n_tokens)),
            "tokens": float(self.n_tokens.sum()),
            "unused": float((load == 0).sum()),
            "largest_load": float(load.max()),
            "evenness": float((bits / np.log(load.shape[1])).mean()),
        }

    def plot(self) -> "go.Figure":
        """Load of every expert, layers by experts."""
        from lensbench.plots import heatmap

        most = float(self.load.max())
        return heatmap(
            self.to_frame(), x="expert", y="layer", value="load", span=(0.0, most),
            hover_columns=("weight", "prompts", "n"),
            title="Load of experts",
            subtitle=f"{len(self.n_tokens)} prompts, {int(self.n_tokens.sum())} tokens, "
            f"top {self.top_k}",
        )  # fmt: skip


def routing(
    model: Model,
    prompts: Prompts,
    plan: Plan = Plan(),  # noqa: B008 - frozen value
    *,
    positions: Sequence[int] | None = None,
    batch_size: int = 32,
) -> RoutingMaps:
    """Which experts the tokens of some prompts are routed to.

    Args:
        model: a mixture of experts.
        prompts: texts, or token ids.
        plan: under which the prompts are run.
        positions: only these tokens of each prompt, negative ones from its end; left out, all.
        batch_size: prompts in one forward pass.

    Raises:
        ConfigError: a model without experts, or a position that a prompt has not.

    Example:
        >>> maps = experts.routing(moe, [text])
        >>> maps.to_frame().head(2)
    """
    refuse_no_model(model)
    began = time.monotonic()
    layers, rows = moe_layers(model), rows_of(model, prompts)
    batch_size = whole_number("batch_size", batch_size, least=1)
    plan, n_experts = as_plan(plan), model.card.n_experts
    _check_positions(positions, rows)
    shape = (len(rows), len(layers), n_experts)
    counts, weights = np.zeros(shape, dtype=np.int64), np.zeros(shape)
    together = np.zeros((len(layers), n_experts, n_experts), dtype=np.int64)
    n_tokens = np.zeros(len(rows), dtype=np.int64)
    sites = [Site(f"router.{part}", i) for i in layers for part in ("weights", "indices")]
    for part in batches(len(rows), batch_size):
        tokens = batch_of(model, [rows[i] for i in part])
        acts = model.run(tokens, plan, sites, logits="none").acts
        used = _used(tokens.real, positions)
        n_tokens[list(part)] = used.sum(1).numpy()
        for number, layer in enumerate(layers):
            w, i = (acts[Site(f"router.{p}", layer)].cpu() for p in ("weights", "indices"))
            dense = _dense(w.double() * used[..., None], i, n_experts)
            chosen = _dense((w != 0).double() * used[..., None], i, n_experts).clamp_max(1)
            weights[list(part), number] = dense.sum(1).numpy()
            counts[list(part), number] = chosen.sum(1).long().numpy()
            flat = chosen.flatten(0, 1)
            together[number] += (flat.T @ flat).long().numpy()
    return RoutingMaps(
        layers=np.array(layers), counts=counts, weights=weights, n_tokens=n_tokens,
        lengths=np.array([len(row) for row in rows]), together=together, top_k=model.card.top_k,
        config={"plan": plan.fingerprint() if plan else "", "positions": _listed(positions)},
        provenance=provenance.record(
            model=vars(model.card), seconds=time.monotonic() - began
        ),
    )  # fmt: skip


def _dense(values: Tensor, indices: Tensor, n_experts: int) -> Tensor:
    """``[batch, pos, slot]`` as ``[batch, pos, n_experts]``."""
    empty = torch.zeros(*values.shape[:2], n_experts, dtype=values.dtype)
    return empty.scatter_add(-1, indices.long(), values)


def _listed(positions: Sequence[int] | None) -> list[int] | None:
    return None if positions is None else [int(p) for p in positions]


def _check_positions(positions: Sequence[int] | None, rows: Sequence[Sequence[int]]) -> None:
    if positions is None:
        return
    shortest = min(len(row) for row in rows)
    for position in positions:
        if not -shortest <= whole_number("each of positions", position) < shortest:
            raise ConfigError(
                f"positions must be of {-shortest}..{shortest - 1} (the shortest prompt has "
                f"{shortest} tokens), got {position}"
            )


def _used(real: Tensor, positions: Sequence[int] | None) -> Tensor:
    """Which columns count: real tokens, or some of them."""
    if positions is None:
        return real
    used = torch.zeros_like(real)
    width, lengths = real.shape[1], real.sum(1)
    for row, length in enumerate(lengths.tolist()):
        for position in positions:
            used[row, width - length + position if position >= 0 else width + position] = True
    return used
