"""Where a measured value stands among random controls: a rank, a p, and one fixed sentence.

1. How far a value lies is ``|value - base|``: either way, so that no direction is picked after the
   look. Whatever the controls are, they are measured exactly as the value is.
2. ``p = (1 + controls at least as far) / (1 + controls)``. Were the value one more random draw,
   ``p <= level`` would happen in at most a share ``level`` of such questions.
3. ``n`` draws give no p below ``1 / (1 + n)``: fewer than :data:`ENOUGH` cannot answer, and say so.

Not for a value that was picked as the largest of many on the same data: test that one on other
data (``PatchingResult.standing`` says how many would stand out by chance).
Source: Phipson & Smyth 2010 (a p from random draws is never 0).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lensbench.errors import NotEnoughDataError

LEVEL = 0.05
"""Largest p that stands out."""
ENOUGH = 19
"""Fewest draws that can give it."""


@dataclass(frozen=True)
class Standing:
    """One value beside the same measure of random controls.

    Example:
        >>> found = Standing(0.1, tuple(0.5 + i / 100 for i in range(20)), base=0.6)
        >>> found.told("random experts")
        'Stands out of 20 random experts (p = 0.048): none of them moves it as far.'
    """

    value: float
    controls: tuple[float, ...]
    base: float = 0.0
    """What the measure is where nothing is changed."""

    @property
    def n(self) -> int:
        """Number of draws."""
        return len(self.controls)

    @property
    def as_far(self) -> int:
        """Draws that lie at least as far from ``base``; ties count."""
        far = np.abs(np.asarray(self.controls) - self.base)
        own = abs(self.value - self.base)
        return int((far >= own - 1e-9 * max(1.0, own)).sum())  # rounding makes no difference

    @property
    def p(self) -> float:
        """How often a random draw would do as much, 0 to 1."""
        return (1 + self.as_far) / (1 + self.n)

    @property
    def smallest(self) -> float:
        """The smallest p that so many draws can give."""
        return 1 / (1 + self.n)

    @property
    def stands_out(self) -> bool | None:
        """Whether p is at most :data:`LEVEL`; None where so few draws cannot tell."""
        if self.p <= LEVEL:
            return True
        return None if self.n < ENOUGH and not self.as_far else False

    def told(self, controls: str) -> str:
        """The verdict in one sentence; ``controls`` names them, such as ``random experts``."""
        if self.stands_out:
            who = "none of them moves" if not self.as_far else f"{self.as_far} of them move"
            return f"Stands out of {self.n} {controls} (p = {self.p:.2g}): {who} it as far."
        if self.stands_out is None:
            return (f"Cannot tell: none of {self.n} {controls} moves it as far, but {self.n} draws "
                    f"give no p below {self.smallest:.2g}; that takes {ENOUGH}.")  # fmt: skip
        return (f"Not outside the {controls}: {self.as_far} of {self.n} move it as far "
                f"(p = {self.p:.2g}; the smallest possible is {self.smallest:.2g}).")  # fmt: skip


def standing(value: float, controls: Sequence[float] | np.ndarray, base: float = 0.0) -> Standing:
    """``value`` among ``controls``, those that are no number left out.

    Raises:
        NotEnoughDataError: no control that is a number, or a value that is none.
    """
    there = [float(c) for c in controls if np.isfinite(c)]
    if not there or not np.isfinite(value) or not np.isfinite(base):
        raise NotEnoughDataError(
            f"there is nothing to rank: the value is {value:g}, without a change it is {base:g}, "
            f"and {len(there)} of {len(controls)} controls are numbers"
        )
    return Standing(float(value), tuple(there), float(base))
