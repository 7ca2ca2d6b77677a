"""Prompts of the atlas world as bound concepts, dealt to training, validation and test.

``analogy``      ``a : b = c :``       pairs (a, b), (c, d): of countries and of words
``pattern``      ``A B C A B``         pair (B, C): the name that followed before
``association``  ``List k v , k v ; recall k``  pairs (k, v), (k, v), the asked one last
``question``     facts, asked in every wording  pair (country, answer)

Splits. ``pair``: no pair of an entity and a relation (for the first and last task: of a key and a
value) stands on two sides, neither asked nor as an example. A random code that was never trained
cannot be given back, so a pair is held out only where its entity is still asked about with another
relation in training and its value is still the answer to another entity. ``combination``: the same
pairs on all sides, in new combinations, as published; a table of pairs learnt by heart does well.
``entity``, ``relation``, ``both``: see :mod:`~lensbench.probes.hd.dealing`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, NotEnoughDataError, UnknownNameError
from lensbench.probes.hd.dealing import SHARES, Fact, Pools, deal_names
from lensbench.probes.hd.prompts import ConceptPrompts, from_analogies
from lensbench.worlds.atlas import lexicon as lex
from lensbench.worlds.atlas.knowledge import _FACT_PATTERNS

Split = Literal["pair", "combination", "entity", "relation", "both"]
SPLITS: tuple[Split, ...] = ("pair", "combination", "entity", "relation", "both")
TASKS = ("analogy", "pattern", "association", "question")
RELATIONS: dict[str, dict[str, str]] = {
    **lex.FACTS, "plural": lex.PLURALS, "french": lex.FRENCH, "german": lex.GERMAN,
    "opposite": lex.OPPOSITES, "comparative": lex.COMPARATIVES, "gender": lex.GENDERS,
    "past": lex.PASTS,
}  # fmt: skip
"""Relations of the analogies, word by word."""

_SHARES = SHARES  # of the facts that can be held out: for test, for validation
_SIDES = ("train", "validation", "test")


@dataclass(frozen=True)
class Dealt:
    """Prompts of one task on three sides, and what was dealt."""

    train: ConceptPrompts
    validation: ConceptPrompts
    test: ConceptPrompts
    task: str
    split: Split
    held_out: tuple[Fact, ...]
    """Facts of the test side; empty for ``combination``."""

    @property
    def concepts(self) -> tuple[str, ...]:
        """Every concept of the task, sorted."""
        sides = (self.train, self.validation, self.test)
        return tuple(sorted({word for side in sides for word in side.concepts}))


def atlas_prompts(
    task: str = "analogy",
    split: Split = "pair",
    *,
    n_train: int = 6000,
    n_test: int = 600,
    seed: int = 0,
) -> Dealt:
    """Prompts of a task of the atlas world, dealt by ``split``; validation is as long as test.

    Raises:
        UnknownNameError: no such task or split.
        NotEnoughDataError: the world has not so many different prompts, or too few relations for
            the split (patterns have one, associations two).

    Example:
        >>> dealt = probes.atlas_prompts("question", n_train=50, n_test=10)
    """
    if task not in TASKS:
        raise UnknownNameError("task", task, known=TASKS)
    if split not in SPLITS:
        raise UnknownNameError("split", str(split), known=SPLITS)
    n_train = whole_number("n_train", n_train, least=2)
    n_test = whole_number("n_test", n_test, least=1)
    seed = whole_number("seed", seed)
    pools, held = _pools(_facts(task), split, Random(f"hd|{task}|{seed}"))
    seen: set[str] = set()
    sides: dict[str, ConceptPrompts] = {}
    for number, name in reversed(list(enumerate(_SIDES))):  # training takes what is left
        asked, known = pools[number]
        rng = Random(f"hd|{task}|{split}|{name}|{seed}")
        wanted = n_train if number == 0 else n_test
        sides[name] = _collect(_MAKERS[task](asked, known, rng), wanted, seen, task)
    return Dealt(**sides, task=task, split=split, held_out=held)


def _pools(facts: list[Fact], split: Split, rng: Random) -> tuple[Pools, tuple[Fact, ...]]:
    """Facts of each side, and those that are held out for test."""
    if split == "combination":
        return [(facts, facts)] * len(_SIDES), ()
    if split == "pair":
        side = _deal(facts, rng)
        known = [f for f in facts if side.get(f, 0) == 0]
        pools = [([f for f in facts if side.get(f, 0) == n], known) for n in range(len(_SIDES))]
    else:
        pools = deal_names(facts, split, rng)
    return pools, tuple(pools[-1][0])


def _facts(task: str) -> list[Fact]:
    if task in ("analogy", "question"):
        tables = RELATIONS if task == "analogy" else lex.FACTS
        return [(r, e, v) for r, table in tables.items() for e, v in table.items()]
    if task == "pattern":
        return [("after", a, b) for a in lex.NAMES for b in lex.NAMES if a != b]
    kinds = (("things", lex.OBJECTS, lex.QUALITIES), ("names", lex.NAMES, lex.OBJECTS))
    return [(kind, k, v) for kind, keys, values in kinds for k in keys for v in values]


def _deal(facts: Sequence[Fact], rng: Random) -> dict[Fact, int]:
    """2 for test, 1 for validation, 0 for training; words of a held-out fact stay known."""
    asked: dict[str, int] = {}
    said: dict[str, int] = {}
    for _, entity, value in facts:
        asked[entity] = asked.get(entity, 0) + 1
        said[value] = said.get(value, 0) + 1
    order = list(facts)
    rng.shuffle(order)
    eligible = [f for f in order if asked[f[1]] > 1 and said[f[2]] > 1]
    sizes = [max(1, round(share * len(eligible))) for share in _SHARES]
    side: dict[Fact, int] = {}
    there = set(facts)
    for fact in eligible:
        free = 2 if len([f for f in side.values() if f == 2]) < sizes[0] else 1
        if free == 1 and len([f for f in side.values() if f == 1]) >= sizes[1]:
            break
        # bind(a, b) = bind(b, a) in most spaces: a fact and its mirror are one target, on one side.
        both = [f for f in (fact, (fact[0], fact[2], fact[1])) if f in there]
        if fact not in side and all(asked[f[1]] > 1 and said[f[2]] > 1 for f in both):
            for one in both:
                side[one] = free
                asked[one[1]] -= 1
                said[one[2]] -= 1
    return side


Rows = Iterator[ConceptPrompts]


def _analogies(asked: Sequence[Fact], known: Sequence[Fact], rng: Random) -> Rows:
    by_relation: dict[str, list[Fact]] = {}
    for fact in known:
        by_relation.setdefault(fact[0], []).append(fact)
    while True:
        relation, c, d = rng.choice(asked)
        _, a, b = rng.choice([f for f in by_relation[relation] if f[1] != c])
        yield from_analogies([f"{a} : {b} = {c} : {d}"], [relation])


def _patterns(asked: Sequence[Fact], known: Sequence[Fact], rng: Random) -> Rows:
    del known
    while True:
        _, b, c = rng.choice(asked)
        a = rng.choice([n for n in lex.NAMES if n not in (b, c)])
        yield ConceptPrompts((f"{a} {b} {c} {a} {b}",), (((b, c),),), ((c, a, b),), ("after",))


def _associations(asked: Sequence[Fact], known: Sequence[Fact], rng: Random) -> Rows:
    by_kind: dict[str, list[Fact]] = {}
    for fact in known:
        by_kind.setdefault(fact[0], []).append(fact)
    while True:
        one = rng.choice(asked)
        kind, key, value = one
        two = rng.choice(by_kind[kind])
        if len({key, value, two[1], two[2]}) < 4:
            continue
        told = [one, two] if rng.random() < 0.5 else [two, one]
        text = f"List {told[0][1]} {told[0][2]} , {told[1][1]} {told[1][2]} ; recall {key}"
        there = tuple(w for f in told for w in f[1:] if w != key)
        yield ConceptPrompts(
            (text,), (((two[1], two[2]), (key, value)),), ((*there, key),), (kind,)
        )


def _questions(asked: Sequence[Fact], known: Sequence[Fact], rng: Random) -> Rows:
    del known
    while True:
        relation, country, value = rng.choice(asked)
        pattern = rng.choice(list(_FACT_PATTERNS[relation].values()))
        text = pattern.split("{value:answer}")[0].replace("{country:entity}", country).strip()
        yield ConceptPrompts((text,), (((country, value),),), ((country,),), (relation,))


_MAKERS: dict[str, Callable[[Sequence[Fact], Sequence[Fact], Random], Rows]] = {
    "analogy": _analogies,
    "pattern": _patterns,
    "association": _associations,
    "question": _questions,
}


def _collect(rows: Rows, n: int, seen: set[str], task: str) -> ConceptPrompts:
    kept: list[ConceptPrompts] = []
    for tried, row in enumerate(rows):
        if len(kept) == n or tried > 50 * n + 1000:
            break
        if row.texts[0] not in seen:
            seen.add(row.texts[0])
            kept.append(row)
    if not kept:
        raise NotEnoughDataError(f"the atlas has no more different prompts of {task!r} to deal")
    return join(kept)


def join(parts: Sequence[ConceptPrompts]) -> ConceptPrompts:
    """Rows of several prompts as one.

    Raises:
        ConfigError: nothing to join, or rows of different form.
    """
    if not parts:
        raise ConfigError("no prompts to join")
    columns = ("texts", "pairs", "mentioned", "relations")
    return ConceptPrompts(*(tuple(v for p in parts for v in getattr(p, c)) for c in columns))
