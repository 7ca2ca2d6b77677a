"""A twin of a module: the same weights, modules of its own.

nnsight takes over the ``forward`` of every module it wraps and hands values over *before* torch's
forward hooks run; the native back end lives in such hooks. So that neither sees the other, nnsight
gets a copy of the module tree that shares every parameter and buffer (training the one trains the
other, no memory is spent twice) and has none of lensbench's hooks. A hook of the user's would be
run at another point than the user thinks, so a module that has one is refused.
"""

import copy
from itertools import chain
from typing import Any, TypeAlias

from torch import nn

from lensbench.errors import ConfigError
from lensbench.models.families import Architecture, blocks_of, part
from lensbench.models.nnsight import attention
from lensbench.models.session import Place

Place3: TypeAlias = tuple[str, int, str]
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def twin(module: Any, architecture: Architecture, *, opened: bool) -> Any:
    """The twin of ``module``; with ``opened`` its attention passes through identity modules.

    Raises:
        ConfigError: a forward or backward hook that is not lensbench's own.
    """
    _refuse_hooks(module)
    shared = {id(t): t for t in chain(module.parameters(), module.buffers())}
    found: Any = copy.deepcopy(module, shared)
    for each in found.modules():
        for name in _HOOKS:
            getattr(each, name).clear()
    if opened:
        attention.register()
        eager = "eager" in str(module.config._attn_implementation)
        for attn in attention_places(found, architecture).values():
            attn.add_module(attention.ATTRIBUTE, attention.Parts(always=eager))
        found.set_attn_implementation(attention.NAME)
    return found.eval()


def attention_places(module: nn.Module, architecture: Architecture) -> dict[Place3, nn.Module]:
    """Attention and cross-attention modules by ``(kind, layer, stack)``."""
    found: dict[Place3, nn.Module] = {}
    for stack, family in architecture.stacks.items():
        paths = {"attn": family.attn, "xattn": None if family.cross is None else family.cross.attn}
        for layer, block in enumerate(blocks_of(module, family)):
            for kind, path in paths.items():
                attn = part(block, path)
                if attn is not None:
                    found[kind, layer, stack] = attn
    return found


class NoTaps:
    """In the place of hooks: there are none."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.attention: dict[int, Place] = {}


def _refuse_hooks(module: nn.Module) -> None:
    for path, each in module.named_modules():
        for name in _HOOKS:
            for hook in getattr(each, name).values():
                if not str(getattr(hook, "__module__", "")).startswith("lensbench."):
                    raise ConfigError(
                        f"{path or 'the model'} has a hook of its own ({hook!r}); nnsight reads "
                        "values before such hooks run, so what it shows would not be what the "
                        "model computes. Remove the hook (handle.remove()) and try again"
                    )
