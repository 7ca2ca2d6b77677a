"""Pairs of prompts that a user wrote: aligned, or refused with their tokens shown."""

from collections.abc import Mapping, Sequence
from typing import Any

from lensbench.errors import ConfigError
from lensbench.prompts.build import Collector, Proposal, finish
from lensbench.prompts.encoder import Encoder
from lensbench.prompts.pairs import PromptPairs
from lensbench.prompts.wording import Filled


def from_texts(
    model_or_tokenizer: Any,
    clean: Sequence[str],
    corrupted: Sequence[str],
    answer: Sequence[str],
    foil: Sequence[str],
    *,
    roles: Mapping[str, Sequence[str] | Sequence[tuple[str, str]]] | None = None,
    task: str = "given",
    flips: bool = True,
    drop_misaligned: bool = False,
) -> PromptPairs:
    """Pairs from texts; answers with the space before them, as they follow the prompt.

    Args:
        model_or_tokenizer: whose tokens count.
        clean: one prompt per pair.
        corrupted: as many, each as many tokens long as its clean prompt.
        answer: what follows the clean prompt; its first token is used.
        foil: what does not; its first token has to differ.
        roles: for each role one text per pair (or one for the clean and one for the corrupted
            prompt); its last occurrence is meant.
        task: name of the result.
        flips: whether ``foil`` is what follows the corrupted prompts.
        drop_misaligned: leave such pairs out and count them, instead of an error.

    Raises:
        ConfigError: lists of unequal length, a role's text that is not in the prompt, or a pair
            that is not aligned (with its tokens).
    """
    lists = {"clean": clean, "corrupted": corrupted, "answer": answer, "foil": foil}
    lists |= dict(roles or {})
    sizes = {name: len(values) for name, values in lists.items()}
    if isinstance(clean, str) or len(set(sizes.values())) != 1 or not clean:
        raise ConfigError(f"every list needs one entry per pair, and at least one; got {sizes}")
    box = Collector(Encoder(model_or_tokenizer))
    for i in range(len(clean)):
        words = {name: _both(values[i]) for name, values in (roles or {}).items()}
        a, b = (
            Filled(text, {k: _span(text, v[side], k, i) for k, v in words.items()})
            for side, text in enumerate((clean[i], corrupted[i]))
        )
        reason = box.take(Proposal(task, a, b, answer[i], foil[i]))
        if reason and not drop_misaligned:
            raise ConfigError(f"pair {i} is one {reason}: {_tokens(box.encoder, clean[i])} / "
                              f"{_tokens(box.encoder, corrupted[i])}; answer "
                              f"{_tokens(box.encoder, answer[i])}, foil "
                              f"{_tokens(box.encoder, foil[i])}. Change a word, or pass "
                              "drop_misaligned=True")  # fmt: skip
        if reason:
            box.dropped[reason] += 1
    if not box.kept:
        raise ConfigError(f"none of the {len(clean)} pairs is aligned: {dict(box.dropped)}")
    return finish(box, task=task, seed=0, pools={}, flips=flips)


def _both(value: str | tuple[str, str]) -> tuple[str, str]:
    return (value, value) if isinstance(value, str) else (value[0], value[1])


def _span(text: str, word: str, role: str, row: int) -> tuple[int, int]:
    at = text.rfind(word) if word else -1
    if at < 0:
        raise ConfigError(f"pair {row}: the text {word!r} of role {role!r} is not in {text!r}")
    return at, at + len(word)


def _tokens(encoder: Encoder, text: str) -> str:
    ids = encoder.ids(text)
    return f"{encoder.shown(ids)} ({len(ids)} tokens)"
