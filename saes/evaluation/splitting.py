"""Which latents carry a label: k-sparse probing with a stop, after the feature-splitting test."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int

from lensbench.arguments import whole_number
from lensbench.provenance import record
from lensbench.results import Controls, Result
from lensbench.saes.evaluation.inputs import latents_of, random_latents, rows_of, shuffled
from lensbench.saes.evaluation.labels import LabelledRows, Latents, f1_score
from lensbench.saes.evaluation.probing import fitted

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

L1 = 0.01
RISE = 0.03
_STEPS = 500
_MAX_ITER = 500


@dataclass(frozen=True)
class MainLatents:
    """Latents accepted as those of a label, and what probes of 1, 2 ... latents score."""

    latents: Int[np.ndarray, " n"]
    f1: Float[np.ndarray, " tried"]
    """F1 on the fitting rows with the 1, 2 ... strongest latents, up to the first that failed."""


def main_latents(acts: Latents, y: Bool[np.ndarray, " rows"], max_k: int) -> MainLatents:
    """The latents of a label: the strongest, and each next one that lifts F1 by more than 0.03.

    Latents are ordered by their positive weights in an L1 probe (:func:`l1_weights`); a logistic
    regression (classes weighted evenly) is fitted to the first k; k stops at the first that does
    not beat the best F1 so far by 0.03. Source: Chanin et al. 2024 (arXiv:2409.14507).
    """
    weights = l1_weights(acts, y)
    order = np.argsort(-weights, kind="stable")
    order = order[weights[order] > 0][:max_k]
    f1: list[float] = []
    accepted = 0
    for k in range(1, len(order) + 1):
        columns = acts[:, order[:k]].toarray()
        probe, _ = fitted(columns, y, balanced=True, max_iter=_MAX_ITER)
        says = probe.decision_function(columns) > 0
        f1.append(f1_score(float((says & y).sum()), float(says.sum()), float(y.sum())))
        if k > 1 and f1[-1] <= max(f1[:-1]) + RISE:
            break
        accepted = k
    return MainLatents(order[:accepted], np.array(f1))


def l1_weights(acts: Latents, y: Bool[np.ndarray, " rows"]) -> Float[np.ndarray, " d_sae"]:
    """Weights of an L1 probe: argmin_w mean_i s_i BCE(a_i . w + b, y_i) + 0.01 |w|_1.

    s_i = (number of negatives) / (number of positives) for positives, else 1. Chanin et al. take 50
    epochs of Adam; this goes to the minimum itself (FISTA, Beck & Teboulle 2009), which needs no
    seed and no batch order.
    """
    n = len(y)
    share = np.where(y, (~y).sum() / max(y.sum(), 1), 1.0) / n
    step = 1 / _curvature(acts, share)
    w, b = np.zeros(acts.shape[1]), 0.0
    ahead, ahead_b, t = w, b, 1.0
    for _ in range(_STEPS):
        z = acts @ ahead + ahead_b
        residual = share * (1 / (1 + np.exp(-np.clip(z, -500, 500))) - y)
        moved = ahead - step * (acts.T @ residual)
        new = np.sign(moved) * np.maximum(np.abs(moved) - step * L1, 0)
        new_b = ahead_b - step * residual.sum()
        t, before = (1 + np.sqrt(1 + 4 * t * t)) / 2, t
        rate = (before - 1) / t
        ahead, ahead_b = new + rate * (new - w), new_b + rate * (new_b - b)
        settled = np.abs(new - w).max() <= 1e-6 * max(np.abs(new).max(), 1e-12)
        w, b = new, new_b
        if settled and w.any():
            break
    return w


def _curvature(acts: Latents, share: Float[np.ndarray, " rows"]) -> float:
    """Largest eigenvalue of the loss's Hessian bound, A' diag(share) A / 4, A with a 1-column."""
    v, b, size = np.full(acts.shape[1], 1.0), 1.0, 1.0
    for _ in range(30):
        z = share * (acts @ v + b)
        v, b = acts.T @ z, z.sum()
        size = float(np.sqrt(v @ v + b * b))
        v, b = v / size, b / size
    return 0.25 * size * 1.1  # power iteration comes from below


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureSplitting(Result):
    """Over how many latents each label is spread; every source went through the same test."""

    sources: ClassVar[tuple[str, ...]] = ("latents", "random_dictionary", "shuffled_labels")
    labels: tuple[str, ...]
    n_latents: Float[np.ndarray, "sources labels"]
    """Latents accepted; 0 where none has a positive weight, NaN without one of the classes."""
    f1: Float[np.ndarray, "sources labels 2"]
    """F1 on the scored rows of a probe of the first latent, and of all that were accepted."""
    main: tuple[tuple[int, ...], ...]
    """Latents of each label, the strongest first."""
    n_positive: Int[np.ndarray, " labels"]
    """Positive rows among those scored."""
    n_scored: int
    split: str = ""

    def to_frame(self) -> "pd.DataFrame":
        """One row per source and label."""
        import pandas as pd

        table = [
            {"source": source, "label": label, "n_latents": self.n_latents[s, i],
             "f1_first": self.f1[s, i, 0], "f1_all": self.f1[s, i, 1],
             "latents": " ".join(map(str, self.main[i])) if s == 0 else "",
             "n": self.n_scored, "n_positive": int(self.n_positive[i])}
            for s, source in enumerate(self.sources)
            for i, label in enumerate(self.labels)
        ]  # fmt: skip
        frame = pd.DataFrame(table)
        frame.attrs["units"] = {"n_latents": "latents", "f1_first": "F1", "f1_all": "F1"}
        frame.attrs["split"] = self.split
        return frame

    def summary(self) -> dict[str, float]:
        """Means over labels."""
        return {
            "latents per label": _known_mean(self.n_latents[0]),
            "F1 of the first": _known_mean(self.f1[0, :, 0]),
            "F1 of all": _known_mean(self.f1[0, :, 1]),
        }

    def plot(self) -> "go.Figure":
        """Latents per label, sources side by side."""
        from lensbench.plots import bars

        return bars(
            self.to_frame(), x="label", y="n_latents", color="source", title="Feature splitting",
            subtitle=f"{self.n_scored} rows scored; control: {self.controls}",
            hover_columns=["f1_first", "f1_all", "n_positive"],
        )  # fmt: skip


def feature_splitting(
    acts: Any, rows: LabelledRows, *, x: Any = None, max_k: int = 10, seed: int = 0
) -> FeatureSplitting:
    """Over how many latents is each label spread?

    The latents of a label are those of :func:`main_latents` on the fitting rows, 1 to ``max_k``;
    F1 (0 to 1) of logistic probes of the first and of all of them is on the scored rows. More than
    one is a split. Read it with F1: a dictionary without a good latent for the label may need many
    as well. Source: Chanin et al. 2024 (arXiv:2409.14507), section on feature splitting.

    Controls: a random dictionary of the same width and L0 (needs ``x``), labels of other documents.

    Args:
        acts: latents ``[rows, d_sae]``.
        rows: labels (such as first letters), see :func:`~lensbench.saes.label_rows`.
        x: the activations ``[rows, d_model]`` that were encoded.
        max_k: most latents of one label.
        seed: of the controls.

    Raises:
        ConfigError: ``max_k`` below 1, or latents that are no matrix of numbers.
        MismatchError: another number of rows.
        NonFiniteError: NaN or infinity in latents or activations.
    """
    began = time.perf_counter()
    whole_number("max_k", max_k, least=1)
    latents = latents_of(acts, len(rows.docs))
    found = {"latents": _split_up(latents, rows, max_k)}
    found["shuffled_labels"] = _split_up(latents, shuffled(rows, seed), max_k)
    if x is not None:
        noise = random_latents(rows_of(x, len(rows.docs)), latents, seed)[0]
        found["random_dictionary"] = _split_up(noise, rows, max_k)
    n = len(rows.names)
    empty = (np.full(n, np.nan), np.full((n, 2), np.nan), ())
    parts = [found.get(s, empty) for s in FeatureSplitting.sources]
    beside = {f"{s}, latents per label": _known_mean(p[0]) for s, p in found.items() if p[2]}
    beside |= {f"{s}, F1 of all": _known_mean(p[1][:, 1]) for s, p in found.items()}
    return FeatureSplitting(
        labels=rows.names,
        n_latents=np.stack([p[0] for p in parts]),
        f1=np.stack([p[1] for p in parts]),
        main=found["latents"][2],
        n_positive=rows.values[rows.held].sum(0),
        n_scored=int(rows.held.sum()),
        split=rows.split,
        config={"max_k": max_k, "seed": seed},
        controls=Controls({k: v for k, v in beside.items() if not k.startswith("latents")}),
        provenance=record(seed=seed, seconds=time.perf_counter() - began),
    )


def _split_up(acts: Latents, rows: LabelledRows, max_k: int) -> tuple[Any, Any, Any]:
    n = len(rows.names)
    count, f1 = np.full(n, np.nan), np.full((n, 2), np.nan)
    main: list[tuple[int, ...]] = [()] * n
    fit, held = acts[~rows.held], acts[rows.held]
    for i in range(n):
        y, truth = rows.values[~rows.held, i], rows.values[rows.held, i]
        if y.all() or not y.any():
            continue
        own = main_latents(fit, y, max_k).latents
        count[i], main[i] = len(own), tuple(own.tolist())
        for at, chosen in enumerate((own[:1], own)):
            if len(chosen):
                f1[i, at] = _f1_of(fit[:, chosen].toarray(), y, held[:, chosen].toarray(), truth)
    return count, f1, tuple(main)


def _f1_of(fit: Any, y: Any, held: Any, truth: Any) -> float:
    probe, _ = fitted(fit, y, balanced=True, max_iter=_MAX_ITER)
    says = probe.decision_function(held) > 0
    return f1_score(float((says & truth).sum()), float(says.sum()), float(truth.sum()))


def _known_mean(values: Float[np.ndarray, " n"]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")
