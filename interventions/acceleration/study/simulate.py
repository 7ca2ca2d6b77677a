"""Rounds of drafting from one exit, told from the lens table alone; no model.

The state at position P - 1 + t predicts new token t (P: length of the prompt). A round that begins
at new token t drafts t, t + 1, ...; a draft is right where the exit layer chooses what the full
model wrote, and after the first wrong one nothing that is drafted counts.

Rules that end a draft by confidence go on after a wrong draft by confidences the store does not
hold. There the fewest drafts are those of a confidence of 0, the most those of 1.
"""

import copy
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.interventions.acceleration.decoding import Round, check_exit
from lensbench.interventions.acceleration.speculative.schedules import (
    AdaptiveThreshold,
    ConfidenceStop,
    DraftLengthFSM,
)
from lensbench.interventions.acceleration.study.lens_table import DocumentLens, LensTable
from lensbench.interventions.acceleration.study.own import refuse_inexact
from lensbench.interventions.acceleration.study.trace import Trace


class StopRule(Protocol):
    """When to stop drafting."""

    def go_on(self, drafted: int, confidence: float) -> bool:
        """Draft another token after ``drafted`` ones, the last of this top-1 probability?"""
        ...


class DraftRule(StopRule, Protocol):
    """A rule that learns from rounds; see :mod:`speculative.schedules`."""

    def update(self, drafted: int, accepted: int) -> None:
        """Take in one round."""
        ...


def sim_fixed(
    table: LensTable, exit_layer: int, draft: int = 4, *, exact: bool = True
) -> list[Trace]:
    """Rounds of :func:`fixed_exit` on every document: equal to the live ones, round by round.

    Args:
        table: of a store of own text.
        exit_layer: layers of the draft, 1 to L.
        draft: tokens drafted per round, at least 1.
        exact: refuse a table of other text; False makes a proxy of it.

    Raises:
        ConfigError: a setting out of range.
        MismatchError: an exact prediction from other text than the model's own.

    Example:
        >>> table = acceleration.lens_table(own, early)
        >>> told = acceleration.sim_fixed(table, exit_layer=2, draft=3)
        >>> acceleration.rates(told).acceptance
    """
    begin(table, exit_layer, exact)
    whole_number("draft", draft, least=1)
    traces: list[Trace] = []
    for document in table.documents():
        rounds, t = list[Round](), 0
        runs = _run_lengths(document.agrees[exit_layer - 1])
        while t < document.n_new:
            drafted = min(draft, document.n_new - t - 1)
            accepted = min(int(runs[t]), drafted)
            rounds.append(Round(exit_layer if drafted else 0, drafted, accepted))
            t += accepted + 1
        most = tuple(r.drafted for r in rounds)
        traces.append(Trace(tuple(rounds), most, document.n_prompt, len(rounds)))
    return traces


def sim_confidence(
    table: LensTable, exit_layer: int, threshold: float = 0.6, most: int = 6, *, exact: bool = True
) -> list[Trace]:
    """Rounds whose draft ends with the first token below ``threshold`` (that one is checked too).

    Accepted tokens and rounds are exact. Where the first wrong token was confident, drafted tokens
    are bounded only. Kangaroo's second exit without its adapter.

    Raises:
        ConfigError: a setting out of range.
        MismatchError: an exact prediction from other text than the model's own.

    Example:
        >>> told = acceleration.sim_confidence(
        ...     acceleration.lens_table(own, early), 2, threshold=0.6
        ... )
    """
    if not 0 <= threshold < float("inf"):
        raise ConfigError(f"threshold must be >= 0 (0: never stop), got {threshold!r}")
    return sim_rule(table, exit_layer, ConfidenceStop(threshold, most), exact=exact)


def sim_fsm(
    table: LensTable, exit_layer: int, length: int = 6, most: int = 18, *, exact: bool = True
) -> list[Trace]:
    """Rounds whose length grows by 1 after full acceptance and shrinks by 1 after another.

    Exact, drafted tokens too: the length does not look at confidence.

    Raises:
        ConfigError: a setting out of range.
        MismatchError: an exact prediction from other text than the model's own.

    Example:
        >>> told = acceleration.sim_fsm(acceleration.lens_table(own, early), 2)
    """
    return sim_rule(table, exit_layer, DraftLengthFSM(length, most=most), exact=exact)


def sim_dv_threshold(
    table: LensTable, exit_layer: int, threshold: float = 0.6, most: int = 12, *, exact: bool = True
) -> list[Trace]:
    """Rounds whose stopping threshold follows the acceptance rate (Draft & Verify), from one exit.

    The threshold moves by what was drafted, so that it too is known between bounds; a trace says
    after how many rounds the bounds would decide differently (``known``). Begins anew with each
    document.

    Raises:
        ConfigError: a setting out of range.
        MismatchError: an exact prediction from other text than the model's own.

    Example:
        >>> told = acceleration.sim_dv_threshold(acceleration.lens_table(own, early), 2)
    """
    return sim_rule(table, exit_layer, AdaptiveThreshold(threshold, most), exact=exact)


def sim_rule(
    table: LensTable, exit_layer: int, rule: DraftRule, *, exact: bool = True
) -> list[Trace]:
    """Rounds from one exit under any rule of length, which begins anew with each document.

    The rule has to be monotone: more drafted tokens never make it stop later than fewer would.

    Raises:
        ConfigError: a setting out of range.
        MismatchError: an exact prediction from other text than the model's own.
    """
    begin(table, exit_layer, exact)
    return [
        rounds_of(d, exit_layer, d.agrees[exit_layer - 1], d.of(table.top1)[exit_layer - 1], rule)
        for d in table.documents()
    ]


def rounds_of(
    document: DocumentLens,
    exit_layer: int,
    agrees: Bool[np.ndarray, " new"],
    sure: Float[np.ndarray, " new"],
    start: DraftRule,
) -> Trace:
    """Rounds of one document, whoever drafts: told which new tokens it would name, and how surely.

    ``start`` is copied: once for the fewest drafts of every round, once for the most.
    """
    fewest, most = copy.deepcopy(start), copy.deepcopy(start)
    rounds, bounds, known, t = list[Round](), list[int](), -1, 0
    while t < document.n_new:
        limit = document.n_new - t - 1
        accepted, low, high = draft_until(agrees[t:], sure[t:], limit, fewest)
        if draft_until(agrees[t:], sure[t:], limit, most)[:1] != (accepted,) and known < 0:
            known = len(rounds)
        rounds.append(Round(exit_layer if low else 0, low, accepted))
        bounds.append(high)
        fewest.update(low, accepted)
        most.update(high, accepted)
        t += accepted + 1
    known = len(rounds) if known < 0 else known
    return Trace(tuple(rounds), tuple(bounds), document.n_prompt, known)


def draft_until(
    agrees: np.ndarray, sure: np.ndarray, limit: int, rule: StopRule
) -> tuple[int, int, int]:
    """Accepted tokens, and the fewest and most that were drafted, of one round.

    Draft ``i`` is kept where ``agrees[i]`` and all before it were; its confidence ``sure[i]`` is
    known up to the first that is not.
    """
    for i in range(limit):
        goes_on = rule.go_on(i + 1, float(sure[i]))
        if not agrees[i]:
            if not goes_on:
                return i, i + 1, i + 1
            low, high = (_until(rule, i + 1, limit, unknown) for unknown in (0.0, 1.0))
            return i, low, high
        if not goes_on:
            return i + 1, i + 1, i + 1
    return limit, limit, limit


def begin(table: LensTable, exit_layer: int, exact: bool) -> None:
    """Check what every simulation from one exit is given.

    Raises:
        ConfigError: no such exit layer.
        MismatchError: an exact prediction from other text than the model's own.
    """
    check_exit(exit_layer, table.n_layers)
    if exact:
        refuse_inexact(table.inexact)


def _until(rule: StopRule, drafted: int, limit: int, confidence: float) -> int:
    while drafted < limit:
        drafted += 1
        if not rule.go_on(drafted, confidence):
            break
    return drafted


def _run_lengths(agrees: np.ndarray) -> np.ndarray:
    """How many agreements in a row begin at each place."""
    n = len(agrees)
    misses = np.where(agrees, n, np.arange(n))
    return np.minimum.accumulate(misses[::-1])[::-1] - np.arange(n)
