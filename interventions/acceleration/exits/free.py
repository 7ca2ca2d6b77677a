"""FREE (Bae et al. 2023): one shallow exit, the deep layers for several tokens at once.

A token leaves after ``exit_layer`` layers or not at all; those that left wait, and the next one
that does not leave takes them along through the deep layers in one call. What the deep layers then
say of the waiting tokens calibrates the threshold for one more head each.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from lensbench.interventions.acceleration.decoding import Decoded, Decoding, Round, check_exit
from lensbench.interventions.acceleration.exits.confidence import of_logits
from lensbench.interventions.acceleration.sampling import Warp
from lensbench.models.base import Model
from lensbench.plan import Plan
from lensbench.tokens import TokensLike

GRID = np.linspace(0.3, 0.9, 10)
"""Thresholds that are looked at."""
POSTERIOR = 0.4
"""Probability of agreement from which a confidence is high enough."""
MOST_FITS = 300


def free_exit(
    model: Model,
    prompt: TokensLike,
    exit_layer: int,
    max_new_tokens: int = 64,
    *,
    threshold: float | None = None,
    warp: Warp = Warp(),  # noqa: B008
    seed: int = 0,
    plan: Plan = Plan(),  # noqa: B008
    stop_ids: Sequence[int] = (),
) -> Decoded:
    """Decode with one shallow exit and synchronised deep layers; the text is not checked.

    Args:
        model: a decoder-only model.
        prompt: one text.
        exit_layer: the shallow exit, 1 to L - 1.
        max_new_tokens: length of the continuation.
        threshold: fixed confidence (largest minus second probability) from which a token leaves;
            None fits one to agreement so far (:class:`AgreementMixture`), beginning at .9.
        warp: temperature, top-k and top-p of the tokens.
        seed: of the draws.
        plan: acts at every layer that runs.
        stop_ids: tokens after which the text ends.

    Raises:
        ConfigError: a setting out of range, several prompts, or an architecture without keys and
            values per layer.

    Example:
        >>> said = acceleration.free_exit(
        ...     early, early.tokens(text), exit_layer=3, max_new_tokens=8, threshold=0.6
        ... )
    """
    state = Decoding(model, prompt, max_new_tokens, warp, seed, plan, stop_ids)
    check_exit(exit_layer, state.runner.n_layers, full=False)
    mixture = AgreementMixture()
    runner, deep, at = state.runner, 0, 0
    waiting: list[Tensor] = []
    left: list[tuple[float, int]] = []
    while not state.done:
        h = runner.run(runner.embed(state.tensor(at), at), 0, exit_layer, at)
        at = len(state.ids)
        waiting.append(h)
        logits = runner.logits(h[:, -1:])[0, -1]
        sure, shallow = float(of_logits("softmax_diff", logits)), int(logits.argmax())
        bound = mixture.threshold if threshold is None else threshold
        if sure >= bound:
            state.exits.append(exit_layer)
            left.append((sure, shallow))
        else:
            out = runner.run(torch.cat(waiting, 1), exit_layer, runner.n_layers, deep)
            needed = len(left) + 1 if threshold is None else 1
            checked = runner.logits(out[:, -needed:])[0]
            pairs = zip([*left, (sure, shallow)], checked.argmax(-1).tolist(), strict=False)
            if threshold is None:
                mixture.learn([(s, token == best) for (s, token), best in pairs])
            logits, deep, waiting, left = checked[-1], at, [], []
            state.exits.append(runner.n_layers)
        state.emit([state.sampler.draw(logits)], Round(0, 0, 0))
    return state.result()


@dataclass
class AgreementMixture:
    """Beta distributions of confidence: tokens that agree with the deep layers, and the others.

    Fitted by moments to tokens whose agreement is known (the released code runs an EM whose second
    line overwrites the responsibilities by hard labels; the labels are known, so none is run),
    beginning with Beta(2, 1) for agreement and Beta(1, 2) against it. The threshold is the least of
    ten points between .3 and .9 at which agreement has a probability above .4, or the largest.
    """

    agree: list[float] = field(default_factory=list[float])
    differ: list[float] = field(default_factory=list[float])
    threshold: float = 0.9
    fits: int = 0

    def learn(self, seen: Sequence[tuple[float, bool]]) -> None:
        """Take in confidences and whether the deep layers agreed; set the threshold anew."""
        for sure, agreed in seen:
            (self.agree if agreed else self.differ).append(min(max(sure, 1e-4), 1 - 1e-4))
        if self.fits < MOST_FITS:
            self.fits += 1
            self.threshold = self._fit()

    def posterior(self, sure: np.ndarray) -> np.ndarray:
        """Probability that a token of this confidence agrees with the deep layers."""
        n, m = len(self.agree) + 1, len(self.differ) + 1
        yes = n * stats.beta.pdf(sure, *_moments(self.agree, (2.0, 1.0)))
        no = m * stats.beta.pdf(sure, *_moments(self.differ, (1.0, 2.0)))
        return yes / (yes + no)

    def _fit(self) -> float:
        high = self.posterior(GRID) > POSTERIOR
        return float(GRID[int(high.argmax())]) if high.any() else float(GRID[-1])


def _moments(x: Sequence[float], start: tuple[float, float]) -> tuple[float, float]:
    """Parameters of the beta distribution with the mean and variance of ``x``."""
    if len(x) < 2:
        return start
    mean, var = float(np.mean(x)), float(np.var(x))
    total = mean * (1 - mean) / var - 1 if var > 0 else 0.0
    return (mean * total, (1 - mean) * total) if total > 0 else start
