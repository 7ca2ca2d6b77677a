"""Pairs of prompts that a user wrote: aligned, or refused with their tokens shown."""

from collections.abc import Mapping, Sequence
from typing import Any

from lensbench.errors import ConfigError
from lensbench.prompts.build import SEVERAL_TOKENS, Collector, Proposal, finish
from lensbench.prompts.checks import text
from lensbench.prompts.encoder import Encoder
from lensbench.prompts.pairs import PromptPairs
from lensbench.prompts.several import Several, known_several, too_long
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
    several: Several = "refuse",
    drop_misaligned: bool = False,
) -> PromptPairs:
    """Pairs from texts; answers with the space before them, as they follow the prompt.

    Args:
        model_or_tokenizer: whose tokens count.
        clean: one prompt per pair.
        corrupted: as many, each as many tokens long as its clean prompt.
        answer: what follows the clean prompt.
        foil: what does not; it has to differ in the tokens that are scored.
        roles: for each role one text per pair (or one for the clean and one for the corrupted
            prompt); its last occurrence is meant. ``end``, the last token, is always there.
        task: name of the result.
        flips: whether ``foil`` is what follows the corrupted prompts.
        several: what becomes of answers and foils of several tokens: ``refuse`` them, ``sum`` the
            log-probabilities of all their tokens, or score by the ``first`` token alone.
        drop_misaligned: leave such pairs out and count them, instead of an error.

    Raises:
        ConfigError: lists of unequal length or of anything but text, a role called ``end`` or
            ``_...``, a role's text that is not in the prompt, or a pair that is not aligned (with
            its tokens), or whose answer or foil is several tokens with ``several="refuse"``.
        UnknownNameError: another word for ``several``.

    Example:
        >>> pairs = prompts.from_texts(
        ...     model,
        ...     clean=["The king that the boys know"],
        ...     corrupted=["The kings that the boys know"],
        ...     answer=[" is"],
        ...     foil=[" are"],
        ...     roles={"subject": [("king", "kings")]},
        ... )
        >>> pairs.position("subject")
        (2,)
    """
    _check(roles, {"clean": clean, "corrupted": corrupted, "answer": answer, "foil": foil})
    box = Collector(Encoder(model_or_tokenizer), known_several(several))
    for i in range(len(clean)):
        words = {name: _both(values[i], name, i) for name, values in (roles or {}).items()}
        a, b = (
            Filled(prompt, {k: _span(prompt, v[side], k, i) for k, v in words.items()})
            for side, prompt in enumerate((clean[i], corrupted[i]))
        )
        reason = box.take(Proposal(task, a, b, answer[i], foil[i]))
        if reason and not drop_misaligned:
            raise ConfigError(_refusal(box.encoder, i, reason, a, b, answer[i], foil[i]))
        if reason:
            box.dropped[reason] += 1
    if not box.kept:
        why = ", ".join(f"{n} {reason}" for reason, n in box.dropped.items())
        raise ConfigError(
            f"none of the {len(clean)} pairs is aligned: {why}. Pass drop_misaligned=False to see "
            "the tokens of the first"
        )
    return finish(box, task=task, seed=0, pools={}, flips=flips)


def _check(roles: Any, lists: Mapping[str, Any]) -> None:
    """Names of roles, lengths of lists, and text where text belongs."""
    if roles is not None and not isinstance(roles, Mapping):
        got = type(roles).__name__
        raise ConfigError(f"roles must map a role's name to its texts, got {got}")
    for role in roles or {}:
        if text(role, "the name of a role") == "end":
            raise ConfigError("the role 'end' is the last token of every prompt; name it otherwise")
        if role.startswith("_"):
            raise ConfigError(f"the role {role!r} begins with an underscore, as slots do that "
                              "have no position; name it otherwise")  # fmt: skip
    every: dict[str, Any] = {**lists, **(roles or {})}
    sizes = {name: _size(values) for name, values in every.items()}
    if set(sizes.values()) != {sizes["clean"]} or sizes["clean"] in (0, None):
        got = {k: type(every[k]).__name__ if n is None else n for k, n in sizes.items()}
        raise ConfigError(
            f"every list needs one entry per pair, and at least one (clean=['...']); got {got}"
        )
    for name, values in lists.items():
        for i, value in enumerate(values):
            text(value, f"{name} of pair {i}")


def _size(values: Any) -> int | None:
    listed = hasattr(values, "__len__") and not isinstance(values, (str, bytes, Mapping))
    return len(values) if listed else None


def _both(value: Any, role: str, row: int) -> tuple[str, str]:
    what = f"role {role!r} of pair {row}"
    both = (value, value) if isinstance(value, str) else value
    if not isinstance(both, (tuple, list)) or len(both) != 2:
        raise ConfigError(f"{what} must be a text or two (clean, corrupted), got {value!r}")
    return text(both[0], what), text(both[1], what)


def _span(prompt: str, word: str, role: str, row: int) -> tuple[int, int]:
    at = prompt.rfind(word) if word else -1
    if at < 0:
        raise ConfigError(f"pair {row}: the text {word!r} of role {role!r} is not in {prompt!r}")
    return at, at + len(word)


def _refusal(
    encoder: Encoder, row: int, reason: str, clean: Filled, corrupted: Filled, *words: str
) -> str:
    """Why a pair is not taken, with its tokens, and what to do."""
    shown = ", ".join(
        f"{name} {_tokens(encoder, word)}"
        for name, word in zip(("answer", "foil"), words, strict=True)
    )
    if reason == SEVERAL_TOKENS:
        return too_long(f"pair {row}", shown)
    both = " / ".join(_tokens(encoder, filled.text) for filled in (clean, corrupted))
    bare = next((word for word in words if not word[:1].isspace()), "")
    todo = f"Write the space before an answer ({' ' + bare!r}), change a word," * bool(bare)
    return (
        f"pair {row} is one {reason}: {both}; {shown}. {todo or 'Change a word,'} or pass "
        "drop_misaligned=True"
    )


def _tokens(encoder: Encoder, words: str) -> str:
    ids = encoder.ids(words)
    return f"{encoder.shown(ids)} ({len(ids)} tokens)"
