"""Targets of known kinds: Patchscopes' identity prompt, SelfIE's placeholders."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lensbench.errors import ConfigError
from lensbench.probes.lenses.future.spots import Spot, one_row
from lensbench.tokens import Tokens, token_texts

if TYPE_CHECKING:
    from lensbench.models import Model

SELFIE = "[INST] _ _ _ _ _ [/INST] Sure, I will summarize the message:"
"""An instruction for chat models of the Llama-2 kind; others need their own template."""


def identity_prompt(
    model: "Model",
    words: Sequence[str] = ("cat", "1135", "hello"),
    *,
    arrow: str = " -> ",
    between: str = "\n",
    placeholder: str = "?",
    layer: int | None = None,
) -> Spot:
    r"""The prompt ``cat -> cat\n1135 -> 1135\nhello -> hello\n?``, of which ``?`` gets the state.

    It asks the model to say again what stands at its last token. ``layer`` is the target layer
    (None: that of the source). Source: Ghandeharioun et al. 2024, arXiv:2401.06102, section 4.1.

    Raises:
        ConfigError: words that the tokenizer does not know, or a placeholder that is no token of
            its own.

    Example:
        >>> spot = probes.identity_prompt(
        ...     model, ("cat", "dog", "fish"), arrow=" - ", between=" , ", placeholder="bird"
        ... )
    """
    shown = between.join(f"{word}{arrow}{word}" for word in words)
    tokens = _known(model, f"{shown}{between}{placeholder}")
    last = token_texts(model.tokenizer, tokens.ids[0, -1:].tolist())[0]
    if last.strip() != placeholder.strip():
        raise ConfigError(
            f"the prompt ends with the token {last!r}, not with the placeholder {placeholder!r}; "
            "choose a placeholder that this tokenizer keeps as one token after the text before it"
        )
    return Spot(tokens, -1, layer)


def placeholder_prompt(
    model: "Model", text: str = SELFIE, *, placeholder: str = "_", layer: int = 1
) -> Spot:
    """A text in which every token ``placeholder`` gets the state, at ``layer`` (SelfIE's k).

    Source: Chen et al. 2024, "SelfIE", arXiv:2403.10949.

    Raises:
        ConfigError: no such token in the text, or words that the tokenizer does not know.

    Example:
        >>> spot = probes.placeholder_prompt(model, "List cat , dog ; recall", placeholder="cat")
    """
    tokens = _known(model, text)
    words = token_texts(model.tokenizer, tokens.ids[0].tolist())
    at = [i for i, word in enumerate(words) if word.strip() == placeholder]
    if not at:
        raise ConfigError(
            f"no token of the prompt is the placeholder {placeholder!r}; its tokens are {words}"
        )
    return Spot(tokens, at, layer)


def _known(model: "Model", text: str) -> Tokens:
    tokens = one_row(model, text)
    unknown = getattr(model.tokenizer, "unk_token_id", None)
    if unknown is not None and int(unknown) in tokens.ids[0].tolist():
        words = token_texts(model.tokenizer, tokens.ids[0].tolist())
        raise ConfigError(
            f"the tokenizer of {model.card.name} does not know every word of the prompt: {words}; "
            "write it with words that it knows"
        )
    return tokens
