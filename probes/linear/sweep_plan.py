"""What a sweep is asked for, checked before anything is read: labels, splits, control labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, NotEnoughDataError, UnknownNameError
from lensbench.probes.linear.controls import (
    CONTROLS,
    control_task,
    majority,
    shuffled,
    token_lookup,
)  # fmt: skip
from lensbench.probes.linear.data import ProbeData, probe_data
from lensbench.probes.linear.fit import options_of
from lensbench.probes.linear.fitting import FitOptions, usable
from lensbench.probes.linear.labels import Label, some
from lensbench.probes.linear.positions import Position, rows_by_position
from lensbench.probes.linear.probe import METHODS
from lensbench.probes.linear.scores import METRICS
from lensbench.probes.linear.splits import Split
from lensbench.sites import Site

if TYPE_CHECKING:
    from lensbench.store import ActivationStore


@dataclass(frozen=True, eq=False)
class Part:
    """The rows of one position, and what is fitted on them."""

    position: str
    rows: Int[np.ndarray, " some"] | None
    """Their numbers among the rows of the data; None: all."""
    data: ProbeData
    labels: tuple[Label, ...]
    splits: list[Split]
    """By seed; a document is on the same side at every position."""
    moved: list[dict[str, tuple[Label | None, ...]]]
    """By seed and control: the control's label of every label, None where there is none."""
    fixed: list[list[dict[str, np.ndarray]]]
    """By seed and label: outputs of the baselines that need no activations."""
    left_out: dict[str, str]


@dataclass(frozen=True, eq=False)
class Plan:
    """What is to be fitted, checked."""

    data: ProbeData
    parts: tuple[Part, ...]
    labels: tuple[Label, ...]
    """Those of any part."""
    sites: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    metric: str
    n_boot: int
    options: FitOptions
    left_out: dict[str, str]


def planned(
    given: "ProbeData | ActivationStore",
    labels: Sequence[str] | str | None,
    sites: Sequence[str] | str | None,
    positions: Sequence[Position] | Position | None,
    methods: Sequence[str] | str,
    seeds: Sequence[int] | int,
    controls: Sequence[str],
    metric: str,
    shares: tuple[float, float, float],
    n_boot: int,
    options: dict[str, Any],
) -> Plan:
    """What :func:`~lensbench.probes.linear.sweep.probe_sweep` is asked for; errors as there."""
    ways = (methods,) if isinstance(methods, str) else tuple(methods)
    for kind, asked, known in (
        ("probe", ways, METHODS),
        ("control", controls, CONTROLS),
        ("metric", (metric,), METRICS),
    ):
        for name in asked:
            if name not in known:
                raise UnknownNameError(kind, str(name), known=known)
    if not ways:
        raise ConfigError("methods needs at least one probe")
    for name, many in (("seeds", seeds), ("sites", sites), ("labels", labels),
                       ("positions", positions)):  # fmt: skip
        if isinstance(many, Sequence) and not many:
            raise ConfigError(f"{name} needs at least one")
    data = given if isinstance(given, ProbeData) else probe_data(
        given, sites=sites, names=labels, positions="all" if positions is None else positions
    )  # fmt: skip
    count = whole_number("n_boot", n_boot, least=0)
    numbers = tuple(range(whole_number("seeds", seeds, least=1))) if not isinstance(
        seeds, Sequence) else tuple(whole_number("a seed", s, least=0) for s in seeds)  # fmt: skip
    whole = [data.split(seed, shares) for seed in numbers]
    asked = some(data.labels, labels)
    strict = labels is not None
    parts = tuple(
        _part(data, where, rows, asked, ways, whole, numbers, controls, strict=strict)
        for where, rows in rows_by_position(data, positions)
    )
    kept = {one.name for part in parts for one in part.labels}
    left_out = {
        label if len(parts) == 1 else f"{label} @{part.position}": why
        for part in parts for label, why in part.left_out.items()
    }  # fmt: skip
    wanted = data.sites if sites is None else tuple(
        str(Site.parse(s)) for s in ([sites] if isinstance(sites, str) else sites))  # fmt: skip
    return Plan(data, parts, tuple(one for one in asked if one.name in kept), wanted, ways, numbers,
                metric, count, options_of(options), {**data.left_out, **left_out})  # fmt: skip


def _part(
    data: ProbeData,
    position: str,
    rows: Int[np.ndarray, " some"] | None,
    labels: Sequence[Label],
    methods: Sequence[str],
    whole: Sequence[Split],
    seeds: Sequence[int],
    controls: Sequence[str],
    *,
    strict: bool,
) -> Part:
    """The rows of one position.

    Raises:
        ConfigError, NotEnoughDataError: as :func:`_fitting`; names the position.
    """
    if rows is None:
        here, splits, least = data, list(whole), 0
    else:
        here, least = data.taking(rows), data.least
        labels = [label.at(rows) for label in labels]
        splits = [Split(split.part[rows], split.how) for split in whole]
    try:
        kept, left_out = _fitting(labels, methods, splits, least, strict=strict)
    except (ConfigError, NotEnoughDataError) as error:
        if rows is None:
            raise
        raise type(error)(
            f"position {position!r} ({len(here):,} rows of {here.n_docs:,} documents): {error}"
        ) from error
    moved = [_moved(here, kept, controls, seed) for seed in seeds]
    fixed = [[_fixed(here, label, split) for label in kept] for split in splits]
    return Part(position, rows, here, kept, splits, moved, fixed, left_out)


def _fitting(
    labels: Sequence[Label],
    methods: Sequence[str],
    splits: Sequence[Split],
    least: int,
    *,
    strict: bool,
) -> tuple[tuple[Label, ...], dict[str, str]]:
    """Labels that every method can fit on every split; those named by the user must be.

    ``least`` rows of each class are asked for; 0 where that was looked at before.
    """
    kept: list[Label] = []
    left_out: dict[str, str] = {}
    for label in labels:
        try:
            if least:
                label.check(least)
            for split in splits:
                _check(label, split, methods)
            kept.append(label)
        except (ConfigError, NotEnoughDataError) as error:
            if strict:
                raise
            left_out[label.name] = str(error)
    if not kept:
        raise ConfigError("no label can be fitted: " + "; ".join(left_out.values()))
    return tuple(kept), left_out


def _check(label: Label, split: Split, methods: Sequence[str]) -> None:
    for method in methods:
        if why := usable(label, split, method):
            raise (ConfigError if label.numeric else NotEnoughDataError)(why)
    if not (label.known & split.test).any():
        raise NotEnoughDataError(f"label {label.name!r} has no test row ({split.how})")


def _moved(
    data: ProbeData, labels: Sequence[Label], controls: Sequence[str], seed: int
) -> dict[str, tuple[Label | None, ...]]:
    found: dict[str, tuple[Label | None, ...]] = {}
    if "control_task" in controls:
        found["control_task"] = tuple(control_task(one, data.tokens, seed) for one in labels)
    if "shuffled_labels" in controls:
        found["shuffled_labels"] = shuffled(labels, data.docs, seed)
    return found


def _fixed(data: ProbeData, label: Label, split: Split) -> dict[str, np.ndarray]:
    found = {"majority": majority(label, split.train, len(data))}
    if data.tokens.min() >= 0:
        found["token_lookup"] = token_lookup(label, data.tokens, split.train)
    return {name: out[split.test] for name, out in found.items()}
