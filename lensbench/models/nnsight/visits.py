"""What happens at a visit: how sites are read and written where nnsight hands a value over.

nnsight hands over a module's input when it is called and its output when it returns. A visit is one
such moment; at each, some sites are shown to the session of the run, which edits and captures them.
The functions here turn a module's input or output into site tensors and back.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from lensbench.errors import ConfigError
from lensbench.models.families import Rule
from lensbench.models.routers import choose, edit_routing
from lensbench.models.session import Key, Session, first, replace_first
from lensbench.sites import SITES

Side = Literal["input", "output"]
Show: TypeAlias = "Callable[[Session, Any, Any, Any], Any]"
"""``(session, value at the visit, envoy, input of the same call)`` -> the value that goes on."""

_AXES = {name: len(spec.axes.split()) for name, spec in SITES.items()}


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How one or more sites are reached: at which visit, and by what function."""

    keys: tuple[Key, ...]
    path: str
    side: Side
    show: Show
    needs_input: bool = False
    """``show`` reads the input of the call as well."""
    writes_through: bool = False
    """Wanted only when its last key is written, not when it is read (read elsewhere)."""
    skips: bool = False
    """What ``show`` gives stands in for the module, which is not run."""


def tap(session: Session, key: Key, x: Tensor) -> Tensor:
    """Show ``x`` as ``batch pos ...``; some modules work on batch and position in one axis."""
    if key not in session.keys:
        return x
    if x.ndim == _AXES[key[0]]:
        return session.tap(key, x)
    shaped = x.reshape(-1, session.grids[key[2]].width, *x.shape[1:])
    return session.tap(key, shaped).reshape(x.shape)


def whole(key: Key, *, copied: bool = False) -> Show:
    """The hidden states of an output, or the first input. ``copied``: the block adds into it."""

    def show(session: Session, value: Any, envoy: Any, given: Any) -> Any:
        del envoy, given
        x = first(value)
        # Parallel branches read one tensor; with gradients each needs one of its own.
        x = tap(session, key, x.view_as(x) if session.grad else x)
        return replace_first(value, x.clone() if copied else x)

    return show


def halves(left: Key, right: Key) -> Show:
    """The two halves of an output."""

    def show(session: Session, value: Tensor, envoy: Any, given: Any) -> Tensor:
        del envoy, given
        a, b = value.chunk(2, dim=-1)
        return torch.cat((tap(session, left, a), tap(session, right, b)), dim=-1)

    return show


def heads(key: Key, n_heads: int) -> Show:
    """``z`` at the input of the output projection."""

    def show(session: Session, value: Tensor, envoy: Any, given: Any) -> Tensor:
        del envoy, given
        shaped = value.reshape(*value.shape[:-1], n_heads, value.shape[-1] // n_heads)
        return tap(session, key, shaped).reshape(value.shape)

    return show


def denominator(key: Key) -> Show:
    """The s of y = (x - mean) / s * weight + bias; written s' gives (y - bias) s / s' + bias."""

    def show(session: Session, value: Tensor, envoy: Any, given: Any) -> Tensor:
        norm = envoy._module
        scale = _denominator(norm, given).to(value.dtype)
        written = key in session.edits
        if not written and session.grad:  # a leaf through which the output flows as well
            scale = scale.detach().requires_grad_()
        shown = tap(session, key, scale)
        if not written and not session.grad:
            return value
        bias = getattr(norm, "bias", None)
        shift = 0 if bias is None else bias
        return (value - shift) * ((scale if written else scale.detach()) / shown) + shift

    return show


def _denominator(norm: nn.Module, x: Tensor) -> Tensor:
    """sqrt(var + eps) of a LayerNorm, sqrt(mean(x^2) + eps) of an RMSNorm; ``[..., 1]``, fp32."""
    eps = float(getattr(norm, "variance_epsilon", None) or getattr(norm, "eps", 0.0))
    x = x.float()
    if isinstance(norm, nn.LayerNorm):
        return (x.var(-1, keepdim=True, unbiased=False) + eps).sqrt()
    return (x.square().mean(-1, keepdim=True) + eps).sqrt()


def added(out_key: Key, mid_key: Key | None, base: str) -> Show:
    """A branch's output; a written sum goes through it: out' = sum' - what it is added to."""

    def show(session: Session, value: Any, envoy: Any, given: Any) -> Any:
        del envoy, given
        x = tap(session, out_key, first(value))
        if mid_key is not None and mid_key in session.edits:
            before = getattr(session, base)
            x = session.tap(mid_key, before + x) - before
        return replace_first(value, x)

    return show


def seen(key: Key, *, keep: bool) -> Show:
    """A sum where the next module reads it; kept where a later sum is made from it."""

    def show(session: Session, value: Tensor, envoy: Any, given: Any) -> Tensor:
        del envoy, given
        if key in session.waiting:
            tap(session, key, value)
        if keep:
            session.resid_mid = value
        return value

    return show


def router(keys: tuple[Key, Key, Key], n_experts: int, rule: Rule) -> Show:
    """``(logits, weights, indices)`` of a router; an expert that does not exist is refused."""

    def show(session: Session, value: tuple[Tensor, Tensor, Tensor], envoy: Any, given: Any) -> Any:
        del given
        weights, chosen = value[1:]
        logits = tap(session, keys[0], value[0])
        if keys[1] in session.keys:
            by = choose(rule, envoy._module)
            weights, chosen = edit_routing(session, keys[1], (logits, weights, chosen), by)
        chosen = tap(session, keys[2], chosen)
        if keys[2] in session.edits and not bool(((chosen >= 0) & (chosen < n_experts)).all()):
            wrong = chosen[(chosen < 0) | (chosen >= n_experts)][0]
            raise ConfigError(
                f"an edit of blocks.{keys[2][1]}.router.indices names expert {int(wrong)}; this "
                f"model has experts 0..{n_experts - 1}"
            )
        return logits, weights, chosen

    return show


def experts(key: Key) -> Show:
    """What each slot's expert gave; the weighted sum of it then stands in for the module.

    An envoy called inside a trace runs its module unobserved.
    """

    def show(
        session: Session,
        value: tuple[tuple[Tensor, ...], dict[str, Any]],
        envoy: Any,
        given: Any,
    ) -> Tensor:
        del given
        (states, indices, weights), options = value
        n, slots = indices.shape
        ones = torch.ones(n * slots, 1, dtype=weights.dtype, device=weights.device)
        each = states.repeat_interleave(slots, dim=0)
        outs = envoy(each, indices.reshape(-1, 1), ones, **options).view(n, slots, -1)
        outs = tap(session, key, outs)
        return (outs * weights[..., None]).sum(1).to(states.dtype)

    return show
