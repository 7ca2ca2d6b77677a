"""DEL's rounds from the lens table: the live engine's own rule, asked with stored choices.

The statistics of a round end with the first refused draft, so they are decided by the true context
and with them every exit layer, threshold and accepted token. What was drafted after a confident
miss is bounded only.
"""

import numpy as np

from lensbench.interventions.acceleration.decoding import Round
from lensbench.interventions.acceleration.speculative.del_rule import WARM_UP, DelRule
from lensbench.interventions.acceleration.study.lens_table import DocumentLens, LensTable
from lensbench.interventions.acceleration.study.own import refuse_inexact
from lensbench.interventions.acceleration.study.simulate import draft_until
from lensbench.interventions.acceleration.study.trace import Trace


def sim_del(
    table: LensTable, omega: float = 0.95, gamma_max: int = 18, *, exact: bool = True
) -> list[Trace]:
    """Rounds of DEL on every document: exit layers and accepted tokens equal the live ones.

    Source: Entezari Zarch et al. 2025 (DEL).

    Args:
        table: of a store of own text, prompts included.
        omega: decay of the statistics per round.
        gamma_max: most tokens of a draft.
        exact: refuse a table of other text; False makes a proxy of it.

    Raises:
        ConfigError: a setting out of range, or a model of one layer.
        MismatchError: an exact prediction from other text than the model's own.

    Example:
        >>> told = acceleration.sim_del(acceleration.lens_table(own, early))
    """
    if exact:
        refuse_inexact(table.inexact)
    rules = ((d, DelRule(table.n_layers, omega, gamma_max)) for d in table.documents())
    return [_rounds(document, rule) for document, rule in rules]


def _rounds(document: DocumentLens, rule: DelRule) -> Trace:
    table, first = document.table, document.first
    best, sure = table.best[:, document.columns], table.top1[:, document.columns]
    final = np.concatenate([best[-1, :first], document.of(table.chosen)])
    rounds, bounds, t = list[Round](), list[int](), 0
    while t < document.n_new:
        exit_layer, limit = rule.exit_layer, document.n_new - t - 1
        at = first + t
        agrees = best[exit_layer - 1, at:] == final[at:]
        accepted, low, high = draft_until(agrees, sure[exit_layer - 1, at:], limit, rule)
        rounds.append(Round(exit_layer if low else 0, low, accepted))
        bounds.append(high)
        before = min(WARM_UP - 1, first) if not t else 0
        seen = slice(at - before, at + accepted + 1)
        rule.update(best[:-1, seen], sure[:-1, seen], final[seen], accepted, before)
        t += accepted + 1
    return Trace(tuple(rounds), tuple(bounds), document.n_prompt, len(rounds))
