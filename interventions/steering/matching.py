"""Reading one curve at the level of another."""

import numpy as np
from jaxtyping import Float


def at_level(
    cost: Float[np.ndarray, " steps"], gain: Float[np.ndarray, " steps"], level: float
) -> float:
    """``gain`` where ``cost`` first reaches ``level``, interpolated linearly; NaN if it never does.

    Steps are in the order in which the curve is walked, the first of them no step at all.
    """
    there = np.flatnonzero(cost >= level)
    if not len(there):
        return float("nan")
    k = int(there[0])
    if k == 0:
        return float(gain[0])
    share = (level - cost[k - 1]) / (cost[k] - cost[k - 1])
    return float(gain[k - 1] + share * (gain[k] - gain[k - 1]))
