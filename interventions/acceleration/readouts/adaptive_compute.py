"""How many samples each prompt deserves (Damani et al. 2024, "Learning How Hard to Think").

1. A probe on states of the last prompt token guesses the chance that one sample succeeds.
2. Samples are given one by one to the prompt with the largest marginal gain
   ``lambda (1 - lambda)^b``; gains only fall, so this is the best allocation for those chances.
3. What the allocation would have earned is read from stored rewards, without a new sample.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.interventions.acceleration.readouts.logistic import fit_logistic
from lensbench.interventions.acceleration.readouts.rows import split
from lensbench.interventions.acceleration.study.own import prompt_lengths
from lensbench.results import Controls, Result
from lensbench.stats import spearman

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.store import ActivationStore

POLICIES = ("uniform", "probe", "oracle", "shuffled")


@dataclass(frozen=True, kw_only=True, eq=False)
class AllocationReport(Result):
    """Share of held-out prompts solved by at least one sample, for each way to spend a budget."""

    budgets: tuple[int, ...]
    """Samples per prompt on average."""
    solved: Float[np.ndarray, "policies budgets prompts"]
    """Chance that a prompt is solved with the samples it was given; policies as ``POLICIES``.
    ``oracle`` allocates by the very rewards it is scored on: a bound no probe reaches."""
    given: Int[np.ndarray, "policies budgets prompts"]
    predicted: Float[np.ndarray, " prompts"]
    """The probe's chance of success of one sample."""
    rate: Float[np.ndarray, " prompts"]
    """The share of stored samples that succeeded."""

    def to_frame(self) -> "pd.DataFrame":
        """One row per policy and budget; intervals are bootstraps over prompts."""
        import pandas as pd

        n = len(self.rate)
        drawn = np.random.default_rng(0).integers(0, n, (1000, n))
        rows = [
            (name, b, values.mean(), *np.quantile(values[drawn].mean(1), (0.025, 0.975)), n)
            for name, block in zip(POLICIES, self.solved, strict=True)
            for b, values in zip(self.budgets, block, strict=True)
        ]
        frame = pd.DataFrame(rows, columns=["policy", "budget", "solved", "low", "high", "n"])
        frame.attrs["units"] = {"budget": "samples per prompt", "solved": "share of prompts"}
        return frame

    def plot(self) -> "go.Figure":
        """Solved prompts by budget, one line per policy."""
        from lensbench.plots import lines

        return lines(
            self.to_frame(), x="budget", y="solved", color="policy", low="low", high="high",
            title="Prompts solved by how samples are shared out",
            subtitle=f"{len(self.rate)} held-out prompts; 95 % over prompts",
        )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """Gain over equal shares at the smallest budget, of probe, oracle and control."""
        at = self.solved[:, 0].mean(-1)
        gains = {f"{name}_gain": float(at[i] - at[0]) for i, name in enumerate(POLICIES) if i}
        return {**gains, "rank_correlation": spearman(self.predicted, self.rate)}


def adaptive_compute(
    states: Float[np.ndarray, "prompts d_model"],
    rewards: Float[np.ndarray, "prompts samples"],
    budgets: Sequence[int] = (1, 2, 4, 8),
    *,
    test: float = 0.5,
    penalty: float = 1e-2,
    seed: int = 0,
) -> AllocationReport:
    """Fit the probe on some prompts and spend the budget on the others.

    The chance that ``b`` of ``m`` stored samples hold a success is ``1 - C(m - c, b) / C(m, b)``
    for ``c`` successes (Chen et al. 2021, the unbiased pass@k), so no prompt is given more than
    ``m`` samples. Control: the probe's guesses dealt out to other prompts.

    Args:
        states: of the last prompt token, such as :func:`last_prompt_states` gives.
        rewards: 0 or 1 for each stored sample.
        budgets: samples per prompt on average, each at most the number of stored samples.
        test: share of prompts that the budget is spent on.
        penalty: of the probe, see :func:`fit_logistic`.
        seed: of the split and of the control.

    Raises:
        ConfigError: rewards that are not 0 or 1, shapes that do not fit, or a budget out of range.
        NotEnoughDataError: fewer than two prompts.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> states, rewards = rng.normal(size=(60, 8)), (rng.random((60, 8)) < 0.4).astype(float)
        >>> found = acceleration.adaptive_compute(states, rewards)
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    if rewards.ndim != 2 or len(states) != len(rewards) or not rewards.shape[1]:
        raise ConfigError(
            f"rewards must be [prompts, samples] for {len(states)} prompts, got {rewards.shape}"
        )
    if not np.isin(rewards, (0.0, 1.0)).all():
        raise ConfigError("rewards must be 0 or 1 for every sample; threshold graded ones first")
    n_samples = rewards.shape[1]
    wanted = [whole_number("each of budgets", b, least=1) for b in budgets]
    if not wanted or max(wanted) > n_samples:
        raise ConfigError(f"budgets must be 1 to {n_samples}, the stored samples; got {budgets!r}")
    fit, held = split(list(rewards), test, seed)
    x = np.asarray(states, dtype=np.float64)
    mass = np.full(len(fit), float(n_samples))
    probe = fit_logistic(x[fit], rewards[fit].mean(1), mass=mass, penalty=penalty)
    wins, guess = rewards[held].sum(1), probe(x[held])
    mixed = np.random.default_rng(seed).permutation(guess)
    chances = {"probe": guess, "oracle": wins / n_samples, "shuffled": mixed}
    given = np.array([
        [
            np.full(len(held), b) if name == "uniform"
            else allocate(chances[name], b * len(held), most=n_samples)
            for b in wanted
        ]
        for name in POLICIES
    ])  # fmt: skip
    report = AllocationReport(
        budgets=tuple(wanted), given=given, solved=_solved(wins, n_samples, given),
        predicted=guess, rate=wins / n_samples,
        config={"test": test, "penalty": penalty, "seed": seed, "n_fit": len(fit)},
        provenance=provenance.record(seed=seed),
    )  # fmt: skip
    control = Controls({"shuffled_gain": report.summary()["shuffled_gain"]})
    return replace(report, controls=control)


def allocate(
    success: Float[np.ndarray, " prompts"],
    budget: int,
    *,
    least: int = 0,
    most: int | None = None,
) -> Int[np.ndarray, " prompts"]:
    """Samples per prompt that maximise the expected number of prompts solved.

    Sum of ``1 - (1 - lambda_i)^(b_i)`` over prompts with ``sum b_i = budget`` (less only where
    every prompt has ``most``); equal gains go to the first prompt.

    Raises:
        ConfigError: chances outside [0, 1], or a budget below ``least`` per prompt.

    Example:
        >>> acceleration.allocate(np.array([0.9, 0.5, 0.1]), budget=6).tolist()
    """
    chance = np.asarray(success, dtype=np.float64)
    budget = whole_number("budget", budget, least=0)
    if chance.ndim != 1 or not ((chance >= 0) & (chance <= 1)).all():
        raise ConfigError("success must be one chance in [0, 1] per prompt")
    if budget < least * len(chance):
        raise ConfigError(f"a budget of {budget} is less than {least} for {len(chance)} prompts")
    given = np.full(len(chance), least, dtype=np.int64)
    heap = [(-p * (1 - p) ** least, i) for i, p in enumerate(chance.tolist())]
    heapq.heapify(heap)
    for _ in range(budget - int(given.sum())):
        while heap and most is not None and given[heap[0][1]] >= most:
            heapq.heappop(heap)
        if not heap:
            break
        gain, i = heap[0]
        given[i] += 1
        heapq.heapreplace(heap, (gain * (1 - float(chance[i])), i))
    return given


def last_prompt_states(store: "ActivationStore", site: str) -> Float[np.ndarray, "prompts d_site"]:
    """Stored activations of the last token of every prompt, of a store of own text.

    Raises:
        ConfigError: a store that was not made by ``capture_own``.
        MissingDataError: a site that is not in the store.

    Example:
        >>> states = acceleration.last_prompt_states(own, "blocks.5.resid_post")
    """
    if "prompt_lengths" not in store.text:
        raise ConfigError(
            f"the store in {store.url} does not say where prompts end; make it with capture_own"
        )
    index = store.index()
    starts = np.searchsorted(index.doc_ids, np.arange(len(prompt_lengths(store))))
    return store.rows(site, starts + np.array(prompt_lengths(store)) - 1)


def _solved(wins: np.ndarray, n_samples: int, given: np.ndarray) -> np.ndarray:
    """1 - C(m - c, b) / C(m, b), as a product of ``b`` shares of failures left."""
    missed = np.ones(given.shape)
    for drawn in range(n_samples):
        left = np.maximum(n_samples - wins - drawn, 0) / (n_samples - drawn)
        missed = np.where(given > drawn, missed * left, missed)
    return 1 - missed
