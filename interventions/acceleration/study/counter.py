"""How many blocks really ran: what is read from a store must leave this at 0."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lensbench.models.base import Model
from lensbench.models.families import blocks_of
from lensbench.models.ranges.calls import Recording
from lensbench.models.session import ACTIVE


@dataclass
class BlockForwards:
    """Calls of any block of a model since counting began."""

    count: int = 0

    def __call__(self, *_: Any) -> None:
        """Count one (a forward hook); asking what blocks would be called with runs none."""
        self.count += not isinstance(ACTIVE.get(), Recording)


@contextmanager
def count_block_forwards(model: Model) -> Generator[BlockForwards]:
    """Count every call of every block of ``model``, whoever makes it.

    A model of another back end than the native one has no blocks to watch; its counter stays 0.

    Example:
        >>> with acceleration.count_block_forwards(model) as ran:
        ...     out = model.run(model.tokens(text))
        >>> ran.count
        6
    """
    counter = BlockForwards()
    module: Any = getattr(model, "module", None)
    layout: Any = getattr(model, "layout", None)
    stacks = layout.architecture.stacks.values() if layout is not None else ()
    handles = [
        block.register_forward_pre_hook(counter)
        for family in stacks
        for block in blocks_of(module, family)
    ]
    try:
        yield counter
    finally:
        for handle in handles:
            handle.remove()
