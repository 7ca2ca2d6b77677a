"""Which generated documents a model can read: worlds whose words are its own."""

from functools import cache
from pathlib import Path
from typing import Any

from lensbench.app.workflows.texts import WORLDS, find_text
from lensbench.errors import MismatchError
from lensbench.models.base import Model

PLAIN = ("desk", "translate")
"""Worlds that are given as text, which any tokenizer can read."""


def worlds_for(model: Model) -> tuple[str, ...]:
    """Worlds whose words are those of the model; plain text where it knows none of them."""
    tokenizer: Any = model.tokenizer
    if tokenizer is None:
        return ()

    def knows(words: tuple[str, ...]) -> bool:
        known = tokenizer.convert_ids_to_tokens(list(range(min(len(words), len(tokenizer)))))
        return tuple(known) == words

    found = tuple(world for world in WORLDS if knows(_vocabulary(world)))
    return found or PLAIN


@cache
def _vocabulary(world: str) -> tuple[str, ...]:
    from lensbench.worlds.desk import Desk
    from lensbench.worlds.translate import Translations

    if world in PLAIN:
        return (Desk(0) if world == "desk" else Translations(0)).vocab
    return tuple(find_text(f"{world}:1").vocab)


def check_fits(model: Model, text: str) -> None:
    """Refuse documents of a world that the model does not know, naming those that fit.

    Raises:
        MismatchError: other documents are needed.
    """
    world = text.partition(":")[0]
    fitting = worlds_for(model)
    if world not in WORLDS or Path(text).exists() or world in (*fitting, *PLAIN):
        return
    named = " or ".join(f"{w}:N" for w in fitting)
    raise MismatchError(
        f"model {model.card.name!r} does not know the words of {world}; what fits it: "
        f"{named + ', or ' if named else ''}a .txt or .jsonl file of your own"
    )
