"""How much of the MLP is switched off, and what switching off more would cost (ProSparse, FATReLU).

The activation of a neuron is ``act(gate)`` (``act(up)`` of an MLP without a gate), read from stored
pre-activations. ReLU gives exact zeros, and an MLP computed on the other neurons only is the same
MLP. SiLU and GELU give none: there the share below ``eps`` is reported, and is called that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench import provenance
from lensbench.errors import ConfigError
from lensbench.interventions.acceleration.decoding import native
from lensbench.interventions.acceleration.readouts.rows import documents, log_probs
from lensbench.models.base import Model
from lensbench.plan import Call, Plan, edit
from lensbench.results import Controls, Result
from lensbench.stats import bootstrap_sums

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.store import ActivationStore

Act = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class SparsityReport(Result):
    """Silent neurons per layer, and agreement when every weaker one is silenced too."""

    zeros: Float[np.ndarray, "layers tokens"]
    """Share of a token's neurons whose activation is exactly 0."""
    below: Float[np.ndarray, "layers tokens"]
    """Share with ``|activation| < eps``."""
    eps: float
    act: str
    gated: bool
    thresholds: tuple[float, ...]
    silenced: Float[np.ndarray, "thresholds docs"]
    """Sum over tokens of the share of neurons with ``|activation| < T``, mean over layers."""
    agreed: Float[np.ndarray, "thresholds docs"]
    """Tokens whose largest logit stays when those are set to 0."""
    random_agreed: Float[np.ndarray, "thresholds docs"]
    """Control: as many random neurons set to 0."""
    kl: Float[np.ndarray, "thresholds docs"]
    tokens: Int[np.ndarray, " docs"]

    @property
    def flops_share(self) -> float:
        """Part of the MLP's linear FLOPs that a silent neuron saves.

        Up and down projection (2/3) of a gated MLP, whose gate must be computed to know; the down
        projection (1/2) of another.
        """
        return 2 / 3 if self.gated else 1 / 2

    def to_frame(self) -> "pd.DataFrame":
        """One row per layer."""
        import pandas as pd

        n = self.zeros.shape[1]
        frame = pd.DataFrame(
            {
                "layer": np.arange(len(self.zeros)),
                "zeros": self.zeros.mean(1),
                "below_eps": self.below.mean(1),
                "token_spread": self.below.std(1),
                "flops_saved_exact": self.zeros.mean(1) * self.flops_share,
                "n_tokens": n,
            }
        )
        frame.attrs["units"] = {
            "zeros": f"share of neurons; activation {self.act}",
            "below_eps": f"share of neurons below {self.eps:g}",
            "flops_saved_exact": "share of the MLP's linear FLOPs",
        }
        return frame

    def sweep_frame(self) -> "pd.DataFrame":
        """One row per threshold; intervals are bootstraps over documents."""
        import pandas as pd

        agree, low, high = bootstrap_sums(np.divide, self.agreed, self.tokens)
        total = self.tokens.sum()
        frame = pd.DataFrame(
            {
                "threshold": self.thresholds,
                "silenced": self.silenced.sum(-1) / total,
                "flops_saved": self.flops_share * self.silenced.sum(-1) / total,
                "agreement": agree,
                "low": low,
                "high": high,
                "random_agreement": self.random_agreed.sum(-1) / total,
                "kl": self.kl.sum(-1) / total,
                "n_tokens": int(total),
                "n_docs": len(self.tokens),
            }
        )
        frame.attrs["units"] = {
            "flops_saved": "share of the MLP's linear FLOPs",
            "kl": "KL(full ‖ silenced) [nats]",
        }
        return frame

    def plot(self) -> "go.Figure":
        """Agreement by the share of neurons silenced."""
        from lensbench.plots import lines

        return lines(
            self.sweep_frame(), x="silenced", y="agreement", low="low", high="high",
            title="What silencing weak neurons costs",
            subtitle=f"{self.act}, {'gated' if self.gated else 'plain'} MLP; 95 % over "
            f"n = {len(self.tokens)} documents",
        )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """Exact zeros and the share below eps, over all layers."""
        return {
            "zeros": float(self.zeros.mean()),
            "below_eps": float(self.below.mean()),
            "flops_saved_exact": float(self.zeros.mean() * self.flops_share),
        }


def activation_sparsity(
    store: "ActivationStore",
    model: Model,
    thresholds: Sequence[float] = (0.0, 0.01, 0.05, 0.1),
    *,
    eps: float = 1e-3,
    max_documents: int | None = 16,
    seed: int = 0,
) -> SparsityReport:
    """Sparsity from stored pre-activations, and a sweep of thresholds by teacher-forced edits.

    The sweep sets the activation of a neuron to 0 where ``|activation| < T``: FATReLU for a ReLU
    model. Each threshold is one pass per document, and one for the control.

    Args:
        store: with ``mlp.gate`` of every layer (``mlp.up`` where the MLP has no gate), and whole
            documents.
        model: a dense model of the native back end.
        thresholds: at least 0.
        eps: what counts as almost silent.
        max_documents: documents read; None for all.
        seed: of the control.

    Raises:
        ConfigError: thresholds below 0, or a model of experts.
        MissingDataError: the store lacks pre-activations of some layer.

    Example:
        >>> gated = [
        ...     f"blocks.{n}.{part}"
        ...     for n in range(6)
        ...     for part in ("mlp.gate", "mlp.up", "resid_mid")
        ... ]
        >>> store = acceleration.capture_own(
        ...     early,
        ...     ["Alice the baker"],
        ...     "own",
        ...     8,
        ...     sites=[*gated, *(f"blocks.{n}.resid_post" for n in range(6)), "blocks.0.resid_pre"],
        ... )
        >>> found = acceleration.activation_sparsity(store, early, (0.0, 0.05))
    """
    if not thresholds or min(thresholds) < 0 or eps <= 0:
        raise ConfigError(f"thresholds must be at least 0 and eps above 0, got {list(thresholds)}")
    module = native(model).module
    store.check_model(model.card)
    site, act, name = _activation(model, module)
    sites = [f"blocks.{layer}.{site}" for layer in range(model.n_layers)]
    store.require(sites)
    docs = documents(store, most=max_documents)
    rows = np.concatenate([d.rows for d in docs])
    stored = [act(torch.from_numpy(store.rows(s, rows))).abs() for s in sites]
    silenced, agreed, loose, kl = (np.zeros((len(thresholds), len(docs))) for _ in range(4))
    owner = np.repeat(np.arange(len(docs)), [len(d.rows) for d in docs])
    rng = torch.Generator().manual_seed(seed)
    full = [log_probs(model, d.ids, Plan()) for d in docs]
    for t, threshold in enumerate(thresholds):
        weak = torch.stack([(a < threshold).float().mean(-1) for a in stored]).mean(0).numpy()
        silenced[t] = np.bincount(owner, weak, len(docs))
        for d, doc in enumerate(docs):
            at_random = [float((a[owner == d] < threshold).float().mean()) for a in stored]
            found = log_probs(model, doc.ids, silence(sites, act, threshold))
            mixed = log_probs(model, doc.ids, _silence_random(sites, at_random, rng))
            agreed[t, d] = float((found.argmax(-1) == full[d].argmax(-1)).sum())
            loose[t, d] = float((mixed.argmax(-1) == full[d].argmax(-1)).sum())
            kl[t, d] = float((full[d].exp() * (full[d] - found)).sum())
    tokens = np.array([len(d.rows) for d in docs])
    return SparsityReport(
        zeros=torch.stack([(a == 0).float().mean(-1) for a in stored]).numpy(),
        below=torch.stack([(a < eps).float().mean(-1) for a in stored]).numpy(),
        eps=eps, act=name, gated=site == "mlp.gate", thresholds=tuple(map(float, thresholds)),
        silenced=silenced, agreed=agreed, random_agreed=loose, kl=kl, tokens=tokens,
        controls=Controls(
            {"random_agreement": float(loose[-1].sum() / tokens.sum())},
            "agreement with as many random neurons silenced, last threshold",
        ),
        config={"store": store.url, "seed": seed},
        provenance=provenance.record(model=vars(model.card), seed=seed, store=store),
    )  # fmt: skip


def sparse_mlp(
    x: Float[Tensor, "tokens d_model"],
    w_gate: Float[Tensor, "d_mlp d_model"],
    w_up: Float[Tensor, "d_mlp d_model"],
    w_down: Float[Tensor, "d_model d_mlp"],
    act: Act = torch.relu,
    threshold: float = 0.0,
) -> Float[Tensor, "tokens d_model"]:
    """``w_down (act(w_gate x) * (w_up x))`` on the neurons whose ``|activation|`` is above a bound.

    Token by token on the active rows only; the same as the dense product for ReLU and threshold 0.

    Example:
        >>> x, gate, up, down = (
        ...     torch.randn(3, 8),
        ...     torch.randn(16, 8),
        ...     torch.randn(16, 8),
        ...     torch.randn(8, 16),
        ... )
        >>> found = acceleration.sparse_mlp(x, gate, up, down)
    """
    gate = act(x @ w_gate.T)
    out = torch.zeros(len(x), len(w_down), dtype=x.dtype)
    for t, row in enumerate(gate):
        active = (row.abs() >= threshold) & (row != 0)
        out[t] = w_down[:, active] @ (row[active] * (w_up[active] @ x[t]))
    return out


def _activation(model: Model, module: Any) -> tuple[str, Act, str]:
    """Site of the pre-activation, the activation function, and its name."""
    from transformers.activations import ACT2FN

    if model.card.n_experts:
        raise ConfigError(
            "a mixture of experts has no dense MLP whose neurons could be counted; dense models do"
        )
    names = ("hidden_activation", "hidden_act", "activation_function", "activation")
    name = next((str(v) for n in names if (v := getattr(module.config, n, None))), None)
    if name is None or name not in ACT2FN:
        raise ConfigError(f"the activation function of this model ({name}) is not known")
    has_gate = any(s.name == "mlp.gate" for s in model.sites())
    return ("mlp.gate" if has_gate else "mlp.up"), ACT2FN[name], name


def silence(sites: Sequence[str], act: Act, threshold: float) -> Plan:
    """Activations below a bound set to 0, by edits of their pre-activations."""
    # An activation is 0 where its input is 0, for ReLU, SiLU and GELU alike.
    weak = Call(lambda x: x.masked_fill(act(x).abs() < threshold, 0.0), f"silent below {threshold}")
    return sum((edit(site, weak) for site in sites), Plan())


def _silence_random(sites: Sequence[str], share: Sequence[float], rng: torch.Generator) -> Plan:
    plan = Plan()
    for site, part in zip(sites, share, strict=True):

        def drop(x: Tensor, part: float = part) -> Tensor:
            return x.masked_fill((torch.rand(x.shape, generator=rng) < part).to(x.device), 0.0)

        plan = plan + edit(site, Call(drop, f"random {part:.3f}"))
    return plan
