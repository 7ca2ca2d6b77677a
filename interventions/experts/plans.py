"""Plans that change which experts a token uses, and how much of each.

Experts are pairs ``(layer, expert)``, one or many. A plan touches no model, so experts that it has
not are refused when it is run.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from lensbench.arguments import whole
from lensbench.errors import ConfigError
from lensbench.plan import Edit, ForceExperts, Plan, RerouteExperts, ScaleExperts, SuppressExperts
from lensbench.router_ops import RouterOp
from lensbench.sites import Site

Expert: TypeAlias = tuple[int, int]
"""Layer, and number of the expert in it."""
ExpertsLike: TypeAlias = Expert | Sequence[Expert] | np.ndarray


def suppress(
    experts: ExpertsLike,
    *,
    rows: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
) -> Plan:
    """Take experts out where they were chosen; the others of a token keep its previous sum.

    ``w_i' = w_i * S / S'``, S and S' the sums of a token's weights before and after. No other
    expert fills the slot, and with all chosen ones suppressed the routed output is zero.
    Source: Dahlke et al. 2025, arXiv:2502.11096; they renormalise to 1, which is the previous sum
    in the models they use.

    Example:
        >>> plan = experts.suppress([(1, 11), (3, 10)])  # (layer, expert)
        >>> out = moe.run(desk_ids[:1], plan)
    """
    return _plan(SuppressExperts, experts, rows, positions)


def reroute(
    experts: ExpertsLike,
    *,
    rows: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
) -> Plan:
    """Mask the logits of experts where they were chosen, so that the next best fills the slot.

    The router's own rule chooses among the rest (DeepSeek's limit on groups included).

    Example:
        >>> out = moe.run(desk_ids[:1], experts.reroute([(1, 11)]))
    """
    return _plan(RerouteExperts, experts, rows, positions)


def force(
    experts: ExpertsLike,
    *,
    rows: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
) -> Plan:
    """Put experts into the slots of smallest weight, at the largest weight, previous sum kept.

    Called stimulation in arXiv:2502.11096, which does not say how it is done; this is our reading.

    Example:
        >>> out = moe.run(desk_ids[:1], experts.force([(1, 11)]))
    """
    return _plan(ForceExperts, experts, rows, positions)


def scale(
    experts: ExpertsLike,
    factor: float,
    *,
    renormalise: bool = True,
    rows: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
) -> Plan:
    """Multiply the weight of experts where they were chosen; 1 changes no bit, 0 suppresses.

    With ``renormalise`` the token's weights keep their previous sum of magnitudes.

    Example:
        >>> out = moe.run(desk_ids[:1], experts.scale([(1, 11)], 0.5))
    """
    return _plan(lambda e: ScaleExperts(e, factor, renormalise), experts, rows, positions)


def as_experts(experts: Any) -> tuple[Expert, ...]:
    """Pairs ``(layer, expert)``, each once, in order of mention.

    Raises:
        ConfigError: anything else, or none.
    """
    rule = "experts must be pairs (layer, expert), such as [(1, 6), (3, 2)]"
    try:
        given: list[Any] = list(experts)
    except TypeError:
        raise ConfigError(f"{rule}; got {experts!r}") from None
    if len(given) == 2 and all(whole(one) is not None for one in given):
        given = [given]
    found: list[Expert] = []
    for one in given:
        pair = () if isinstance(one, str) or not hasattr(one, "__len__") else tuple(one)
        numbers = [whole(n) for n in pair]
        if len(pair) != 2 or any(n is None or n < 0 for n in numbers):
            raise ConfigError(f"{rule}; got {one!r}")
        found.append((numbers[0] or 0, numbers[1] or 0))
    if not found:
        raise ConfigError(f"{rule}; got none")
    return tuple(dict.fromkeys(found))


def _plan(
    make: Callable[[tuple[int, ...]], RouterOp],
    experts: ExpertsLike,
    rows: Sequence[int] | None,
    positions: Sequence[int] | None,
) -> Plan:
    by_layer: defaultdict[int, list[int]] = defaultdict(list)
    for layer, expert in as_experts(experts):
        by_layer[layer].append(expert)
    return Plan(
        tuple(
            Edit(Site("router.weights", layer), make(tuple(found)), rows, positions)
            for layer, found in sorted(by_layer.items())
        )
    )
