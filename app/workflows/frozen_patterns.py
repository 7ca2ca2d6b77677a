"""Places of a sweep once more, with every attention pattern behind them as it was without them.

What is left of an effect goes through what heads move (OV); the rest goes through where later heads
look (QK). Source: Singh et al. 2024, arXiv:2404.07129; see ``interventions.preserve_patterns``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lensbench.app.workflows.live import running
from lensbench.app.workflows.patching import PatchAsk, pairs_for
from lensbench.errors import ConfigError
from lensbench.interventions.metrics import as_metric, ends_of
from lensbench.interventions.patching.check import place_at, values_for
from lensbench.interventions.patching.engine import Group
from lensbench.interventions.patching.result import PatchingResult
from lensbench.interventions.places import Place, columns
from lensbench.interventions.steering.rows import merged
from lensbench.interventions.training.preserving import preserve_patterns
from lensbench.interventions.values import Values, groups
from lensbench.plan import Plan
from lensbench.results import Controls
from lensbench.tokens import Tokens

if TYPE_CHECKING:
    from lensbench.models import Model


def with_frozen(ask: PatchAsk, result: PatchingResult, top: int = 10) -> PatchingResult:
    """The ``top`` strongest places of a sweep, patched while later patterns stay as they were.

    Raises:
        ConfigError: a subspace, answers of several tokens, or sites that make patterns.
        UnknownSiteError: attention of the model is out of reach.
    """
    if ask.subspace:
        raise ConfigError("--freeze-patterns takes whole places: leave out --subspace")
    far = np.abs(np.nan_to_num(result.effect, nan=result.base) - result.base)
    chosen = np.argsort(-far, kind="stable")[:top]
    where = [place_at(result, int(i)) for i in chosen]
    with running(ask.model, ask.revision) as model:
        pairs = pairs_for(model, ask)
        if pairs.summed:
            raise ConfigError("--freeze-patterns measures the next token: give --several first")
        metric = as_metric(ask.metric)
        make = values_for(model, pairs, where, ask.how, ask.batch_size, ask.seed)
        found = np.full((len(where), len(pairs)), np.nan)
        for rows in groups(len(pairs), ask.batch_size):
            part = pairs.select(rows)
            good = model.run(part.clean, logits="last").logits
            assert good is not None
            base = part.corrupted if ask.how == "denoise" else part.clean
            values = make(Group(part, rows, base, good[:, -1]))
            for i, place in enumerate(where):
                logits, there = _frozen(model, base, place, values, part)
                measured = metric(ends_of(part, logits, good[:, -1])).double().cpu().numpy()
                found[i, rows[there]] = measured[there]
    none = np.empty(0, dtype=np.int64)
    return replace(
        result, **columns(where), values=found, random=np.empty((0, result.n)), tried=none,
        config={**result.config, "places": [str(p) for p in where], "patterns": "kept"},
        controls=Controls({"patterns_follow": float(result.effect[chosen[0]])},
                          "the same patches with patterns that follow them"),
    )  # fmt: skip


def beside(rows: Sequence[Mapping[str, Any]], kept: PatchingResult) -> list[dict[str, Any]]:
    """Rows of the strongest places, each with its effect where patterns are kept."""
    low, high = kept.intervals()
    told = zip(kept.effect.tolist(), low.tolist(), high.tolist(), strict=True)
    return [
        {**row, "kept": _number(e), "kept_low": _number(a), "kept_high": _number(b)}
        for row, (e, a, b) in zip(rows, told, strict=True)
    ]


def _frozen(
    model: "Model", base: Tokens, place: Place, values: Values, part: Any
) -> tuple[Any, list[int]]:
    ops = [values.op(place, row) for row in range(len(part))]
    there = [row for row, op in enumerate(ops) if op is not None]
    plan = merged([Plan() if op is None else Plan((place.edit(op, place.at(part, row)),))
                   for row, op in enumerate(ops)])  # fmt: skip
    logits = model.run(base, preserve_patterns(model, base, plan), logits="last").logits
    assert logits is not None
    return logits, there


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value
