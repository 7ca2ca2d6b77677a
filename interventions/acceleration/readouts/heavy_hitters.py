"""Which keys carry the attention, and what keeping only those would cost (H2O, Zhang et al. 2023).

1. A pass captures the attention of every head. The score of a key is the attention it has
   received so far, summed over queries, per query head, without normalising by age (early keys
   gather more).
2. Each query may see the last ``recent`` keys (itself among them) and the ``heavy`` older ones of
   largest score that were not evicted before: an evicted key never returns.
3. Retained mass is how much of the unmodified attention falls on the kept keys; it is exact for the
   attention that was captured. What eviction does to the text takes one more pass per budget, with
   the evicted keys masked, which lets attention renormalise and later states move.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lensbench import provenance
from lensbench.errors import ConfigError
from lensbench.interventions.acceleration.readouts.rows import log_probs, whole
from lensbench.interventions.experts.rows import rows_of
from lensbench.models.base import Model
from lensbench.plan import Add, Plan, edit
from lensbench.results import Controls, Result
from lensbench.stats import bootstrap_sums

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Pattern = Float[np.ndarray, "heads queries keys"]
KEEPS = ("heavy", "random")


@dataclass(frozen=True, kw_only=True, eq=False)
class HeavyHitterReport(Result):
    """Attention on heavy keys, their overlap, and the text under eviction."""

    budgets: tuple[float, ...]
    """Keys kept as a share of the document's length."""
    retained: Float[np.ndarray, "keeps budgets layers heads"]
    """Mean share of a query's attention on kept keys; documents weigh by their length."""
    top_mass: Float[np.ndarray, "budgets layers heads"]
    """Share of a document's whole attention received by its k heaviest keys, k the budget; chosen
    with hindsight, so it shows how unequal keys are."""
    overlap: Float[np.ndarray, "heads heads"]
    """Heads of all layers in order: shared share of the heaviest keys of two heads at the first
    budget, mean over documents."""
    chance: float
    """Overlap of two random sets of that size."""
    agreed: Float[np.ndarray, "keeps budgets docs"]
    """Tokens whose largest logit stays, with heavy keys kept and, as control, random ones."""
    kl: Float[np.ndarray, "keeps budgets docs"]
    """Sum over tokens of KL(full || evicted), nats."""
    tokens: Int[np.ndarray, " docs"]
    n_layers: int

    def to_frame(self) -> "pd.DataFrame":
        """One row per budget and way to choose keys; intervals are bootstraps over documents."""
        import pandas as pd

        agree, low, high = bootstrap_sums(np.divide, self.agreed, self.tokens)
        kl = self.kl.sum(-1) / self.tokens.sum()
        rows = [
            {
                "budget": budget, "keep": keep, "agreement": agree[k, b], "low": low[k, b],
                "high": high[k, b], "kl": kl[k, b],
                "retained": self.retained[k, b].mean(),
                "top_mass": self.top_mass[b].mean() if keep == "heavy" else np.nan,
                "n_tokens": int(self.tokens.sum()), "n_docs": len(self.tokens),
            }
            for k, keep in enumerate(KEEPS)
            for b, budget in enumerate(self.budgets)
        ]  # fmt: skip
        frame = pd.DataFrame(rows)
        frame.attrs["units"] = {
            "budget": "share of keys",
            "kl": "KL(full ‖ evicted) [nats]",
            "retained": "attention",
        }
        return frame

    def layer_overlap(self) -> "pd.DataFrame":
        """Mean overlap of the heads of two layers (of different heads, within one)."""
        import pandas as pd

        n, heads = self.n_layers, len(self.overlap) // self.n_layers
        blocks = self.overlap.reshape(n, heads, n, heads)
        other = ~np.eye(heads, dtype=bool)
        rows = [
            (a, b, blocks[a, :, b][other if a == b else other | True].mean() if heads > 1 or a != b
             else 1.0)
            for a in range(n)
            for b in range(n)
        ]  # fmt: skip
        frame = pd.DataFrame(rows, columns=["layer", "other_layer", "overlap"])
        frame.attrs["units"] = {"overlap": "share of heavy keys"}
        return frame

    def plot(self) -> "go.Figure":
        """Overlap of heavy keys between layers."""
        from lensbench.plots import heatmap

        return heatmap(
            self.layer_overlap(), x="other_layer", y="layer", value="overlap", span=(0, 1),
            title="Do layers attend to the same heavy tokens?",
            subtitle=f"share of the heaviest keys in common; random sets share {self.chance:.2f}; "
            f"n = {len(self.tokens)} documents",
        )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """The first budget: retained mass, agreement with heavy and with random keys, overlap."""
        agree = self.agreed.sum(-1) / self.tokens.sum()
        apart = ~np.eye(len(self.overlap), dtype=bool)
        return {
            "retained": float(self.retained[0, 0].mean()),
            "random_retained": float(self.retained[1, 0].mean()),
            "agreement": float(agree[0, 0]),
            "random_agreement": float(agree[1, 0]),
            "overlap": float(self.overlap[apart].mean()) if apart.any() else float("nan"),
            "chance_overlap": self.chance,
        }


def heavy_hitters(
    model: Model,
    text: Any,
    budgets: Sequence[float] = (0.2, 0.5, 1.0),
    *,
    recent: float = 0.5,
    seed: int = 0,
) -> HeavyHitterReport:
    """Heavy keys of texts and what keeping only them does, teacher-forced.

    Passes: two per text, and two per text and budget (heavy keys, and the control: as many random
    older keys). A budget of 1 evicts nothing and gives the same logits.

    Args:
        model: any whose ``attn.pattern`` and ``attn.scores`` can be reached.
        text: documents as strings or ids; padding is left out.
        budgets: shares of a document's length, in (0, 1].
        recent: share of the budget for the last keys; the rest is for heavy ones. At least one key
            is recent, the query's own.
        seed: of the random keys.

    Raises:
        ConfigError: a budget out of range, no text of two tokens, or a model that does not predict
            the next token.
        UnknownSiteError: a model whose attention cannot be captured.

    Example:
        >>> found = acceleration.heavy_hitters(
        ...     early, [text, "The king that the boys know"], (0.5, 1.0)
        ... )
    """
    wanted = tuple(float(b) for b in budgets)
    if not wanted or not all(0 < b <= 1 for b in wanted) or not 0 <= recent <= 1:
        raise ConfigError(
            f"budgets are shares of the keys in (0, 1] and recent a share in [0, 1], got "
            f"{list(budgets)} and {recent!r}"
        )
    model.require_next_token("eviction of keys")
    docs = _documents(model, text)
    n_layers = model.n_layers
    sites = [f"blocks.{layer}.attn.pattern" for layer in range(n_layers)]
    rng = np.random.default_rng(seed)
    held, mass, overlaps, chance = [], [], [], []
    agreed = np.zeros((len(KEEPS), len(wanted), len(docs)))
    kl = np.zeros_like(agreed)
    for d, ids in enumerate(docs):
        full = log_probs(model, ids, Plan())
        out = model.run(whole(ids), capture=sites, logits="none")
        patterns = [out.acts[s][0].double().cpu().numpy() for s in sites]
        sizes = [_sizes(b, recent, len(ids)) for b in wanted]
        keeps = [
            [[kept_keys(p, *size, rng=by) for p in patterns] for size in sizes]
            for by in (None, rng)
        ]
        held.append([[_retained(patterns, keep) for keep in one] for one in keeps])
        mass.append([[_top_mass(p, sum(size)) for p in patterns] for size in sizes])
        overlaps.append(_overlap(patterns, sum(sizes[0])))
        chance.append(sum(sizes[0]) / len(ids))
        for k, one in enumerate(keeps):
            for b, keep in enumerate(one):
                logp = log_probs(model, ids, eviction_plan(keep))
                agreed[k, b, d] = float((logp.argmax(-1) == full.argmax(-1)).sum())
                kl[k, b, d] = float((full.exp() * (full - logp)).nan_to_num(0.0).sum())
    tokens = np.array([len(ids) for ids in docs])
    return HeavyHitterReport(
        budgets=wanted, tokens=tokens, n_layers=n_layers, agreed=agreed, kl=kl,
        retained=np.average(np.array(held), axis=0, weights=tokens),
        top_mass=np.average(np.array(mass), axis=0, weights=tokens),
        overlap=np.mean(overlaps, 0), chance=float(np.mean(chance)),
        controls=Controls(
            {"random_agreement": float(agreed[1, 0].sum() / tokens.sum())},
            "agreement with as many random older keys, first budget",
        ),
        config={"recent": recent, "seed": seed},
        provenance=provenance.record(model=vars(model.card), seed=seed),
    )  # fmt: skip


def kept_keys(
    pattern: Pattern, heavy: int, recent: int, *, rng: np.random.Generator | None = None
) -> Bool[np.ndarray, "heads queries keys"]:
    """Keys each query may see: the last ``recent``, and up to ``heavy`` older ones.

    The older ones are those of largest score so far, the query's own attention included (ties: the
    earlier key), among the keys not evicted yet; with ``rng``, random ones instead.
    """
    n_heads, n, _ = pattern.shape
    kept = np.zeros(pattern.shape, dtype=bool)
    score = np.zeros((n_heads, n))
    alive = np.ones((n_heads, n), dtype=bool)
    for t in range(n):
        score += pattern[:, t]
        old = t + 1 - recent  # keys 0 .. old - 1 are no longer recent
        if old > heavy:
            rank = score[:, :old] if rng is None else rng.random((n_heads, old))
            order = np.argsort(-np.where(alive[:, :old], rank, -1.0), axis=1, kind="stable")
            stay = np.zeros((n_heads, old), dtype=bool)
            np.put_along_axis(stay, order[:, :heavy], True, 1)
            alive[:, :old] &= stay
        kept[:, t, : t + 1] = alive[:, : t + 1]
    return kept


def eviction_plan(keep: Sequence[Bool[np.ndarray, "heads queries keys"]]) -> Plan:
    """Scores of evicted keys at minus infinity, in each layer as its own heads say."""
    plan = Plan()
    for layer, kept in enumerate(keep):
        n = kept.shape[1]
        if kept[:, np.tril_indices(n)[0], np.tril_indices(n)[1]].all():
            continue
        mask = torch.zeros(kept.shape).masked_fill(~torch.from_numpy(kept), -torch.inf)
        plan = plan + edit(f"blocks.{layer}.attn.scores", Add(mask[None]))
    return plan


def _sizes(budget: float, recent: float, n: int) -> tuple[int, int]:
    total = max(1, int(budget * n))
    last = min(total, max(1, int(recent * total)))
    return total - last, last


def _retained(patterns: Sequence[Pattern], keep: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [(p * k).sum(-1).mean(-1) for p, k in zip(patterns, keep, strict=True)]


def _top_mass(pattern: Pattern, k: int) -> np.ndarray:
    received = np.sort(pattern.sum(1), axis=-1)
    return received[:, -k:].sum(-1) / received.sum(-1)


def _overlap(patterns: Sequence[Pattern], k: int) -> np.ndarray:
    received = np.concatenate([p.sum(1) for p in patterns])
    heavy = np.zeros(received.shape)
    np.put_along_axis(heavy, np.argsort(-received, axis=1, kind="stable")[:, :k], 1.0, 1)
    return heavy @ heavy.T / k


def _documents(model: Model, text: Any) -> list[Tensor]:
    found = [torch.tensor(row) for row in rows_of(model, text) if len(row) > 1]
    if not found:
        raise ConfigError("no text has two tokens, so nothing is attended to but itself")
    return found
