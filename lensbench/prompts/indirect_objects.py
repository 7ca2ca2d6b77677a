"""Indirect object identification: two names, one acts; who receives?

``When Mary and John went to the store , John gave a drink to`` -> `` Mary``, not `` John``.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from lensbench.errors import UnknownNameError
from lensbench.prompts import words
from lensbench.prompts.build import Proposal, collect, need, usable
from lensbench.prompts.encoder import Encoder
from lensbench.prompts.pairs import PromptPairs
from lensbench.prompts.wording import Wording

Corruption = Literal["flip", "abc"]
_ACT = "{subject_again} %s {_gift} to"
# Also the wordings of the bundled world, so that its model knows them.
WORDINGS = (
    Wording("when", "When {a} and {b} went to the {_place} , " + _ACT % "gave a"),
    Wording("then", "Then {a} and {b} had a long day at the {_place} , and " + _ACT % "handed the"),
    Wording("after", "After {a} and {b} left the {_place} , " + _ACT % "offered a"),
    Wording("friends", "Friends {a} and {b} met at the {_place} , where " + _ACT % "sent a"),
)


def ioi(
    model_or_tokenizer: Any, n: int = 100, seed: int = 0, *, corruption: Corruption = "flip"
) -> PromptPairs:
    """Indirect objects: the answer is the name that did not act; the foil is the one that did.

    ``corruption="flip"`` lets the other name act, so that answer and foil change places; ``"abc"``
    names three others, so that neither is right. Both orders of mention are used.
    Roles: ``indirect_object``, ``subject`` (first mention), ``subject_again``, ``end``.
    Source: Wang et al. 2022, arXiv:2211.00593 (there IO, S1, S2, END; ``abc`` is p_ABC).

    Raises:
        NotEnoughDataError: fewer than two (``abc``: five) names are one token.

    Example:
        >>> pairs = prompts.ioi(model, n=16, seed=0)
        >>> pairs.position("indirect_object")[0]
    """
    if corruption not in ("flip", "abc"):
        raise UnknownNameError("corruption", str(corruption), known=("flip", "abc"))
    encoder, rng = Encoder(model_or_tokenizer), random.Random(f"ioi|{seed}|{corruption}")
    world = words.lex if encoder.is_atlas else words
    names = encoder.single(world.NAMES)
    places, gifts = ([w for w in pool if encoder.length(w)] for pool in (world.PLACES, world.GIFTS))
    wordings = usable(encoder, WORDINGS)
    pools = {
        "names": (len(names), len(world.NAMES)),
        "places": (len(places), len(world.PLACES)),
        "gifts": (len(gifts), len(world.GIFTS)),
        "wordings": (len(wordings), len(WORDINGS)),
    }
    need("ioi", "names", pools, 2 if corruption == "flip" else 5)
    for what in ("places", "gifts", "wordings"):
        need("ioi", what, pools, 1, why="the others hold words it does not know")
    proposals = _proposals(encoder, rng, names, places, gifts, wordings, corruption)
    flips = corruption == "flip"
    return collect(encoder, proposals, n, task="ioi", seed=seed, pools=pools, flips=flips)


def _proposals(
    encoder: Encoder,
    rng: random.Random,
    names: Sequence[str],
    places: Sequence[str],
    gifts: Sequence[str],
    wordings: Sequence[Wording],
    corruption: Corruption,
) -> Iterator[Proposal]:
    while True:
        wording = rng.choice(wordings)
        first, second = rng.sample(("{indirect_object}", "{subject}"), 2)
        ordered = Wording(wording.name, wording.text.replace("{a}", first).replace("{b}", second))
        people = rng.sample(names, 2 if corruption == "flip" else 5)
        receiver, actor = people[:2]
        others = (receiver, actor, receiver) if corruption == "flip" else tuple(people[2:])
        shared = {"_place": rng.choice(places), "_gift": rng.choice(gifts)}
        clean, corrupted = (
            ordered.fill(
                {**shared, "indirect_object": io, "subject": s, "subject_again": again},
                spaced=encoder.spaced,
            )
            for io, s, again in ((receiver, actor, actor), others)
        )
        yield Proposal(wording.name, clean, corrupted, f" {receiver}", f" {actor}")
