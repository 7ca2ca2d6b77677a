"""Which blocks a text passes, in which order, which halves of them, and what stands in for those.

One value for deleting layers (ShortGPT, angular pruning), swapping them, leaving sublayers out
(AdaSkip, drafts of Draft & Verify) and the simple baselines, so that one pass evaluates them all.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.models.ranges import Sublayer
from lensbench.plan import Plan, Scale, edit


@dataclass(frozen=True)
class Route:
    """Blocks in the order they run, without the sublayers of ``omit``."""

    order: tuple[int, ...]
    omit: frozenset[Sublayer] = frozenset()
    factors: Mapping[Sublayer, float] = field(default_factory=dict[Sublayer, float])
    """What the stream is multiplied by in the place of a sublayer (AdaSkip); 1 where not named."""

    def check(self, n_layers: int) -> "Route":
        """This route, if a model of so many layers can take it.

        Raises:
            ConfigError: a layer it has not, one that comes twice, or a factor for what is not left
                out.
        """
        if any(not 0 <= layer < n_layers for layer in self.order):
            raise ConfigError(
                f"a route may name layers 0..{n_layers - 1} of this model, got {self.order}"
            )
        if len(set(self.order)) != len(self.order):
            raise ConfigError(f"a layer may run once per token, got the order {self.order}")
        loose = sorted(set(self.factors) - self.omit)
        if loose:
            raise ConfigError(f"factors stand for sublayers that are left out; {loose} are not")
        return self

    @property
    def plan(self) -> Plan:
        """The factors as edits: the stream around an omitted half is multiplied by them."""
        plan = Plan()
        for (half, layer), factor in sorted(self.factors.items()):
            site = "resid_mid" if half == "attn" else "resid_post"
            plan = plan + edit(f"blocks.{layer}.{site}", Scale(factor))
        return plan

    @property
    def layers(self) -> float:
        """Blocks run per token; half a block counts one half."""
        halves = sum((half, layer) not in self.omit for layer in self.order for half in _HALVES)
        return halves / 2


_HALVES = ("attn", "mlp")


def whole_route(n_layers: int) -> Route:
    """Every block, in order.

    Example:
        >>> acceleration.whole_route(3)
    """
    return Route(tuple(range(n_layers)))


def without(n_layers: int, layers: Iterable[Any]) -> Route:
    """Every block but these.

    Raises:
        ConfigError: a layer that the model has not.

    Example:
        >>> route = acceleration.without(6, [4])
    """
    gone = {whole_number("each of layers", layer) for layer in layers}
    if any(layer >= n_layers for layer in gone):
        raise ConfigError(f"layers are 0..{n_layers - 1} for this model, got {sorted(gone)}")
    return Route(tuple(i for i in range(n_layers) if i not in gone))


def swapped(n_layers: int, layer: int) -> Route:
    """``layer`` and ``layer + 1`` in each other's place.

    Raises:
        ConfigError: no layer comes after it.

    Example:
        >>> route = acceleration.swapped(6, 2)
    """
    if not 0 <= layer < n_layers - 1:
        raise ConfigError(f"layers 0..{n_layers - 2} have one after them, got {layer}")
    order = list(range(n_layers))
    order[layer], order[layer + 1] = order[layer + 1], order[layer]
    return Route(tuple(order))


def last_layers_off(n_layers: int, skip: int) -> Route:
    """The plainest baseline: the last ``skip`` layers do not run.

    Example:
        >>> route = acceleration.last_layers_off(6, 2)
    """
    return without(n_layers, range(n_layers - _some(skip, n_layers), n_layers))


def evenly_off(n_layers: int, skip: int) -> Route:
    """Unified skipping: layer ``i`` does not run where ``i % (L // skip) == 1``.

    With ``L // skip`` below 2 no layer has that remainder, so at most half of them can be skipped.

    Raises:
        ConfigError: more layers than that.

    Example:
        >>> route = acceleration.evenly_off(6, 2)
    """
    every = n_layers // _some(skip, n_layers)
    if every < 2:
        raise ConfigError(f"evenly_off skips at most {n_layers // 2} of {n_layers} layers")
    return without(n_layers, [i for i in range(n_layers) if i % every == 1])


def _some(skip: Any, n_layers: int) -> int:
    found = whole_number("skip", skip, least=1)
    if found >= n_layers:
        raise ConfigError(f"skip must leave a layer: 1 to {n_layers - 1}, got {found}")
    return found
