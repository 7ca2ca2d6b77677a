"""What steering is compared with: random and shuffled-label directions of the same length."""

from collections.abc import Sequence

import numpy as np

from lensbench.arguments import whole_number
from lensbench.errors import NotEnoughDataError
from lensbench.interventions.steering.direction import Direction


def random_directions(like: Direction, n: int = 20, seed: int = 0) -> tuple[Direction, ...]:
    """``n`` directions at the same site, drawn on the sphere, each token's as long as its own.

    ``|v_t| u`` with u uniform on the unit sphere of R^d: what a step of this length does whatever
    its direction. Most such directions lie outside the span in which states differ; shuffled labels
    (:meth:`Contrast.shuffled`) are the stronger control.

    Example:
        >>> direction = interventions.latent_direction(model, run, 3)
        >>> controls = interventions.random_directions(direction, n=20, seed=0)
    """
    n = whole_number("n", n, least=0)
    rng = np.random.default_rng(seed)
    lengths = np.linalg.norm(like.vector, axis=-1, keepdims=True)
    found: list[Direction] = []
    for i in range(n):
        u = rng.normal(size=like.vector.shape)
        u *= lengths / np.linalg.norm(u, axis=-1, keepdims=True)
        found.append(
            Direction(
                site=like.site, vector=u.astype(np.float32), label=f"random {i}",
                config={"method": "random", "seed": seed},
            )
        )  # fmt: skip
    return tuple(found)


def shuffled_directions(
    own: Sequence[Direction], n: int = 20, seed: int = 0
) -> tuple[tuple[Direction, ...], tuple[str, ...]]:
    """``n`` directions of shuffled labels for each of ``own`` that has labels.

    Directions made of the same states share theirs. The second value says for each of ``own`` why
    there are none; it is empty where there are.
    """
    found: list[Direction] = []
    why: list[str] = []
    seen: list[object] = []
    for direction in own:
        try:
            drawn = () if direction.redraw in seen else direction.shuffled(n, seed)
        except NotEnoughDataError as error:
            why.append(str(error))
            continue
        found += drawn
        seen += [] if direction.redraw is None else [direction.redraw]
        why.append("")
    return tuple(found), tuple(why)
