"""Prompt pairs that a reader typed: aligned, or left out with the reason in words.

Answers get the space before them where neither they nor the prompt have one. Besides ``end`` every
pair has the role ``differs``: the last token in which clean and corrupted prompt differ, so that
pairs of several lengths can be patched together.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lensbench.errors import ConfigError
from lensbench.prompts.given import from_texts
from lensbench.prompts.pairs import PromptPairs

if TYPE_CHECKING:
    from lensbench.models import Model

Rows = tuple[tuple[str, str, str, str], ...]
"""Clean, corrupted, answer and foil of each pair."""
COLUMNS = ("clean", "corrupted", "answer", "foil")
MOST_PAIRS, MOST_LETTERS = 64, 1_000


@dataclass(frozen=True)
class Aligned:
    """How one pair looks to the tokenizer."""

    number: int
    """Counted from 1, as a reader does."""
    clean: tuple[str, ...]
    corrupted: tuple[str, ...]
    why: str = ""
    """Why it is left out; empty where it is used."""


def rows_of(table: Sequence[Mapping[Any, Any]]) -> Rows:
    """Rows of a table without those that are wholly empty.

    Raises:
        ConfigError: a half-filled row, too many rows, or texts that are too long.
    """
    found: list[tuple[str, str, str, str]] = []
    for number, row in enumerate(table, start=1):
        values = ["" if row.get(c) is None else str(row[c]) for c in COLUMNS]
        if not any(v.strip() for v in values):
            continue
        empty = [c for c, v in zip(COLUMNS, values, strict=True) if not v.strip()]
        if empty:
            raise ConfigError(f"pair {number} lacks its {' and '.join(empty)}; fill all four cells")
        if max(map(len, values)) > MOST_LETTERS:
            raise ConfigError(f"pair {number} has a text of more than {MOST_LETTERS} characters")
        found.append((values[0], values[1], values[2], values[3]))
    if len(found) > MOST_PAIRS:
        raise ConfigError(f"{len(found)} pairs; a page takes {MOST_PAIRS}. Use lensbench patch")
    return tuple(found)


def rows_of_json(text: str) -> Rows:
    """What :func:`json_of` wrote, as it stands in an address.

    Raises:
        ConfigError: anything else.
    """
    try:
        return rows_of([dict(zip(COLUMNS, row, strict=True)) for row in json.loads(text)])
    except (ValueError, TypeError) as error:
        raise ConfigError(
            "the pairs in the address cannot be read; take a task's pairs, or type them again"
        ) from error


def json_of(rows: Rows) -> str:
    """Rows as short text."""
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":"))


def rows_of_csv(text: str) -> Rows:
    """Rows of a CSV with the columns clean, corrupted, answer, foil.

    Raises:
        ConfigError: other columns.
    """
    reader = csv.DictReader(io.StringIO(text))
    names = [str(n).strip().lower() for n in reader.fieldnames or ()]
    if missing := [c for c in COLUMNS if c not in names]:
        raise ConfigError(f"the CSV lacks the columns {', '.join(missing)}; its first line should "
                          f"be {','.join(COLUMNS)}")  # fmt: skip
    reader.fieldnames = names
    return rows_of(list(reader))


def own_pairs(model: "Model", rows: Rows) -> PromptPairs:
    """The pairs that are aligned.

    Raises:
        ConfigError: none of them is.
    """
    good = [row for row, told in zip(rows, alignments(model, rows), strict=True) if not told.why]
    if not good:
        raise ConfigError(
            "none of the pairs can be used: clean and corrupted prompt need equally many tokens, "
            "and answer and foil must differ. The table of tokens says what is wrong with each"
        )
    made = _made(model, tuple(good))
    last = [
        max((i for i, (a, b) in enumerate(zip(x, y, strict=True)) if a != b), default=-1)
        for x, y in zip(made.clean_ids, made.corrupted_ids, strict=True)
    ]
    return replace(made, roles={"differs": tuple(last), **made.roles})


def _made(model: "Model", rows: Rows) -> PromptPairs:
    spaced = [_spaced(row) for row in rows]
    columns = [list(c) for c in zip(*spaced, strict=True)]
    return from_texts(model, columns[0], columns[1], columns[2], columns[3], several="sum",
                      task="own pairs")  # fmt: skip


def _spaced(row: tuple[str, str, str, str]) -> tuple[str, str, str, str]:
    clean, corrupted, answer, foil = row
    after = lambda word: word if clean[-1:].isspace() or word[:1].isspace() else f" {word}"  # noqa: E731 - used below
    return clean, corrupted, after(answer), after(foil)


def alignments(model: "Model", rows: Rows) -> list[Aligned]:
    """The tokens of every pair, and why a pair is left out."""
    from lensbench.plots import visible
    from lensbench.prompts.encoder import Encoder
    from lensbench.tokens import token_texts

    encoder, found = Encoder(model), list[Aligned]()
    for number, row in enumerate(rows, start=1):
        ids = [encoder.encode(text).ids for text in row[:2]]
        words = [tuple(visible(w) for w in token_texts(model.tokenizer, list(i))) for i in ids]
        why = ""
        if len(ids[0]) != len(ids[1]):
            why = (f"{len(ids[0])} tokens against {len(ids[1])}: states of one prompt have no "
                   "place in the other. Left out; add or drop a word")  # fmt: skip
        elif ids[0] == ids[1]:
            why = "clean and corrupted prompt are the same. Left out; change a word"
        else:
            try:
                _made(model, (row,))
            except ConfigError as error:
                why = f"Left out: {str(error).replace('pair 0', 'it').partition(', or pass')[0]}"
        found.append(Aligned(number, words[0], words[1], why))
    return found


def texts_code(rows: Rows) -> str:
    """The lines of Python that make the same pairs; empty without any."""
    if not rows:
        return ""
    columns = zip(*(_spaced(row) for row in rows if row[0] != row[1]), strict=True)
    given = "".join(f"    {list(column)!r},\n" for column in columns)
    return (
        "from dataclasses import replace\n\n"
        f"pairs = prompts.from_texts(\n    model,\n{given}"
        "    several='sum', task='own pairs', drop_misaligned=True)\n"
        "differs = tuple(max(i for i, (a, b) in enumerate(zip(*ids)) if a != b)\n"
        "                for ids in zip(pairs.clean_ids, pairs.corrupted_ids))\n"
        "pairs = replace(pairs, roles={'differs': differs, **pairs.roles})\n"
    )
