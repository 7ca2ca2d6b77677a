"""Which latents a report shows: those that match a label best, or a fair sample without labels."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lensbench.saes.evaluation.labels_table import control_columns

if TYPE_CHECKING:
    from lensbench.saes.evaluation.result import SAEEvaluation

MIN_POSITIVE = 20
QUIET, LOUD = 1e-4, 0.05
SPARSE = 64


def best_labels(labels: pd.DataFrame, n: int = 8) -> pd.DataFrame:
    """The ``n`` labels whose best latent beats its strongest control by most, one row each.

    Only labels with at least 20 positive tokens in the scoring half; every dictionary competes for
    every label, and a latent is shown once.
    """
    if labels.empty:
        return labels
    known = labels.loc[(labels["latent"] >= 0) & (labels["n_positive"] >= MIN_POSITIVE)].copy()
    known = known.loc[np.isfinite(np.asarray(known["f1"], dtype=np.float64))]
    controls = control_columns(known)
    known["control"] = known[controls].max(axis=1) if controls else 0.0
    known["gain"] = known["f1"] - known["control"]
    ranked = known.sort_values("gain", ascending=False, kind="stable")
    ranked = ranked.drop_duplicates("label").drop_duplicates(["name", "latent"])
    return ranked.head(n).reset_index(drop=True)


def fair_sample(density: np.ndarray, n: int = 8, seed: int = 0) -> list[int]:
    """``n`` latents at random among those that fire on 0.01 % to 5 % of the tokens."""
    usable = np.flatnonzero((density >= QUIET) & (density <= LOUD))
    usable = usable if len(usable) else np.flatnonzero(density > 0)
    rng = np.random.default_rng(seed)
    return sorted(int(i) for i in rng.choice(usable, min(n, len(usable)), replace=False))


def chosen_latents(evaluation: "SAEEvaluation", n: int = 8, seed: int = 0) -> dict[str, list[int]]:
    """Latents to show, by dictionary."""
    best = best_labels(evaluation.labels_frame(), n) if evaluation.labels else pd.DataFrame()
    if len(best):
        out: dict[str, list[int]] = {}
        for row in records(best):
            out.setdefault(str(row["name"]), []).append(int(row["latent"]))
        return out
    name = best_dictionary(evaluation)
    picked = fair_sample(np.asarray(evaluation.density[name]), n, seed)
    return {name: picked} if picked else {}


def best_dictionary(evaluation: "SAEEvaluation") -> str:
    """The highest CE recovered among the dictionaries with L0 up to 64 (else among all).

    Explained variance stands in where no model was run, or no CE recovered has a value.
    """
    sparse = evaluation.values[:, evaluation.metrics.index("l0"), 0] <= SPARSE
    for metric in ("ce_recovered_zero", "explained_variance"):
        if metric not in evaluation.metrics:
            continue
        scores = evaluation.values[:, evaluation.metrics.index(metric), 0].copy()
        if sparse.any():
            scores[~sparse] = np.nan
        if np.isfinite(scores).any():
            return evaluation.names[int(np.nanargmax(scores))]
    return evaluation.names[0]


def records(frame: pd.DataFrame) -> Sequence[dict[str, Any]]:
    """Rows as dictionaries with text keys."""
    return [{str(k): v for k, v in row.items()} for row in frame.to_dict("records")]
