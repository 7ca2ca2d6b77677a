"""Subject-verb agreement: the verb follows the number of the subject, not of the noun beside it.

``The keys near the cabinet`` -> `` are``, not `` is``.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any

from lensbench.prompts import words
from lensbench.prompts.build import Proposal, collect, need, usable
from lensbench.prompts.encoder import Encoder
from lensbench.prompts.pairs import PromptPairs
from lensbench.prompts.wording import Wording
from lensbench.worlds.atlas import lexicon as lex

# Also the wordings of the bundled world.
WORDINGS = (
    (Wording("near", "The {subject} {_near} the {distractor}"), ("is", "are")),
    (Wording("past", "Yesterday the {subject} {_near} the {distractor}"), ("was", "were")),
    (Wording("that", "The {subject} that the {distractor} {_likes}"), ("seems", "seem")),
    (Wording("plain", "I think the {subject}"), ("is", "are")),
)


def agreement(model_or_tokenizer: Any, n: int = 100, seed: int = 0) -> PromptPairs:
    """Agreement of subject and verb across another noun, whose number is drawn at random.

    The corrupted prompt has the subject in the other number, so answer and foil change places. A
    noun is used if both numbers of it have equally many tokens. Of a verb that is split, the first
    token is the answer (``scored("sum")``: all).
    Roles: ``subject``, ``distractor`` (-1 where a wording has none), ``end``.
    Source: Linzen et al. 2016, arXiv:1611.01368; Finlayson et al. 2021, arXiv:2106.06087.

    Raises:
        NotEnoughDataError: fewer than two nouns are left.

    Example:
        >>> pairs = prompts.agreement(model, n=16, seed=0)
        >>> pairs.to_frame().loc[0, ["clean", "answer", "foil"]]
    """
    encoder, rng = Encoder(model_or_tokenizer), random.Random(f"agreement|{seed}")
    nouns = [
        (one, many)
        for one, many in words.PLURALS.items()
        if encoder.length(one) == encoder.length(many) > 0
    ]
    known = set(usable(encoder, [w for w, _ in WORDINGS]))
    wordings = [(w, verbs) for w, verbs in WORDINGS if w in known]
    pools = {
        "nouns": (len(nouns), len(words.PLURALS)),
        "wordings": (len(wordings), len(WORDINGS)),
    }
    need("agreement", "nouns", pools, 2, why="the others have no plural of as many tokens")
    need("agreement", "wordings", pools, 1, why="the others hold words it does not know")
    proposals = _proposals(encoder, rng, nouns, wordings)
    return collect(encoder, proposals, n, task="agreement", seed=seed, pools=pools, several="first")


def _proposals(
    encoder: Encoder,
    rng: random.Random,
    nouns: Sequence[tuple[str, str]],
    wordings: Sequence[tuple[Wording, tuple[str, str]]],
) -> Iterator[Proposal]:
    while True:
        (wording, verbs), number = rng.choice(wordings), rng.randrange(2)
        subject, beside = rng.sample(nouns, 2)
        other = rng.randrange(2)
        likes = rng.choice(list(lex.EMBEDDED.items()))[other]
        shared = {
            "_near": rng.choice(lex.PREPOSITIONS), "distractor": beside[other], "_likes": likes
        }  # fmt: skip
        clean, corrupted = (
            wording.fill({**shared, "subject": subject[k]}, spaced=encoder.spaced)
            for k in (number, 1 - number)
        )
        yield Proposal(wording.name, clean, corrupted, f" {verbs[number]}", f" {verbs[1 - number]}")
