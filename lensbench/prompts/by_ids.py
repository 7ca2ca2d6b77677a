"""Pairs of prompts as token ids: for models without a tokenizer, and for hand-made circuits."""

from collections.abc import Mapping, Sequence
from typing import Any

from lensbench.arguments import whole
from lensbench.errors import ConfigError
from lensbench.prompts.pairs import PromptPairs
from lensbench.tokens import TokensLike, as_tokens


def from_ids(
    clean: TokensLike,
    corrupted: TokensLike,
    answer: Sequence[int],
    foil: Sequence[int],
    *,
    roles: Mapping[str, Sequence[int]] | None = None,
    task: str = "given",
    flips: bool = True,
    model: Any = None,
) -> PromptPairs:
    """Pairs from token ids, BOS included where the model wants one.

    Args:
        clean: one row of ids per pair; rows may differ in length.
        corrupted: as many rows, each as long as its clean one.
        answer: the id that follows each clean prompt.
        foil: one that does not.
        roles: position of each role in each row, -1 where there is none; ``end``, the last token,
            is always there.
        task: name of the result.
        flips: whether ``foil`` is what follows the corrupted prompts.
        model: whose tokenizer the ids are of; left out for a model that has none.

    Raises:
        ConfigError: lists of unequal length, rows of unequal length in a pair, an answer that
            is no id or its own foil, or a role outside its row.
    """
    rows, others = (_rows(x) for x in (clean, corrupted))
    answer, foil = _ids("answer", answer), _ids("foil", foil)
    n = len(rows)
    sizes = {"clean": n, "corrupted": len(others), "answer": len(answer), "foil": len(foil)}
    sizes |= {name: len(at) for name, at in (roles or {}).items()}
    if set(sizes.values()) != {n}:
        raise ConfigError(f"every list needs one entry per pair; got {sizes}")
    for i, (a, b) in enumerate(zip(rows, others, strict=True)):
        if len(a) != len(b):
            raise ConfigError(
                f"pair {i} is not aligned: {len(a)} clean tokens {list(a)}, {len(b)} corrupted "
                f"ones {list(b)}"
            )
        if int(answer[i]) == int(foil[i]):
            raise ConfigError(f"pair {i}: answer and foil are one token, {int(answer[i])}")
    tokenizer = getattr(model, "tokenizer", None)
    return PromptPairs(
        task=task,
        clean_ids=rows,
        corrupted_ids=others,
        answer=tuple(int(i) for i in answer),
        foil=tuple(int(i) for i in foil),
        roles=_roles(roles or {}, [len(row) for row in rows]),
        clean_texts=tuple(_shown(tokenizer, row) for row in rows),
        corrupted_texts=tuple(_shown(tokenizer, row) for row in others),
        answer_texts=tuple(_shown(tokenizer, (int(i),)) for i in answer),
        foil_texts=tuple(_shown(tokenizer, (int(i),)) for i in foil),
        wordings=("given",) * n,
        flips=flips,
        tokenizer=_entry(tokenizer),
        pad_id=getattr(tokenizer, "pad_token_id", None),
    )


def _rows(tokens: TokensLike) -> tuple[tuple[int, ...], ...]:
    batch = as_tokens(tokens)
    return tuple(tuple(row[keep].tolist()) for row, keep in zip(batch.ids, batch.real, strict=True))


def _ids(name: str, values: Any) -> list[int]:
    listed: list[Any] = list(values) if hasattr(values, "__iter__") else [None]
    found = [whole(value) for value in listed]
    ids = [i for i in found if i is not None and i >= 0]
    if len(ids) < len(found):
        raise ConfigError(f"{name} must be a list of token ids, one per pair; got {values!r}")
    return ids


def _roles(given: Mapping[str, Sequence[int]], lengths: list[int]) -> dict[str, tuple[int, ...]]:
    found = {"end": tuple(n - 1 for n in lengths)}
    for name, places in given.items():
        for row, (at, n) in enumerate(zip(places, lengths, strict=True)):
            number = whole(at)
            if number is None or not -1 <= number < n:
                raise ConfigError(
                    f"role {name!r} of pair {row} must be a position of 0..{n - 1}, or -1 where "
                    f"there is none; got {at!r}"
                )
        if name != "end":
            found[name] = tuple(int(at) for at in places)
    return found


def _shown(tokenizer: Any, ids: tuple[int, ...]) -> str:
    return " ".join(map(str, ids)) if tokenizer is None else str(tokenizer.decode(list(ids)))


def _entry(tokenizer: Any) -> dict[str, Any]:
    from lensbench.harvest.describe import tokenizer_entry

    return tokenizer_entry(tokenizer)
