"""Edge attribution patching: what giving one reader another run's share of one writer would do.

1. ``streams`` takes both runs apart: ``z_u`` is what writer u adds to the residual stream.
2. The slope at the input of one reader alone, ``g_v``, is the metric's gradient at what it computes
   (``attn.q`` of one head, ``mlp_out``, the logits) pulled back through its own projection and norm
   to the stream before it; nothing else lies between these two sites, so no weights are needed.
3. ``score(u, v) = sum over tokens of (z_u of the source - z_u of the base) . g_v``. For ``eap_ig``
   g_v is the mean along the path of the embeddings.

Edges out of a writer sum to the attribution of that writer; edges into a reader sum to
``(x_v of the source - x_v of the base) . g_v`` (biases are the same in both runs).
Source: Syed et al. 2023, arXiv:2310.10348 (EAP); Hanna et al. 2024, arXiv:2403.17806 (EAP-IG).
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, UnknownNameError
from lensbench.interventions.attribution.edge_result import EdgeResult
from lensbench.interventions.attribution.gradients import Question, Traced, grads, traced
from lensbench.interventions.attribution.graph import End, Graph
from lensbench.interventions.attribution.methods import RULES, Path, Rule
from lensbench.interventions.attribution.nodes import other_question, strangers_of
from lensbench.interventions.attribution.streams import last_site, streams
from lensbench.interventions.metrics import Metric, MetricLike, as_metric
from lensbench.interventions.patching.sweep import DIRECTIONS
from lensbench.interventions.values import groups, run_of
from lensbench.models.base import Model
from lensbench.ops import Set
from lensbench.plan import Edit, Plan
from lensbench.prompts.pairs import PromptPairs
from lensbench.prompts.score import check_pairs
from lensbench.sites import Site
from lensbench.tokens import Tokens

EdgeMethod = Literal["eap", "eap_ig"]
EDGE_METHODS: tuple[EdgeMethod, ...] = ("eap", "eap_ig")


def attribute_edges(
    model: Model,
    pairs: PromptPairs,
    *,
    method: EdgeMethod = "eap_ig",
    direction: Literal["denoise", "noise"] = "denoise",
    metric: MetricLike = "logit_diff",
    steps: int = 5,
    rule: Rule = "left",
    batch_size: int = 16,
    seed: int = 0,
) -> EdgeResult:
    """Estimate the effect of every edge of the graph of heads and MLPs.

    ``score(u, v) = (z_u(source) - z_u(base)) . d m / d input_v``: the change of the metric when
    reader v alone is given writer u's share from the source run. ``eap``: the slope at the base
    run; ``eap_ig``: its mean over ``steps`` points from the base's embeddings to the source's.
    Source: Syed et al. 2023, arXiv:2310.10348; Hanna et al. 2024, arXiv:2403.17806.

    Args:
        model: any back end that gives gradients.
        pairs: from :mod:`lensbench.prompts`; aligned token by token.
        method: see above.
        direction: ``denoise``: base corrupted, source clean; ``noise``: the reverse.
        metric: a name of :data:`lensbench.interventions.metrics.METRICS` or a function that can be
            differentiated.
        steps: points of the path; 5 as in the paper's code.
        rule: ``left`` ends of the steps, as there, or ``midpoint``.
        batch_size: prompts in one pass.
        seed: of the control, which asks for another pair's answer.

    Raises:
        ConfigError, UnknownNameError: arguments that do not fit; a model whose heads do not add up.
        MismatchError: pairs of another tokenizer.

    Example:
        >>> edges = interventions.attribute_edges(model, pairs, method="eap")
    """
    began = time.monotonic()
    chosen = as_metric(metric)
    _check(method, direction, chosen, rule)
    check_pairs(model, pairs)
    pairs.require_next_token("attribution of edges")
    graph = Graph.of(model)
    path = Path(whole_number("steps", steps, least=1), rule)
    share = path.points() if method == "eap_ig" else [0.0]
    size = whole_number("batch_size", batch_size, least=1)
    other = strangers_of(pairs, seed)
    parts = [
        _group(
            model, graph, pairs.select(rows), None if other is None else pairs.select(other[rows]),
            direction, chosen, share,
        )
        for rows in groups(len(pairs), size)
    ]  # fmt: skip
    joined = {name: np.concatenate([p[name] for p in parts], axis=-1) for name in parts[0]}
    config: dict[str, Any] = {
        "pairs": pairs.fingerprint(), "method": method, "direction": direction,
        "metric": chosen.name, "steps": len(share), "rule": rule, "seed": seed, **pairs.scoring(),
    }  # fmt: skip
    return EdgeResult(
        task=pairs.task, method=method, direction=direction, metric=chosen.name, unit=chosen.unit,
        writers=tuple(map(str, graph.writers)), readers=tuple(map(str, graph.readers)),
        edges=graph.edges, values=joined["values"],
        other=joined["other"], controls=other_question(joined["values"], joined["other"]),
        clean=joined["clean"], corrupted=joined["corrupted"], config=config,
        provenance=provenance.record(model=vars(model.card), seconds=time.monotonic() - began),
    )  # fmt: skip


def _group(
    model: Model, graph: Graph, part: PromptPairs, strange: PromptPairs | None, direction: str,
    metric: Metric, share: Sequence[float],
) -> dict[str, np.ndarray]:  # fmt: skip
    clean, corrupted = (streams(model, graph, t) for t in (part.clean, part.corrupted))
    asked = [Question(metric, part, clean.logits)]
    if strange is not None:
        asked.append(Question(metric, strange, run_of(model, strange.clean, strange, [])[1]))
    denoise = direction == "denoise"
    base, source = (corrupted, clean) if denoise else (clean, corrupted)
    tokens, other = (part.corrupted, part.clean) if denoise else (part.clean, part.corrupted)
    step = (source.written - base.written).double()
    scores = _scores(model, graph, part, (tokens, other), asked, share, step)
    return {
        "values": scores[0].numpy(),
        "other": scores[1].numpy() if len(scores) > 1 else np.zeros((0, len(part))),
        "clean": asked[0].of(clean.logits).double().cpu().numpy(),
        "corrupted": asked[0].of(corrupted.logits).double().cpu().numpy(),
    }


def _scores(
    model: Model, graph: Graph, part: PromptPairs, ends: tuple[Tokens, Tokens],
    asked: Sequence[Question], share: Sequence[float], step: Tensor,
) -> list[Tensor]:  # fmt: skip
    """Per question the scores ``[edges pairs]``, mean over the path of the embeddings."""
    embed = Site("embed")
    at, to = (run_of(model, t, part, [embed])[0].acts[embed] for t in ends)
    totals = [torch.zeros(graph.n_edges, len(part), dtype=torch.double) for _ in asked]
    for s in share:
        moved = (at + s * (to - at)).detach().requires_grad_()
        plan = Plan((Edit(embed, Set(moved)),)) if s else Plan()
        run = traced(model, ends[0], _sites(graph, model.n_layers), plan)
        for total, question in zip(totals, asked, strict=True):
            slopes = reader_slopes(model, graph, run, question.of(run.logits).sum())
            for reader, slope in enumerate(slopes):  # one at a time: together they fill memory
                into = graph.edges[:, 1] == reader
                found = torch.einsum("wbtd,btd->wb", step[graph.edges[into, 0]], slope.double())
                total[into] += found.cpu() / len(share)
    return totals


def reader_slopes(model: Model, graph: Graph, run: Traced, total: Tensor) -> Iterator[Tensor]:
    """``d total / d input`` of each reader alone, ``[batch pos d_model]``, one after the other."""
    given = list(dict.fromkeys(_site(reader) for reader in graph.readers if reader.layer >= 0))
    slopes = dict(zip(given, grads(total, [run.acts[s] for s in given]), strict=True))
    for reader in graph.readers:
        yield _pulled(model, graph, run, reader, slopes, total)


def _pulled(
    model: Model, graph: Graph, run: Traced, reader: End, slopes: Mapping[Site, Tensor],
    total: Tensor,
) -> Tensor:  # fmt: skip
    """One reader's slope, pulled back to the stream that it reads."""
    if reader.layer < 0:
        return grads(total, [run.acts[last_site(model.n_layers)]])[0]
    site, stream = _site(reader), _stream(graph, reader)
    slope = slopes[site]
    if reader.head >= 0:
        only = torch.zeros_like(slope)
        only[:, :, reader.head] = slope[:, :, reader.head]
        slope = only
    return grads(run.acts[site], [run.acts[stream]], slope)[0]


def _site(reader: End) -> Site:
    """What a reader computes."""
    return Site(f"attn.{reader.part}" if reader.head >= 0 else "mlp_out", reader.layer)


def _stream(graph: Graph, reader: End) -> Site:
    """Where a reader reads."""
    before = reader.head >= 0 or graph.parallel
    return Site("resid_pre" if before else "resid_mid", reader.layer)


def _sites(graph: Graph, n_layers: int) -> list[Site]:
    inside = [r for r in graph.readers if r.layer >= 0]
    sites = [s for r in inside for s in (_site(r), _stream(graph, r))]
    return [*dict.fromkeys(sites), last_site(n_layers)]


def _check(method: str, direction: str, metric: Metric, rule: str) -> None:
    for kind, name, known in (
        ("method", method, EDGE_METHODS), ("direction", direction, DIRECTIONS),
        ("rule", rule, RULES),
    ):  # fmt: skip
        if name not in known:
            raise UnknownNameError(kind, str(name), known=known)
    if not metric.differentiable:
        raise ConfigError(f"metric {metric.name!r} has no gradient; 'logit_diff' or 'loss' have")
    if metric.name == "kl" and direction == "noise" and method == "eap":
        raise ConfigError("KL to the clean run is flat at the clean run; use method='eap_ig'")
