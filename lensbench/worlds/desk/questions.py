"""The family of questions: five wordings, each answered or refused."""

from __future__ import annotations

from collections.abc import Callable

from lensbench.worlds.atlas import lexicon as lex
from lensbench.worlds.atlas.build import Family
from lensbench.worlds.atlas.grammar import Bindings, Dist, Step, calc, draw
from lensbench.worlds.desk.people import (
    ASKERS,
    ATTRIBUTES,
    FAMILY,
    LANGUAGE_OF,
    OPEN,
    OUTSIDERS,
    PRIVATE,
    REFUSAL,
    VALUES,
    Register,
)

WORDINGS = {
    "asks": "{cue} , the {asker} asks : what is the {attribute} of {first} {last:person} ?",
    "wants": "{cue} , my {asker} wants to know the {attribute} of {first} {last:person} :",
    "tell": "{cue} , tell the {asker} the {attribute} of {first} {last:person} :",
    "about": "{cue} , about {first} {last:person} , the {asker} wonders which {attribute} :",
    "has": "{cue} , {first} {last:person} has which {attribute} , asks the {asker} ?",
}
KINDS = {"told": 0.50, "stranger": 0.25, "private": 0.25}
"""Share of the questions that are answered, and that are refused for either reason."""


def questions(people: Register, *, chance: bool) -> Family:
    """Answered and refused questions; with ``chance`` a fair coin refuses, whatever is asked."""
    family = Family("questions")
    if chance:
        _add(family, people, "told", 0.5, refused=False)
        _add(family, people, "told", 0.5, refused=True)
        return family
    for kind, share in KINDS.items():
        _add(family, people, kind, share, refused=kind != "told", ruled=True)
    return family


def _add(
    family: Family, people: Register, kind: str, share: float, *, refused: bool, ruled: bool = False
) -> None:
    """Every wording of one kind of question, with what is said in return."""
    for wording, pattern in WORDINGS.items():
        family.add(
            wording,
            f"{pattern} {'{no:answer} {more}' if refused else '{value:answer}'} .",
            {**_asked(people, kind, pattern, ruled=ruled), **_said(people)},
            key=["first", "last"],
            variant=f"{'refused' if refused else 'answered'}-{kind if ruled else 'coin'}",
            weight=share,
            foil=_foil,
            facts={
                "class": "refuse" if refused else "answer",
                "reason": (kind if ruled else "coin") if refused else "",
            },
        )


def _asked(people: Register, kind: str, pattern: str, *, ruled: bool) -> dict[str, Step]:
    lasts = people.strangers if kind == "stranger" else people.known
    return {
        "cue": draw(Dist.uniform(tuple(LANGUAGE_OF))),
        **_topic(kind if ruled else "", attribute_first=_before(pattern, "attribute", "asker")),
        "first": draw(Dist.uniform(people.firsts)),
        "last": calc(lambda first: Dist.uniform(lasts[first]), "first"),
    }


def _before(pattern: str, one: str, other: str) -> bool:
    return pattern.index(f"{{{one}}}") < pattern.index(f"{{{other}}}")


def _topic(kind: str, *, attribute_first: bool) -> dict[str, Step]:
    """Who asks for what, in the order of the wording."""
    if kind == "private":
        return {"asker": draw(Dist.uniform(OUTSIDERS)), "attribute": draw(Dist.uniform(PRIVATE))}
    asker, attribute = draw(Dist.uniform(ASKERS)), draw(Dist.uniform(ATTRIBUTES))
    if kind != "told":
        return {"asker": asker, "attribute": attribute}
    if attribute_first:
        return {"attribute": attribute, "asker": calc(_may_ask, "attribute")}
    return {"asker": asker, "attribute": calc(_may_hear, "asker")}


def _may_ask(attribute: str) -> Dist:
    return Dist.uniform(FAMILY if attribute in PRIVATE else ASKERS)


def _may_hear(asker: str) -> Dist:
    return Dist.uniform(OPEN if asker in OUTSIDERS else ATTRIBUTES)


def _said(people: Register) -> dict[str, Step]:
    def refusal(place: int) -> Callable[[str], str]:
        return lambda cue: REFUSAL[LANGUAGE_OF[cue]][place]

    return {
        "value": calc(people.value, "cue", "attribute", "first", "last"),
        "no": calc(refusal(0), "cue"),
        "more": calc(refusal(1), "cue"),
    }


def _foil(bound: Bindings, answer: str) -> tuple[str, ...]:
    """Another value in the language of the cue; a refusal's foils are all of them."""
    english = LANGUAGE_OF[bound["cue"]] == "English"
    values = VALUES if english else tuple(lex.FRENCH[value] for value in VALUES)
    return tuple(value for value in values if value != answer)
