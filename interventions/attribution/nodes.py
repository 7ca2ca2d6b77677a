"""Estimate every patch of a sweep from gradients: a few passes instead of one for each place.

An estimate is a claim about patches. ``result.verify(model, pairs)`` does some of them.
"""

import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from lensbench import provenance
from lensbench.arguments import refuse_no_model, whole_number
from lensbench.errors import ConfigError, UnknownNameError
from lensbench.interventions.attribution.gradients import Question
from lensbench.interventions.attribution.methods import (
    RULES,
    Batch,
    Estimate,
    Path,
    Rule,
    atp,
    ig,
    ig_inputs,
)
from lensbench.interventions.attribution.result import AttributionResult
from lensbench.interventions.attribution.star import atp_star
from lensbench.interventions.metrics import Metric, MetricLike, as_metric
from lensbench.interventions.patching.sweep import DIRECTIONS
from lensbench.interventions.places import Each, Place, columns, places
from lensbench.interventions.values import groups, others, run_of
from lensbench.models.base import Model
from lensbench.prompts.pairs import PromptPairs
from lensbench.prompts.score import check_pairs
from lensbench.results import Controls
from lensbench.sites import Site
from lensbench.stats import mean_there

Method = Literal["atp", "atp_qk", "atp_star", "ig", "ig_inputs"]
METHODS: tuple[Method, ...] = ("atp", "atp_qk", "atp_star", "ig", "ig_inputs")
_INTEGRALS = ("ig", "ig_inputs")


def attribute(
    model: Model,
    pairs: PromptPairs,
    sites: str | Site | Sequence[str | Site] = "resid_pre",
    *,
    method: Method = "atp",
    direction: Literal["denoise", "noise"] = "denoise",
    metric: MetricLike = "logit_diff",
    layers: Sequence[int] | None = None,
    positions: Each | Sequence[int | str] | None = None,
    heads: Each | Sequence[int] = "each",
    dims: Sequence[int] | None = None,
    steps: int = 30,
    rule: Rule = "midpoint",
    batch_size: int = 64,
    seed: int = 0,
) -> AttributionResult:
    """Estimate what :func:`patch_sweep` with the same arguments would measure.

    ``atp``: ``(a_source - a_base) . d m / d a`` at the base run. ``ig``: the gradient averaged
    along the path of each site's activations, ``ig_inputs``: of the embeddings. ``atp_qk``: the
    softmax of patched queries and keys computed exactly. ``atp_star``: that and GradDrop; its
    estimates are sizes. Source: Nanda 2023 and Syed et al. 2023, arXiv:2310.10348 (atp);
    Sundararajan et al. 2017, arXiv:1703.01365, and Hanna et al. 2024, arXiv:2403.17806 (ig);
    Kramar et al. 2024, arXiv:2403.00745 (AtP*).

    Args:
        model: any back end that gives gradients.
        pairs: from :mod:`lensbench.prompts`; aligned token by token.
        sites: see :func:`lensbench.interventions.places.places` for this and the last four of
            ``layers``, ``positions``, ``heads``, ``dims``.
        method: see above.
        direction: ``denoise``: clean states into the corrupted run; ``noise``: the reverse.
        metric: a name of :data:`lensbench.interventions.metrics.METRICS` or a function that can be
            differentiated.
        layers: which layers; left out, all.
        positions: ``each``, ``together``, numbers or roles.
        heads: ``each``, ``together`` or numbers.
        dims: neurons, latents or channels, one by one.
        steps: points of an integral.
        rule: ``midpoint`` or ``left`` ends of the steps.
        batch_size: most prompts (times points of the path) in one pass.
        seed: of the control, which asks for another pair's answer.

    Raises:
        ConfigError, UnknownNameError, UnknownSiteError: arguments that do not fit; a metric without
            gradient, or one that is flat at the base run.
        MismatchError: pairs of another tokenizer.
        NonFiniteError: NaN in a state or in a gradient.

    Example:
        >>> guess = interventions.attribute(model, pairs, "resid_pre", method="atp")
        >>> checked = guess.verify(model, pairs, top=3, random=3)
    """
    refuse_no_model(model)
    began = time.monotonic()
    chosen = as_metric(metric)
    _check(method, direction, chosen, rule)
    model.require_next_token("attribution")
    pairs.require_next_token("attribution")
    size = whole_number("batch_size", batch_size, least=1)
    path = Path(whole_number("steps", steps, least=1), rule)
    check_pairs(model, pairs)
    where = places(model, pairs, sites, layers=layers, positions=positions, heads=heads, dims=dims)
    sweep = _Sweep(model, pairs, where, direction, chosen, size, strangers_of(pairs, seed))
    parts = [sweep.group(rows, method, path) for rows in groups(len(pairs), size)]
    joined = {name: np.concatenate([p[name] for p in parts], axis=-1) for name in parts[0]}
    whole = tuple(n.removeprefix("total ") for n in joined if n.startswith("total "))
    stack = lambda kind: np.array([joined[f"{kind} {w}"] for w in whole]).reshape(  # noqa: E731
        len(whole), len(pairs)
    )
    integral = {"steps": steps, "rule": rule} if method in _INTEGRALS else {}
    config: dict[str, Any] = {
        "pairs": pairs.fingerprint(), "method": method, "direction": direction,
        "metric": chosen.name, "places": [str(p) for p in where], "seed": seed, **integral,
        **pairs.scoring(),
    }  # fmt: skip
    return AttributionResult(
        task=pairs.task, method=method, direction=direction, metric=chosen.name, unit=chosen.unit,
        **columns(where), values=joined["values"], other=joined["other"],
        clean=joined["clean"], corrupted=joined["corrupted"],
        whole=whole, total=stack("total"), rise=stack("rise"), config=config,
        controls=other_question(joined["values"], joined["other"]),
        provenance=provenance.record(
            model=vars(model.card), seed=seed, seconds=time.monotonic() - began
        ),
    )  # fmt: skip


class _Sweep:
    """The parts of an attribution that are the same for all groups of prompts."""

    def __init__(
        self, model: Model, pairs: PromptPairs, where: Sequence[Place], direction: str,
        metric: Metric, size: int, strangers: np.ndarray | None,
    ) -> None:  # fmt: skip
        self.model, self.pairs, self.where, self.direction = model, pairs, where, direction
        self.metric, self.size, self.strangers = metric, size, strangers

    def group(self, rows: np.ndarray, method: Method, path: Path) -> dict[str, np.ndarray]:
        """Everything measured of some prompts, the last axis prompts."""
        model, part = self.model, self.pairs.select(rows)
        read = list(dict.fromkeys(p.site for p in self.where))
        denoise = self.direction == "denoise"
        clean = run_of(model, part.clean, part, read if denoise else [])
        corrupted = run_of(model, part.corrupted, part, [] if denoise else read)
        runs = {"clean": clean, "corrupted": corrupted}
        asked = [Question(self.metric, part, runs["clean"][1])]
        if self.strangers is not None:
            strange = self.pairs.select(self.strangers[rows])
            _, logits = run_of(model, strange.clean, strange, [])
            asked.append(Question(self.metric, strange, logits))
        base, source = (part.corrupted, part.clean) if denoise else (part.clean, part.corrupted)
        to = runs["clean" if denoise else "corrupted"][0].acts
        batch = Batch(model, part, base, source, to, self.where, read, asked, self.size)
        found = _run(batch, method, path)
        none = np.zeros((0, len(part)))
        return {
            **{k: asked[0].of(x).double().cpu().numpy() for k, (_, x) in runs.items()},
            "values": found.values[0], "other": found.values[1] if len(asked) > 1 else none,
            **{f"total {k}": v for k, v in found.whole.items()},
            **{f"rise {k}": v for k, v in found.rise.items()},
        }  # fmt: skip


def _run(batch: Batch, method: Method, path: Path) -> Estimate:
    if method == "ig":
        return ig(batch, path)
    if method == "ig_inputs":
        return ig_inputs(batch, path)
    return atp(batch) if method == "atp" else atp_star(batch, drop=method == "atp_star")


def strangers_of(pairs: PromptPairs, seed: int) -> np.ndarray | None:
    """For each pair another one; None where all have the same answer and foil."""
    alike = len(set(zip(pairs.answer, pairs.foil, strict=True))) < 2
    return None if alike else others(len(pairs), seed)


def other_question(values: np.ndarray, other: np.ndarray) -> Controls:
    """How large estimates are towards another pair's answer and foil."""
    if not len(other):
        return Controls({}, "all pairs have one answer and foil: none to exchange")
    own, strange = (float(mean_there(np.abs(mean_there(x, 1)))) for x in (values, other))
    share = strange / own if own > 0 else float("nan")
    note = "mean size of estimates towards another pair's answer and foil, as a share of their own"
    return Controls({"other_question": share}, note)


def _check(method: str, direction: str, metric: Metric, rule: str) -> None:
    for kind, name, known in (
        ("method", method, METHODS), ("direction", direction, DIRECTIONS), ("rule", rule, RULES)
    ):  # fmt: skip
        if name not in known:
            raise UnknownNameError(kind, str(name), known=known)
    if not metric.differentiable:
        raise ConfigError(f"metric {metric.name!r} has no gradient; 'logit_diff' or 'loss' have")
    if metric.name == "kl" and direction == "noise" and method not in _INTEGRALS:
        raise ConfigError(
            "KL to the clean run is flat at the clean run, so its gradient there is zero; "
            "use direction='denoise', method='ig', or metric='logit_diff'"
        )
