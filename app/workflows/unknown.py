"""Typed words that a vocabulary lacks: the model reads them all as one token, and that is told."""

from typing import TYPE_CHECKING

from lensbench.app.workflows.live import opened
from lensbench.plots import visible
from lensbench.tokens import unknown_words

if TYPE_CHECKING:
    from lensbench.models import Model

NAMED = 8
"""Words that are told one by one."""


def unknown_in(model: "Model", *texts: str) -> str:
    """A sentence that names the words which the model reads as its unknown token; empty: none."""
    words = list(dict.fromkeys(w for text in texts for w in unknown_words(model.tokenizer, text)))
    if not words:
        return ""
    shown = ", ".join(visible(word) for word in words[:NAMED])
    more = f" and {len(words) - NAMED} more" if len(words) > NAMED else ""
    noun = "1 word is" if len(words) == 1 else f"{len(words)} words are"
    return f"{noun} unknown to this model and read as {model.tokenizer.unk_token}: {shown}{more}"


def unknown_told(name: str, *texts: str) -> str:
    """The same for the model of that name, if it is open; a note never opens one."""
    model = opened(name)
    return "" if model is None else unknown_in(model, *texts)
