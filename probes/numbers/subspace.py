"""Subspaces of a numerical attribute by partial least squares, every layer, entities held out.

Steps, numbered in the body:

1. PLS of the attribute on the training entities, all numbers of components at once.
2. The number of components is the one of least loss on the validation entities.
3. R^2 on the test entities, with an interval over entities; beside, the same with the values of
   entities exchanged. An entity whose rows stood on both sides would be recognised, not measured.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, NotEnoughDataError
from lensbench.probes.linear.closed import PartialLeastSquares, partial_least_squares
from lensbench.probes.linear.controls import shuffled
from lensbench.probes.linear.data import SHARES, ProbeData
from lensbench.probes.linear.labels import Label
from lensbench.probes.linear.scores import score_probes
from lensbench.probes.linear.splits import Split
from lensbench.probes.numbers.result import AttributeSubspaces
from lensbench.results import Controls
from lensbench.sites import Site

COMPONENTS = (1, 2, 3, 5, 10)


def attribute_subspaces(
    data: ProbeData,
    label: str | None = None,
    *,
    sites: Sequence[str] | str | None = None,
    components: Sequence[int] = COMPONENTS,
    scale: bool = False,
    seed: int = 0,
    shares: tuple[float, float, float] = SHARES,
) -> AttributeSubspaces:
    """Fit subspaces of a number at every site; splits hold out what ``data.units`` deal out.

    Give entities as ``groups`` to ``probe_data`` or ``ProbeData.from_arrays``, so that no entity is
    on two sides. Source: El-Shangiti et al. 2024, arXiv:2410.13194 (PLS of hidden states on an
    entity's attribute; entities held out is ours); PLS as in
    :func:`~lensbench.probes.linear.closed.partial_least_squares`.

    Args:
        data: rows, one per mention of an entity.
        label: the attribute, a number; may be left out where there is one.
        sites: which; default: all of the data.
        components: numbers of components tried.
        scale: divide columns by their standard deviation first (scikit-learn's default).
        seed: of the split and the control.
        shares: of entities: train, validation, test.

    Raises:
        UnknownNameError, UnknownSiteError: no such label or site.
        ConfigError: a label that is no number, or components that the rows do not allow.
        NotEnoughDataError: too few entities.

    Example:
        >>> found = probes.attribute_subspaces(numbers, components=(1, 2))
    """
    start = time.monotonic()
    column = _number(data, label)
    ks = np.array(sorted({whole_number("components", k, least=1) for k in components}))
    if not len(ks):
        raise ConfigError("components needs at least one number")
    split = _known_rows(data.split(seed, shares), column)
    mixed = shuffled([column], data.units, seed)[0]
    names = [sites] if isinstance(sites, str) else list(data.sites if sites is None else sites)
    fits = {}
    for site in (str(Site.parse(s)) for s in names):
        x = torch.from_numpy(data.x(site)).double()
        allowed = min(int(split.train.sum()) - 1, x.shape[1])
        if ks[-1] > allowed:
            raise ConfigError(f"{ks[-1]} components are more than the rows of {site} allow: "
                              f"{allowed}")  # fmt: skip
        fits[site] = _Fit.of(x, column, mixed, data, split, ks, scale)
    parts = [len(np.unique(data.units[rows]))
             for rows in (split.train, split.validation, split.test)]  # fmt: skip
    found = list(fits.values())
    control = {"shuffled": float(np.max([f.shuffled[list(ks).index(f.chosen)] for f in found]))}
    return AttributeSubspaces(
        label=column.name, sites=tuple(fits), components=ks, scaled=scale,
        r2=np.stack([f.r2 for f in found]), shuffled=np.stack([f.shuffled for f in found]),
        chosen=np.array([f.chosen for f in found]), mean=float(found[0].pls.y_mean[0, 0]),
        rotations={s: f.pls.rotations[0].numpy() for s, f in fits.items()},
        loadings={s: f.pls.loadings[0].numpy() for s, f in fits.items()},
        y_loadings={s: f.pls.y_loadings[0, 0].numpy() for s, f in fits.items()},
        means={s: f.pls.x_mean.numpy() for s, f in fits.items()},
        predicted=np.stack([f.predicted for f in found]),
        scores=np.stack([f.scores for f in found]), true=column.values[split.test],
        n_entities=(parts[0], parts[1], parts[2]),
        model={k: data.model.get(k) for k in ("name", "fingerprint")},
        config={"seed": seed, "scale": scale, "split": split.how},
        controls=Controls(control, "largest R^2 with the values of entities exchanged"),
        provenance=provenance.record(
            model=dict(data.model), store=data.store, seed=seed, seconds=time.monotonic() - start
        ),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Fit:
    """One site."""

    pls: PartialLeastSquares
    r2: np.ndarray
    shuffled: np.ndarray
    chosen: int
    predicted: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(
        cls, x: torch.Tensor, label: Label, mixed: Label, data: ProbeData, split: Split,
        ks: np.ndarray, scale: bool,
    ) -> "_Fit":  # fmt: skip
        """Fit, choose and score (1 to 3)."""
        pls = _pls(x, label, split, ks, scale)
        said = _predictions(pls, x, ks)
        rows, y = np.flatnonzero(split.validation), label.values
        loss = np.square(said[:, rows] - y[rows]).mean(1) if len(rows) else np.zeros(len(ks))
        best = int(loss.argmin())
        r2, _ = _r2(said, label, data, split)
        again = _known_rows(split, mixed)
        wrong = _predictions(_pls(x, mixed, again, ks, scale), x, ks)
        t = (x - pls.x_mean) @ pls.rotations[0]
        t = torch.nn.functional.pad(t, (0, 1))[:, :2].numpy()
        return cls(pls, r2, _r2(wrong, mixed, data, again)[0][:, 0], int(ks[best]),
                   said[best, split.test], t[split.test])  # fmt: skip


def _pls(
    x: torch.Tensor, label: Label, split: Split, ks: np.ndarray, scale: bool
) -> PartialLeastSquares:
    rows = torch.from_numpy(np.flatnonzero(split.train))
    y = torch.from_numpy(label.values)[rows, None]
    return partial_least_squares(x[rows], y, int(ks[-1]), scale=scale)


def _predictions(
    pls: PartialLeastSquares, x: torch.Tensor, ks: np.ndarray
) -> Float[np.ndarray, "ks rows"]:
    thetas = [pls.theta(int(k)) for k in ks]
    return np.stack([(x @ one[:-1] + one[-1])[:, 0].numpy() for one in thetas])


def _r2(
    said: Float[np.ndarray, "ks rows"], label: Label, data: ProbeData, split: Split
) -> tuple[Float[np.ndarray, "ks 3"], int]:
    rows = np.flatnonzero(split.test)
    one = label.at(rows)
    scores = score_probes([s[rows] for s in said], [one] * len(said), data.units[rows])
    return np.concatenate([scores.score[:, None], scores.bounds().T], 1), len(rows)


def _known_rows(split: Split, label: Label) -> Split:
    """The split without rows that have no value (they belong to no part)."""
    part = np.where(label.known, split.part, -1)
    found = Split(part.astype(np.int8), split.how)
    if not found.train.any() or not found.test.any():
        raise NotEnoughDataError(f"label {label.name!r} is known on no training or no test row")
    return found


def _number(data: ProbeData, label: str | None) -> Label:
    numbers = [one.name for one in data.labels if one.numeric]
    if label is None:
        if len(numbers) != 1:
            raise ConfigError(f"say which attribute; numbers among the labels: {numbers or 'none'}")
        return data.label(numbers[0])
    found = data.label(label)
    if not found.numeric:
        raise ConfigError(
            f"label {label!r} is {found.kind}, and a subspace of an attribute needs a number; give "
            f"kinds={{{label!r}: 'numeric'}} if its values are numbers"
        )
    return found
