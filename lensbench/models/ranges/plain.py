"""Modules without our hooks, on the same weights: what a run without plan or capture goes through.

A hook that has nothing to do still costs a call, and a decoding step makes hundreds. So a block has
a twin: modules of the same classes that share every parameter, without the hooks and forwards that
lensbench put in. Hooks of others stay.
"""

import copy
from typing import Any

from torch import nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_OPTIONS = ("_forward_hooks_with_kwargs", "_forward_hooks_always_called",
            "_forward_pre_hooks_with_kwargs")  # fmt: skip


def plain_twin(module: Any) -> Any:
    """``module`` and all below it without what lensbench put in; parameters are shared."""
    twin = copy.copy(module)
    state: dict[str, Any] = twin.__dict__
    for name in _HOOKS:
        kept = {k: hook for k, hook in state[name].items() if not _is_ours(hook)}
        state[name] = type(state[name])(kept)
    for name in _OPTIONS:
        state[name] = type(state[name])(state[name])
    forward: Any = state.get("forward")
    if forward is not None and _is_ours(forward):
        original = forward.original
        if getattr(original, "__self__", None) is module:
            del state["forward"]  # the class's own
        else:
            state["forward"] = original
    children: dict[str, nn.Module | None] = state["_modules"]
    state["_modules"] = {
        name: None if child is None else plain_twin(child) for name, child in children.items()
    }
    return twin


def _is_ours(thing: Any) -> bool:
    home = getattr(thing, "__module__", None) or type(thing).__module__
    return str(home).startswith("lensbench.models.")
