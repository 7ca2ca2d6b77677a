"""Operations on the routing of a mixture of experts: they need what a router gave as a whole.

A router gives, for every token, its score of every expert (``logits``), the experts in its slots
(``indices``) and the weight of each (``weights``). An edit with one of these operations stands at
``blocks.<L>.router.weights`` and may change weights and indices together. Source: mixture of
tunable experts, Dahlke et al. 2025, arXiv:2502.11096, which publishes no code.

What is restored is always the *previous* sum of a token's weights, because architectures differ in
it (1 in Mixtral, below 1 in OLMoE, ``routed_scaling_factor`` in DeepSeek-V3). A token that an
operation does not concern keeps its routing bit for bit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lensbench.arguments import refuse_no_numbers, whole
from lensbench.errors import ConfigError
from lensbench.ops import Op

Choose: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]
"""A router's own rule: logits ``[tokens, n_experts]`` -> weights and indices ``[tokens, slot]``.

An expert of logit ``-inf`` is never chosen; a slot that finds no expert has weight 0.
"""


@dataclass(frozen=True)
class Routed:
    """What a router gave for some tokens, and the rule by which it chose."""

    logits: Tensor
    """``[tokens, n_experts]``."""
    weights: Tensor
    """``[tokens, slot]``."""
    indices: Tensor
    """``[tokens, slot]``, whole numbers."""
    choose: Choose


@dataclass(frozen=True, eq=False, repr=False)
class RouterOp(Op):
    """An operation on the routing of tokens to ``experts``; at ``router.weights`` only."""

    experts: Sequence[int]
    """A tuple, sorted, each once."""

    def __post_init__(self) -> None:
        """Refuse what names no experts."""
        object.__setattr__(self, "experts", _experts(type(self).__name__, self.experts))

    def apply(self, x: Tensor) -> Tensor:  # noqa: ARG002 - refused whatever it is
        """Not defined: weights alone do not say which experts they are of.

        Raises:
            ConfigError: always; the back end calls :meth:`route` instead, or cannot do this.
        """
        raise ConfigError(
            f"{self!r} changes the weights and indices of a router together, which this back end "
            "does not hand over together; use the native or the nnsight back end"
        )

    def route(self, x: Routed) -> Routed:
        """The routing after this operation."""
        raise TypeError(f"{type(self).__name__} does not define route for {type(x).__name__}")

    def check(self, site: str, n_experts: int, top_k: int) -> None:
        """Refuse experts that this router has not.

        Raises:
            ConfigError: with the range of experts.
        """
        del top_k
        if (wrong := max(self.experts)) >= n_experts:
            raise ConfigError(
                f"{self!r} at {site} names expert {wrong}; this model has experts "
                f"0..{n_experts - 1}"
            )

    def _among(self, indices: Tensor) -> Tensor:
        """Which slots hold one of the experts."""
        return torch.isin(indices, torch.tensor(self.experts, device=indices.device))


@dataclass(frozen=True, eq=False, repr=False)
class SuppressExperts(RouterOp):
    """Weight 0 for the experts where they were chosen; the other slots keep the previous sum.

    ``w_i' = w_i * S / S'`` with S the sum of a token's weights before and S' after. No other expert
    fills the slot. Where every chosen expert is suppressed all weights are 0: the routed part of
    ``mlp_out`` is then zero (shared experts and the residual stream remain).
    """

    def route(self, x: Routed) -> Routed:
        """See the class."""
        hit = self._among(x.indices)
        return replace(x, weights=_restored(x.weights.masked_fill(hit, 0), x.weights))


@dataclass(frozen=True, eq=False, repr=False)
class RerouteExperts(RouterOp):
    """Logit ``-inf`` for the experts where they were chosen: the next best fills the slot.

    The router chooses anew by its own rule (softmax, or DeepSeek's sigmoid with limited groups and
    correction bias) among the experts that are left, and gives its own weights. Where fewer experts
    are left than slots, a slot has weight 0.
    """

    def route(self, x: Routed) -> Routed:
        """See the class."""
        hit = self._among(x.indices).any(-1, keepdim=True)
        logits = x.logits.index_fill(
            -1, torch.tensor(self.experts, device=x.logits.device), -torch.inf
        )
        weights, indices = x.choose(logits)
        # The mask stays with the token, so that a second reroute does not bring these back.
        return replace(
            x,
            logits=torch.where(hit, logits, x.logits),
            weights=torch.where(hit, weights.to(x.weights.dtype), x.weights),
            indices=torch.where(hit, indices, x.indices),
        )


@dataclass(frozen=True, eq=False, repr=False)
class ForceExperts(RouterOp):
    """The experts enter the slots of smallest weight, with the largest weight of the token.

    The previous sum is then restored. An expert that was chosen already keeps its slot.
    """

    def check(self, site: str, n_experts: int, top_k: int) -> None:
        """See the base; there must be a slot for each expert."""
        super().check(site, n_experts, top_k)
        if len(self.experts) > top_k:
            raise ConfigError(
                f"{self!r} at {site} forces {len(self.experts)} experts, but a token has {top_k} "
                "slots per layer; force fewer of one layer"
            )

    def route(self, x: Routed) -> Routed:
        """See the class."""
        top = x.weights.amax(-1, keepdim=True)
        weights, indices = x.weights, x.indices
        for expert in self.experts:
            here = indices == expert
            taken = self._among(indices)
            smallest = weights.masked_fill(taken, torch.inf).argmin(-1, keepdim=True)
            slot = torch.zeros_like(here).scatter(-1, smallest, value=True)
            slot = torch.where(here.any(-1, keepdim=True), here, slot)
            indices = torch.where(slot, expert, indices)
            weights = torch.where(slot, top, weights)
        return replace(x, weights=_restored(weights, x.weights), indices=indices)


@dataclass(frozen=True, eq=False, repr=False)
class ScaleExperts(RouterOp):
    """``factor`` times the weight of the experts where they were chosen.

    With ``renormalise`` all weights of the token are then scaled by ``S / S'``, S and S' the sums
    of their magnitudes before and after, which is defined for any factor (0 suppresses, a negative
    one turns the expert's output round). Without it the other experts keep their weights. Factor 1
    changes nothing, bit for bit.
    """

    factor: float = 1.0
    renormalise: bool = True

    def __post_init__(self) -> None:
        """Refuse a factor that is no number."""
        super().__post_init__()
        refuse_no_numbers("ScaleExperts", "factor", self.factor)
        number = float(self.factor)
        if number != number or number in (torch.inf, -torch.inf):
            raise ConfigError(f"ScaleExperts needs a finite factor, got {self.factor!r}")
        object.__setattr__(self, "factor", number)
        object.__setattr__(self, "renormalise", bool(self.renormalise))

    def route(self, x: Routed) -> Routed:
        """See the class."""
        hit = self._among(x.indices)
        weights = torch.where(hit, x.weights * self.factor, x.weights)
        return replace(x, weights=_restored(weights, x.weights) if self.renormalise else weights)


def _restored(weights: Tensor, before: Tensor) -> Tensor:
    """``weights`` with the sum of magnitudes of ``before``; equal ones stay so bit for bit."""
    old, new = (w.abs().sum(-1, keepdim=True) for w in (before, weights))
    return weights * torch.where(new > 0, old / new.clamp_min(torch.finfo(new.dtype).tiny), 0.0)


def _experts(owner: str, experts: Any) -> tuple[int, ...]:
    rule = f"{owner} needs the numbers of experts, such as (6,) or [2, 9]"
    if isinstance(experts, str) or not hasattr(experts, "__iter__"):
        raise ConfigError(f"{rule}; got {experts!r}")
    given: list[Any] = list(experts)
    found = [whole(one) for one in given]
    numbers = [n for n in found if n is not None and n >= 0]
    if not given or len(numbers) < len(given):
        wrong = next((g for g, n in zip(given, found, strict=True) if n is None or n < 0), given)
        raise ConfigError(f"{rule}, each a whole number from 0; got {wrong!r}")
    return tuple(sorted(set(numbers)))
