"""Pairs of prompts as token ids: for models without a tokenizer, and for hand-made circuits."""

from collections.abc import Mapping, Sequence
from typing import Any

from lensbench.arguments import whole
from lensbench.errors import ConfigError
from lensbench.prompts.pairs import PromptPairs
from lensbench.prompts.several import Several, known_several
from lensbench.tokens import TokensLike, as_tokens


def from_ids(
    clean: TokensLike,
    corrupted: TokensLike,
    answer: Sequence[int] | Sequence[Sequence[int]],
    foil: Sequence[int] | Sequence[Sequence[int]],
    *,
    roles: Mapping[str, Sequence[int]] | None = None,
    task: str = "given",
    flips: bool = True,
    several: Several = "refuse",
    model: Any = None,
) -> PromptPairs:
    """Pairs from token ids, BOS included where the model wants one.

    Args:
        clean: one row of ids per pair; rows may differ in length.
        corrupted: as many rows, each as long as its clean one.
        answer: the id that follows each clean prompt, or a list of several per pair.
        foil: one that does not, or several.
        roles: position of each role in each row, -1 where there is none; ``end``, the last token,
            is always there.
        task: name of the result.
        flips: whether ``foil`` is what follows the corrupted prompts.
        several: what becomes of answers and foils of several tokens: ``refuse`` them, ``sum`` the
            log-probabilities of all their tokens, or score by the ``first`` token alone.
        model: whose tokenizer the ids are of; left out for a model that has none.

    Raises:
        ConfigError: lists of unequal length, rows of unequal length in a pair, an answer that
            is no id or its own foil, an answer or foil of several tokens with
            ``several="refuse"``, or a role outside its row or of another type.
        UnknownNameError: another word for ``several``.

    Example:
        >>> pairs = prompts.from_ids(
        ...     clean=[[0, 5, 9]], corrupted=[[0, 6, 9]], answer=[12], foil=[13], model=model
        ... )
        >>> pairs.position("end")
        (2,)
    """
    rows, others = (_rows(x) for x in (clean, corrupted))
    answers, foils = _ids("answer", answer), _ids("foil", foil)
    whole, places = known_several(several) == "sum", _listed_roles(roles)
    n = len(rows)
    sizes = {"clean": n, "corrupted": len(others), "answer": len(answers), "foil": len(foils)}
    sizes |= {name: len(at) for name, at in places.items()}
    if set(sizes.values()) != {n}:
        raise ConfigError(f"every list needs one entry per pair; got {sizes}")
    for i, (a, b) in enumerate(zip(rows, others, strict=True)):
        if len(a) != len(b):
            raise ConfigError(
                f"pair {i} is not aligned: {len(a)} clean tokens {list(a)}, {len(b)} corrupted "
                f"ones {list(b)}"
            )
        one, other = (ids[i] if whole else ids[i][:1] for ids in (answers, foils))
        if one == other:
            shown = f"one token, {one[0]}" if len(one) == 1 else f"the same tokens, {list(one)}"
            raise ConfigError(f"pair {i}: answer and foil are {shown}")
    tokenizer = getattr(model, "tokenizer", None)
    return PromptPairs(
        task=task,
        clean_ids=rows,
        corrupted_ids=others,
        answer=tuple(ids[0] for ids in answers),
        foil=tuple(ids[0] for ids in foils),
        answer_rest=tuple(ids[1:] for ids in answers),
        foil_rest=tuple(ids[1:] for ids in foils),
        several=several,
        roles=_roles(places, [len(row) for row in rows]),
        clean_texts=tuple(_shown(tokenizer, row) for row in rows),
        corrupted_texts=tuple(_shown(tokenizer, row) for row in others),
        answer_texts=tuple(_shown(tokenizer, ids) for ids in answers),
        foil_texts=tuple(_shown(tokenizer, ids) for ids in foils),
        wordings=("given",) * n,
        flips=flips,
        tokenizer=_entry(tokenizer),
        pad_id=getattr(tokenizer, "pad_token_id", None),
    )


def _rows(tokens: TokensLike) -> tuple[tuple[int, ...], ...]:
    batch = as_tokens(tokens)
    return tuple(tuple(row[keep].tolist()) for row, keep in zip(batch.ids, batch.real, strict=True))


def _ids(name: str, values: Any) -> list[tuple[int, ...]]:
    """The ids of every pair's answer, one or several."""
    listed: list[Any] = list(values) if hasattr(values, "__iter__") else [None]
    found: list[tuple[int, ...]] = []
    for value in listed:
        number = whole(value)
        several = number is None and hasattr(value, "__iter__") and not isinstance(value, str)
        ids = [whole(v) for v in value] if several else [number]
        fine = [i for i in ids if i is not None and i >= 0]
        if not fine or len(fine) < len(ids):
            raise ConfigError(
                f"{name} must be a list of token ids, one per pair (or a list of them per pair); "
                f"got {values!r}"
            )
        found.append(tuple(fine))
    return found


def _listed_roles(roles: Any) -> dict[str, list[Any]]:
    """Roles by name, each a list of positions."""
    if roles is None:
        return {}
    if not isinstance(roles, Mapping):
        raise ConfigError(
            f"roles must map a role's name to its positions, {{'subject': [3, 4]}}; got {roles!r}"
        )
    found: dict[str, list[Any]] = {}
    for name, places in roles.items():
        if not isinstance(name, str):
            raise ConfigError(f"the name of a role must be text, got {name!r}")
        if isinstance(places, str) or not hasattr(places, "__iter__"):
            raise ConfigError(f"role {name!r} needs a list, one position per pair; got {places!r}")
        found[name] = list(places)
    return found


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
