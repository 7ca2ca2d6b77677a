"""Before and after an erasure: what fresh probes read, of the erased label and of others.

Steps, numbered in the body:

1. Erasers are fitted on the training rows of a split; controls are an eraser of shuffled labels and
   a random projection of the same rank.
2. Fresh logistic probes are fitted on the changed training rows (penalty chosen on validation) and
   scored on test rows. On the very rows it was fitted on an eraser leaves nothing, so:
3. a second fresh probe is fitted on two thirds of the documents of the changed validation rows,
   which the eraser never saw, and its penalty is chosen on the others: on the eraser's own rows,
   where nothing is left, every penalty would look as bad as the next.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from lensbench import provenance
from lensbench.errors import ConfigError, UnknownNameError
from lensbench.probes.erasure.closed import ErasingMap
from lensbench.probes.erasure.eraser import METHODS, Eraser, fit_eraser
from lensbench.probes.linear.controls import shuffled
from lensbench.probes.linear.data import ProbeData
from lensbench.probes.linear.fit import fit_probe
from lensbench.probes.linear.labels import Label, some
from lensbench.probes.linear.splits import Split, deal
from lensbench.results import Controls, Result
from lensbench.sites import Site

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SHARES = (0.5, 0.25, 0.25)
CONTROLS = ("shuffled_labels", "random_directions")


@dataclass(frozen=True, kw_only=True, eq=False)
class ErasureCheck(Result):
    """Accuracy of fresh probes on test rows; a row is one label after one change of the rows.

    ``accuracy`` of a probe fitted on the rows the eraser was fitted on, ``accuracy_new`` of one
    fitted on rows it never saw. ``chance`` is the share of the commonest class in test, with the
    binomial 95 % interval of its accuracy; ``at_chance``: ``accuracy`` lies in it or below.
    """

    site: str
    erased: str
    methods: tuple[str, ...]
    """``before``, the erasers, then the controls."""
    labels: tuple[str, ...]
    accuracy: Float[np.ndarray, "methods labels"]
    accuracy_new: Float[np.ndarray, "methods labels"]
    chance: Float[np.ndarray, "3 labels"]
    moved: Float[np.ndarray, " methods"]
    """Mean squared change of test rows, as a share of their variance."""
    n_test: int
    n_documents: int

    def to_frame(self) -> "pd.DataFrame":
        """One row per change and label."""
        import pandas as pd

        m, k = (a.ravel() for a in np.indices(self.accuracy.shape))
        columns = {
            "change": [self.methods[i] for i in m], "label": [self.labels[j] for j in k],
            "erased": [self.labels[j] == self.erased for j in k],
            "accuracy": self.accuracy.ravel(), "accuracy_new": self.accuracy_new.ravel(),
            "chance": self.chance[0, k], "low": self.chance[1, k], "high": self.chance[2, k],
            "at_chance": (self.accuracy <= self.chance[2]).ravel(), "moved": self.moved[m],
            "n": self.n_test,
        }  # fmt: skip
        frame = pd.DataFrame(columns)
        frame.attrs["units"] = dict.fromkeys(("accuracy", "accuracy_new", "chance"), "0 to 1") | {
            "moved": "share of variance", "n": "test rows"}  # fmt: skip
        return frame

    def summary(self) -> dict[str, float]:
        """The erased label before and after each change, and chance."""
        at = self.labels.index(self.erased)
        found = {name: float(self.accuracy[i, at]) for i, name in enumerate(self.methods)}
        return {**found, "chance": float(self.chance[0, at]), "n": float(self.n_test)}

    def plot(self) -> "go.Figure":
        """Accuracy of every label after every change."""
        from lensbench.plots import bars

        return bars(
            self.to_frame().rename(columns={"low": "chance_low", "high": "chance_high"}), x="label",
            y="accuracy", color="change", hover_columns=("chance", "accuracy_new", "moved"),
            title=f"{self.erased} erased at {self.site}",
            subtitle=f"fresh probes on {self.n_test:,} test rows; chance of {self.erased} "
            f"{self.chance[0, self.labels.index(self.erased)]:.3f}",
        )  # fmt: skip


def erasure_check(
    data: ProbeData,
    label: str,
    site: str | Site | None = None,
    *,
    keep: Sequence[str] | str | None = None,
    methods: Sequence[str] | str = ("leace", "orthogonal"),
    seed: int = 0,
    shares: tuple[float, float, float] = SHARES,
    **options: Any,
) -> ErasureCheck:
    """Fresh probes of a label before and after its erasure, and of labels that should stay.

    Args:
        data: labelled rows.
        label: the label to erase, of classes.
        site: which; may be left out where there is one.
        keep: labels that should stay readable; default: all other labels of classes.
        methods: ``leace``, ``orthogonal``, ``oracle``.
        seed: of the split and the controls.
        shares: of documents: train, validation, test.
        options: of the probes, see :class:`~lensbench.probes.linear.fitting.FitOptions`.

    Raises:
        UnknownNameError, UnknownSiteError: a label, site or eraser that there is not.
        ConfigError: a label that is a number; no method.
        NotEnoughDataError: too few documents, or rows of a class in a part of the split.

    Example:
        >>> found = probes.erasure_check(data, "is_name", "blocks.3.resid_post")
    """
    start = time.monotonic()
    ways = (methods,) if isinstance(methods, str) else tuple(methods)
    if not ways:
        raise ConfigError(f"say at least one eraser: {', '.join(METHODS)}")
    for way in ways:
        if way not in METHODS:
            raise UnknownNameError("eraser", way, known=METHODS)
    columns = _columns(data, label, keep)
    split = data.split(seed, shares)
    eraser = {way: fit_eraser(data, label, site, method=way, seed=seed, shares=shares)
              for way in (*ways, "leace")}  # fmt: skip
    leace = eraser["leace"]
    where, x = leace.site, data.x(leace.site)
    mixed = data.with_labels(shuffled(data.labels, data.docs, seed))
    wrong = fit_eraser(mixed, label, where, method="leace", seed=seed, shares=shares)  # 1
    later = _later(data, split, seed)
    changed = {
        "before": x,
        **{way: _applied(eraser[way], x, columns[0]) for way in ways},
        "shuffled_labels": wrong.apply(x),
        "random_directions": _random(leace, x, seed),
    }
    scores = np.full((2, len(changed), len(columns)), np.nan)
    kept = data.with_labels(columns)
    for i, rows in enumerate(changed.values()):
        for j, column in enumerate(columns):
            scores[0, i, j] = _fresh(kept, where, rows, column, split, options)  # 2
            scores[1, i, j] = _fresh(kept, where, rows, column, later, options)  # 3
    test = split.test
    variance = float(np.square(x[test] - x[test].mean(0)).sum())
    moved = [
        float(np.square(rows - x)[test].sum()) / max(variance, 1e-300) for rows in changed.values()
    ]
    named = dict(zip(changed, scores[0, :, 0].tolist(), strict=True))
    return ErasureCheck(
        site=where, erased=label, methods=tuple(changed), labels=tuple(c.name for c in columns),
        accuracy=scores[0], accuracy_new=scores[1], moved=np.array(moved),
        chance=np.stack([_chance(column, test) for column in columns], 1),
        n_test=int(test.sum()), n_documents=len(np.unique(data.docs[test])),
        controls=Controls({name: named[name] for name in CONTROLS}, "accuracy on the erased label"),
        config={"seed": seed, "shares": shares, "split": split.how, **options},
        provenance=provenance.record(
            model=dict(data.model), store=data.store, seed=seed, seconds=time.monotonic() - start
        ),
    )  # fmt: skip


def _columns(data: ProbeData, label: str, keep: Sequence[str] | str | None) -> list[Label]:
    own = some(data.labels, label)[0]
    if own.numeric:
        raise ConfigError(
            f"label {label!r} is a number; the check compares accuracies with chance. fit_eraser "
            "erases numbers too, and probe_sweep scores R^2 on the erased rows"
        )
    others = [c for c in data.labels if not c.numeric] if keep is None else some(data.labels, keep)
    return [own, *(c for c in others if c.name != label)]


def _applied(eraser: Eraser, x: np.ndarray, label: Label) -> np.ndarray:
    if eraser.method != "oracle":
        return eraser.apply(x)
    return np.where(label.known[:, None], eraser.apply(x, z={label.name: label.values}), x)


def _random(leace: Eraser, x: np.ndarray, seed: int) -> np.ndarray:
    """As many random directions taken out at right angles."""
    draws = np.random.default_rng(seed).normal(size=(x.shape[1], leace.rank))
    q = np.linalg.qr(draws)[0].T
    return ErasingMap(q, q, leace.mean).apply(x).astype("f4")


def _later(data: ProbeData, split: Split, seed: int) -> Split:
    """Validation rows to fit on and to choose the penalty on; the eraser's own rows in no part.

    Raises:
        NotEnoughDataError: fewer than two documents (or groups) to validate on.
    """
    new = split.validation
    units = np.unique(data.units[new], return_inverse=True)[1]
    part = np.where(split.test, 2, -1).astype(np.int8)
    part[new] = deal(units, (2 / 3, 0, 1 / 3), seed, data.unit_name).part // 2  # 0 fits, 1 chooses
    return Split(part, "probe on rows the eraser never saw")


def _fresh(
    data: ProbeData, site: str, x: np.ndarray, label: Label, split: Split, options: dict[str, Any]
) -> float:
    """Test accuracy of a probe of the changed rows."""

    def read(_: str) -> np.ndarray:
        return x

    changed = replace(data, sites=(site,), read=read, parts=split)
    probe = fit_probe(changed, label.name, site, **options)
    test = split.test & label.known
    return float((probe.predict(x[test]) == label.values[test]).mean())


def _chance(label: Label, test: np.ndarray) -> Float[np.ndarray, "3"]:
    """Share of the commonest class, and the binomial 95 % interval of a guess with that share."""
    from scipy.stats import binom

    values = label.values[test & label.known]
    share = np.bincount(values).max() / len(values)
    low, high = binom.interval(0.95, len(values), share)
    return np.array([share, low / len(values), high / len(values)])
