"""Codelengths of labels given activations: how much a probe reads, and how hard it has to try.

Accuracy says what a probe gets right with as many weights as it likes; a codelength counts the
weights too. What is coded, and how, is in :mod:`~lensbench.probes.information.coding`.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lensbench import provenance
from lensbench.arguments import positive_number, whole_number
from lensbench.errors import ConfigError, UnknownNameError
from lensbench.probes.information.coding import Coded, Task
from lensbench.probes.information.result import Codelengths
from lensbench.probes.information.variational import BATCH, RATE
from lensbench.probes.linear.controls import CONTROLS
from lensbench.probes.linear.data import SHARES, ProbeData, probe_data
from lensbench.probes.linear.fit import fold_of
from lensbench.probes.linear.fitting import L2
from lensbench.probes.linear.labels import Label, some
from lensbench.results import Controls
from lensbench.sites import Site

if TYPE_CHECKING:
    from lensbench.store import ActivationStore

CODES = ("variational", "online")


def codelength(
    data: "ProbeData | ActivationStore",
    labels: Sequence[str] | str | None = None,
    *,
    sites: Sequence[str] | str | None = None,
    codes: Sequence[str] | str = ("variational",),
    seeds: Sequence[int] | int = 1,
    controls: Sequence[str] = CONTROLS,
    shares: tuple[float, float, float] = SHARES,
    l2: Sequence[float] | float = L2,
    epochs: int | None = None,
    batch_size: int = BATCH,
    lr: float = RATE,
) -> Codelengths:
    """Bits that labels take given activations, beside the uniform code and what controls take.

    ``compression`` = N log2 C / bits: 1 is the uniform code, below 1 the probe does not pay for
    itself. Variational: bits = KL + expected cross-entropy, of a linear probe with gated inputs.
    Online: each block of rows is coded by a logistic probe of the rows before it.
    Source: Voita & Titov 2020, arXiv:2003.12298; Mueller-Eberstein et al. 2023, arXiv:2310.16484.

    Args:
        data: labelled rows (:func:`~lensbench.probes.linear.data.probe_data`), or a store whose
            text names a labelled corpus.
        labels: which, of classes; default: all of them.
        sites: which; default: all of the data.
        codes: ``variational``, ``online``.
        seeds: of splits, order of documents, controls and draws; a whole number n is 0 .. n - 1.
        controls: ``control_task`` (random labels by token type), ``shuffled_labels``.
        shares: of documents: the training share is coded, accuracy is on the test share.
        l2: penalties of the online code's probes, without units.
        epochs: of the variational code, with ``batch_size`` and ``lr`` of Adam; default: 30, or
            as many as make 1,400 updates. ``falling`` says whether more would shorten it.
        batch_size: rows per update.
        lr: step size.

    Raises:
        UnknownNameError, UnknownSiteError: a label, site, code or control that there is not.
        ConfigError: a label that is a number; settings.
        NotEnoughDataError: too few documents, or training rows of a class.
        NonFiniteError: activations that are not finite.

    Example:
        >>> found = probes.codelength(
        ...     data, "is_name", sites=["blocks.3.resid_post"], codes=("online",)
        ... )
    """
    start = time.monotonic()
    table = data if isinstance(data, ProbeData) else probe_data(data, sites=sites, names=labels)
    for name, many in (("seeds", seeds), ("sites", sites), ("labels", labels), ("l2", l2)):
        if isinstance(many, Sequence) and not many:
            raise ConfigError(f"{name} needs at least one")
    ways, numbers = _known("code", codes, CODES), _seeds(seeds)
    beside = _known("control", controls, CONTROLS, least=0)
    settings = {
        "epochs": None if epochs is None else whole_number("epochs", epochs, least=1),
        "batch_size": whole_number("batch_size", batch_size, least=1),
        "lr": positive_number("lr", lr),
    }
    several = l2 if isinstance(l2, Sequence) and not isinstance(l2, str) else (l2,)
    penalties = tuple(positive_number("l2", value) for value in several)
    columns = _of_classes(table, labels)
    names = [sites] if isinstance(sites, str) else list(table.sites if sites is None else sites)
    found = Coded([], [], {}, {}, {})
    for site in (str(Site.parse(s)) for s in names):
        for seed in numbers:
            fold = fold_of(table, site, seed, shares)
            task = Task(table, fold, columns, seed, beside)
            for way in ways:
                task.code(way, found, penalties, settings)
    return _result(found, table, columns, start, {"shares": shares, "l2": penalties, **settings})


def _result(
    rows: Coded, data: ProbeData, labels: Sequence[Label], start: float, config: dict[str, Any]
) -> Codelengths:
    measured = {k: np.array([m.get(k, np.nan) for m in rows.measured]) for k in Codelengths.COLUMNS}
    means = {k: float(np.nanmean(v)) for k in CONTROLS if np.isfinite(v := measured[k]).any()}
    return Codelengths(
        at=tuple(rows.at), columns=measured, weights=rows.weights, bias=rows.bias,
        curves=rows.curves, classes={label.name: label.classes for label in labels},
        model={k: data.model.get(k) for k in ("name", "fingerprint")}, config=config,
        controls=Controls(means, "compression; 1 is the uniform code"),
        provenance=provenance.record(
            model=dict(data.model), store=data.store, seconds=time.monotonic() - start
        ),
    )  # fmt: skip


def _of_classes(data: ProbeData, labels: Sequence[str] | str | None) -> tuple[Label, ...]:
    found = some(data.labels, labels)
    numbers = [label.name for label in found if label.numeric]
    kept = tuple(label for label in found if not label.numeric)
    if not kept or (numbers and labels is not None):
        raise ConfigError(
            f"label {numbers[0]!r} is a number, and codes send classes: make classes of it (by "
            "quantiles, say), or choose another label"
        )
    return kept


def _known(
    kind: str, asked: Sequence[str] | str, known: Sequence[str], least: int = 1
) -> tuple[str, ...]:
    names = (asked,) if isinstance(asked, str) else tuple(asked)
    for name in names:
        if name not in known:
            raise UnknownNameError(kind, str(name), known=known)
    if len(names) < least:
        raise ConfigError(f"say at least one {kind}: {', '.join(known)}")
    return names


def _seeds(seeds: Sequence[int] | int) -> tuple[int, ...]:
    if isinstance(seeds, Sequence):
        return tuple(whole_number("a seed", s, least=0) for s in seeds)
    return tuple(range(whole_number("seeds", seeds, least=1)))
