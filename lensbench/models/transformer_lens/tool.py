"""The import of TransformerLens, in this one place, and what building a bridge does to the process.

TransformerLens 3.9 replaces ``eager_attention_forward`` of transformers' gemma2 and gemma3 modules
when it builds the bridge of any model with rotary attention (Llama, Qwen ...), for the whole
process and for good. Its bridges do not need the replacement under eager attention, so what stood
there before a bridge was built is put back.
"""

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from lensbench.errors import BackendUnavailableError

_PATCHED = ("gemma2", "gemma3")
_WRAPPER = "transformer_lens.model_bridge.generalized_components.position_embeddings_attention"
_LOCKS: "WeakKeyDictionary[nn.Module, RLock]" = WeakKeyDictionary()  # pyright: ignore[reportInvalidTypeForm]
_BUILDING = RLock()


def load(name: str = "") -> Any:
    """TransformerLens, or its module ``name``.

    Raises:
        BackendUnavailableError: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own dependencies, at import
            return import_module("transformer_lens" + (f".{name}" if name else ""))
    except ImportError as error:
        raise BackendUnavailableError(
            f"TransformerLens cannot be imported ({error}); pip install 'transformer-lens>=3.9,<4'"
        ) from error


def is_transformer_lens(x: Any) -> bool:
    """Is ``x`` a HookedTransformer or a TransformerBridge? Asked without importing either."""
    names = {f"{c.__module__.split('.')[0]}.{c.__name__}" for c in type(x).__mro__}
    known = {"transformer_lens.HookedTransformer", "transformer_lens.TransformerBridge"}
    return bool(names & known)


def lock_of(root: nn.Module) -> Any:
    """The lock of a TransformerLens model; whoever wraps it, it has one."""
    with _BUILDING:
        return _LOCKS.setdefault(root, RLock())


@contextmanager
def unpatched() -> Generator[None]:
    """Leave transformers' attention functions as they were before a bridge is built inside."""
    with _BUILDING:
        modules: list[Any] = [
            import_module(f"transformers.models.{name}.modeling_{name}") for name in _PATCHED
        ]
        before = [module.eager_attention_forward for module in modules]
        wrapper = load(_WRAPPER.removeprefix("transformer_lens."))
        known = (wrapper._EAGER_ATTENTION_WRAPPED, wrapper._ORIGINAL_EAGER_ATTENTION_FORWARD)
        try:
            yield
        finally:
            for module, function in zip(modules, before, strict=True):
                module.eager_attention_forward = function
            wrapper._EAGER_ATTENTION_WRAPPED, wrapper._ORIGINAL_EAGER_ATTENTION_FORWARD = known
