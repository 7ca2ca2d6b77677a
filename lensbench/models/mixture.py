"""Mixtures of experts: which experts a token is sent to, and what each of them gave.

The experts' module is called as ``experts(states, indices, weights)`` whatever kernel computes it.
On a layer whose ``experts.out`` is asked for, it is called once with every (token, slot) pair as a
token of its own, one slot and weight 1: that gives what each expert computed, on any kernel, and

    routed part of mlp_out = sum over slots of router.weights * experts.out

is then formed in the open. Elsewhere nothing is changed, not one bit. (An entry in transformers'
``ExpertsInterface`` would replace the kernel the user chose; this calls it.)
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lensbench.errors import ConfigError
from lensbench.models.families import Experts, part
from lensbench.models.hooks import Hook, output, session_of, tap
from lensbench.models.routers import choose, edit_routing
from lensbench.models.session import Key
from lensbench.router_ops import Choose


class ExpertsForward:
    """The experts' ``forward``, which opens up where the active session wants it."""

    def __init__(self, owner: object, key: Key, original: Callable[..., Any]) -> None:
        self.owner, self.key, self.original = owner, key, original

    def __call__(self, states: Tensor, indices: Tensor, weights: Tensor, **kwargs: Any) -> Tensor:
        """What the experts give, weighted and summed over slots; ``states`` is ``[tokens, d]``."""
        session = session_of(self.owner)
        if session is None or self.key not in session.keys:
            return self.original(states, indices, weights, **kwargs)
        n, slots = indices.shape
        ones = torch.ones(n * slots, 1, dtype=weights.dtype, device=weights.device)
        each = states.repeat_interleave(slots, dim=0)
        outs = self.original(each, indices.reshape(-1, 1), ones, **kwargs).view(n, slots, -1)
        outs = tap(session, self.key, outs)
        return (outs * weights[..., None]).sum(1).to(states.dtype)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., Any]:
        """A copied model gets its plain forward back."""
        return copy.deepcopy(self.original, memo)


def hook_experts(owner: object, layer: int, stack: str, block: nn.Module, paths: Experts) -> None:
    """Hooks of one block's router, experts and shared experts, where it has them."""
    router, experts = part(block, paths.router), part(block, paths.experts)
    if router is None or experts is None:
        return
    rule = choose(paths.rule, router)
    router.register_forward_hook(_router(owner, layer, stack, _n_experts(experts), rule))
    experts.forward = ExpertsForward(owner, ("experts.out", layer, stack), experts.forward)
    shared = part(block, paths.shared)
    if shared is not None:
        shared.register_forward_hook(output(owner, ("experts.shared_out", layer, stack)))


def _n_experts(experts: Any) -> int:
    return int(experts.num_experts)


def _router(owner: object, layer: int, stack: str, n_experts: int, rule: Choose) -> Hook:
    """Router output ``(logits, weights, indices)``; logits are read, the other two written too.

    A captured logit is the router's own, whatever an edit then makes of the choice.
    """
    keys: list[Key] = [(f"router.{n}", layer, stack) for n in ("logits", "weights", "indices")]

    def hook(module: nn.Module, args: Any, out: tuple[Tensor, Tensor, Tensor]) -> Any:
        del module, args
        session = session_of(owner)
        if session is None or session.keys.isdisjoint(keys):
            return None
        logits, weights, chosen = out
        if keys[0] in session.keys:
            logits = tap(session, keys[0], logits)
        if keys[1] in session.keys:
            weights, chosen = edit_routing(session, keys[1], (logits, weights, chosen), rule)
        if keys[2] in session.keys:
            chosen = tap(session, keys[2], chosen)
        if keys[2] in session.edits and not bool(((chosen >= 0) & (chosen < n_experts)).all()):
            wrong = chosen[(chosen < 0) | (chosen >= n_experts)][0]
            raise ConfigError(
                f"an edit of blocks.{layer}.router.indices names expert {int(wrong)}; this model "
                f"has experts 0..{n_experts - 1}"
            )
        return logits, weights, chosen

    return hook
