"""In-context vectors by names: what demonstrations in front of prompts add to their last state."""

from pathlib import Path
from typing import TYPE_CHECKING

from lensbench.app.workflows.accelerating import read_prompts
from lensbench.errors import ConfigError
from lensbench.interventions.steering.direction import Direction
from lensbench.interventions.steering.sources import in_context_vector
from lensbench.prompts.pairs import PromptPairs

if TYPE_CHECKING:
    from lensbench.models import Model

SEPARATOR = "\n"


def shown_direction(
    model: "Model", file: str, queries: PromptPairs, site: str, separator: str = SEPARATOR
) -> Direction:
    """The mean shift of the last state of the corrupted prompts behind the texts of a file.

    Prompts keep their own ids; every demonstration ends with ``separator``.

    Raises:
        MissingDataError: no such file.
        ConfigError: no text in it, or more than fits into the model's context.
    """
    shown = read_prompts(file)
    ids = [model.tokens(text + separator).ids[0].tolist() for text in shown]
    longest = sum(map(len, ids)) + max(map(len, queries.corrupted_ids))
    if model.card.n_ctx and longest > model.card.n_ctx:
        raise ConfigError(
            f"{len(shown)} demonstrations and the longest prompt are {longest} tokens, and the "
            f"context is {model.card.n_ctx}; give fewer or shorter ones"
        )
    label = f"shown {Path(file).name}"
    return in_context_vector(model, ids, [list(row) for row in queries.corrupted_ids], site,
                             label=label)  # fmt: skip
