"""Token attribution: five methods, one call, one result."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lensbench import provenance
from lensbench.arguments import whole, whole_number
from lensbench.errors import ConfigError, UnknownNameError
from lensbench.probes.saliency.asked import ROWS, Question, Replacement, sampler_of, targets_of
from lensbench.probes.saliency.gradients import (
    BASELINES,
    Baseline,
    gradient_x_input,
    integrated_gradients,
)
from lensbench.probes.saliency.perturbed import ReagentSettings, leave_one_out, reagent
from lensbench.probes.saliency.result import UNITS, TokenAttribution
from lensbench.probes.saliency.rollout import attention_rollout, patterns_of
from lensbench.tokens import as_tokens, token_texts

if TYPE_CHECKING:
    from lensbench.models import Model
    from lensbench.tokens import TokensLike


def attribute_tokens(
    model: "Model",
    prompt: "str | TokensLike",
    targets: "int | str | Sequence[int] | None" = None,
    *,
    methods: Sequence[str] | None = None,
    replacement: Replacement = "uniform",
    steps: int = 128,
    baseline: Baseline = "mean",
    draws: int = 8,
    search: ReagentSettings = ReagentSettings(),  # noqa: B008 - frozen value
    batch_size: int = ROWS,
    seed: int = 0,
) -> TokenAttribution:
    """Which tokens of the context each target rests on.

    Args:
        model: a decoder, any back end.
        prompt: a text, or ids of one text.
        targets: how many tokens to let the model go on with (default 1), a text, or ids.
        methods: names of :data:`~lensbench.probes.saliency.result.UNITS`; left out, all that the
            model has the means for.
        replacement: what leave_one_out and reagent put in a token's place: ``"uniform"`` over the
            vocabulary without special tokens, ids to draw from, or a function.
        steps: of integrated gradients.
        baseline: where their path begins: the ``"mean"`` embedding of tokens that ``replacement``
            draws, or ``"zero"``.
        draws: replacements per token of leave_one_out.
        search: how ReAGent searches.
        batch_size: most contexts in one forward pass.
        seed: of all draws.

    Raises:
        ConfigError: several texts, no target, a context longer than the model's, a model that is
            no decoder, settings out of range.
        UnknownNameError: another method or replacement.
        NonFiniteError: a gradient or a prediction that is not finite.

    Example:
        >>> found = probes.attribute_tokens(
        ...     model, "The capital of Peru is", methods=["gradient_x_input", "leave_one_out"]
        ... )
    """
    began = time.monotonic()
    model.require_next_token("token attribution")
    ids = _context(model, prompt)
    chosen = targets_of(model, ids, targets)
    sampler = sampler_of(model, replacement)
    seed = whole_number("seed", seed, least=0)
    steps, draws = whole_number("steps", steps, least=1), whole_number("draws", draws, least=1)
    if baseline not in BASELINES:
        raise UnknownNameError("baseline", baseline, known=BASELINES)
    _check(search)
    settings = _Settings(steps, baseline, draws, search)
    row = torch.cat([ids, torch.tensor(chosen, device=ids.device)])
    question = Question(model, ids, chosen[0], sampler,
                        whole_number("batch_size", batch_size, least=1))  # fmt: skip
    wanted, left_out = _methods(question, methods)
    scores = np.full((len(wanted), len(chosen), len(row)), np.nan, dtype=np.float32)
    about = np.full((3, len(chosen)), np.nan)  # probability, gap, stopped
    for j, target in enumerate(chosen):
        context = row[: len(ids) + j]
        asked = Question(model, context, target, sampler, question.batch_size)
        about[0, j] = float(asked.probs(context[None])[0, target])
        for i, method in enumerate(wanted):
            rng = np.random.default_rng([seed, j, list(UNITS).index(method)])
            found, told = _run(method, asked, settings, rng)
            scores[i, j, : len(context)] = found.cpu().numpy()
            about[1:, j] = np.where(np.isnan(told), about[1:, j], told)
    named = _named(replacement)
    return TokenAttribution(
        methods=wanted, ids=row.cpu().numpy(),
        tokens=tuple(token_texts(model.tokenizer, row.tolist())),
        targets=np.asarray(chosen), scores=scores, probability=about[0], gap=about[1],
        stopped=about[2], replacement=named, left_out=left_out,
        config={"steps": steps, "baseline": baseline, "draws": draws, "seed": seed,
                "search": dict(vars(search)), "replacement": named},
        provenance=provenance.record(model=vars(model.card), seed=seed,
                                     seconds=time.monotonic() - began),
    )  # fmt: skip


@dataclass(frozen=True)
class _Settings:
    """Of all methods."""

    steps: int
    baseline: Baseline
    draws: int
    search: ReagentSettings


def _run(
    method: str, asked: Question, settings: _Settings, rng: np.random.Generator
) -> tuple[torch.Tensor, tuple[float, float]]:
    """Scores of one method; completeness gap and share of searches that stopped, or NaN."""
    gap = stopped = float("nan")
    if method == "gradient_x_input":
        found = gradient_x_input(asked)
    elif method == "integrated_gradients":
        found, gap = integrated_gradients(asked, settings.steps, settings.baseline, rng)
    elif method == "leave_one_out":
        found = leave_one_out(asked, settings.draws, rng)
    elif method == "reagent":
        searched = reagent(asked, settings.search, rng)
        found, stopped = searched.scores, float(searched.stopped.mean())
    else:
        found = attention_rollout(asked)
    return found, (gap, stopped)


def _named(replacement: Replacement) -> str:
    if isinstance(replacement, str):
        return replacement
    if callable(replacement):
        return str(getattr(replacement, "__name__", "a function"))
    return f"{len(set(replacement))} given ids"


def _context(model: "Model", prompt: Any) -> torch.Tensor:
    batch = model.tokens(prompt) if isinstance(prompt, str) else as_tokens(prompt)
    if batch.n_rows != 1:
        raise ConfigError(f"token attribution reads one text at a time, got {batch.n_rows}")
    return batch.ids[0][batch.real[0]].cpu()


def _methods(
    question: Question, methods: Sequence[str] | None
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Methods to run, and those left out with the reason."""
    if isinstance(methods, str):
        methods = (methods,)
    if methods is not None:
        if whole(methods) is not None:
            raise ConfigError(f"methods must be names of {', '.join(UNITS)}, got {methods!r}")
        for name in methods:
            if name not in UNITS:
                raise UnknownNameError("attribution method", name, known=tuple(UNITS))
        if not methods:
            raise ConfigError(f"methods is empty; leave it out or use {', '.join(UNITS)}")
        if "attention_rollout" in methods:
            patterns_of(question)
        return tuple(dict.fromkeys(methods)), {}
    try:
        patterns_of(question)
    except ConfigError as error:
        rest = tuple(name for name in UNITS if name != "attention_rollout")
        return rest, {"attention_rollout": str(error)}
    return tuple(UNITS), {}


def _check(search: ReagentSettings) -> None:
    for name in ("share", "kept"):
        value = getattr(search, name)
        if isinstance(value, str) or not 0 < value < 1:
            raise ConfigError(f"ReagentSettings.{name} is a share between 0 and 1, got {value!r}")
    for name in ("probes", "steps", "top"):
        whole_number(f"ReagentSettings.{name}", getattr(search, name), least=1)
