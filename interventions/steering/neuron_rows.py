"""Neurons as they come: one by its numbers, or rows of a table such as ``decode_neurons`` makes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from lensbench.arguments import whole
from lensbench.errors import ConfigError
from lensbench.interventions.steering.plans import GATES, Gate, clamp_neuron
from lensbench.plan import Plan
from lensbench.sites import Site

if TYPE_CHECKING:
    import pandas as pd

    from lensbench.models.base import Model

NeuronRows: TypeAlias = "pd.DataFrame | Sequence[tuple[int, int] | tuple[int, int, int]]"
"""A frame with columns ``layer``, ``neuron`` and, if wanted, ``sign``; or such tuples."""
Neuron: TypeAlias = tuple[int, int, int]
"""Layer, number in it, and sign: +1, or -1 for a neuron that is set to minus the value."""


def neurons_of(model: "Model", rows: Any) -> tuple[Neuron, ...]:
    """The neurons of a table's rows, checked against the model.

    Raises:
        ConfigError: no rows, columns that are missing, numbers the model has not, a neuron twice.
    """
    found: list[Neuron] = []
    for row in _tuples(rows):
        numbers = [whole(x) for x in row] if isinstance(row, tuple) else []
        if len(numbers) not in (2, 3) or None in numbers:
            raise ConfigError(
                f"each row is (layer, neuron) or (layer, neuron, sign), whole numbers; got {row!r}"
            )
        layer, neuron, sign = (*numbers, 1)[:3]
        assert layer is not None
        assert neuron is not None
        if sign not in (1, -1):
            raise ConfigError(f"the sign of neuron {layer}.{neuron} must be 1 or -1, got {sign}")
        width = model.width(Site("mlp.post", layer))
        if not 0 <= neuron < width:
            raise ConfigError(f"layer {layer} has neurons 0..{width - 1}, got {neuron}")
        found.append((layer, neuron, sign))
    if not found:
        raise ConfigError("the table has no rows; lower what it asks of a neuron (least=)")
    if len({row[:2] for row in found}) < len(found):
        raise ConfigError("a neuron stands twice among the rows; give each once")
    return tuple(found)


def clamp_all(neurons: Sequence[Neuron], value: float, at: Gate) -> Plan:
    """All of them at once, each at ``sign * value``."""
    plan = Plan()
    for layer, neuron, sign in neurons:
        plan = plan + clamp_neuron(layer, neuron, sign * value, at)
    return plan


def others_of(model: "Model", neurons: Sequence[Neuron], seed: int) -> tuple[Neuron, ...]:
    """As many neurons of the same layers and signs, none of them among ``neurons``: the control.

    Raises:
        ConfigError: a layer that has too few others.
    """
    rng, found = np.random.default_rng(seed), list[Neuron]()
    for layer in sorted({row[0] for row in neurons}):
        mine = [row for row in neurons if row[0] == layer]
        width = model.width(Site("mlp.post", layer))
        taken = {row[1] for row in mine}
        if 2 * len(mine) > width:
            raise ConfigError(
                f"{len(mine)} of the {width} neurons of layer {layer} leave too few others for a "
                "control of as many; clamp fewer"
            )
        if len(mine) == 1:  # the control that one neuron has always had
            free = [(mine[0][1] + 1 + int(rng.integers(width - 1))) % width]
        else:
            free = rng.permutation([n for n in range(width) if n not in taken]).tolist()
        found += [(layer, int(n), row[2]) for n, row in zip(free, mine, strict=False)]
    return tuple(found)


def places_of(model: "Model", layers: Sequence[int], at: Sequence[Gate] | None) -> list[Gate]:
    """Where the neurons of these layers can be clamped, or those of ``at``.

    Raises:
        ConfigError: a place that a layer has not.
    """
    chosen: list[Gate] = list(GATES) if at is None else list(at)
    for layer in layers:
        model.width(Site("mlp.post", layer))  # says which layers there are
        has = {s.name for s in model.sites() if s.layer == layer}
        able: list[Gate] = [g for g in GATES if f"mlp.{g}" in has]
        if at is None:
            chosen = [g for g in chosen if g in able]
        elif unknown := [g for g in chosen if g not in able]:
            raise ConfigError(
                f"layer {layer} of {model.card.name!r} has no mlp.{unknown[0]}; clamp at "
                f"{', '.join(able)}"
            )
    return chosen


def _tuples(rows: Any) -> list[Any]:
    if hasattr(rows, "columns"):
        lacking = [c for c in ("layer", "neuron") if c not in rows.columns]
        if lacking:
            raise ConfigError(
                f"a table of neurons has columns layer and neuron; {lacking[0]!r} is missing among "
                f"{', '.join(map(str, rows.columns))}"
            )
        wanted = ["layer", "neuron", *(["sign"] if "sign" in rows.columns else [])]
        return list(rows[wanted].itertuples(index=False, name=None))
    if isinstance(rows, str) or not hasattr(rows, "__iter__"):
        raise ConfigError(
            f"neurons must be a table with columns layer and neuron, or a list of (layer, neuron), "
            f"got {rows!r}"
        )
    return [tuple(row) if hasattr(row, "__iter__") else row for row in rows]
