"""First letters: a character of a word, asked where the word is one token."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

from lensbench.prompts import words
from lensbench.prompts.build import Proposal, collect, need, usable
from lensbench.prompts.encoder import Encoder
from lensbench.prompts.pairs import PromptPairs
from lensbench.prompts.wording import Wording

WORDINGS = (
    Wording(
        "letter",
        "The first letter of {_w1} is {_l1} . The first letter of {_w2} is {_l2} . "
        "The first letter of {word} is",
    ),
    Wording("colon", "{_w1} : {_l1} . {_w2} : {_l2} . {word} :"),
)
ATLAS_WORDINGS = (
    Wording("first", "The first letter of {word} is"),
    Wording("begins", "The word {word} begins with"),
    Wording("spell", "To spell {word} start with"),
)


def first_letter(model_or_tokenizer: Any, n: int = 100, seed: int = 0) -> PromptPairs:
    """The first letter of a word that is one token, after two examples (none in the bundled world).

    The corrupted prompt has another word with another first letter, which is the foil.
    Roles: ``word``, ``end``.
    Source: the spelling task of Chanin et al. 2024, arXiv:2409.14507 (there with ten examples).

    Raises:
        NotEnoughDataError: fewer than four words, or two letters, are one token.

    Example:
        >>> pairs = prompts.first_letter(model, n=16, seed=0)
    """
    encoder, rng = Encoder(model_or_tokenizer), random.Random(f"first_letter|{seed}")
    letters = {w: w[0].upper() for w in words.PLAIN}
    every = sorted(set(letters.values()))
    spelt = set(encoder.single(every))
    pool = [w for w in encoder.single(words.PLAIN) if letters[w] in spelt]
    wordings = usable(encoder, ATLAS_WORDINGS if encoder.is_atlas else WORDINGS)
    pools = {
        "words": (len(pool), len(words.PLAIN)),
        "letters": (len(spelt), len(every)),
        "wordings": (len(wordings), len(ATLAS_WORDINGS if encoder.is_atlas else WORDINGS)),
    }
    need("first_letter", "letters", pools, 2)
    need("first_letter", "words", pools, 4)
    need("first_letter", "wordings", pools, 1, why="the others hold words it does not know")
    proposals = _proposals(encoder, rng, pool, wordings)
    return collect(encoder, proposals, n, task="first_letter", seed=seed, pools=pools)


def _proposals(
    encoder: Encoder, rng: random.Random, pool: Sequence[str], wordings: Sequence[Wording]
) -> Iterator[Proposal]:
    while True:
        wording = rng.choice(wordings)
        word, other, one, two = rng.sample(pool, 4)
        answer, foil, first, second = (w[0].upper() for w in (word, other, one, two))
        if answer == foil:
            continue
        shared = {"_w1": one, "_l1": first, "_w2": two, "_l2": second}
        clean, corrupted = (
            wording.fill({**shared, "word": w}, spaced=encoder.spaced) for w in (word, other)
        )
        yield Proposal(wording.name, clean, corrupted, f" {answer}", f" {foil}")
