"""The label table of an evaluation: the best latent of every label beside its controls.

Controls, each under the procedure of
:func:`~lensbench.saes.evaluation.labels.best_latents` where it chooses: always
predicting the label; the best reading of the current token alone; shuffled labels; a random
dictionary of the same width and L0; and, where one is given, a dictionary trained on the
re-initialised twin of the model.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from lensbench.saes.evaluation.labels import (
    LabelledRows,
    Latents,
    best_latents,
    f1_interval,
    lookup_predictions,
)

OWN = ("f1_low", "f1_high", "f1_selected")
"""Columns of the label table that begin like controls and are none."""


def control_columns(labels: pd.DataFrame) -> list[str]:
    """Columns of a label table that hold controls' F1."""
    return [str(c) for c in labels.columns if str(c).startswith("f1_") and c not in OWN]


def best_of_latents(labels: pd.DataFrame, name: str) -> pd.DataFrame:
    """One row per latent that some label has as its best: label, F1, interval, strongest control.

    Of several labels the one with the highest F1.
    """
    own = labels.loc[(labels["name"] == name) & (labels["latent"] >= 0)].copy()
    controls = control_columns(own)
    own["control"] = own[controls].max(axis=1) if controls else np.nan
    own = own.sort_values("f1", ascending=False, kind="stable").drop_duplicates("latent")
    return pd.DataFrame(own[["latent", "label", "f1", "f1_low", "f1_high", "control"]])


def context_free(rows: LabelledRows) -> dict[str, Float[np.ndarray, " labels"]]:
    """F1 on the scoring half of the two controls that need no activations."""
    truth, docs = rows.values[rows.held], rows.docs[rows.held]
    lookup = lookup_predictions(rows.tokens, rows.values, rows.held)
    always = np.ones(len(docs), bool)
    return {
        "f1_always_on": _each(truth, lambda i: f1_interval(always, truth[:, i], docs).mean),
        "f1_current_token": _each(
            truth, lambda i: f1_interval(lookup[:, i], truth[:, i], docs).mean
        ),
    }


def table_of(
    name: str,
    acts: Latents,
    rows: LabelledRows,
    controls: Mapping[str, tuple[Latents, LabelledRows]],
    fixed: Mapping[str, Float[np.ndarray, " labels"]],
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Columns for one dictionary: scores, then ``f1_<control>`` and ``auroc_<control>``."""
    scores = best_latents(acts, rows, seed=seed)
    columns: dict[str, Any] = {
        "name": [name] * len(scores),
        "label": [s.label for s in scores],
        "kind": list(rows.kinds),
        "latent": np.array([s.latent for s in scores], np.int64),
        "threshold": np.array([s.threshold for s in scores]),
        "f1": np.array([s.f1.mean for s in scores]),
        "f1_low": np.array([s.f1.low for s in scores]),
        "f1_high": np.array([s.f1.high for s in scores]),
        "auroc": np.array([s.auroc for s in scores]),
        "f1_selected": np.array([s.f1_selected for s in scores]),
        "n_positive": np.array([s.n_positive for s in scores], np.int64),
        "n_documents": np.array([s.f1.n for s in scores], np.int64),
        **fixed,
    }
    for control, (control_acts, control_rows) in controls.items():
        under = best_latents(control_acts, control_rows, seed=seed)
        columns[f"f1_{control}"] = np.array([s.f1.mean for s in under])
        columns[f"auroc_{control}"] = np.array([s.auroc for s in under])
    return columns


def stacked(tables: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Tables of several dictionaries under one another."""
    out: dict[str, Any] = {}
    for key in tables[0] if tables else ():
        parts = [t[key] for t in tables]
        joined = [v for part in parts for v in part]
        out[key] = joined if isinstance(parts[0], list) else np.concatenate(parts)
    return out


def means(table: Mapping[str, Any]) -> dict[str, float]:
    """Mean F1 of each control over labels and dictionaries that have a value."""
    out: dict[str, float] = {}
    for key, column in table.items():
        if key.startswith("f1_") and key not in OWN:
            known = np.asarray(column, float)
            known = known[np.isfinite(known)]
            out[key.removeprefix("f1_")] = float(known.mean()) if known.size else float("nan")
    return out


def _each(
    truth: Bool[np.ndarray, "rows labels"], score: Callable[[int], float]
) -> Float[np.ndarray, " labels"]:
    return np.array([score(i) for i in range(truth.shape[1])])
