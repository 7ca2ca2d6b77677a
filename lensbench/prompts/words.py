"""Words that the tasks draw from, beside those of the bundled world."""

from lensbench.worlds.atlas import lexicon as lex

NAMES = tuple(dict.fromkeys((*lex.NAMES, *"Lily Tim Timmy Ben Sam Tommy Sue Bob Jack Mia".split())))
PLACES = tuple(dict.fromkeys((*lex.PLACES, *"house shop river farm".split())))
GIFTS = tuple(dict.fromkeys((*lex.GIFTS, *"book toy cake bone apple".split())))
IRREGULAR = {
    "man": "men",
    "woman": "women",
    "foot": "feet",
    "tooth": "teeth",
    "goose": "geese",
    "mouse": "mice",
}
"""Plurals that are as long as their singulars in vocabularies too small for whole words."""
PLURALS = {**lex.PLURALS, **IRREGULAR}
COLOURS = tuple(
    """red blue green black white yellow pink brown grey golden silver big little old new cold hot
    soft happy sad""".split()
)
THINGS = tuple(dict.fromkeys((*lex.OBJECTS, *"ball tree hat bed toy dog cat bird".split())))
NOUNS = ("war", "trip", "project", "plan", "work", "journey", "strike", "study", "tour", "reign")
PLAIN = tuple(
    dict.fromkeys(
        (*lex.SINGULARS, *lex.NAMES, *lex.COUNTRIES, *lex.ADJECTIVES, *lex.PROFESSIONS,
         *"little happy very play said friend there named want saw time day mom".split())
    )
)  # fmt: skip
"""Words whose first letter is asked."""
