"""The smallest exit threshold that keeps agreement, told from a store: with a bound, and without.

1. Every threshold's risk on every text: the share of its new tokens that are not the full model's.
2. With a bound: Learn-then-Test from the highest threshold down (Hoeffding-Bentkus p-values).
3. Without: the lowest threshold whose mean agreement over texts is at least the level.
"""

from dataclasses import dataclass
from shlex import quote

import numpy as np

from lensbench.app.workflows.acceleration import THRESHOLDS, ExitAsk, held
from lensbench.app.workflows.live import Shelf, hold_store, store_version
from lensbench.app.workflows.sequences import model_name
from lensbench.interventions.acceleration.exits.calibrate import (
    Calibration,
    learn_then_test,
    texts_needed,
)
from lensbench.interventions.acceleration.study.simulate_exits import exit_quality, sim_calm
from lensbench.stats import Interval, bootstrap_mean

EPSILON = 0.05
"""Probability with which the bound may fail."""
NEVER = THRESHOLDS[-1]
"""A threshold that no confidence reaches."""


@dataclass(frozen=True)
class Chosen:
    """What keeps an agreement of ``level``."""

    level: float
    bound: Calibration
    plain: float
    """Lowest threshold whose mean agreement is at least the level."""
    agreement: Interval
    """At that threshold, over texts."""
    needed: tuple[tuple[float, int], ...]
    """Thresholds below the bound's that more texts of the same risks would bound, the highest
    first, with how many it takes. Those above each have to hold too."""

    @property
    def n_needed(self) -> int:
        """Texts without one other token that the bound would need at least."""
        found = texts_needed(0.0, 1 - self.level, EPSILON)
        assert found is not None
        return found

    @property
    def use(self) -> float:
        """The threshold to set: the bound's where there is one."""
        return self.bound.threshold if np.isfinite(self.bound.threshold) else self.plain


_risks: Shelf[np.ndarray] = Shelf(16)


def threshold_for(url: str, measure: str, level: float) -> Chosen:
    """The threshold that keeps an agreement of ``level``.

    Raises:
        LensbenchError: as :func:`~lensbench.app.workflows.acceleration.held`.
    """
    risks = _risks.get((url, store_version(url), measure), lambda: _risks_of(url, measure))
    falling = THRESHOLDS[::-1]
    bound = learn_then_test(risks, falling, delta=1 - level, epsilon=EPSILON)
    good = [i for i, mean in enumerate(risks.mean(1)) if 1 - mean >= level]
    last = good[-1]  # that of NEVER is always among them
    return Chosen(level, bound, falling[last], bootstrap_mean(1 - risks[last]),
                  _needed(risks, falling, bound))  # fmt: skip


def _needed(
    risks: np.ndarray, falling: tuple[float, ...], bound: Calibration
) -> tuple[tuple[float, int], ...]:
    """See :attr:`Chosen.needed`; ends before the first threshold whose mean is not good enough."""
    found: list[tuple[float, int]] = []
    most = 0
    for threshold, row in zip(falling, risks, strict=True):
        n = texts_needed(float(row.mean()), bound.delta, bound.epsilon)
        if n is None:
            break
        most = max(most, n)
        if threshold < min(bound.threshold, NEVER):
            found.append((threshold, most))
    return tuple(found)


def _risks_of(url: str, measure: str) -> np.ndarray:
    """``[thresholds, texts]``, the highest threshold first."""
    table = held(url).table
    docs = table.doc[table.new]
    names, text = np.unique(docs, return_inverse=True)
    rows: list[np.ndarray] = []
    for threshold in THRESHOLDS[::-1]:
        traces = sim_calm(table, threshold, measure=measure, exact=False)
        columns = np.full(table.step.shape, table.n_layers)
        columns[table.new] = np.concatenate([t.exits for t in traces])
        agreed = exit_quality(table, columns)["agreement"].astype(np.float64)
        rows.append(1 - np.bincount(text, weights=agreed) / np.bincount(text))
    return np.stack(rows).reshape(len(rows), len(names)).clip(0, 1)


def told(found: Chosen) -> str:
    """The choice in words."""
    n, share = found.bound.n_texts, f"{100 * found.level:.0f} %"
    if found.bound.threshold == NEVER:
        first = f"Only never leaving early keeps {share} with a bound ({n} texts)."
    elif np.isfinite(found.bound.threshold):
        sure, seen = 100 * (1 - EPSILON), 100 * (1 - found.bound.risk)
        first = (f"Threshold {found.bound.threshold:g}: with probability {sure:.0f} %, new "
                 f"texts agree on average at {share} of tokens or more (Learn-then-Test, "
                 f"n = {n} texts, measured {seen:.1f} %).")  # fmt: skip
    else:
        first = (f"No threshold has a bound of {share} from {n} texts: at least {found.n_needed} "
                 "are needed even if no token differs.")  # fmt: skip
    first += _more(found)
    mean, low, high = (100 * x for x in (found.agreement.mean, found.agreement.low,
                                         found.agreement.high))  # fmt: skip
    name = "never leaving early" if found.plain == NEVER else f"threshold {found.plain:g}"
    return (f"{first} Without a bound: {name}, mean agreement {mean:.1f} % "
            f"(95 % interval over texts {low:.1f} to {high:.1f} %).")  # fmt: skip


def _more(found: Chosen) -> str:
    """How many texts would bound a lower threshold, in words."""
    if not found.needed:
        return ""
    (high, few), (low, many) = found.needed[0], found.needed[-1]
    told = f" To bound threshold {high:g} takes about {few:,} texts that agree as these do"
    return f"{told}." if high == low else f"{told}, {low:g} about {many:,}."


def python_of(ask: ExitAsk, level: float) -> str:
    """The same in a notebook."""
    return (
        "from lensbench.app.workflows.exit_threshold import threshold_for\n\n"
        f"threshold_for({ask.store!r}, {ask.measure!r}, {level!r})\n"
    )


def command_of(ask: ExitAsk, found: Chosen) -> str:
    """The chosen exit, run live on the command line."""
    name = model_name(hold_store(ask.store))[0]
    how = "--live" if held(ask.store).exact else "--proxy"
    method = f"early_exit(threshold={found.use:g}, measure={ask.measure!r})"
    study = f"lensbench accelerate --model {quote(name)} --store {quote(ask.store)} {how}"
    return f'{study} --methods "{method}"'
