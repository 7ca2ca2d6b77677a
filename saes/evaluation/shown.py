"""What an evaluation looks like in a notebook: a row per dictionary, measures beside controls."""

from typing import TYPE_CHECKING

import numpy as np

from lensbench.plots.tables import html_table, safe
from lensbench.words import in_words

if TYPE_CHECKING:
    import pandas as pd

    from lensbench.saes.evaluation.result import SAEEvaluation

HEADLINE = ("l0", "fvu", "ce_recovered_zero", "ce_recovered_mean", "kl_reconstructed",
            "dead_fraction")  # fmt: skip
_SMALL = "font-size:12px;opacity:.75"


def evaluation_html(found: "SAEEvaluation") -> str:
    """The core table, a table for every other measure with its controls, and what was left out."""
    scored = f"; CE and KL on {found.n_scored:,} predicted tokens" if found.n_scored else ""
    told = (
        f"on {found.n_tokens:,} stored tokens of {found.n_documents:,} documents{scored}; in "
        "brackets 95 % intervals over documents; to_frame() has every metric with its n"
    )
    parts = [html_table(core_frame(found)), _note(told)]
    for measure in found.measures[1:]:
        frame = found.beside_controls(measure)
        head = f"{in_words(measure)}: each dictionary beside its controls"
        parts += [f"<div style='font-weight:600;margin-top:8px'>{safe(head)}</div>"]
        parts += [html_table(frame)]
    parts += [
        _note(f"left out: {name}: {why.removeprefix(f'no {name}: ')}")
        for name, why in found.left_out.items()
    ]
    return "".join(parts)


def core_frame(found: "SAEEvaluation") -> "pd.DataFrame":
    """One row per dictionary, the headline metrics with their intervals as text."""
    import pandas as pd

    shown = [m for m in HEADLINE if m in found.metrics]
    frame = pd.DataFrame({"name": found.names, "site": found.sites})
    for metric in shown:
        frame[metric] = [_told(row) for row in found.values[:, found.metrics.index(metric)]]
    frame.attrs["units"] = {metric: found.units[metric] for metric in shown}
    return frame


def _told(row: np.ndarray) -> str:
    value, low, high = (float(x) for x in row)
    span = f" [{low:.3g}, {high:.3g}]" if np.isfinite([low, high]).all() and low < high else ""
    return f"{value:.3g}{span}" if np.isfinite(value) else "NaN"


def _note(text: str) -> str:
    return f"<div style='{_SMALL}'>{safe(in_words(text))}</div>"
