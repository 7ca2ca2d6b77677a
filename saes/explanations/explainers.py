"""Who explains: from contexts to an :class:`Explanation`.

Anything with a ``name`` and ``explain`` is an explainer. In the box: :class:`TokenExplainer`, which
needs no model, and :class:`~lensbench.saes.explanations.endpoint.EndpointExplainer`, which asks one
that you name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int

from lensbench.saes.explanations.contexts import Context
from lensbench.saes.explanations.rules import TokenRule, grow_rule
from lensbench.tokens import token_texts


@dataclass(frozen=True)
class Explanation:
    """What a latent is said to fire on."""

    latent: int
    text: str
    rule: TokenRule | None = None
    """The same as a rule, where it is one; what the offline judge applies."""


@runtime_checkable
class Explainer(Protocol):
    """Gives every latent an explanation."""

    @property
    def name(self) -> str:
        """What to call it."""
        ...

    def explain(self, latent: int, contexts: Sequence[Context]) -> Explanation:
        """From the contexts to explain from, with activations."""
        ...


@dataclass(frozen=True)
class TokenExplainer:
    """The tokens, previous tokens and positions that best predict firing, as a rule.

    Nothing but the tokens is looked at, so what it scores is the share of a latent that a table of
    tokens explains: a floor under explanations in words.
    """

    tokenizer: Any = None
    name: str = "tokens"

    def explain(self, latent: int, contexts: Sequence[Context]) -> Explanation:
        """See :func:`~lensbench.saes.explanations.rules.grow_rule`."""
        rule = grow_rule(contexts)
        return Explanation(latent, rule.words(self._name), rule)

    def _name(self, token: int) -> str:
        return repr(token_texts(self.tokenizer, [token])[0])


def pieces(tokenizer: Any, tokens: Int[np.ndarray, " n"]) -> list[str]:
    """The text of each token inside its context, spaces included.

    Always decoded from the start: alone, a word may lose its space.
    """
    if tokenizer is None:
        return [f" {t}" for t in token_texts(None, tokens.tolist())]
    ids = tokens.tolist()
    upto = [
        tokenizer.decode(ids[: i + 1], clean_up_tokenization_spaces=False) for i in range(len(ids))
    ]
    return [text[len(before) :] for before, text in zip(["", *upto], upto, strict=False)]


def marked_text(tokenizer: Any, context: Context, marks: Bool[np.ndarray, " window"]) -> str:
    """The context as text, runs of marked tokens between << and >>."""
    out = ""
    for i, piece in enumerate(pieces(tokenizer, context.tokens)):
        if marks[i] and not (i and marks[i - 1]):
            space = piece[: len(piece) - len(piece.lstrip(" "))]
            piece = f"{space}<<{piece[len(space) :]}"
        if marks[i] and not (i + 1 < len(marks) and marks[i + 1]):
            piece += ">>"
        out += piece
    return out
