"""Hash codes of layers with what they tell, beside chance, and the phase chart of expressivity.

Steps, numbered in the body:

1. Codes of training and test inputs; bits that never change are dropped.
2. Redundancy of both, beside even codes of as many bits and beside independent bits.
3. Accuracy of three ways to read the class from a code, beside shuffled labels and the majority.
4. Over widths (or epochs, sample sizes): the regime each code is in.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lensbench import provenance
from lensbench.errors import ConfigError, MismatchError, NotEnoughDataError, UnknownNameError
from lensbench.probes.geometry.clouds import Cloud, PositionName, clouds_of
from lensbench.probes.geometry.codes import (
    SCORES,
    activation_codes,
    categorise,
    expected_redundancy,
    independent_bits,
    redundancy,
    varying,
)
from lensbench.probes.geometry.tables import Table, columns
from lensbench.results import Controls

if TYPE_CHECKING:
    import plotly.graph_objects as go

UNDER, CRITICAL, SUFFICIENT = "under-expressive", "critically expressive", "sufficiently expressive"
BOUNDS = (0.9, 0.01)
"""Redundancy of test codes above and below which a code counts as under- and as sufficiently
expressive. The paper draws the regimes and gives no numbers; these are ours."""
SHUFFLED = "shuffled_labels"


@dataclass(frozen=True, kw_only=True, eq=False)
class HashCodes(Table):
    """Redundancy and accuracies of codes, a row per source, site and axis value."""

    columns_shown = ("source", "site", "regime", "bits", "redundancy",
                     "redundancy_even", "kmeans_greedy", "knn", "logistic", "majority",
                     "n")  # fmt: skip

    units: ClassVar[Mapping[str, str]] = {
        "redundancy": "0 to 1",
        "redundancy_train": "0 to 1",
        "n": "test inputs",
        "bits": "units that vary",
        **dict.fromkeys(SCORES, "accuracy"),
    }
    axis: str = "order"
    """What the codes differ in: ``order`` of sites, or a width, epoch, sample size."""

    def plot(self, measures: Sequence[str] = ("redundancy", "knn", "logistic", "kmeans_hungarian"),
             source: str | None = None) -> "go.Figure":  # fmt: skip
        """Measures against the axis, a line per measure, of one source (default: the first).

        Raises:
            UnknownNameError: no such measure or source.
        """
        import pandas as pd

        from lensbench.plots import lines

        frame: Any = self.part(source=source or self.text["source"][0])
        for name in measures:
            if name not in self.numbers:
                raise UnknownNameError("measure", name, known=tuple(self.numbers))
        parts = [frame.assign(value=frame[name], measure=name) for name in measures]
        chance = frame.assign(value=frame["majority"], measure="majority class")
        both: Any = pd.concat([*parts, chance])
        both.attrs["units"] = {"value": "share of test inputs"}
        return lines(
            both, x=self.axis, y="value", color="measure", hover_columns=("site", "bits", "regime"),
            title="Activation codes", labels={"order": "site, in execution order"},
            subtitle=f"{frame['source'].iloc[0]} · n = {frame['n'].max():,} test inputs",
        )  # fmt: skip

    def plot_phases(self) -> "go.Figure":
        """The phase chart: redundancy against accuracy (KNN), coloured by regime."""
        from lensbench.plots import scatter

        return scatter(
            self.to_frame(), x="redundancy", y="knn", color="regime", text="source",
            hover_columns=("site", "bits", self.axis), title="Phases of expressivity",
            subtitle=f"under: redundancy > {BOUNDS[0]} · sufficient: < {BOUNDS[1]}",
            labels={"knn": "KNN accuracy on codes"},
        )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """Means over rows that are no control, and chance."""
        frame: Any = self.to_frame()
        own = frame[frame["control"] == 0]
        names = ("redundancy", *SCORES, "majority", f"knn_{SHUFFLED}")
        return {name: float(own[name].mean()) for name in names}


def regime(share: float) -> str:
    """Under-, critically or sufficiently expressive, by redundancy of the test codes."""
    if not np.isfinite(share):
        return "unknown"
    return UNDER if share > BOUNDS[0] else SUFFICIENT if share < BOUNDS[1] else CRITICAL


def hash_codes(
    train: Any,
    y_train: Any,
    test: Any,
    y_test: Any,
    *,
    controls: Mapping[str, tuple[Any, Any]] | None = None,
    source: str = "codes",
    at: float = 0.0,
    axis: str = "order",
    seed: int = 0,
) -> HashCodes:
    """Redundancy of activation codes and the accuracy of reading classes from them.

    ``train`` and ``test`` are units [inputs, units], or layers by name, whose codes are joined;
    ``controls`` are such pairs of other networks (untrained) on the same inputs. ``at`` is the
    place on ``axis`` (a width). Tables are put together by :func:`phase_chart`.
    Source: He et al. 2021, arXiv:2101.05490.

    Raises:
        ConfigError, MismatchError, NonFiniteError: what are no units, or labels that do not fit.
        NotEnoughDataError: fewer than two classes, or too few inputs.

    Example:
        >>> y = (x[:, 0] > 0).numpy()
        >>> found = probes.hash_codes(x[:500], y[:500], x[500:], y[500:])
    """
    start = time.monotonic()
    labels = (_labels(y_train), _labels(y_test))
    rows = [
        _row(name, "all units", pair, labels, seed, control) | {axis: float(at)}
        for name, pair, control in [
            (source, (train, test), False),
            *((name, pair, True) for name, pair in (controls or {}).items()),
        ]
    ]
    return _result(rows, axis, start, seed)


def phase_chart(tables: Sequence[HashCodes]) -> HashCodes:
    """Tables of several widths (epochs, sample sizes) as one.

    Raises:
        ConfigError: none, or tables of several axes.

    Example:
        >>> y = (x[:, 0] > 0).numpy()
        >>> tables = [probes.hash_codes(x[:n], y[:n], x[500:], y[500:]) for n in (100, 400)]
        >>> chart = probes.phase_chart(tables)
    """
    if not tables or len({t.axis for t in tables}) != 1:
        raise ConfigError("a phase chart needs tables of one axis: hash_codes(..., axis='width')")
    text = {k: tuple(v for t in tables for v in t.text[k]) for k in tables[0].text}
    numbers = {k: np.concatenate([t.numbers[k] for t in tables]) for k in tables[0].numbers}
    values = [dict(t.controls.values) for t in tables]
    mean = {k: float(np.nanmean([v.get(k, np.nan) for v in values])) for k in values[0]}
    return HashCodes(text=text, numbers=numbers, axis=tables[0].axis, config=tables[0].config,
                     controls=Controls(mean, "means over the chart"),
                     provenance=tables[-1].provenance)  # fmt: skip


def store_codes(
    source: Any,
    labels: Any,
    *,
    sites: Sequence[str] | str,
    controls: Mapping[str, Any] | None = None,
    positions: PositionName = "all",
    max_rows: int | None = 4000,
    seed: int = 0,
) -> HashCodes:
    """Activation codes of stored units, such as ``blocks.*.mlp.gate``, by site.

    ``labels`` hold an integer class per stored row, or per document. Half of the documents are for
    training, the others for testing. Rows whose prefix occurred before are left out, or redundancy
    would count repeated text.
    Source: He et al. 2021, arXiv:2101.05490 (there for images).

    Raises:
        MismatchError: labels that are not one per row or document.
        NotEnoughDataError, ConfigError, MissingDataError: too little data; see ``clouds_of``.

    Example:
        >>> first = (np.arange(store.n_tokens) % 2).astype(bool)
        >>> found = probes.store_codes(store, first, sites="blocks.3.resid_post", max_rows=500)
    """
    start = time.monotonic()
    clouds = clouds_of(source, sites=sites, positions=positions, max_rows=max_rows, seed=seed,
                       controls=controls, least=40, paired=True)  # fmt: skip
    y = _labels(labels)
    rows: list[dict[str, Any]] = []
    order: dict[str, int] = {}
    for cloud in clouds:
        order[cloud.source] = order.get(cloud.source, -1) + 1
        mine = _labels_of(cloud, y)
        half = np.random.default_rng(seed).permutation(np.unique(cloud.docs))
        train = np.isin(cloud.docs, half[: len(half) // 2])
        if not (train.any() and (~train).any()):
            raise NotEnoughDataError("two documents are needed, one to train and one to test")
        x = cloud.x()
        row = _row(cloud.source, cloud.site, (x[train], x[~train]), (mine[train], mine[~train]),
                   seed, cloud.control)  # fmt: skip
        rows.append(row | {"order": float(order[cloud.source])})
    return _result(rows, "order", start, seed)


def _row(
    source: str, site: str, pair: tuple[Any, Any], labels: tuple[np.ndarray, np.ndarray],
    seed: int, control: bool,
) -> dict[str, Any]:  # fmt: skip
    train, test = varying(activation_codes(pair[0]), activation_codes(pair[1]))  # 1
    y, z = labels
    if len(y) != len(train) or len(z) != len(test):
        raise MismatchError(f"{len(y)} and {len(z)} labels for {len(train)} training and "
                            f"{len(test)} test codes; give one per code")  # fmt: skip
    bits, share = train.shape[1], redundancy(test)  # 2
    dealt = np.random.default_rng(seed + 1).permutation(y)
    shuffled = categorise(train, dealt, test, z)  # 3
    classes, counts = np.unique(y, return_counts=True)
    return {
        "source": source, "site": site, "regime": regime(share), "redundancy": share,
        "redundancy_train": redundancy(train), "redundancy_even": expected_redundancy(bits, len(z)),
        "redundancy_independent": redundancy(independent_bits(test, seed)),
        **categorise(train, y, test, z), "majority": float((z == classes[counts.argmax()]).mean()),
        **{f"{name}_{SHUFFLED}": shuffled[name] for name in ("kmeans_train", "knn", "logistic")},
        "bits": bits, "n": len(test), "n_train": len(train), "control": float(control),
    }  # fmt: skip


def _labels(given: Any) -> np.ndarray:
    y = np.asarray(given)
    if y.ndim != 1 or y.dtype.kind not in "iub":
        raise ConfigError(f"labels must be one whole number per input, got {y.dtype} of shape "
                          f"{list(y.shape)}")  # fmt: skip
    return y.astype(np.int64)


def _labels_of(cloud: Cloud, y: np.ndarray) -> np.ndarray:
    """Labels of the rows that were drawn: ``labels`` count stored rows or documents."""
    if len(y) == cloud.n_documents:
        return y[cloud.docs]
    if cloud.rows is None or len(y) != cloud.n_stored:
        raise MismatchError(
            f"{len(y)} labels for a store of {cloud.n_stored:,} rows and {cloud.n_documents:,} "
            "documents; give one per stored row or per document"
        )
    return y[cloud.rows]


def _result(rows: list[dict[str, Any]], axis: str, start: float, seed: int) -> HashCodes:
    own = [row for row in rows if not row["control"]]
    mean = lambda name: float(np.mean([row[name] for row in own]))  # noqa: E731
    values = {"majority": mean("majority"), f"knn_{SHUFFLED}": mean(f"knn_{SHUFFLED}"),
              "redundancy_independent_bits": mean("redundancy_independent")}  # fmt: skip
    for name in dict.fromkeys(row["source"] for row in rows if row["control"]):
        values[f"knn_{name}"] = float(np.mean([r["knn"] for r in rows if r["source"] == name]))
    return HashCodes(
        **columns(rows), axis=axis, config={"seed": seed, "bounds": list(BOUNDS)},
        controls=Controls(values, "accuracies on test codes; means over rows"),
        provenance=provenance.record(seed=seed, seconds=time.monotonic() - start),
    )  # fmt: skip
