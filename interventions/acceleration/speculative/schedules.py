"""How long to draft, decided without a model: rules whose state moves once per round.

The live engines and the simulators of a store ask the same objects.
"""

from dataclasses import dataclass

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError


@dataclass
class DraftLengthFSM:
    """A draft length that grows by 1 after a fully accepted round and shrinks by 1 after another.

    The ablation "FSM" of DEL (Entezari Zarch et al. 2025), within ``least .. most``.
    """

    length: int = 6
    least: int = 1
    most: int = 18

    def __post_init__(self) -> None:
        """Refuse an empty range."""
        for name in ("length", "least", "most"):
            whole_number(name, getattr(self, name), least=1)
        if not self.least <= self.length <= self.most:
            raise ConfigError(
                f"a draft length lies between least and most, got {self.length} in "
                f"{self.least}..{self.most}"
            )

    def go_on(self, drafted: int, confidence: float) -> bool:
        """Draft another token after ``drafted`` ones? The confidence is not looked at."""
        del confidence
        return drafted < self.length

    def update(self, drafted: int, accepted: int) -> None:
        """Take in one round; one without a draft says nothing."""
        if drafted:
            step = 1 if accepted == drafted else -1
            self.length = min(self.most, max(self.least, self.length + step))

    def new_text(self) -> None:
        """Begin another text: the length stays."""


@dataclass
class AdaptiveThreshold:
    """Draft until the top-1 probability is below a threshold that follows the acceptance rate.

    After each round, with the share accepted of it: rate <- b1 rate + (1 - b1) share; target =
    threshold + step where rate < goal, else threshold where ``most`` were drafted, else threshold -
    step; threshold <- b2 threshold + (1 - b2) target. So it moves by step (1 - b2), .001, per
    round: short texts never get far from the start. The threshold is meant to be carried over from
    text to text, the rate begins at 0 with each (:meth:`new_text`). Zhang et al. 2024 (Draft &
    Verify), constants of the released code.
    """

    threshold: float = 0.6
    most: int = 12
    goal: float = 0.9
    step: float = 0.01
    b1: float = 0.5
    b2: float = 0.9
    rate: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no share and no length."""
        whole_number("most", self.most, least=1)
        for name in ("goal", "b1", "b2"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is a share in [0, 1], got {getattr(self, name)!r}")

    def go_on(self, drafted: int, confidence: float) -> bool:
        """Draft another token after ``drafted`` ones, the last of this top-1 probability?"""
        return drafted < self.most and not confidence < self.threshold

    def update(self, drafted: int, accepted: int) -> None:
        """Take in one round; one without a draft says nothing."""
        if not drafted:
            return
        self.rate = self.b1 * self.rate + (1 - self.b1) * accepted / drafted
        target = self.threshold
        if self.rate < self.goal:
            target += self.step
        elif drafted != self.most:
            target -= self.step
        self.threshold = self.b2 * self.threshold + (1 - self.b2) * target

    def new_text(self) -> None:
        """Begin another text: the threshold stays, the rate starts anew."""
        self.rate = 0.0


@dataclass(frozen=True)
class ConfidenceStop:
    """Draft until the top-1 probability is below a fixed threshold, at most ``most`` tokens.

    SWIFT (.8, 25) and Kangaroo (.6, 6); the token that was not sure is drafted all the same.
    """

    threshold: float
    most: int

    def __post_init__(self) -> None:
        """Refuse what is no length."""
        whole_number("most", self.most, least=1)

    def go_on(self, drafted: int, confidence: float) -> bool:
        """Draft another token after ``drafted`` ones, the last of this top-1 probability?"""
        return drafted < self.most and not confidence < self.threshold

    def update(self, drafted: int, accepted: int) -> None:
        """Nothing is learned."""

    def new_text(self) -> None:
        """Nothing was learned."""
