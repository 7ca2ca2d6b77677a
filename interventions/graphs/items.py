"""Locally ambiguous sentences as a table: two readings, their continuations, a question after them.

Columns: ``prefix`` (up to where both readings are open), ``a`` and ``b`` (what goes on only under
reading A or B, several with ``|`` between), and where there are such ``only_a`` and ``only_b`` (a
like prefix with one reading), ``question`` (what follows the prefix: the rest of the sentence and
the question), ``right`` and ``wrong`` (its answers). Texts are joined as they are, so a
continuation has its leading space.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lensbench.arguments import whole
from lensbench.errors import ConfigError, MissingDataError, UnknownNameError
from lensbench.models.base import Model

NEEDED = ("prefix", "a", "b")
OPTIONAL = ("only_a", "only_b", "question", "right", "wrong")
Ids = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ReadingItems:
    """Token ids of locally ambiguous sentences; empty where an item has no such text."""

    texts: tuple[str, ...]
    prefix: tuple[Ids, ...]
    a: tuple[Ids, ...]
    """Tokens that continue reading A."""
    b: tuple[Ids, ...]
    only_a: tuple[Ids, ...]
    only_b: tuple[Ids, ...]
    question: tuple[Ids, ...]
    """Prefix, the rest of the sentence and the question."""
    right: tuple[Ids, ...]
    wrong: tuple[Ids, ...]

    def __len__(self) -> int:
        """Number of items."""
        return len(self.prefix)

    @property
    def asked(self) -> bool:
        """Whether the items have a question; all have, or none."""
        return bool(self.question[0])

    def swapped(self, rows: Sequence[int]) -> "ReadingItems":
        """The same with readings A and B exchanged in some items: a control."""
        from dataclasses import replace

        chosen = set(rows)
        given = {name: [(y if i in chosen else x) for i, (x, y) in enumerate(
                 zip(getattr(self, name), getattr(self, other), strict=True))]
                 for name, other in (("a", "b"), ("b", "a"), ("only_a", "only_b"),
                                     ("only_b", "only_a"))}  # fmt: skip
        return replace(self, **{name: tuple(value) for name, value in given.items()})


@dataclass(frozen=True, eq=False)
class Preference:
    """``sum of p(tokens for) - sum of p(tokens against)`` after some prompts, -1 to 1."""

    ids: Tensor
    """``[prompts, tokens]``."""
    weight: Tensor
    """1 for, -1 against, 0 where there is none."""

    @classmethod
    def of_tokens(cls, plus: Sequence[Ids], minus: Sequence[Ids]) -> "Preference":
        """For and against of every prompt."""
        rows = [[(i, 1.0) for i in p] + [(i, -1.0) for i in m]
                for p, m in zip(plus, minus, strict=True)]  # fmt: skip
        most = max(map(len, rows))
        full = torch.tensor([row + [(0, 0.0)] * (most - len(row)) for row in rows])
        return cls(full[..., 0].long(), full[..., 1])

    def of(self, logits: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """One number per row of last logits ``[rows, d_vocab]``."""
        take = slice(None) if rows is None else torch.tensor(list(rows))
        ids, weight = (x[take].to(logits.device) for x in (self.ids, self.weight))
        return (logits.float().softmax(-1).gather(1, ids) * weight).sum(1)


def reading_items(model: Model, table: Any) -> ReadingItems:
    """Read a table of locally ambiguous sentences for one model.

    Args:
        model: its tokenizer is used, and its BOS put in front.
        table: path of a CSV file, a data frame, or mappings by column (see the module); token ids
            may stand in place of texts, then of a whole prompt with its BOS.

    Raises:
        ConfigError: columns that are missing or unknown, a continuation that is not one token,
            one token under both readings or both right and wrong, or a question that only some
            items have.
        MissingDataError: no such file.

    Example:
        >>> rows = [
        ...     {
        ...         "prefix": "While the king sees the girl",
        ...         "a": " seems| is",
        ...         "b": " ,",
        ...         "question": " is near the park . Is the girl near the park ?",
        ...         "right": " Yes",
        ...         "wrong": " No",
        ...     }
        ... ]
        >>> items = interventions.reading_items(model, rows)
    """
    rows = _rows(table)
    if not rows:
        raise ConfigError("the table has no item; a row needs prefix, a and b")
    for name in {name for row in rows for name in row}:
        if name not in (*NEEDED, *OPTIONAL):
            raise UnknownNameError("column", str(name), known=(*NEEDED, *OPTIONAL))
    if len({_empty(row.get("question")) for row in rows}) > 1:
        raise ConfigError("some items have a question and some have none; give all or none")
    read = [_item(model, number, row) for number, row in enumerate(rows)]
    names = (*NEEDED, *OPTIONAL)
    return ReadingItems(texts=tuple(str(row["prefix"]) for row in rows),
                        **{n: tuple(one[n] for one in read) for n in names})  # fmt: skip


def _rows(table: Any) -> list[dict[str, Any]]:
    if hasattr(table, "to_dict") and hasattr(table, "columns"):
        table = table.to_dict("records")
    if isinstance(table, (str, Path)):
        path = Path(table)
        if not path.is_file():
            raise MissingDataError(f"there is no table at {path}; a CSV with {', '.join(NEEDED)}")
        with path.open(newline="", encoding="utf-8") as file:
            return [dict(row) for row in csv.DictReader(file)]
    if not isinstance(table, Iterable) or isinstance(table, Mapping):
        raise ConfigError(f"items are a CSV file, a frame or rows by column; got {table!r}")
    rows: list[Any] = list(table)  # pyright: ignore[reportUnknownArgumentType] - checked below
    for row in rows:
        if not isinstance(row, Mapping):
            raise ConfigError(f"an item is a mapping of {', '.join(NEEDED)}; got {row!r}")
    return [dict(row) for row in rows]


def _empty(cell: Any) -> bool:
    """Nothing there: None, NaN (which a frame has there) or no text and no id."""
    if cell is None or (isinstance(cell, float) and cell != cell):
        return True
    return not isinstance(cell, float) and hasattr(cell, "__len__") and len(cell) == 0


def _item(model: Model, number: int, row: Mapping[str, Any]) -> dict[str, Ids]:
    for name in NEEDED:
        if _empty(row.get(name)):
            raise ConfigError(f"item {number} has no {name}; it needs {', '.join(NEEDED)}")
    prefix: Any = row["prefix"]
    rest: Any = row.get("question")
    found = {"prefix": _ids(model, number, prefix)}
    found |= {n: _after(model, number, n, prefix, row[n]) for n in ("a", "b")}
    if both := set(found["a"]) & set(found["b"]):
        raise ConfigError(f"item {number}: token {min(both)} continues both readings, so it tells "
                          "nothing; leave it out of one")  # fmt: skip
    for name in ("only_a", "only_b"):
        found[name] = () if _empty(row.get(name)) else _ids(model, number, row[name])
    if _empty(rest):
        return found | {"question": (), "right": (), "wrong": ()}
    if isinstance(prefix, str) != isinstance(rest, str):
        raise ConfigError(f"item {number}: prefix and question must both be text or both be ids")
    whole_text: Any = prefix + rest if isinstance(prefix, str) else (
        *_checked(model, number, prefix), *_checked(model, number, rest)
    )  # fmt: skip
    found["question"] = _ids(model, number, whole_text)
    for name in ("right", "wrong"):
        if _empty(row.get(name)):
            raise ConfigError(f"item {number} has a question and no {name} answer")
        found[name] = _after(model, number, name, whole_text, row[name])
    if both := set(found["right"]) & set(found["wrong"]):
        raise ConfigError(f"item {number}: token {min(both)} is both right and wrong")
    return found


def _after(model: Model, number: int, name: str, prompt: Any, given: Any) -> Ids:
    """Tokens that a column names: each one token after the prompt."""
    if not isinstance(given, str):
        return _checked(model, number, given)
    if isinstance(prompt, str):
        known = _ids(model, number, prompt)
        found: list[int] = []
        for text in given.split("|"):
            ids = _ids(model, number, prompt + text)
            if ids[:-1] != known:
                raise ConfigError(
                    f"item {number}: {name} {text!r} is not one token after the prompt (it may "
                    "lack its leading space); give a continuation that is"
                )
            found.append(ids[-1])
        return tuple(dict.fromkeys(found))
    raise ConfigError(f"item {number}: {name} is text and its prompt is ids; give both alike")


def _ids(model: Model, number: int, given: Any) -> Ids:
    if not isinstance(given, str):
        return _checked(model, number, given)
    tokens = model.tokens(given)
    return tuple(int(i) for i in tokens.ids[0][tokens.real[0]])


def _checked(model: Model, number: int, given: Any) -> Ids:
    several: list[Any] = list(given) if isinstance(given, Iterable) else [given]  # pyright: ignore[reportUnknownArgumentType]
    ids = [whole(i) for i in several]
    if not ids or any(i is None or not 0 <= i < model.card.d_vocab for i in ids):
        raise ConfigError(f"item {number}: {given!r} is neither text nor ids of tokens below "
                          f"{model.card.d_vocab}")  # fmt: skip
    return tuple(int(i) for i in ids if i is not None)
