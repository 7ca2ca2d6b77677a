"""The residual stream inside a block: skipping blocks, and the sums between attention and MLP.

A block that "adds up in the open" adds what attention gives to its own copy of the stream, which no
hook can reach. So a written ``resid_mid`` is handed over through attention's output,
attn_out' = resid_mid' - resid_pre, and likewise ``resid_xmid`` through cross-attention's. Where a
module gives the sum (a post-norm, T5's layers), its output is the site.
"""

import copy
from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn

from lensbench.models.families import Family
from lensbench.models.hooks import Hook, session_of, tap
from lensbench.models.ranges.calls import Recording
from lensbench.models.session import Key, first, replace_first

Base = Literal["resid_pre", "resid_mid"]


class BlockForward:
    """A block's ``forward`` that the active session may skip, start at, or stop after."""

    def __init__(self, owner: object, family: Family, layer: int, stack: str, block: Any) -> None:
        self.owner, self.family, self.layer, self.stack = owner, family, layer, stack
        self.block, self.original = block, block.forward

    def __call__(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run the block under the session, or plainly when there is none."""
        session = session_of(self.owner)
        if session is None:
            return self.original(hidden_states, *args, **kwargs)
        if isinstance(session, Recording):
            session.note(self.layer, hidden_states, args, kwargs)
            return self._pass_on(hidden_states, args, kwargs)
        return session.block(
            self.layer,
            self.stack,
            lambda h: self.original(h, *args, **kwargs),
            lambda h: self._pass_on(h, args, kwargs),
            hidden_states,
        )

    def _pass_on(self, hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a block that does not run hands to the next one."""
        if self.family.shared_bias:
            return _with_bias(self.block, hidden, args, kwargs)
        return (hidden, None) if self.family.gives_tuple else hidden

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., Any]:
        """A copied model gets its plain forward back."""
        return copy.deepcopy(self.original, memo)


def _with_bias(block: Any, hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """T5's block output without its computation: block 0 still makes the bias of all blocks."""
    _, bias, _, _, cross_bias = args
    own = block.layer[0].SelfAttention
    if bias is None and own.has_relative_attention_bias:
        past = kwargs.get("past_key_values")
        seen = 0 if past is None else int(past.get_seq_length())
        new = hidden.shape[1]
        bias = own.compute_bias(new, seen + new, device=hidden.device, past_seen_tokens=seen)
    return hidden, bias, cross_bias


def added(owner: object, out_key: Key, mid_key: Key | None, base: Base, *, view: bool) -> Hook:
    """``attn_out`` (or ``xattn_out``), and through it the writing of the sum after it.

    ``view``: the block goes on with another view of the sum (OPT), so that one whose gradient is
    wanted is handed over as well.
    """

    def hook(module: nn.Module, args: Any, out: Any) -> Any:
        del module, args
        session = session_of(owner)
        if session is None:
            return None
        through = mid_key in session.keys and (mid_key in session.edits or (session.grad and view))
        if out_key not in session.keys and not through:
            return None
        x = first(out)
        if out_key in session.keys:
            x = tap(session, out_key, x)
        before = getattr(session, base)
        if through and mid_key is not None and before is not None:
            x = session.tap(mid_key, before + x) - before
        return replace_first(out, x)

    return hook


def seen(owner: object, key: Key, *, keep: bool) -> Hook:
    """Reading the sum where the next module reads it; ``keep`` it as the base of the next sum."""

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        del module
        session = session_of(owner)
        if session is None:
            return
        if key in session.keys and key in session.waiting:
            tap(session, key, args[0])
        if keep:
            session.resid_mid = args[0]

    return hook
