"""Dictionaries of one shape on one site, stacked: parameters, moments and state ``[n, ...]``.

Stored by latent: ``W_enc[i]`` is ``[d_sae, d_in]``, the transpose of what :class:`SAE` shows,
because both sparse weight gradients come out by latent. Everything here is in scaled units (see
:mod:`lensbench.saes.step.start`); :func:`lensbench.saes.step.export.export` folds the scale in.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lensbench.saes.architectures import DictionaryConfig, JumpReLUConfig
from lensbench.saes.ends import Ends
from lensbench.saes.step.rules import rule_of
from lensbench.saes.step.rules.base import Rule

METRICS = ("loss", "sse", "l0", "grad_norm")
"""Columns of the state ``sums``: sums over the steps since the last log line."""
MAX_DEAD_AFTER = 10_000_000


@dataclass
class Group:
    """``n`` dictionaries that step together: same site, form and shape."""

    configs: list[DictionaryConfig]
    ends: Ends
    scale: float | Tensor
    """What is read is multiplied by this before it is used: a number, or one per dimension."""
    out_scale: float | Tensor
    """The same of what is written."""
    widths: tuple[int, ...]
    """Of the sites that are written, where they are several."""
    params: dict[str, Tensor]
    """What is learnt, ``[n, ...]``, in the order of ``Rule.parameters``."""
    state: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """What is kept from step to step, ``[n, ...]``: what the rule needs, and

    - ``centre``: of a transcoder, what is taken from the activations that it reads (fixed);
    - ``unit``: of end-to-end objectives, what is lost with the site at its mean;
    - ``steps``: updates made (a dictionary that diverges stops counting);
    - ``since_fired``: tokens since each latent fired;
    - ``dead``: latents that the auxiliary loss uses; refreshed every few steps, not every step;
    - ``sums``: see ``METRICS``;
    - ``diverged``: whether a loss or gradient was ever not finite; from then on no update changes
      anything.
    """
    first: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """First moments of Adam, by parameter."""
    second: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """Second moments of Adam, by parameter."""
    alive: list[bool] = field(default_factory=list[bool])
    """False once ``diverged`` was seen, at a log line; the dictionary is stepped no further."""
    dead_lists: list[Tensor] = field(default_factory=list[Tensor])
    """Indices of ``dead``, by dictionary; follows from ``dead``."""

    def __post_init__(self) -> None:
        """Fill what was not given with zeros of the right shape."""
        n, d_sae, device = self.n, self.d_sae, self.device
        self.first = {name: torch.zeros_like(p) for name, p in self.params.items()}
        self.second = {name: torch.zeros_like(p) for name, p in self.params.items()}
        common = {
            "steps": torch.zeros(n, device=device),
            "since_fired": torch.zeros(n, d_sae, dtype=torch.int64, device=device),
            "dead": torch.zeros(n, d_sae, dtype=torch.bool, device=device),
            "sums": torch.zeros(n, len(METRICS), device=device),
            "diverged": torch.zeros(n, dtype=torch.bool, device=device),
        }
        self.state = common | self.state
        self.alive = self.alive or [True] * n
        self.refresh_lists()

    @property
    def rule(self) -> Rule:
        """What the architecture does in a step."""
        return rule_of(self.configs[0])

    @property
    def n(self) -> int:
        """Number of dictionaries."""
        return self.W_dec.shape[0]

    @property
    def d_sae(self) -> int:
        """Latents per dictionary."""
        return self.W_dec.shape[1]

    @property
    def d_in(self) -> int:
        """Width of what is read."""
        return self.W_enc.shape[2]

    @property
    def d_out(self) -> int:
        """Width of what is written."""
        return self.b_dec.shape[1]

    @property
    def centred(self) -> bool:
        """Whether ``b_dec`` is taken from the activations before they are encoded."""
        return self.ends.same

    @property
    def device(self) -> torch.device:
        """Device of all tensors."""
        return self.W_dec.device

    @property
    def W_dec(self) -> Float[Tensor, "n d_sae d_out"]:
        """Decoder rows, of unit length."""
        return self.params["W_dec"]

    @property
    def W_enc(self) -> Float[Tensor, "n d_sae d_in"]:
        """Encoder rows; the decoder's where the two are tied."""
        return self.params.get("W_enc", self.W_dec)

    @property
    def b_enc(self) -> Float[Tensor, "n d_sae"]:
        """Encoder bias."""
        return self.params["b_enc"]

    @property
    def b_dec(self) -> Float[Tensor, "n d_out"]:
        """Decoder bias."""
        return self.params["b_dec"]

    @property
    def diverged(self) -> Bool[Tensor, " n"]:
        """See ``state``."""
        return self.state["diverged"]

    @property
    def dead(self) -> Bool[Tensor, "n d_sae"]:
        """See ``state``."""
        return self.state["dead"]

    @property
    def sums(self) -> Float[Tensor, "n metrics"]:
        """See ``state``."""
        return self.state["sums"]

    def own(self, span: int | slice) -> dict[str, Tensor]:
        """Views of parameters and state: of dictionary ``span``, or of several with ``n`` first."""
        own = {name: value[span] for name, value in (self.params | self.state).items()}
        return {"W_enc": own["W_dec"]} | own

    def names(self) -> Iterator[tuple[int, str]]:
        """Index and name of every dictionary."""
        for i, config in enumerate(self.configs):
            yield i, str(config.name)

    def refresh_dead(self, limits: list[int]) -> None:
        """Latents that have not fired for ``limits[i]`` tokens are dead from now on."""
        limit = torch.tensor(limits, device=self.device)
        self.dead.copy_(self.state["since_fired"] >= limit[:, None])
        self.refresh_lists()

    def refresh_lists(self) -> None:
        """Make ``dead_lists`` agree with ``dead`` (waits for the device)."""
        self.dead_lists = [
            mask.nonzero()[:, 0] if uses_dead(config) else mask.new_zeros(0, dtype=torch.int64)
            for mask, config in zip(self.dead, self.configs, strict=True)
        ]

    def tensors(self, i: int) -> dict[str, Tensor]:
        """Everything of dictionary ``i`` that a checkpoint must hold (views)."""
        found = {name: value[i] for name, value in self.params.items()}
        found |= {f"first.{name}": value[i] for name, value in self.first.items()}
        found |= {f"second.{name}": value[i] for name, value in self.second.items()}
        return found | {f"state.{name}": value[i] for name, value in self.state.items()}

    def restore(self, i: int, state: dict[str, Tensor]) -> None:
        """Put back what :meth:`tensors` gave."""
        for name, view in self.tensors(i).items():
            view.copy_(state[name].reshape(view.shape))

    def seen(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Activations in units of the source as the step takes them."""
        return x * self.scale, None if y is None else y * self.out_scale

    def problem(
        self, own: Mapping[str, Tensor], x: Tensor, y: Tensor | None, out: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What is encoded, and what ``acts @ W_dec`` is held against; ``own`` of one or several.

        ``out`` is a buffer that the first may be written to.
        """
        if y is None:
            centred = torch.sub(x, own["b_dec"].unsqueeze(-2), out=out)
            return centred, centred
        x = x - own["centre"].unsqueeze(-2)
        target = y - own["b_dec"].unsqueeze(-2)
        if "W_skip" in own:
            target = target - x @ own["W_skip"].transpose(-2, -1)
        return x, target


def group_key(ends: Ends, config: DictionaryConfig) -> str:
    """What dictionaries that are stepped together share, in words."""
    form = " ".join(str(part) for part in config.form())
    more = f"{'skip ' * config.skip_connection}{_told(config)}"
    return f"{ends.key} {more}{form} {config.d_sae}"


def _told(config: DictionaryConfig) -> str:
    return "" if config.objective == "reconstruction" else f"{config.objective} "


def uses_dead(config: DictionaryConfig) -> bool:
    """Whether a loss of dead latents is on."""
    return config.aux_coefficient > 0 or uses_pre_act(config)


def uses_pre_act(config: DictionaryConfig) -> bool:
    """Whether JumpReLU's pre-activation loss is on."""
    if not isinstance(config, JumpReLUConfig):
        return False
    return config.penalty == "tanh" and config.pre_act_coefficient > 0


def aux_width(config: DictionaryConfig, d_out: int) -> int:
    """Dead latents used per token."""
    return min(config.d_sae, config.aux_k or max(1, d_out // 2))


def dead_limit(config: DictionaryConfig, tokens: int) -> int:
    """Tokens without firing after which a latent is dead."""
    return config.dead_after or max(1, min(MAX_DEAD_AFTER, tokens // 10))
