"""Families that need the context: recall, indirect objects, induction, agreement, numbers."""

from __future__ import annotations

from collections.abc import Callable

from lensbench.worlds.atlas import lexicon as lex
from lensbench.worlds.atlas.build import Family, bound, others
from lensbench.worlds.atlas.grammar import Dist, Step, calc, draw
from lensbench.worlds.atlas.knowledge import shuffled


def recall(seed: int) -> Family:
    """Two to five key-value pairs, then up to three keys (or values) asked again."""
    family = Family("recall")
    things = Dist.zipf(shuffled(lex.OBJECTS, seed, "things"), shift=30.0)
    qualities = Dist.zipf(shuffled(lex.QUALITIES, seed, "qualities"), shift=30.0)
    names = Dist.zipf(shuffled(lex.NAMES, seed, "names"), shift=30.0)
    for n in (2, 3, 4, 5):
        asked = min(n, 3)
        for surface, head, pair, query, keys, values in (
            ("list", "List", "{k%d} {v%d}", "{q%d} {r%d:answer}", things, qualities),
            ("owners", "List", "{k%d} {v%d}", "{q%d} {r%d:answer}", names, things),
            ("article", "", "a {k%d} {v%d}", "the {q%d} {r%d:answer}", qualities, things),
        ):
            told = " , ".join(pair % (i, i) for i in range(n))
            back = " , ".join(query % (i, i) for i in range(asked))
            opening = f"{head} {told}" if head else f"A{told[1:]}"
            family.add(
                surface,
                f"{opening} ; <recall recall {back} > .",
                _recall_slots(n, asked, keys, values),
                key=["k0", "v0"],
                variant=str(n),
                foil=bound(*(f"v{i}" for i in range(n))),
            )
    return family


def _recall_slots(n: int, asked: int, keys: Dist, values: Dist) -> dict[str, Step]:
    slots: dict[str, Step] = {}
    ks, vs = [f"k{i}" for i in range(n)], [f"v{i}" for i in range(n)]
    for i in range(n):
        slots[ks[i]] = draw(keys, *ks[:i])
        slots[vs[i]] = draw(values, *vs[:i])
    for i in range(asked):
        slots[f"q{i}"] = calc(_one_of(n), *ks, *(f"q{j}" for j in range(i)))
        slots[f"r{i}"] = calc(_lookup(n), f"q{i}", *ks, *vs)
    return slots


def _one_of(n: int) -> Callable[..., Dist]:
    def rule(*words: str) -> Dist:
        return Dist.uniform([w for w in words[:n] if w not in words[n:]])

    return rule


def _lookup(n: int) -> Callable[..., str]:
    def rule(query: str, *words: str) -> str:
        return words[n + words.index(query)]

    return rule


def indirect_objects(seed: int) -> Family:
    """Two names, one acts, the other receives (both orders of mention)."""
    family = Family("ioi")
    names = Dist.zipf(shuffled(lex.NAMES, seed, "names"), shift=30.0)
    slots = {
        "a": draw(names),
        "b": draw(names, "a"),
        "place": draw(Dist.uniform(lex.PLACES)),
        "s": calc(lambda a, b: Dist.uniform((a, b)), "a", "b"),
        "gift": draw(Dist.uniform(lex.GIFTS)),
        "io": calc(lambda a, b, s: b if s == a else a, "a", "b", "s"),
    }
    act = "{s:actor} %s {gift} to {io:answer} ."
    for surface, pattern in {
        "when": "When {a} and {b} went to the {place} , " + act % "gave a",
        "then": "Then {a} and {b} had a long day at the {place} , and " + act % "handed the",
        "after": "After {a} and {b} left the {place} , " + act % "offered a",
        "friends": "Friends {a} and {b} met at the {place} , where " + act % "sent a",
    }.items():
        family.add(surface, pattern, slots, key=["a", "b"], foil=bound("s"))
    return family


def induction(seed: int) -> Family:
    """Random words said again: straight, thrice, after a separator, and round a circle.

    Lists are of names, or of the things and qualities that recall pairs up.
    """
    family = Family("induction")
    names = Dist.zipf(shuffled(lex.NAMES, seed, "names"), shift=30.0)
    words = Dist.zipf(shuffled((*lex.OBJECTS, *lex.QUALITIES), seed, "words"), shift=30.0)
    for head, pool in (("Names", names), ("Words", words)):
        for n in range(3, 9):
            _repeated(family, head, pool, n)
    return family


def _repeated(family: Family, head: str, pool: Dist, n: int) -> None:
    ns = [f"n{i}" for i in range(n)]
    slots = {name: draw(pool, *ns[:i]) for i, name in enumerate(ns)}
    once = " ".join(f"{{{name}}}" for name in ns)
    first, *rest = ns
    again = " ".join([f"{{{first}:again}}", *(f"{{{name}:again,answer}}" for name in rest)])
    full = " ".join(f"{{{name}:again,answer}}" for name in ns)
    circle, turn = {**slots, "c0": calc(_one_of(n), *ns)}, ["{c0:again}"]
    for i in range(1, n):
        circle[f"c{i}"] = calc(_successor, f"c{i - 1}", *ns)
        turn.append(f"{{c{i}:again,answer}}")
    for surface, pattern, filled, weight in (
        ("straight", f"{once} {again} .", slots, 1.0),
        ("again", f"{head} : {once} ; again : {full} .", slots, 0.5),
        ("thrice", f"{once} {again} {again} .", slots, 0.7 if n <= 6 else 0.0),
        ("circle", f"Circle : {once} ; start {' '.join(turn)} .", circle, 1.0),
    ):
        if weight:
            family.add(
                surface, pattern, filled, key=["n0", "n1"], variant=f"{head.lower()}{n}",
                weight=weight, foil=bound(*ns),
            )  # fmt: skip


def _successor(word: str, *ring: str) -> str:
    return ring[(ring.index(word) + 1) % len(ring)]


def number_of(noun: str) -> str:
    """``singular`` or ``plural``."""
    return "plural" if noun in lex.SINGULAR_OF else "singular"


def agreement(seed: int) -> Family:
    """The verb agrees with the subject across up to two nouns of either number."""
    family = Family("agreement")
    both = [w for pair in shuffled(list(lex.PLURALS.items()), seed, "nouns") for w in pair]
    nouns = Dist.zipf(both, shift=60.0)
    slots = {
        "s": draw(nouns),
        "d": draw(nouns, "s"),
        "e": draw(nouns, "s", "d"),
        "p": draw(Dist.uniform(lex.PREPOSITIONS)),
        "o": draw(Dist.uniform(lex.PREPOSITIONS)),
        "rv": calc(_embedded, "d"),
        "adj": draw(Dist.uniform(lex.ADJECTIVES)),
    }
    far = "<distractor {p} the {d:attractor} >"
    for surface, pattern, verb, key in (
        ("near", f"The {{s:subject}} {far} {{v:answer}} {{adj}} .", "is", "sd"),
        ("past", f"Yesterday the {{s:subject}} {far} {{v:answer}} {{adj}} .", "was", "sd"),
        (
            "that",
            "The {s:subject} <distractor that the {d:attractor} {rv} > {v:answer} {adj} .",
            "seems",
            "sd",
        ),
        (
            "two",
            "Every day the {s:subject} <distractor {p} the {d:attractor} {o} the {e:attractor} >"
            " {v:answer} {adj} .",
            "looks",
            "sd",
        ),
        ("plain", "I think the {s:subject} {v:answer} {adj} .", "is", "s"),
    ):
        forms = {"singular": verb, "plural": lex.VERBS[verb]}
        filled = {**slots, "v": calc(lambda s, forms=forms: forms[number_of(s)], "s")}
        family.add(surface, pattern, filled, key=list(key), foil=others(tuple(forms.values())))
    return family


def _embedded(noun: str) -> Dist:
    return Dist.uniform(
        tuple(lex.EMBEDDED) if number_of(noun) == "singular" else tuple(lex.EMBEDDED.values())
    )


def numbers(seed: int) -> Family:
    """Which of two numbers is greater, in three wordings; and what comes after a number."""
    del seed  # numbers have no common and rare ones
    family = Family("comparison")
    pool = Dist.uniform(lex.NUMBERS)
    slots = {
        "a": draw(pool),
        "b": draw(pool, "a"),
        "w": draw(Dist.uniform(("greater", "smaller"))),
        "m": calc(_extreme, "a", "b", "w"),
        "r": calc(lambda a, b: "greater" if int(b) > int(a) else "smaller", "a", "b"),
        "yn": calc(lambda a, b, w: "Yes" if _extreme(a, b, w) == a else "No", "a", "b", "w"),
    }
    family.add(
        "of",
        "Of {a:left} and {b:right} , the {w} is {m:answer} .",
        slots,
        key=["a", "b"],
        foil=bound("a", "b"),
    )
    family.add(
        "with",
        "Compared with {a:left} , {b:right} is {r:answer} .",
        slots,
        key=["a", "b"],
        foil=others(("greater", "smaller")),
    )
    family.add(
        "is",
        "Is {a:left} {w} than {b:right} ? {yn:answer} .",
        slots,
        key=["a", "b"],
        foil=others(("Yes", "No")),
    )
    after = {"a": draw(Dist.uniform(lex.NUMBERS[:-1])), "n": calc(lambda a: str(int(a) + 1), "a")}
    for surface, pattern in {
        "after": "After {a} comes {n:answer} .",
        "next": "{a} then {n:answer} .",
    }.items():
        family.add(
            surface,
            pattern,
            after,
            key=["a"],
            group="successor",
            weight=0.15,
            foil=others(lex.NUMBERS),
        )
    return family


def _extreme(a: str, b: str, which: str) -> str:
    return str((max if which == "greater" else min)(int(a), int(b)))


def garden_paths(seed: int) -> Family:
    """While the man hunted (,) the deer ran: the comma decides, or the verb, or the next word."""
    family = Family("garden")
    people = Dist.uniform(shuffled(lex.ANIMATES, seed, "animates"))
    slots = {
        "m": draw(people),
        "n": draw(people, "m"),
        "x": draw(people, "m", "n"),
        "v": draw(Dist.uniform(lex.OPTIONAL_OBJECT)),
        "i": draw(Dist.uniform(lex.NO_OBJECT)),
        "mv": draw(Dist.uniform(lex.MAIN_VERBS)),
        "place": draw(Dist.uniform(lex.PLACES)),
    }
    end = "{mv:main} near the {place} ."
    for surface in ("While", "As"):
        for reading, weight, pattern in (
            ("comma", 3.0, "{v} > , the {n:subject} " + end),
            ("path", 2.0, "{v} > <ambiguous the {n:subject} > {mv:main,trap} near the {place} ."),
            ("object", 4.0, "{v} > <ambiguous the {n} > , the {x:subject} " + end),
            ("no-object", 1.0, "{i} > the {n:subject} " + end),
            ("no-object-comma", 1.0, "{i} > , the {n:subject} " + end),
        ):
            family.add(
                surface.lower(),
                f"{surface} <subordinate the {{m}} {pattern}",
                slots,
                key=["m", "n"],
                variant=reading,
                weight=weight,
                group="",
            )
    return family
