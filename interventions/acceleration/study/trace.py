"""What a decoding run did, or would do, told in the same words: rounds, or exits.

``known`` says how far a simulated trace is decided by the store. What is drafted after the first
wrong token is drafted in a context the store does not hold, so where confidence decides the length
of a draft, accepted tokens are exact and drafted ones lie between two bounds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lensbench.interventions.acceleration.decoding import Decoded, Round


@dataclass(frozen=True)
class Trace:
    """Rounds of one text. ``rounds`` count as drafted what was drafted at least."""

    rounds: tuple[Round, ...]
    most_drafted: tuple[int, ...]
    """Tokens drafted at most, per round; equal to ``drafted`` where the store decides it."""
    n_prompt: int
    known: int
    """Rounds from the first on whose exit and accepted tokens the store decides."""

    @classmethod
    def of(cls, run: Decoded) -> "Trace":
        """The trace of a live run."""
        most = tuple(r.drafted for r in run.rounds)
        return cls(run.rounds, most, len(run.prompt), len(run.rounds))

    @property
    def new(self) -> int:
        """New tokens."""
        return sum(r.accepted + 1 for r in self.rounds)

    @property
    def drafted(self) -> int:
        """Tokens drafted at least."""
        return sum(r.drafted for r in self.rounds)

    @property
    def drafted_most(self) -> int:
        """Tokens drafted at most."""
        return sum(self.most_drafted)

    @property
    def accepted(self) -> int:
        """Drafted tokens that were kept."""
        return sum(r.accepted for r in self.rounds)

    @property
    def exact(self) -> bool:
        """Is every number of every round decided?"""
        return self.known == len(self.rounds) and self.drafted == self.drafted_most

    def upper(self) -> "Trace":
        """The same with as many tokens drafted as there may have been."""
        rounds = tuple(
            Round(r.exit_layer, most, r.accepted)
            for r, most in zip(self.rounds, self.most_drafted, strict=True)
        )
        return Trace(rounds, self.most_drafted, self.n_prompt, self.known)


@dataclass(frozen=True)
class ExitTrace:
    """Layers run and tokens written of one text whose tokens exit and are not checked."""

    exits: tuple[int, ...]
    tokens: tuple[int, ...]
    n_prompt: int
    known: int
    """Tokens from the first on that a free run shares: up to the first that is not the text's."""

    @property
    def new(self) -> int:
        """New tokens."""
        return len(self.exits)


@dataclass(frozen=True)
class Rates:
    """What acceptance means in three papers, of the rounds of several texts."""

    acceptance: float
    """Accepted over drafted."""
    first: float
    """Share of rounds whose first draft was accepted."""
    alpha: float
    """Chance that one more draft is accepted: accepted / (accepted + rounds with a miss)."""
    tokens_per_round: float


def rates(traces: Sequence[Trace]) -> Rates:
    """Rates over all rounds that drafted anything; NaN where none did.

    Example:
        >>> told = acceleration.sim_fixed(acceleration.lens_table(own, early), 2, 3)
        >>> rates = acceleration.rates(told)
        >>> rates.tokens_per_round
    """
    rounds = [r for t in traces for r in t.rounds]
    drafting = [r for r in rounds if r.drafted]
    accepted = sum(r.accepted for r in drafting)
    missed = sum(r.accepted < r.drafted for r in drafting)
    return Rates(
        acceptance=_share(accepted, sum(r.drafted for r in drafting)),
        first=_share(sum(r.accepted > 0 for r in drafting), len(drafting)),
        alpha=_share(accepted, accepted + missed),
        tokens_per_round=_share(sum(t.new for t in traces), len(rounds)),
    )


def expected_tokens(alpha: float, draft: float) -> float:
    """Tokens of a round if acceptances were independent: (1 - alpha^(draft+1)) / (1 - alpha).

    Source: Leviathan et al. 2023, equation 1.
    """
    if alpha >= 1:
        return draft + 1
    return (1 - alpha ** (draft + 1)) / (1 - alpha)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
