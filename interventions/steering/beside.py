"""Texts of the clean and the steered model side by side, from one seed."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from lensbench import provenance
from lensbench.arguments import refuse_no_model
from lensbench.errors import ConfigError
from lensbench.interventions.experts.rows import rows_of, texts_of
from lensbench.interventions.steering.beside_result import CLEAN, SideBySide
from lensbench.interventions.steering.rows import Asked, batch_of
from lensbench.models.base import Model
from lensbench.plan import Plan, as_plan
from lensbench.tokens import token_texts


def generate_beside(
    model: Model,
    prompts: Asked,
    plans: Plan | Mapping[str, Plan] | Sequence[Plan],
    max_new_tokens: int = 32,
    *,
    temperature: float = 0.0,
    seed: int = 0,
) -> SideBySide:
    """Continue every prompt without a plan and under each plan, with a key-value cache.

    All runs draw with the same seed, so that at a temperature too texts differ by the plan alone:
    an empty plan gives the clean text. Plans are named by the keys of a mapping (else ``steered``
    for one, ``plan 0``, ... for several). Without a tokenizer texts are ids.

    Raises:
        ConfigError: no plan, or a plan called ``prompt`` or ``clean``.

    Example:
        >>> plan = interventions.steer(interventions.latent_direction(model, run, 3), 4.0)
        >>> said = interventions.generate_beside(model, text, {"steered": plan}, 6)
        >>> said.to_frame().columns.tolist()
        ['prompt', 'clean', 'steered']
    """
    refuse_no_model(model)
    began, named = time.monotonic(), {CLEAN: Plan(), **_named(plans)}
    rows = rows_of(model, prompts)
    tokens = batch_of(model, rows)
    new = {
        name: model.generate(tokens, plan, max_new_tokens, temperature=temperature, seed=seed)
        for name, plan in named.items()
    }
    return SideBySide(
        prompts=texts_of(model, rows),
        names=tuple(named),
        plans=tuple("" if name == CLEAN else str(plan) for name, plan in named.items()),
        ids=tuple(tuple(map(tuple, said)) for said in new.values()),
        pieces=tuple(
            tuple(tuple(token_texts(model.tokenizer, row)) for row in said) for said in new.values()
        ),
        said=tuple(texts_of(model, said) for said in new.values()),
        config={"seed": seed, "temperature": temperature, "max_new_tokens": max_new_tokens},
        provenance=provenance.record(
            model=vars(model.card), seed=seed, seconds=time.monotonic() - began
        ),
    )


def _named(plans: Any) -> dict[str, Plan]:
    if isinstance(plans, Plan):
        plans = {"steered": plans}
    if not isinstance(plans, Mapping):
        plans = {f"plan {i}": plan for i, plan in enumerate(plans)}
    named = {str(name): as_plan(plan) for name, plan in plans.items()}
    if not named or named.keys() & {"prompt", "clean"}:
        raise ConfigError(
            f"plans must be a plan, several, or {{name: plan}} with names other than 'prompt' and "
            f"'clean'; got {list(named)}"
        )
    return named
