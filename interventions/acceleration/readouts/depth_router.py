"""Which tokens could pass by which blocks (Mixture of Depths, Raposo et al. 2024; p-MoD).

1. A block matters to a token as far as it turns its state: ``1 - cos(h_l, h_(l+1))``, read from the
   store. Choosing by it is an oracle: it needs the pass it would save.
2. In every routed block, the tokens of a document with the largest scores are kept, up to a
   capacity.
3. One teacher-forced pass: what attention and MLP of the block would add to the others is set to
   zero, and, with ``keys="kept"``, no kept token may look at them, so the block stores no keys of
   theirs. With ``keys="all"`` their keys are stored as usual (as with an exited state).

The pass says what routing does to the text. It saves nothing itself; what a router would save is
counted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lensbench import provenance
from lensbench.errors import ConfigError
from lensbench.interventions.acceleration.decoding import native
from lensbench.interventions.acceleration.readouts.rows import documents, log_probs
from lensbench.models.base import Model
from lensbench.models.families import blocks_of
from lensbench.models.huggingface import NativeModel
from lensbench.plan import Call, Plan, Zero, edit
from lensbench.results import Controls, Result
from lensbench.sites import Site
from lensbench.stats import bootstrap_sums

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.store import ActivationStore

ROUTERS = ("oracle", "random")


@dataclass(frozen=True, kw_only=True, eq=False)
class DepthReport(Result):
    """Agreement and divergence per capacity, for the oracle and for random tokens."""

    capacities: tuple[float, ...]
    routed: tuple[int, ...]
    """Blocks that tokens may pass by."""
    n_layers: int
    scores: Float[np.ndarray, "layers tokens"]
    """1 - cosine of each token's state before and after each block."""
    agreed: Float[np.ndarray, "routers capacities docs"]
    kl: Float[np.ndarray, "routers capacities docs"]
    """Sum over tokens of KL(full || routed), nats."""
    layer_tokens: Int[np.ndarray, " capacities"]
    """Tokens that ran through blocks, all blocks."""
    keys: Int[np.ndarray, " capacities"]
    """Tokens whose keys and values are held, all blocks."""
    flops: Float[np.ndarray, " capacities"]
    """Of all blocks: 2 per weight and token, 4 d_head heads per pair of query and key."""
    full: tuple[int, float]
    """Layer tokens (also keys) and FLOPs of the whole model."""
    tokens: Int[np.ndarray, " docs"]

    def to_frame(self) -> "pd.DataFrame":
        """One row per router and capacity; intervals are bootstraps over documents."""
        import pandas as pd

        agree, low, high = bootstrap_sums(np.divide, self.agreed, self.tokens)
        kl = self.kl.sum(-1) / self.tokens.sum()
        rows = [
            {
                "router": router, "capacity": capacity, "agreement": agree[r, c],
                "low": low[r, c], "high": high[r, c], "kl": kl[r, c],
                "layers": self.n_layers * self.layer_tokens[c] / self.full[0],
                "flops_saved": 1 - self.flops[c] / self.full[1],
                "kv_saved": 1 - self.keys[c] / self.full[0],
                "n_tokens": int(self.tokens.sum()), "n_docs": len(self.tokens),
            }
            for r, router in enumerate(ROUTERS)
            for c, capacity in enumerate(self.capacities)
        ]  # fmt: skip
        frame = pd.DataFrame(rows)
        frame.attrs["units"] = {
            "layers": "blocks per token",
            "kl": "KL(full ‖ routed) [nats]",
            "capacity": "share",
        }
        return frame

    def plot(self) -> "go.Figure":
        """Agreement by blocks run per token, oracle beside random."""
        from lensbench.plots import lines

        return lines(
            self.to_frame(), x="layers", y="agreement", color="router", low="low", high="high",
            title="Tokens that pass blocks by",
            subtitle=f"{len(self.routed)} of {self.n_layers} blocks routed; 95 % over "
            f"n = {len(self.tokens)} documents",
        )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """The smallest capacity: agreement of oracle and random, FLOPs saved."""
        at = int(np.argmin(self.capacities))
        agree = self.agreed[:, at].sum(-1) / self.tokens.sum()
        return {
            "capacity": self.capacities[at],
            "agreement": float(agree[0]),
            "random_agreement": float(agree[1]),
            "flops_saved": float(1 - self.flops[at] / self.full[1]),
        }


def depth_router(
    store: "ActivationStore",
    model: Model,
    capacities: Sequence[float] = (0.25, 0.5, 0.75),
    *,
    routed: Sequence[int] | None = None,
    keys: Literal["kept", "all"] = "kept",
    max_documents: int | None = 16,
    seed: int = 0,
) -> DepthReport:
    """Route the documents of a store past blocks, by the oracle and at random.

    Args:
        store: whole documents with ``blocks.0.resid_pre`` and every ``resid_post``.
        model: a native model without experts.
        capacities: share of a document's tokens that a routed block keeps, in (0, 1]; ``trunc(n
            c)`` tokens, at least one.
        routed: blocks; default: every second one from the second on, as in Raposo et al.
        keys: whether tokens that pass by leave keys and values in the block.
        max_documents: documents read; None for all.
        seed: of the random router.

    Raises:
        ConfigError: a capacity or block out of range, or a model of experts.
        MissingDataError: the store lacks the stream around some block.

    Example:
        >>> found = acceleration.depth_router(own, early, (0.5,))
    """
    runnable = native(model)
    model.require_next_token("routing past blocks")
    n_layers = model.n_layers
    blocks = sorted(set(range(1, n_layers, 2) if routed is None else routed))
    if not capacities or not all(0 < c <= 1 for c in capacities):
        raise ConfigError(f"capacities are shares of tokens in (0, 1], got {list(capacities)}")
    if not blocks or not all(0 <= b < n_layers for b in blocks):
        raise ConfigError(f"routed names blocks 0 to {n_layers - 1}, got {blocks}")
    _check_model(model, keys)
    store.check_model(model.card)
    sites = [Site("resid_pre", 0), *(Site("resid_post", i) for i in range(n_layers))]
    store.require([str(s) for s in sites])
    docs = documents(store, most=max_documents)
    rng = np.random.default_rng(seed)
    agreed = np.zeros((len(ROUTERS), len(capacities), len(docs)))
    kl, sums, full = np.zeros_like(agreed), np.zeros((len(capacities), 3)), np.zeros(2)
    cost = _Cost(runnable)
    scores: list[np.ndarray] = []
    for d, doc in enumerate(docs):
        scores.append(turned([store.rows(s, doc.rows) for s in sites]))
        base = log_probs(model, doc.ids, Plan())
        n = len(doc.ids)
        full += n * n_layers, cost({}, n)
        for c, capacity in enumerate(capacities):
            kept = {b: keep(scores[-1][b], capacity) for b in blocks}
            loose = {b: keep(rng.random(n), capacity) for b in blocks}
            for r, chosen in enumerate((kept, loose)):
                found = log_probs(model, doc.ids, routing_plan(chosen, keys=keys))
                agreed[r, c, d] = float((found.argmax(-1) == base.argmax(-1)).sum())
                kl[r, c, d] = float((base.exp() * (base - found)).nan_to_num(0.0).sum())
            run = n * (n_layers - len(blocks)) + sum(int(k.sum()) for k in kept.values())
            held = run if keys == "kept" else n * n_layers
            sums[c] += run, held, cost(kept, n, keys)
    tokens = np.array([len(doc.ids) for doc in docs])
    worst = int(np.argmin(capacities))
    return DepthReport(
        capacities=tuple(map(float, capacities)), routed=tuple(blocks), n_layers=n_layers,
        scores=np.concatenate(scores, 1), agreed=agreed, kl=kl, tokens=tokens,
        layer_tokens=sums[:, 0].astype(np.int64), keys=sums[:, 1].astype(np.int64),
        flops=sums[:, 2], full=(int(full[0]), float(full[1])),
        controls=Controls(
            {"random_agreement": float(agreed[1, worst].sum() / tokens.sum())},
            "agreement with random tokens kept, smallest capacity",
        ),
        config={"store": store.url, "keys": keys, "seed": seed},
        provenance=provenance.record(model=vars(model.card), seed=seed, store=store),
    )  # fmt: skip


def _check_model(model: Model, keys: str) -> None:
    if keys not in ("kept", "all"):
        raise ConfigError(f'keys is "kept" or "all", got {keys!r}')
    if model.card.n_experts:
        raise ConfigError(
            "what a block of experts costs depends on its own router; depth_router takes dense "
            "models"
        )
    if keys == "kept" and not any(s.name == "attn.scores" for s in model.sites()):
        raise ConfigError(
            f"the attention scores of {model.card.name!r} cannot be reached, so keys cannot be "
            'hidden from other tokens; keys="all" leaves them in the block'
        )


def turned(stream: Sequence[Float[np.ndarray, "tokens d_model"]]) -> np.ndarray:
    """1 - cos of the states before and after each block, ``[layers, tokens]``, in float64."""
    h = np.stack([np.asarray(s, dtype=np.float64) for s in stream])
    norms = np.linalg.norm(h, axis=-1)
    both = norms[:-1] * norms[1:]
    return np.where(both > 0, 1 - (h[:-1] * h[1:]).sum(-1) / np.where(both > 0, both, 1.0), 0.0)


def keep(scores: Float[np.ndarray, " tokens"], capacity: float) -> Bool[np.ndarray, " tokens"]:
    """The ``trunc(n capacity)`` tokens of largest score, at least one; ties: the earlier token."""
    count = max(1, int(len(scores) * capacity))
    kept = np.zeros(len(scores), dtype=bool)
    kept[np.argsort(-scores, kind="stable")[:count]] = True
    return kept


def routing_plan(kept: dict[int, Bool[np.ndarray, " pos"]], *, keys: str = "kept") -> Plan:
    """Edits of one document under which each block acts on its kept tokens alone."""
    plan = Plan()
    for layer, chosen in kept.items():
        off = np.flatnonzero(~chosen).tolist()
        if not off:
            continue
        if keys == "kept":
            blind = Call(_blind(torch.from_numpy(chosen)), f"keys of {int(chosen.sum())} tokens")
            plan = plan + edit(f"blocks.{layer}.attn.scores", blind)
        for site in ("attn_out", "mlp_out"):
            plan = plan + edit(f"blocks.{layer}.{site}", Zero(), positions=off)
    return plan


def _blind(chosen: Tensor) -> Callable[[Tensor], Tensor]:
    def scores(x: Float[Tensor, "batch head query key"]) -> Tensor:
        allowed = chosen.to(x.device) | torch.eye(len(chosen), dtype=torch.bool, device=x.device)
        # A token that passes by sees itself, lest its row (which nobody reads) be NaN.
        return x.masked_fill(~allowed, -torch.inf)

    return scores


class _Cost:
    """FLOPs of the blocks over one document."""

    def __init__(self, model: NativeModel) -> None:
        architecture = model.layout.architecture
        blocks = blocks_of(model.module, architecture.stacks[architecture.main])
        self._weights = [sum(p.numel() for p in b.parameters() if p.ndim > 1) for b in blocks]
        card = model.card
        self._projections = 2 * card.d_model * card.n_kv_heads * card.d_head
        self._pair = 4 * card.n_heads * card.d_head

    def __call__(self, kept: dict[int, np.ndarray], n: int, keys: str = "kept") -> float:
        total = 0.0
        for layer, weights in enumerate(self._weights):
            chosen = kept.get(layer, np.ones(n, dtype=bool))
            seen = np.cumsum(chosen) if keys == "kept" else np.arange(1, n + 1)
            if keys == "all":  # those that pass by still go through two projections
                total += 2 * self._projections * int((~chosen).sum())
            total += 2 * weights * int(chosen.sum()) + self._pair * float(seen[chosen].sum())
        return total
