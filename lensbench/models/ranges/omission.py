"""Attention or MLP of a block that does not run: what it adds to the stream is zero.

A module's ``forward`` is wrapped on the instance, as a block's is, because no hook can keep a
module from running; outside a range of layers with omissions it is the plain one.
"""

import copy
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lensbench.errors import ConfigError
from lensbench.models.families import Family, part

Sublayer = tuple[Literal["attn", "mlp"], int]
"""A half of a block, such as ``("attn", 3)``."""

OMITTED: ContextVar[frozenset[Sublayer]] = ContextVar("lensbench_omitted", default=frozenset())


class SublayerForward:
    """The ``forward`` of a block's attention or MLP, which adds nothing where it is omitted."""

    def __init__(
        self, place: Sublayer, module: Any, shape: Literal["sum", "tuple", "plain", "flat"]
    ):
        self.place, self.original, self.shape = place, module.forward, shape
        self.width = int(getattr(module, "out_features", 0))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module, or give what leaves the stream as it is."""
        if self.place not in OMITTED.get():
            return self.original(*args, **kwargs)
        x: Tensor = args[0] if args else kwargs["hidden_states"]
        if self.shape == "sum":  # the module adds the stream itself (BLOOM)
            stream: Tensor = kwargs["residual"] if "residual" in kwargs else args[1]
            return (stream, None) if self.place[0] == "attn" else stream
        if self.shape == "flat":
            return x.new_zeros(*x.shape[:-1], self.width)
        nothing = torch.zeros_like(x)
        return (nothing, None) if self.shape == "tuple" else nothing

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., Any]:
        """A copied model gets its plain forward back."""
        return copy.deepcopy(self.original, memo)


def omittable(family: Family, blocks: Iterable[nn.Module]) -> None:
    """Make attention and MLP of every block of a stack such that they can be left out."""
    for layer, block in enumerate(blocks):
        for place, module, shape in _modules(family, layer, block):
            if not isinstance(module.forward, SublayerForward):
                module.forward = SublayerForward(place, module, shape)


def check_sublayers(sublayers: Iterable[Any], n_layers: int) -> frozenset[Sublayer]:
    """Pairs such as ``("attn", 3)`` of a model with this many layers.

    Raises:
        ConfigError: anything else.
    """
    found = frozenset(sublayers)
    for one in found:
        fits = isinstance(one, tuple) and len(one) == 2 and one[0] in ("attn", "mlp")  # pyright: ignore[reportUnknownArgumentType,reportUnknownVariableType]
        if not fits or not isinstance(one[1], int) or not 0 <= one[1] < n_layers:
            raise ConfigError(
                f'sublayers are pairs ("attn" or "mlp", layer) with layers 0..{n_layers - 1}, '
                f"got {one!r}"
            )
    return found


def _modules(family: Family, layer: int, block: nn.Module) -> list[tuple[Any, Any, Any]]:
    attn = part(block, family.attn)
    if attn is None:
        return []
    adds_itself = family.attn_out.startswith(f"{family.attn}.")
    found: list[tuple[Any, Any, Any]] = [(("attn", layer), attn, "sum" if adds_itself else "tuple")]
    path = family.up.rpartition(".")[0]
    if not path:  # OPT writes its MLP into the block
        for one in (family.up, family.down):
            found.append((("mlp", layer), block.get_submodule(one), "flat"))
        return found
    pair = family.moe is not None and family.moe.gives_pair
    shape = "sum" if adds_itself else "tuple" if pair else "plain"
    return [*found, (("mlp", layer), block.get_submodule(path), shape)]
