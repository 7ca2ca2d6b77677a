"""The token a user means by what was typed."""

from typing import Any

from lensbench.errors import ConfigError
from lensbench.tokens import token_texts


def token_named(tokenizer: Any, typed: str) -> int:
    """Id of the one token that ``typed`` is; ``␣`` is a space and ``↵`` a line break.

    A word without a space in front is also looked for with one, as it stands inside a text.

    Raises:
        ConfigError: nothing typed, no tokenizer, or text of several tokens (which are named).
    """
    from lensbench.plots import visible

    text = typed.replace("␣", " ").replace("↵", "\n")
    if not text:
        raise ConfigError("no token was typed")
    if tokenizer is None:
        raise ConfigError("this model has no tokenizer, so no token can be named by its text")
    vocabulary = tokenizer.get_vocab()
    if typed in getattr(tokenizer, "all_special_tokens", []):
        return int(vocabulary[typed])
    found: list[list[int]] = []
    for form in dict.fromkeys((text, text if text[0].isspace() else f" {text}")):
        ids = list(tokenizer(form, add_special_tokens=False)["input_ids"])
        if len(ids) == 1 and ids[0] != getattr(tokenizer, "unk_token_id", None):
            return int(ids[0])
        found.append(ids)
    parts = " | ".join(visible(word) for word in token_texts(tokenizer, found[0]))
    if getattr(tokenizer, "unk_token_id", None) in found[0]:
        raise ConfigError(f"this model has no token for {visible(typed)!r}; type another word")
    raise ConfigError(
        f"{visible(typed)!r} is {len(found[0])} tokens here ({parts}); type one of them"
    )


def tokens_named(tokenizer: Any, typed: str) -> tuple[int, ...]:
    """Ids of the tokens in ``typed``, separated by spaces; none for nothing.

    Raises:
        ConfigError: see :func:`token_named`.
    """
    return tuple(dict.fromkeys(token_named(tokenizer, part) for part in typed.split()))
