"""DEL's decision without a model: which layer drafts next and when a draft stops.

The live engine and the simulators of a store both ask this class, so a prediction and the run it
predicts can differ in what the layers said only. Entezari Zarch et al. 2025 (DEL).

1. After a round, every exit layer l = 1..L-1 is compared with the full model at the positions whose
   context is true: those before the draft, the accepted drafts, and the one after them.
2. Matches, mismatches and the confidences of either are summed with decay omega per round.
3. alpha_l = matches / (matches + mismatches); G_l(0) = 1, G_l(i) = 1 + alpha_l G_l(i - 1);
   tokens per layer TPL_l(i) = G_l(i) / (L + i l). The next exit is that of the largest TPL.
4. A draft stops after a token of confidence below tau, the middle between the mean confidences of
   the exit's matches and of its mismatches.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError

WARM_UP = 32
"""Prompt positions that the first statistics are taken from; the last predicts the first token."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class DelChoice:
    """What one update decided."""

    exit_layer: int
    draft_length: int
    """The length of the largest TPL; DEL itself draws on ``threshold`` and does not use it."""
    threshold: float
    """NaN until the exit layer had both a match and a mismatch."""
    alpha: tuple[float, ...]
    """Agreement of exit layers 1..L-1."""


class DelRule:
    """Decayed statistics of every exit layer and the choice they lead to.

    The first round drafts one token with layer 1. While :attr:`threshold` is NaN (the exit has not
    had both a match and a mismatch) no confidence is below it and a draft runs to ``gamma_max``, as
    in the paper's code.

    Args:
        n_layers: L, at least 2.
        omega: decay per round, in (0, 1].
        gamma_max: most tokens of a draft; TPL is compared for lengths 0 .. gamma_max - 1.

    Raises:
        ConfigError: a setting out of range.
    """

    def __init__(self, n_layers: int, omega: float = 0.95, gamma_max: int = 18) -> None:
        self.n_layers = whole_number("n_layers", n_layers, least=2)
        self.gamma_max = whole_number("gamma_max", gamma_max, least=1)
        if not 0 < omega <= 1:
            raise ConfigError(f"omega is a decay in (0, 1], got {omega!r}")
        self.omega = float(omega)
        self.exit_layer = 1
        self.history: list[DelChoice] = []
        # Rows: mismatches, matches; columns: exit layers 1..L-1.
        self._counts = np.zeros((2, n_layers - 1))
        self._confidence = np.zeros((2, n_layers - 1))

    @property
    def most(self) -> int:
        """Most tokens the next round may draft."""
        return self.gamma_max if self.history else 1

    @property
    def threshold(self) -> float:
        """Tau of the exit layer; NaN before it had both a match and a mismatch."""
        return self._threshold(self.exit_layer)

    @property
    def alpha(self) -> Floats:
        """Agreement ``[L-1]`` of each exit layer with the model; NaN before a round."""
        return _ratio(self._counts[1], self._counts.sum(0))

    @property
    def tokens_per_layer(self) -> Floats:
        """TPL ``[L-1, gamma_max]`` of exit layer and draft length, in tokens per layer run."""
        alpha, layers = self.alpha, np.arange(1, self.n_layers)
        expected = np.ones_like(alpha)
        columns: list[Floats] = []
        for length in range(self.gamma_max):
            columns.append(expected / (self.n_layers + length * layers))
            expected = 1 + alpha * expected
        return np.stack(columns, 1)

    def go_on(self, drafted: int, confidence: float) -> bool:
        """Draft another token after ``drafted`` ones, the last of this top-1 probability?"""
        return drafted < self.most and not confidence < self.threshold

    def update(
        self,
        tokens: NDArray[np.integer],
        confidence: Floats,
        target: NDArray[np.integer],
        accepted: int,
        before: int = 0,
    ) -> DelChoice:
        """Take in one round and choose the next exit layer.

        Args:
            tokens: ``[L-1, positions]`` choice of each exit layer; the positions are ``before``
                ones ahead of the draft, then those predicting each draft, then the one after.
            confidence: ``[L-1, positions]`` probability of that choice.
            target: ``[positions]`` choice of the full model.
            accepted: drafts that were kept. Positions past the first refused draft have another
                context than the text and are left out; the refused one itself counts.
            before: positions ahead of the first one that predicts a draft.

        Raises:
            ConfigError: arrays that do not belong together, or fewer positions than accepted.
        """
        shape = (self.n_layers - 1, len(target))
        n = before + accepted + 1
        if tokens.shape != shape or confidence.shape != shape or len(target) < n:
            raise ConfigError(
                f"tokens and confidence are [{shape[0]}, positions] with at least {n} positions, "
                f"got {list(tokens.shape)}, {list(confidence.shape)} and {len(target)} targets"
            )
        hit = tokens[:, :n] == target[None, :n]
        sure = np.asarray(confidence, dtype=np.float64)[:, :n]
        self._counts = self.omega * self._counts + np.stack([(~hit).sum(1), hit.sum(1)])
        new = np.stack([np.where(hit, 0.0, sure).sum(1), np.where(hit, sure, 0.0).sum(1)])
        self._confidence = self.omega * self._confidence + new
        # argmax of the flattened table: ties go to the lowest layer, then to the shortest draft.
        best = int(self.tokens_per_layer.argmax())
        self.exit_layer, length = best // self.gamma_max + 1, best % self.gamma_max
        alpha = tuple(self.alpha.tolist())
        self.history.append(DelChoice(self.exit_layer, length, self.threshold, alpha))
        return self.history[-1]

    def _threshold(self, exit_layer: int) -> float:
        means = _ratio(self._confidence[:, exit_layer - 1], self._counts[:, exit_layer - 1])
        return float(means.mean())


def _ratio(a: Floats, b: Floats) -> Floats:
    """Quotients, NaN where b is 0."""
    return np.divide(a, b, out=np.full_like(a, np.nan), where=b > 0)
