"""What a sweep's numbers are means of: the measure, the pairs, and the runs beside one place.

A pair whose wording lacks a token has no such place, so that places of one sweep may be means over
different pairs; whatever stands beside a place is therefore taken over that place's pairs.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lensbench.interventions.metrics import said
from lensbench.interventions.patching.check import named
from lensbench.stats import mean_there

if TYPE_CHECKING:
    import pandas as pd

    from lensbench.interventions.patching.result import PatchingResult


def told(result: "PatchingResult", chosen: Sequence[int]) -> str:
    """The effect as a formula of the metric, and over how many pairs."""
    return (
        f"{said(result.metric)}: (patched - corrupted) / (clean - corrupted), ratio of means · "
        f"{counted(result.values[list(chosen)])}"
    )


def counted(values: Float[np.ndarray, "places pairs"]) -> str:
    """``n = 32 prompt pairs``, or ``n = 24 to 32 prompt pairs, by place``; NaN: no such place."""
    some = np.isfinite(values).sum(1)
    least, most = int(some.min(initial=values.shape[1])), int(some.max(initial=0))
    if least >= most:
        return f"n = {most} prompt pair{'s' * (most != 1)}"
    return f"n = {least} to {most} prompt pairs, by place"


def beside(result: "PatchingResult", place: int) -> "pd.DataFrame":
    """The metric of a place, and of the clean, the corrupted and random runs of the same pairs.

    ``n`` is the number of pairs. The random run is the mean over the random steps of the sweep.
    """
    import pandas as pd

    own = result.values[place]
    there = np.isfinite(own)
    rows = [("clean", result.clean[there]), ("corrupted", result.corrupted[there])]
    rows += [("random patch", result.random[:, there])] if len(result.tried) else []
    rows += [(named(result, place), own[there])]
    frame = pd.DataFrame({
        "run": [run for run, _ in rows],
        "value": [float(mean_there(values)) for _, values in rows],
        "n": [int(np.isfinite(np.atleast_2d(values)).any(0).sum()) for _, values in rows],
    })  # fmt: skip
    frame.attrs["units"] = {"value": result.unit, "n": "pairs"}
    return frame
