"""Dictionaries of one shape on one site, stacked: parameters, moments and counters ``[n, ...]``.

Stored by latent: ``W_enc[i]`` is ``[d_sae, d_model]``, the transpose of what :class:`SAE` shows,
because both sparse weight gradients come out by latent. Everything here is in scaled units (see
:mod:`lensbench.saes.step.start`); :meth:`Group.export` folds the scale in.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lensbench.saes.configs import BatchTopKConfig, DictionaryConfig, ReLUConfig, TopKConfig
from lensbench.saes.sae import SAE

PARAMETERS = ("W_enc", "b_enc", "W_dec", "b_dec")
METRICS = ("loss", "sse", "l0", "grad_norm")
"""Columns of ``Group.sums``: sums over the steps since the last log line."""
MAX_DEAD_AFTER = 10_000_000


@dataclass
class Group:
    """``n`` dictionaries that step together: same site, architecture and shape."""

    configs: list[DictionaryConfig]
    site: str
    scale: float
    """Activations are multiplied by this before they are used."""
    W_enc: Float[Tensor, "n d_sae d_model"]
    b_enc: Float[Tensor, "n d_sae"]
    W_dec: Float[Tensor, "n d_sae d_model"]
    b_dec: Float[Tensor, "n d_model"]
    first: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """First moments of Adam, by parameter."""
    second: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """Second moments of Adam, by parameter."""
    steps: Float[Tensor, " n"] = field(default_factory=lambda: torch.zeros(0))
    """Updates made, by dictionary (one that diverges stops counting)."""
    since_fired: Int[Tensor, "n d_sae"] = field(default_factory=lambda: torch.zeros(0))
    """Tokens since each latent fired."""
    dead: Bool[Tensor, "n d_sae"] = field(default_factory=lambda: torch.zeros(0))
    """Latents that the auxiliary loss uses; refreshed every few steps, not every step."""
    threshold: Float[Tensor, " n"] = field(default_factory=lambda: torch.zeros(0))
    """BatchTopK: moving average of the smallest kept value; NaN before the first step."""
    sums: Float[Tensor, "n metrics"] = field(default_factory=lambda: torch.zeros(0))
    diverged: Bool[Tensor, " n"] = field(default_factory=lambda: torch.zeros(0))
    """Whether a loss or gradient was ever not finite; from then on no update changes anything."""
    alive: list[bool] = field(default_factory=list[bool])
    """False once ``diverged`` was seen, at a log line; the dictionary is stepped no further."""
    dead_lists: list[Tensor] = field(default_factory=list[Tensor])
    """Indices of ``dead``, by dictionary; follows from ``dead``."""

    def __post_init__(self) -> None:
        """Fill what was not given with zeros of the right shape."""
        n, d_sae, _ = self.W_enc.shape
        device = self.W_enc.device
        for name in PARAMETERS:
            self.first.setdefault(name, torch.zeros_like(getattr(self, name)))
            self.second.setdefault(name, torch.zeros_like(getattr(self, name)))
        if not self.steps.numel():
            self.steps = torch.zeros(n, device=device)
            self.since_fired = torch.zeros(n, d_sae, dtype=torch.int64, device=device)
            self.dead = torch.zeros(n, d_sae, dtype=torch.bool, device=device)
            self.threshold = torch.full((n,), float("nan"), device=device)
            self.sums = torch.zeros(n, len(METRICS), device=device)
            self.diverged = torch.zeros(n, dtype=torch.bool, device=device)
        self.alive = self.alive or [True] * n
        self.refresh_lists()

    @property
    def n(self) -> int:
        """Number of dictionaries."""
        return self.W_enc.shape[0]

    @property
    def d_sae(self) -> int:
        """Latents per dictionary."""
        return self.W_enc.shape[1]

    @property
    def d_model(self) -> int:
        """Width of the activations."""
        return self.W_enc.shape[2]

    @property
    def device(self) -> torch.device:
        """Device of all tensors."""
        return self.W_enc.device

    def parameters(self, i: int) -> list[Tensor]:
        """Views of the parameters of dictionary ``i``, in the order of ``PARAMETERS``."""
        return [getattr(self, name)[i] for name in PARAMETERS]

    def moments(self, i: int) -> tuple[list[Tensor], list[Tensor]]:
        """Views of the moments of dictionary ``i``."""
        return [self.first[p][i] for p in PARAMETERS], [self.second[p][i] for p in PARAMETERS]

    def names(self) -> Iterator[tuple[int, str]]:
        """Index and name of every dictionary."""
        for i, config in enumerate(self.configs):
            yield i, str(config.name)

    def refresh_dead(self, limits: list[int]) -> None:
        """Latents that have not fired for ``limits[i]`` tokens are dead from now on."""
        limit = torch.tensor(limits, device=self.device)
        self.dead = self.since_fired >= limit[:, None]
        self.refresh_lists()

    def refresh_lists(self) -> None:
        """Make ``dead_lists`` agree with ``dead`` (waits for the device)."""
        self.dead_lists = [
            mask.nonzero()[:, 0] if uses_aux(config) else mask.new_zeros(0, dtype=torch.int64)
            for mask, config in zip(self.dead, self.configs, strict=True)
        ]

    def tensors(self, i: int) -> dict[str, Tensor]:
        """Everything of dictionary ``i`` that a checkpoint must hold (views)."""
        state = dict(zip(PARAMETERS, self.parameters(i), strict=True))
        state |= {f"first.{p}": self.first[p][i] for p in PARAMETERS}
        state |= {f"second.{p}": self.second[p][i] for p in PARAMETERS}
        for name in ("steps", "since_fired", "dead", "threshold", "sums", "diverged"):
            state[name] = getattr(self, name)[i]
        return state

    def restore(self, i: int, state: dict[str, Tensor]) -> None:
        """Put back what :meth:`tensors` gave."""
        for name, view in self.tensors(i).items():
            view.copy_(state[name].reshape(view.shape))

    def export(self, i: int, metadata: dict[str, Any]) -> SAE:
        """Dictionary ``i`` as a value on the CPU, in the units of the activations."""
        config = self.configs[i]
        W_enc, b_enc, W_dec, b_dec = (p.detach().to("cpu", copy=True) for p in self.parameters(i))
        common: dict[str, Any] = {
            "W_enc": W_enc.t().contiguous(),
            "b_enc": b_enc / self.scale,
            "W_dec": W_dec,
            "b_dec": b_dec / self.scale,
            "config": config.to_dict(),
            "metadata": {"site": self.site, "training_architecture": config.kind()} | metadata,
        }
        if isinstance(config, TopKConfig):
            return SAE(activation="topk", k=config.k, **common)
        if isinstance(config, BatchTopKConfig):
            value = float(self.threshold[i].nan_to_num(0.0)) / self.scale
            return SAE(activation="threshold", threshold=torch.full((self.d_sae,), value), **common)
        return SAE(activation="relu", **common)


def uses_aux(config: DictionaryConfig) -> bool:
    """Whether the auxiliary loss is on."""
    return config.aux_coefficient > 0


def aux_width(config: DictionaryConfig, d_model: int) -> int:
    """Dead latents used per token."""
    return min(config.d_sae, config.aux_k or max(1, d_model // 2))


def dead_limit(config: DictionaryConfig, tokens: int) -> int:
    """Tokens without firing after which a latent is dead."""
    return config.dead_after or max(1, min(MAX_DEAD_AFTER, tokens // 10))


def l1_weight(config: DictionaryConfig, step: int, steps: int) -> float:
    """Weight of the L1 penalty at ``step`` (0 for other architectures)."""
    if not isinstance(config, ReLUConfig):
        return 0.0
    rise = config.l1_warmup * steps
    return config.l1_coefficient * (min(1.0, (step + 1) / rise) if rise > 0 else 1.0)
