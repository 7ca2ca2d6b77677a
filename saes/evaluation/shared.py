"""What the dictionaries of one site are set beside, made once whatever their number.

Linear probes and the raw channels depend on activations and labels only; a random dictionary, and
what a measure says of it, on its width and L0 too. A measure that is called alone makes its own.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from lensbench.errors import MismatchError
from lensbench.saes.evaluation.inputs import l0_of, random_latents, rows_of, shuffled
from lensbench.saes.evaluation.labels import LabelledRows, Latents
from lensbench.saes.evaluation.linear import LinearProbes, linear_probes
from lensbench.saes.evaluation.main_latents import LabelLatents

T = TypeVar("T")


@dataclass(frozen=True)
class RandomLatents:
    """Latents and decoder rows of a random dictionary on the rows, and what it is known by."""

    acts: Latents
    W_dec: Float[np.ndarray, "d_sae d_model"]
    shape: tuple[int, int]
    """Width and latents per row: dictionaries alike in both share it."""


@dataclass(eq=False)
class Shared:
    """Activations with labels, and what every dictionary there is compared with."""

    x: Float[np.ndarray, "rows d_model"]
    rows: LabelledRows
    seed: int = 0
    _made: dict[Any, Any] = field(default_factory=dict[Any, Any], repr=False)

    def once(self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        """What ``make`` gives, the first time; afterwards the same again."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    @cached_property
    def moved(self) -> LabelledRows:
        """The rows under labels of other documents."""
        return shuffled(self.rows, self.seed)

    @cached_property
    def probes(self) -> LinearProbes:
        """Linear probes of the labels."""
        return linear_probes(self.x, self.rows)

    @cached_property
    def probe_f1(self) -> Float[np.ndarray, " labels"]:
        """Their F1 on the scored rows: whether the activations hold a label linearly."""
        return self.probes.f1(self.x[self.rows.held], self.rows.values[self.rows.held])

    @cached_property
    def moved_f1(self) -> Float[np.ndarray, " labels"]:
        """The same of probes of labels of other documents (a control)."""
        probes = linear_probes(self.x, self.moved)
        return probes.f1(self.x[self.rows.held], self.moved.values[self.rows.held])

    def noise(self, acts: Latents) -> RandomLatents:
        """A random dictionary of the same width and L0 as these latents."""
        shape = (acts.shape[1], l0_of(acts))

        def drawn() -> RandomLatents:
            return RandomLatents(*random_latents(self.x, acts, self.seed), shape)

        return self.once(("random dictionary", *shape), drawn)

    def noise_main(self, noise: RandomLatents, max_k: int) -> LabelLatents:
        """Its main latents, found when asked for."""
        return self.once(
            ("main latents", *noise.shape, max_k),
            lambda: LabelLatents(noise.acts, self.rows, noise.W_dec, max_k),
        )


def shared_of(shared: Shared | None, x: Any, rows: LabelledRows, seed: int) -> Shared:
    """``shared``, where it is of these rows and this seed; without one, a new one of ``x``.

    Raises:
        ConfigError, MismatchError, NonFiniteError: activations that do not fit the rows.
    """
    if shared is None:
        return Shared(rows_of(x, len(rows.docs)), rows, seed)
    if shared.rows is not rows or shared.seed != seed:
        raise MismatchError(
            "shared= belongs to other rows or another seed; leave it out, or make it of these"
        )
    return shared
