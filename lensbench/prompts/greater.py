"""Greater-than: a later year must follow an earlier one; or which of two numbers is greater.

``The war lasted from the year 1732 to the year 17`` -> ``57``, not ``21``.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from lensbench.errors import UnknownNameError
from lensbench.prompts import words
from lensbench.prompts.build import Proposal, collect, need, usable
from lensbench.prompts.encoder import Encoder
from lensbench.prompts.pairs import PromptPairs
from lensbench.prompts.wording import Wording

Form = Literal["years", "numbers"]
CENTURIES = ("11", "12", "13", "14", "15", "16", "17", "18")
YEARS = Wording("years", "The {_noun} lasted from the year {_c}{start} to the year {_d}")
NUMBERS = (
    Wording("of", "Of {left} and {right} , the {comparison} is"),
    Wording("is", "Is {left} {comparison} than {right} ?"),
    Wording("with", "Compared with {left} , {right} is"),
)
_OPPOSITE = {"greater": "smaller", "smaller": "greater"}


def greater_than(
    model_or_tokenizer: Any, n: int = 100, seed: int = 0, *, form: Form | None = None
) -> PromptPairs:
    """Greater-than, in years where the tokenizer lets a year be cut after its century.

    ``years``: the answer is the first token of a year that only later years begin with, the foil
    one that only earlier years (or the same) begin with; with tokens of two digits that is a year,
    with tokens of one digit its tens. The corrupted prompt starts in year 01, after which both are
    right. Hanna et al. sum the probabilities of all years instead.
    ``numbers``: ``Of 31 and 24 , the greater is``; the corrupted prompt asks for the smaller (or
    exchanges the numbers), so answer and foil change places. Numbers are one token each, or else
    equally many; a space that is a token of its own then ends the prompt. Default: ``numbers`` in
    the bundled world, whose model knows those wordings, and where years cannot be cut (digits in
    groups of three); else ``years``.
    Roles: ``start``, ``end``; or ``left``, ``right``, ``comparison``, ``end``.
    Source: Hanna et al. 2023, arXiv:2305.00586.

    Raises:
        NotEnoughDataError: no year can be cut (with the tokens of one), or fewer than two numbers
            have equally many tokens.

    Example:
        >>> pairs = prompts.greater_than(model, n=16, seed=0)
    """
    if form not in (None, "years", "numbers"):
        raise UnknownNameError("form", str(form), known=("years", "numbers"))
    encoder, rng = Encoder(model_or_tokenizer), random.Random(f"greater_than|{seed}")
    table = {} if form == "numbers" or (form is None and encoder.is_atlas) else _table(encoder)
    if form == "years" or table:
        nouns = [w for w in words.NOUNS if encoder.length(w)]
        pools = {
            "years": (sum(map(len, table.values())), 97 * len(CENTURIES)),
            "nouns": (len(nouns), len(words.NOUNS)),
        }
        why = f"{_cut(encoder)}; or no later or earlier year has a first token of its own"
        need("greater_than", "years", pools, 1, why=why)
        need("greater_than", "nouns", pools, 1, why="the others hold words it does not know")
        proposals = _years(encoder, rng, table, nouns)
        return collect(
            encoder,
            proposals,
            n,
            task="greater_than",
            seed=seed,
            pools=pools,
            flips=False,
            several="first",
        )
    numbers, wordings = _comparable(encoder), usable(encoder, NUMBERS)
    pools = {
        "numbers": (len(numbers), len(words.lex.NUMBERS)),
        "wordings": (len(wordings), len(NUMBERS)),
    }
    need("greater_than", "numbers", pools, 2, why="the others have another number of tokens")
    need("greater_than", "wordings", pools, 1, why="the others hold words it does not know")
    proposals = _numbers(encoder, rng, numbers, wordings)
    return collect(
        encoder, proposals, n, task="greater_than", seed=seed, pools=pools, several="first"
    )


Table = Mapping[str, Mapping[int, tuple[tuple[int, ...], tuple[int, ...]]]]
"""Century -> start year -> years whose first token is surely later, and surely not later."""


def _table(encoder: Encoder) -> Table:
    found: dict[str, dict[int, tuple[tuple[int, ...], tuple[int, ...]]]] = {}
    for century in CENTURIES:
        prompt = YEARS.fill({"_noun": "war", "_c": century, "start": "01", "_d": century}).text
        # None where century and year are merged (as in frequent ones): those are left out.
        ids = {y: encoder.after(prompt, f"{y:02d}") for y in range(2, 99)}
        first = {y: i[0] for y, i in ids.items() if i}
        rows: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        for start in first:
            after = {t for y, t in first.items() if y > start}
            before = {t for y, t in first.items() if y <= start}
            later = tuple(y for y, t in first.items() if t in after - before)
            earlier = tuple(y for y, t in first.items() if t in before - after)
            if later and earlier:
                rows[start] = later, earlier
        if rows:
            found[century] = rows
    return found


def _years(
    encoder: Encoder, rng: random.Random, table: Table, nouns: Sequence[str]
) -> Iterator[Proposal]:
    while True:
        century = rng.choice(list(table))
        start = rng.choice(list(table[century]))
        later, earlier = table[century][start]
        shared = {"_noun": rng.choice(nouns), "_c": century, "_d": century}
        clean, corrupted = (
            YEARS.fill({**shared, "start": year}, spaced=encoder.spaced)
            for year in (f"{start:02d}", "01")
        )
        answer, foil = f"{rng.choice(later):02d}", f"{rng.choice(earlier):02d}"
        yield Proposal(YEARS.name, clean, corrupted, answer, foil)


def _cut(encoder: Encoder) -> str:
    """Why the others cannot be cut: the tokens of a year beside those of its century."""
    year, century = (encoder.after("the year", f" {digits}") or () for digits in ("1732", "17"))
    if not year or not century:
        return "it has no token for the digits"
    return (
        "the others do not begin with the tokens of their century: '1732' is "
        f"{encoder.shown(year)}, '17' is {encoder.shown(century)}"
    )


def _comparable(encoder: Encoder) -> Sequence[str]:
    """Numbers of one token, or where there are not two of them, of equally many tokens."""
    single = encoder.single(words.lex.NUMBERS)
    if len(single) >= 2:
        return single
    groups: dict[int, list[str]] = {}
    for number in words.lex.NUMBERS:
        groups.setdefault(encoder.length(number), []).append(number)
    groups.pop(0, None)
    return max(groups.values(), key=len, default=[])


def _numbers(
    encoder: Encoder, rng: random.Random, numbers: Sequence[str], wordings: Sequence[Wording]
) -> Iterator[Proposal]:
    # Where the space is a token of its own, " 31" and " 24" would begin alike; so it is given.
    given = encoder.length(numbers[0]) > 1 and encoder.after("is ", numbers[0]) is not None
    while True:
        wording, word = rng.choice(wordings), rng.choice(list(_OPPOSITE))
        left, right = rng.sample(numbers, 2)
        slots = {"left": left, "right": right, "comparison": word}
        other = {**slots, "comparison": _OPPOSITE[word]}
        if wording.name == "with":
            other = {**slots, "left": right, "right": left}
        answer, foil = _answers(wording.name, left, right, word)
        if given and wording.name == "of":
            wording = Wording(wording.name, f"{wording.text} ")
        clean, corrupted = (wording.fill(s, spaced=encoder.spaced) for s in (slots, other))
        space = "" if given and wording.name == "of" else " "
        yield Proposal(wording.name, clean, corrupted, f"{space}{answer}", f"{space}{foil}")


def _answers(wording: str, left: str, right: str, word: str) -> tuple[str, str]:
    """Right and wrong continuation."""
    low, high = sorted((left, right), key=int)
    if wording == "of":
        return (high, low) if word == "greater" else (low, high)
    if wording == "is":
        return ("Yes", "No") if (left == high) == (word == "greater") else ("No", "Yes")
    return ("greater", "smaller") if right == high else ("smaller", "greater")
