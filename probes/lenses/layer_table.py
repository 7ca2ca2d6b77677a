"""A lens's curve as notebooks show it: a row per layer, the metrics beside each other."""

from typing import TYPE_CHECKING, Any

from lensbench.plots.tables import html_table
from lensbench.probes.lenses.measures import METRICS

if TYPE_CHECKING:
    from lensbench.probes.lenses.logit import LensTrajectory

FIRST = ("agreement", "kl_to_final")
"""Shown with their intervals and beside their control; of the others the mean alone."""


def layer_table(self: "LensTrajectory") -> str:
    """Inert HTML: means over tokens, intervals over documents. A method of the lens."""
    import pandas as pd

    names = list(METRICS)
    columns: dict[str, Any] = {"layer": self.layers}
    for name in FIRST:
        i = names.index(name)
        columns |= {name: self.mean[i], f"{name}_shuffled": self.shuffled[i],
                    f"{name}_low": self.low[i], f"{name}_high": self.high[i]}  # fmt: skip
    columns |= {n: self.mean[i] for i, n in enumerate(names) if n not in FIRST}
    frame = pd.DataFrame(columns)
    frame.attrs["units"] = {**METRICS, **{f"{name}_shuffled": "control" for name in FIRST}}
    told = f"Means over {self.n_tokens:,} tokens of {self.n_docs:,} documents"
    return html_table(frame, caption=told, max_rows=100)
