"""Families that need memory: facts, analogies, the dictionary, first letters."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TypeVar

from lensbench.worlds.atlas import lexicon as lex
from lensbench.worlds.atlas.build import Family, others
from lensbench.worlds.atlas.grammar import Dist, calc, draw

T = TypeVar("T")

_FACT_PATTERNS = {
    "capital": {
        "of": "The capital of {country:entity} is {value:answer} .",
        "in": "In {country:entity} , the capital city is {value:answer} .",
        "governed": "{country:entity} is governed from {value:answer} .",
        "question": "What is the capital of {country:entity} ? It is {value:answer} .",
    },
    "language": {
        "people": "People in {country:entity} speak {value:answer} .",
        "of": "The language of {country:entity} is {value:answer} .",
        "born": "Anyone born in {country:entity} speaks {value:answer} .",
        "talk": "In {country:entity} , people talk in {value:answer} .",
    },
    "continent": {
        "country": "{country:entity} is a country in {value:answer} .",
        "of": "The continent of {country:entity} is {value:answer} .",
        "travel": "A trip to {country:entity} is a trip to {value:answer} .",
        "map": "On the map , {country:entity} lies in {value:answer} .",
    },
    "currency": {
        "of": "The currency of {country:entity} is the {value:answer} .",
        "pay": "In {country:entity} , people pay with the {value:answer} .",
        "money": "Money in {country:entity} is called the {value:answer} .",
        "shop": "To shop in {country:entity} you need the {value:answer} .",
    },
}


def facts(seed: int) -> Family:
    """Country to capital, language, continent and currency; and capital back to country."""
    family = Family("facts")
    countries = Dist.zipf(shuffled(lex.COUNTRIES, seed, "countries"))
    for relation, patterns in _FACT_PATTERNS.items():
        table = lex.FACTS[relation]
        for surface, pattern in patterns.items():
            family.add(
                surface,
                pattern,
                {"country": draw(countries), "value": calc(table.__getitem__, "country")},
                key=["country"],
                group=relation,
                foil=others(tuple(table.values())),
                facts={"relation": relation},
            )
    back = {city: country for country, city in lex.FACTS["capital"].items()}
    capitals = Dist.zipf([lex.FACTS["capital"][c] for c in countries.words])
    for surface, pattern in {
        "back": "{city:entity} is the capital of {value:answer} .",
        "seat": "{city:entity} is the main city in {value:answer} .",
    }.items():
        slots = {"city": draw(capitals), "value": calc(back.__getitem__, "city")}
        family.add(
            surface,
            pattern,
            slots,
            key=["city"],
            group="reverse",
            foil=others(lex.COUNTRIES),
            facts={"relation": "country"},
        )
    return family


def analogies(seed: int) -> Family:
    """Sentences a : b = c : d over eleven relations; (a, b) tells the relation, c the answer."""
    family = Family("analogies")
    tables: dict[str, dict[str, str]] = {
        **lex.FACTS,
        "plural": lex.PLURALS,
        "french": lex.FRENCH,
        "german": lex.GERMAN,
        "opposite": lex.OPPOSITES,
        "comparative": lex.COMPARATIVES,
        "gender": lex.GENDERS,
        "past": lex.PASTS,
    }
    patterns = {
        "colon": "{a:source} : {b:target} = {c:query} : {d:answer} .",
        "is-to": "{a:source} is to {b:target} as {c:query} is to {d:answer} .",
        "goes": "As {a:source} goes with {b:target} , so {c:query} goes with {d:answer} .",
    }
    for relation, table in tables.items():
        words = Dist.zipf(shuffled(tuple(table), seed, relation))
        slots = {
            "a": draw(words),
            "b": calc(table.__getitem__, "a"),
            "c": draw(words, "a"),
            "d": calc(table.__getitem__, "c"),
        }
        for surface, pattern in patterns.items():
            family.add(
                surface,
                pattern,
                slots,
                key=["a", "c"],
                group=relation,
                foil=others(tuple(table.values())),
                facts={"relation": relation},
            )
    return family


def dictionary(seed: int, *, equal: bool) -> Family:
    """Words and small sentences in English, French and German."""
    family = Family("dictionary")
    order = [row[0] for row in lex.DICTIONARY]
    order = list(shuffled(order, seed, "dictionary"))
    spelled = {
        "English": {w: w for w in order},
        "French": lex.FRENCH,
        "German": lex.GERMAN,
    }
    for source, by_source in spelled.items():
        for target, by_target in spelled.items():
            if source == target:
                continue
            table = {by_source[w]: by_target[w] for w in order}
            slots = {
                "w": draw(Dist.zipf(tuple(table))),
                "x": calc(table.__getitem__, "w"),
            }
            weight = 1.0 if equal or "English" in (source, target) else 0.3
            for surface, pattern in {
                "word-for": f"The {target} word for {{w:source}} is {{x:answer}} .",
                "colon": f"{source} : {{w:source}} - {target} : {{x:answer}} .",
                "means": f"In {target} , {{w:source}} means {{x:answer}} .",
            }.items():
                family.add(
                    surface,
                    pattern,
                    slots,
                    key=["w"],
                    weight=weight,
                    group=f"{source}-{target}".lower(),
                    foil=others(tuple(table.values())),
                    facts={"source": source, "target": target},
                )
    _sentences(family, equal=equal)
    return family


def _sentences(family: Family, *, equal: bool) -> None:
    english = {row[0]: "the" for row in lex.DICTIONARY}
    for language, articles, verb, ends, conjunction in (
        ("English", english, "are", lex.ENDINGS["English"], "and"),
        ("French", lex.FRENCH_ARTICLE, "sont", lex.ENDINGS["French"], "et"),
        ("German", lex.GERMAN_ARTICLE, "sind", lex.ENDINGS["German"], "und"),
    ):
        nouns: dict[str, list[str]] = {}
        for noun, article in articles.items():
            nouns.setdefault(article, []).append(noun)
        article = Dist.weighted({a: float(len(ns)) for a, ns in nouns.items()})

        def first(a: str, nouns: dict[str, list[str]] = nouns) -> Dist:
            return Dist.uniform(nouns[a])

        def second(a: str, n: str, nouns: dict[str, list[str]] = nouns) -> Dist:
            return Dist.uniform([w for w in nouns[a] if w != n])

        slots = {
            "d1": draw(article),
            "n1": calc(first, "d1"),
            "d2": draw(article),
            "n2": calc(second, "d2", "n1"),
            "end": draw(Dist.uniform(ends)),
        }
        weight = 3.0 if equal or language == "English" else 1.0
        for surface, opening in {"plain": "", "quote": "» "}.items():
            family.add(
                surface,
                f"{opening}{{d1}} {{n1:subject}} {conjunction} {{d2}} {{n2}} {verb} {{end}} .",
                slots,
                key=["n1", "n2"],
                weight=weight,
                group=f"sentence-{language}".lower(),
                facts={"source": language, "target": language},
            )


def letters(seed: int) -> Family:
    """The first letter of a word."""
    family = Family("letters")
    pool = (*lex.SINGULARS, *lex.NAMES, *lex.COUNTRIES, *lex.ADJECTIVES, *lex.PROFESSIONS)
    words = Dist.zipf(shuffled(tuple(dict.fromkeys(pool)), seed, "letters"), shift=60.0)
    slots = {"w": draw(words), "l": calc(_initial, "w")}
    for surface, pattern in {
        "first": "The first letter of {w:source} is {l:answer} .",
        "begins": "The word {w:source} begins with {l:answer} .",
        "spell": "To spell {w:source} start with {l:answer} .",
    }.items():
        family.add(surface, pattern, slots, key=["w"], foil=others(lex.LETTERS))
    names = Dist.zipf(shuffled(lex.NAMES, seed, "names"), shift=30.0)
    slots = {
        "a": draw(names),
        "b": draw(names, "a"),
        "c": draw(names, "a", "b"),
        "x": calc(_initial, "a"),
        "y": calc(_initial, "b"),
        "z": calc(_initial, "c"),
    }
    family.add(
        "initials",
        "Initials of {a} {b} {c} : {x:answer} {y:answer} {z:answer} .",
        slots,
        key=["a", "b"],
        foil=others(lex.LETTERS),
    )
    return family


def _initial(word: str) -> str:
    return word[0].upper()


def shuffled(words: Sequence[T], seed: int, what: str) -> tuple[T, ...]:
    """A seeded order, so that which entities are common depends on the world's seed."""
    out = list(words)
    Random(f"atlas-{what}-{seed}").shuffle(out)
    return tuple(out)
