"""Which layers to delete by what they do to the stream: block influence and angular distance."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.interventions.acceleration.skipping.route import Route, without


def shortgpt_route(influence: Float[np.ndarray, " layers"] | Sequence[float], delete: int) -> Route:
    """The model without the ``delete`` layers of least influence BI = 1 - mean cos(h_l, h_l+1).

    Men et al. 2024 (ShortGPT).

    Raises:
        ConfigError: not one finite number per layer, or no layer left.

    Example:
        >>> route = acceleration.shortgpt_route([0.5, 0.1, 0.4, 0.02, 0.3, 0.6], delete=2)
    """
    values = _finite("influence", influence, 1)
    count = _leaves_one(delete, len(values))
    return without(len(values), np.argsort(values, kind="stable")[:count].tolist())


def angular_route(distance: Float[np.ndarray, "layers spans"], delete: int) -> Route:
    """The model without the block of ``delete`` layers that turns the last token least.

    ``distance[l, n]`` is arccos(cos(h_l, h_{l+n})) / pi, the stream entering layer l against that
    after n layers more; the block begins at its argmin over l. Gromov et al. 2024.

    Raises:
        ConfigError: no such table, or no layer left.

    Example:
        >>> distance = acceleration.similarity_table(own, early).angular
        >>> route = acceleration.angular_route(distance, delete=1)
    """
    table = np.asarray(distance, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != table.shape[0] + 1:
        raise ConfigError(
            f"distance must be [layers, layers + 1] (start, number of layers), got {table.shape}"
        )
    n_layers = table.shape[0]
    count = _leaves_one(delete, n_layers)
    start = int(np.argmin(table[: n_layers - count + 1, count]))
    return without(n_layers, range(start, start + count))


def _finite(name: str, values: object, ndim: int) -> np.ndarray:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != ndim or not np.isfinite(found).all():
        raise ConfigError(f"{name} must be one finite number per layer, got {values!r}")
    return found


def _leaves_one(delete: int, n_layers: int) -> int:
    count = whole_number("delete", delete, least=1)
    if count >= n_layers:
        raise ConfigError(f"delete must leave a layer: 1 to {n_layers - 1}, got {count}")
    return count
