"""What an architecture does in a step, written once for both layouts of its entries.

A rule says which entries may fire (:meth:`Rule.listed`, :meth:`Rule.dense`), turns them into
activations and gradients (:meth:`Rule.flow`), and keeps whatever it needs from step to step.
:func:`gradients` adds what all architectures share. With ``e = x_hat - x`` on ``B`` tokens the
reconstruction loss is ``mean |e|^2``. Of an SAE ``b_dec`` enters through ``x - b_dec`` too, so its
gradient is ``sum(grad of x_hat) - W_enc @ (sum of the gradients of x @ W_enc)``, one matrix-vector
product. A transcoder holds ``acts @ W_dec`` against ``y - b_dec - W_skip @ x`` instead.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.saes.architectures import DictionaryConfig
from lensbench.saes.step.encode import Workspace
from lensbench.saes.step.layouts import Dense, Layout, Listed

Objective: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Loss of an error ``x_hat - x`` ``[tokens, d_out]`` (scaled), and its gradient, if that is not the
mean square."""
MAIN = ("W_enc", "b_enc", "W_dec", "b_dec")
SPARSE_BELOW = 1 / 16
"""Share of entries that may fire above which dense products are cheaper."""


@dataclass(frozen=True)
class Step:
    """What a rule sees of one step."""

    config: DictionaryConfig
    """Of the first dictionary; what differs between those of a group is in ``own``."""
    layout: Layout
    x: Tensor
    """Centred activations ``[.., tokens, d_in]``."""
    target: Tensor
    """What ``acts @ W_dec`` is held against, ``[.., tokens, d_out]``."""
    own: Mapping[str, Tensor]
    """Parameters and state by name, each ``[.., ...]``."""
    now: "Now"
    centred: bool = True
    """Whether ``b_dec`` was taken from what is encoded."""
    widths: tuple[int, ...] = ()
    """Widths of the sites that are written, where they are several."""
    objective: Objective | None = None
    """Of one dictionary; None: the mean square."""


@dataclass(frozen=True)
class Now:
    """Where in the run a step is."""

    step: int = 0
    """Number of the step, from 0."""
    steps: int = 1
    """Steps of the whole run."""

    def ramp(self, share: float) -> float:
        """Rises from 0 to 1 over the first ``share`` of the run."""
        rise = share * self.steps
        return min(1.0, (self.step + 1) / rise) if rise > 0 else 1.0


@dataclass
class Flow:
    """Activations and gradients at the entries, and what they sum to."""

    acts: Tensor
    error: Tensor
    """``acts @ W_dec - target``, of the whole dictionary."""
    sse: Tensor
    """Sum over tokens of its square, ``[..]``."""
    loss: Tensor
    """``[..]``."""
    out: Tensor
    """Gradient of the loss with respect to ``x_hat``, over all reconstructions in it."""
    into: Tensor
    """Gradient with respect to the activations through the decoder alone."""
    inner: Tensor
    """Gradient with respect to ``x @ W_enc``."""
    W_dec: Tensor
    """Gradient of the decoder."""
    along: Tensor | None = None
    """What a penalty adds to the component of that along each decoder row, ``[.., d_sae]``."""
    per_latent: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """Gradients of parameters with a number per latent, at the entries, to be summed; ``b_enc``
    where it is not that of ``inner``."""
    state: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """What :meth:`Rule.after` needs, ``[..]`` first."""


@dataclass
class Gradients:
    """Gradients of one dictionary and what the step saw on the way."""

    of: dict[str, Tensor]
    """By parameter; ``W_dec`` still with its component along the decoder rows."""
    along: Float[Tensor, " d_sae"]
    """That component."""
    fired: Float[Tensor, " d_sae"]
    """Tokens on which each latent fired."""
    loss: Float[Tensor, ""]
    sse: Float[Tensor, ""]
    """Sum over tokens of |x_hat - x|^2."""
    state: dict[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """What the entries of one dictionary are found from."""

    config: DictionaryConfig
    x: Tensor
    """Centred activations."""
    own: Mapping[str, Tensor]
    space: Workspace
    screened: bool
    """Whether a coarse product may say where to look."""


@dataclass(frozen=True)
class Done:
    """What is known after an update of one dictionary."""

    config: DictionaryConfig
    own: Mapping[str, Tensor]
    found: Gradients
    now: Now
    l0: Tensor
    """Of the batch."""
    updated: Tensor
    """False from the first step that was not finite."""


class Rule:
    """An architecture in a step; without state of its own."""

    parameters: ClassVar[tuple[str, ...]] = MAIN
    tied: ClassVar[bool] = False

    # --- start and end

    def count(self, d_sae: int, d_in: int, d_out: int) -> int:
        """Numbers that are learnt; a parameter beside the usual four has one per latent."""
        usual = {"W_enc": d_sae * d_in, "W_dec": d_sae * d_out, "b_dec": d_out}
        return sum(usual.get(name, d_sae) for name in self.parameters)

    def start(self, config: DictionaryConfig, d_model: int) -> dict[str, Tensor]:
        """Parameters beside the four of every architecture, and state kept from step to step."""
        del config, d_model
        return {}

    def first_acts(self, config: DictionaryConfig, pre: Tensor) -> Tensor:
        """Activations at the very start, for the scale of the encoder."""
        del config
        return pre.relu()

    def calibrate(self, config: DictionaryConfig, own: Mapping[str, Tensor], pre: Tensor) -> None:
        """Fit parameters of one dictionary to its first pre-activations, in place."""

    def export(self, config: DictionaryConfig, own: Mapping[str, Tensor]) -> dict[str, Any]:
        """Fields of :class:`~lensbench.saes.sae.SAE` beside the weights, in units of the source."""
        del config, own
        return {"activation": "relu"}

    # --- which entries

    def listed(self, b: Batch) -> Listed | None:
        """Entries of one dictionary; None where dense products would be cheaper."""
        raise NotImplementedError

    def dense(self, configs: list[DictionaryConfig], pre: Tensor) -> Dense:
        """All entries of several dictionaries."""
        del configs
        return Dense(pre)

    # --- a step

    def flow(self, s: Step) -> Flow:
        """Activations, loss and gradients."""
        raise NotImplementedError

    def before(self, config: DictionaryConfig, own: Mapping[str, Tensor], now: Now) -> None:
        """Change the state of one dictionary before a step."""

    def after(self, d: Done) -> None:
        """Change parameters and state of one dictionary after an update."""


def squares(error: Tensor) -> Tensor:
    """Sum of squares ``[..]`` of ``[.., tokens, d]``."""
    if error.ndim == 2:
        return torch.dot(error.view(-1), error.view(-1))
    return error.square().sum((1, 2))


def plain(
    s: Step,
    acts: Tensor,
    inner: Any,
    penalty: Tensor | None = None,
) -> Flow:
    """One reconstruction, for rules whose loss has no other.

    ``inner(into)`` gives the gradient of ``x @ W_enc`` and those of other parameters from that of
    the activations.
    """
    weight = s.own["W_dec"]
    error = s.layout.decode(acts, weight).sub_(s.target)
    sse = squares(error)
    if s.objective is None:
        loss, grad = sse / s.layout.n_tokens, error * (2 / s.layout.n_tokens)
    else:
        loss, grad = s.objective(error.reshape(-1, error.shape[-1]))
        loss, grad = loss.view(sse.shape), grad.view(error.shape)
    into = s.layout.against(grad, weight)
    d_inner, per_latent = inner(into)
    return Flow(
        acts=acts,
        error=error,
        sse=sse,
        loss=loss if penalty is None else loss + penalty,
        out=grad,
        into=into,
        inner=d_inner,
        W_dec=s.layout.outer(acts, grad, "W_dec"),
        per_latent=per_latent,
    )


@dataclass
class Found:
    """A flow and what it sums to, ``[.., ...]``."""

    flow: Flow
    of: dict[str, Tensor]
    """Gradients by parameter."""
    along: Tensor
    fired: Tensor


def gradients(rule: Rule, s: Step) -> Found:
    """Everything but the losses of dead latents."""
    flow, layout = rule.flow(s), s.layout
    active = (flow.acts > 0).to(flow.acts.dtype)
    total, along, fired, *rest = layout.sums(
        flow.inner, flow.into * flow.acts, active, *flow.per_latent.values()
    )
    if flow.along is not None:
        along = along + flow.along
    of = dict(zip(flow.per_latent, rest, strict=True))
    of.setdefault("b_enc", total)
    of |= {
        "W_enc": layout.outer(flow.inner, s.x, "W_enc"),
        "W_dec": flow.W_dec,
        "b_dec": flow.out.sum(-2),
    }
    if s.centred:
        of["b_dec"] -= (total.unsqueeze(-2) @ s.own["W_enc"]).squeeze(-2)
    if "W_skip" in s.own:
        of["W_skip"] = flow.out.transpose(-2, -1) @ s.x
    if rule.tied:
        encoder = of.pop("W_enc")
        of["W_dec"] = of["W_dec"] + encoder
        along = along + (encoder * s.own["W_dec"]).sum(-1)
    return Found(flow, of, along, fired)
