"""``lensbench.prompts``: pairs of prompts, clean and corrupted, for any tokenizer.

Each task gives :class:`PromptPairs`: equally long prompts whose difference changes which of two
tokens comes next, with named positions. Words that a tokenizer splits are left out and counted.
"""

from collections.abc import Callable

from lensbench.errors import UnknownNameError
from lensbench.prompts.agreements import agreement
from lensbench.prompts.by_ids import from_ids
from lensbench.prompts.given import from_texts
from lensbench.prompts.greater import greater_than
from lensbench.prompts.indirect_objects import ioi
from lensbench.prompts.letters import first_letter
from lensbench.prompts.pairs import PromptPairs
from lensbench.prompts.recalls import recall
from lensbench.prompts.refusals import refusal
from lensbench.prompts.score import PromptScore, score


class _Tasks(dict[str, Callable[..., PromptPairs]]):
    """Tasks by name; one that is not there gets the nearest offered."""

    def __missing__(self, name: str) -> Callable[..., PromptPairs]:
        raise UnknownNameError("task", str(name), known=tuple(self))


TASKS = _Tasks(
    {
        "agreement": agreement,
        "first_letter": first_letter,
        "greater_than": greater_than,
        "ioi": ioi,
        "recall": recall,
        "refusal": refusal,
    }
)
"""Every task by name; all take ``(model_or_tokenizer, n, seed)``."""

__all__ = [
    "TASKS",
    "PromptPairs",
    "PromptScore",
    "agreement",
    "first_letter",
    "from_ids",
    "from_texts",
    "greater_than",
    "ioi",
    "recall",
    "refusal",
    "score",
]


def __dir__() -> list[str]:
    """Public names."""
    return sorted(__all__)
