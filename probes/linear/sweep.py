"""A grid of probes in batch: sites x positions x labels x methods x seeds, beside their controls.

Steps, numbered in the body:

1. Read the rows of a site once, and turn those of each position to their principal axes.
2. Every seed deals the documents anew, and draws its own control labels.
3. Fit every label, its control task and its shuffled copy, at every penalty, in one batch.
4. Score on the test documents; draw the same documents for a probe and its control.
5. With a twin: the same probes on the re-initialised model's rows.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lensbench.devices import as_device
from lensbench.probes.linear.basis import Basis
from lensbench.probes.linear.controls import CONTROLS, check_twin
from lensbench.probes.linear.data import SHARES, ProbeData
from lensbench.probes.linear.fitting import Fold
from lensbench.probes.linear.positions import Position
from lensbench.probes.linear.sweep_plan import Part, planned
from lensbench.probes.linear.sweep_result import ProbeSweep
from lensbench.probes.linear.sweep_rows import SweepRows
from lensbench.progress import each

if TYPE_CHECKING:
    from lensbench.store import ActivationStore


def probe_sweep(
    data: "ProbeData | ActivationStore",
    labels: Sequence[str] | str | None = None,
    *,
    sites: Sequence[str] | str | None = None,
    positions: Sequence[Position] | Position | None = None,
    methods: Sequence[str] | str = ("logistic",),
    seeds: Sequence[int] | int = 1,
    controls: Sequence[str] = CONTROLS,
    twin: "ProbeData | ActivationStore | None" = None,
    metric: str = "accuracy",
    shares: tuple[float, float, float] = SHARES,
    n_boot: int = 1000,
    device: str | None = "cpu",
    **options: Any,
) -> ProbeSweep:
    """Fit and score every probe of a grid, beside control tasks, shuffled labels and baselines.

    Args:
        data: labelled rows (:func:`~lensbench.probes.linear.data.probe_data`), or a store whose
            text names a labelled corpus.
        labels: which; default: all, and those that a method cannot fit are left out and told.
        sites: which; default: all of the data.
        positions: each fitted by itself: ``all``, ``first``, ``last``, places in the document
            (negative from its end), or yes-or-no labels that mark a role; ``each``: those that the
            data were chosen by. Documents that lack one are left out there (``n`` says how many
            tests are left); a document is on the same side of a split at all of them. Default: all
            rows of the data together.
        methods: ``mean_difference``, ``ridge``, ``logistic``, ``pls``.
        seeds: of splits and controls; a whole number n is seeds 0 .. n - 1.
        controls: ``control_task`` and ``shuffled_labels``; each is fitted as the label itself is.
        twin: the same rows of a re-initialised model.
        metric: of classes: ``accuracy``, or ``balanced_accuracy`` (for rare classes); the scores of
            controls and selectivity are in it too. Numbers are scored by R^2.
        shares: of documents: train, validation, test.
        n_boot: resamples of the test documents; 0 gives no intervals.
        device: ``cuda`` or ``cpu``; None takes a GPU where there is one.
        options: see :class:`~lensbench.probes.linear.fitting.FitOptions`.

    Raises:
        UnknownNameError, UnknownSiteError: a label, site, position, method or control that there is
            not.
        ConfigError: a label that the method does not have; no label left; settings.
        NotEnoughDataError: too few documents, or a named label without training rows of a class;
            with positions, with fewer rows of a class than ``min_per_class`` at one; says which.
        NonFiniteError: activations that are not finite.
        MismatchError: a twin of another text, or the same model.

    Example:
        >>> found = probes.probe_sweep(data, "is_name", sites=["blocks.3.resid_post"])
        >>> found.to_frame()[["label", "score", "selectivity"]]
    """
    start = time.monotonic()
    plan = planned(
        data, labels, sites, positions, methods, seeds, controls, metric, shares, n_boot, options
    )
    pair = None if twin is None else check_twin(plan.data, _twin_data(twin, plan.data))
    rows = SweepRows(plan)
    where = as_device(device)
    for s, site in enumerate(each(plan.sites, "probes", "site")):
        x = plan.data.x(site)  # 1
        other = None if pair is None else pair.x(site)
        for p, part in enumerate(plan.parts):
            own = _turned(x, part, where)
            theirs = None if other is None else _turned(other, part, where)
            for k in range(len(plan.seeds)):
                fold = Fold(*own, part.splits[k], site)
                again = None if theirs is None else Fold(*theirs, part.splits[k], site)
                for m in range(len(plan.methods)):
                    rows.add((s, m, k, p), fold, again)
    return rows.result(start, str(where))


def _twin_data(twin: "ProbeData | ActivationStore", data: ProbeData) -> ProbeData:
    if isinstance(twin, ProbeData):
        return twin
    from lensbench.probes.linear.rows import same_rows

    return same_rows(data, twin)


def _turned(x: np.ndarray, part: Part, device: torch.device) -> tuple[Basis, torch.Tensor]:
    here = torch.from_numpy(x if part.rows is None else x[part.rows]).to(device)
    basis = Basis.of(here)
    return basis, basis.turn(here)
