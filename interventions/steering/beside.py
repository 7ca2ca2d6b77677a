"""Texts of the clean and the steered model side by side, from one seed."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lensbench.arguments import refuse_no_model
from lensbench.errors import ConfigError
from lensbench.interventions.experts.rows import rows_of, texts_of
from lensbench.interventions.steering.rows import Asked, batch_of
from lensbench.models.base import Model
from lensbench.plan import Plan, as_plan

if TYPE_CHECKING:
    import pandas as pd


def generate_beside(
    model: Model,
    prompts: Asked,
    plans: Plan | Mapping[str, Plan] | Sequence[Plan],
    max_new_tokens: int = 32,
    *,
    temperature: float = 0.0,
    seed: int = 0,
) -> "pd.DataFrame":
    """Continue every prompt without a plan and under each plan, with a key-value cache.

    All runs draw with the same seed, so that at a temperature too texts differ by the plan alone:
    an empty plan gives the clean text. A row per prompt; columns ``prompt``, ``clean`` and one per
    plan, named by the keys of a mapping (else ``plan 0``, ...). Without a tokenizer: ids. Where a
    notebook cuts texts off: ``print(frame.T.to_string())``.

    Raises:
        ConfigError: no plan, or a plan called ``prompt`` or ``clean``.

    Example:
        >>> plan = interventions.steer(interventions.latent_direction(model, run, 3), 4.0)
        >>> frame = interventions.generate_beside(model, text, {"steered": plan}, 6)
    """
    refuse_no_model(model)
    import pandas as pd

    named = _named(plans)
    rows = rows_of(model, prompts)
    tokens, columns = batch_of(model, rows), {"prompt": texts_of(model, rows)}
    for name, plan in {"clean": Plan(), **named}.items():
        said = model.generate(tokens, plan, max_new_tokens, temperature=temperature, seed=seed)
        columns[name] = texts_of(model, said)
    frame = pd.DataFrame(columns)
    told = {"seed": seed, "temperature": temperature, "max_new_tokens": max_new_tokens}
    frame.attrs |= {**told, "plans": {name: str(plan) for name, plan in named.items()}}
    return frame


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
